"""The subprotocol `cloudevents.json`: events come out as they went in, and the session is the one it always is."""

import json
from typing import Any

from tests.cloudevents import TRACE, event, post
from tests.service import Service, Socket

EVENTS = "cloudevents.json"


async def take(socket: Socket, user: str = "alice") -> dict[str, Any]:
    """Return the next event; all of them are CloudEvents whose subject is the user."""
    message = await socket.connection.recv()
    assert isinstance(message, str)
    found: dict[str, Any] = json.loads(message)
    assert (found["specversion"], found["subject"]) == ("1.0", user)
    assert {"id", "source", "type", "time"} <= set(found)
    assert all(name.isalnum() and name.islower() for name in found if name != "data_base64")
    return found


async def take_of(socket: Socket, kind: str, user: str = "alice") -> dict[str, Any]:
    """Return the next event of a type, passing others."""
    while (found := await take(socket, user))["type"] != kind:
        pass
    return found


async def test_an_event_comes_out_as_it_went_in(service: Service) -> None:
    sent = event(
        "A-1", time="2026-01-08T09:30:00.5+01:00", dataschema="https://schemas.example/order", datacontenttype="application/json",
        partition="7", urgent=True, attempt=2, traceparent=TRACE, ttl=60, seq=999,
    )  # fmt: skip
    async with service.dial("alice", subprotocols=[EVENTS]) as alice:
        assert alice.connection.subprotocol == EVENTS
        answer = await post(service, sent)
        found = await take_of(alice, "order.shipped")
    ours = {"seq": 1, "notificationid": answer.json()["id"]}
    assert found == {name: value for name, value in sent.items() if name != "ttl"} | ours


async def test_what_came_as_no_event_is_made_one(service: Service) -> None:
    async with (
        service.dial("alice", subprotocols=[EVENTS]) as alice,
        service.connect("alice", device="b") as other,
        service.dial("bob", subprotocols=[EVENTS]) as bob,
    ):
        await take_of(alice, "notify.caught_up")
        await other.take_backlog()
        await take_of(bob, "notify.caught_up", "bob")
        for app, source in (("shop", "shop"), ("my shop:1", "my%20shop%3A1"), ("/v1/ws", "%2Fv1%2Fws")):
            for ttl in (60, 0):
                await service.post(
                    {"to": ["alice", "bob"], "type": "t", "data": [1], "ttl": ttl}, app=app, traceparent=TRACE
                )
                found = await take_of(alice, "t")
                assert (await take_of(bob, "t", "bob"))["id"] == found["id"]
                [frame] = await other.take_notifications(1)
                assert found == {
                    "specversion": "1.0", "id": frame["id"], "source": source, "type": "t", "subject": "alice", "data": [1],
                    "time": frame["created_at"], "datacontenttype": "application/json", "traceparent": TRACE,
                    **({"seq": frame["seq"]} if ttl else {}),
                }  # fmt: skip


async def test_bytes_are_data_base64(service: Service) -> None:
    body = event(data=None, data_base64="iVBORw==", datacontenttype="image/png")
    async with service.dial("alice", subprotocols=[EVENTS]) as alice:
        await post(service, body)
        found = await take_of(alice, "order.shipped")
    assert (found["data_base64"], found["datacontenttype"], "data" in found) == ("iVBORw==", "image/png", False)


async def test_every_other_frame_is_the_data_of_an_event(service: Service) -> None:
    async with service.dial("alice", subprotocols=[EVENTS]) as alice:
        welcome = await take(alice)
        assert (welcome["type"], welcome["source"], welcome["data"]["op"]) == ("notify.welcome", "/v1/ws", "welcome")
        caught_up = await take(alice)
        assert (caught_up["type"], caught_up["data"]) == ("notify.caught_up", {"op": "caught_up", "seq": 0})
        notification = await service.send("alice")
        await take_of(alice, "t")
        await alice.say({"op": "read", "up_to": 1})
        read = await take(alice)
        assert (read["type"], read["seq"], read["data"]["up_to"]) == ("notify.read", 2, 1)
        assert len({welcome["id"], caught_up["id"], notification, read["id"]}) == 4


async def test_a_client_answers_with_frames_or_with_events(service: Service) -> None:
    async with service.dial("alice", subprotocols=[EVENTS]) as alice:
        await service.send_many("alice", 3)
        while (await take_of(alice, "t"))["seq"] < 3:
            pass
        await alice.say({"op": "ack", "seq": 1})
        await alice.say({**event(), "type": "notify.ack", "data": {"seq": 2}})
        await alice.say({**event(), "type": "notify.ping", "data": {}})
        assert (await take_of(alice, "notify.pong"))["data"] == {"op": "pong"}
        await alice.say({**event(), "type": "notify.ack", "data": {"seq": "x"}})
        assert (await take(alice))["data"]["code"] == "bad_frame"
        await alice.say(event())
        assert (await take(alice))["data"]["code"] == "bad_frame"
    await service.wait_for_acks()
    async with service.connect("alice") as alice_again:
        assert alice_again.welcome["after"] == 2


async def test_of_several_subprotocols_the_clients_first_counts(service: Service) -> None:
    for offers in ([EVENTS, "notify.v1"], ["notify.v1", EVENTS], ["other", "notify.v1.msgpack", "notify.v1"]):
        async with service.dial("alice", subprotocols=offers) as alice:
            assert alice.connection.subprotocol == next(name for name in offers if name != "other")
