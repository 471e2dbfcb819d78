"""The hub: a wake-up reaches its user's sessions and nobody else's; one session too many sends the oldest away."""

from notify.auth import Identity
from notify.errors import Close
from notify.hub import Delivery, Hub, Offer
from notify.ids import mint_id


class Recorder:
    """A session that notes what it is told."""

    protocol = "notify.v1"
    opened_at = 0.0

    def __init__(self, user: str, device: str = "default") -> None:
        self.id = mint_id()
        self.identity = Identity(user, frozenset(), 0.0, None)
        self.user = user
        self.device = device
        self.told: list[object] = []

    def wake(self, head: int) -> None:
        self.told.append(head)

    def deliver(self, delivery: Delivery) -> None:
        self.told.append(delivery)

    def offer(self, message: Offer) -> None:
        self.told.append(message)

    def confirm(self, seq: int) -> None:
        self.told.append(("confirm", seq))

    def leave(self, close: Close, *, retry_after: float | None = None) -> None:
        self.told.append((close, retry_after))

    def inspect(self, now: float) -> None:
        self.told.append(now)


class Message:
    """Something that is not stored."""

    def encode(self, codec: object) -> str:
        return str(codec)


def test_a_wake_up_reaches_every_session_of_its_user_and_nobody_elses() -> None:
    hub = Hub(max_sessions=16)
    phone, desk, bob = Recorder("ann", "phone"), Recorder("ann", "desk"), Recorder("bob")
    for session in (phone, desk, bob):
        hub.add(session)
    message = Message()
    hub.wake("ann", 5)
    hub.offer("ann", message)
    hub.confirm("ann", "desk", 3)
    hub.wake("nobody", 9)
    assert phone.told == [5, message]
    assert desk.told == [5, message, ("confirm", 3)]
    assert bob.told == []


def test_one_session_too_many_sends_the_oldest_of_its_user_away() -> None:
    hub = Hub(max_sessions=2)
    sessions = [Recorder("ann") for _ in range(4)]
    other = Recorder("bob")
    for session in (other, *sessions):
        hub.add(session)
    assert [bool(session.told) for session in sessions] == [True, True, False, False]
    assert sessions[0].told[0] == (Close.TOO_MANY_SESSIONS, None)
    assert other.told == []


def test_sessions_are_counted_listed_and_forgotten() -> None:
    hub = Hub(max_sessions=16)
    ann, bob = Recorder("ann"), Recorder("bob")
    hub.add(ann)
    hub.add(bob)
    assert len(hub) == 2
    assert sorted(hub.users()) == ["ann", "bob"]
    assert list(hub) == [ann, bob]
    assert hub.of("ann") == (ann,)
    hub.remove(ann)
    hub.remove(ann)  # again: nothing
    assert len(hub) == 1
    assert list(hub.users()) == ["bob"]
    assert hub.of("ann") == ()
    hub.wake("ann", 1)
    assert ann.told == []


def test_the_hub_may_change_while_one_goes_through_it() -> None:
    hub = Hub(max_sessions=16)
    sessions = [Recorder("ann") for _ in range(5)]
    for session in sessions:
        hub.add(session)
    for listed in hub:
        hub.remove(listed)
    assert len(hub) == 0
