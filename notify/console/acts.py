"""What an admin can do from the console: each act first says what it will touch, then does it.

Every act is a pair: `plan` counts without changing anything, `perform` acts through the store, which writes the audit log.
"""

from uuid import UUID

import msgspec

from notify.api.admin.access import read_kind
from notify.api.paths import MAX_SEQ, read_integer
from notify.api.requests import Checker, SendRequest
from notify.api.services import Services
from notify.console.notifications import read_uuid
from notify.console.plan import Act, Plan, Query
from notify.console.rendering import read_name
from notify.console.session import PATH
from notify.console.webhooks import plan_remove, plan_set, remove_webhook, set_webhook
from notify.console.wording import link, say_count
from notify.errors import FieldError, InvalidRequest, NotFound
from notify.model import Codec, Notification
from notify.store.survey import Survey


def user_link(user: str) -> str:
    """Return the path of a user's page."""
    return link(f"{PATH}/user", id=user)


def read_after(query: Query) -> int:
    """Return the seq that a replay begins after."""
    return read_integer(query.get("after") or "0", "after", default=0, low=0, high=MAX_SEQ)


async def plan_replay(services: Services, query: Query) -> Plan:
    """Count what would be queued again."""
    user, after = read_name(query.get("user"), "user"), read_after(query)
    count = await Survey(services.store.database).count_replayable(user, after)
    most = services.settings.max_pending
    return Plan(
        title=f"Replay to {user}",
        sentence=f"Queues every notification after {after} that is not over again, under a new seq and with its old id. "
        "Devices get them once more; they count as unread.",
        button="Replay",
        count=count,
        what="notification",
        fields={"user": user, "after": str(after)},
        back=user_link(user),
        refusal=f"A mailbox keeps {most} pending at most. Begin after a later seq." if count > most else None,
    )


async def replay(services: Services, query: Query, actor: str) -> str:
    """Queue again."""
    count = await services.store.queues.replay(actor, read_name(query.get("user"), "user"), read_after(query))
    return f"{say_count(count, 'notification')} queued again."


async def plan_purge(services: Services, query: Query) -> Plan:
    """Count what is pending."""
    user = read_name(query.get("user"), "user")
    mailbox = await services.store.queues.find(user)
    return Plan(
        title=f"Purge the queue of {user}",
        sentence="Withdraws everything that no device of this user has acknowledged. It then counts as cancelled; a device "
        "that already shows some of it is told to take it away.",
        button="Purge",
        count=mailbox.pending if mailbox else 0,
        what="notification",
        fields={"user": user},
        back=user_link(user),
    )


async def purge(services: Services, query: Query, actor: str) -> str:
    """Withdraw everything pending."""
    count = await services.store.queues.purge(actor, read_name(query.get("user"), "user"))
    return f"{say_count(count, 'notification')} withdrawn."


async def plan_cancel(services: Services, query: Query) -> Plan:
    """Count the recipients who have not acknowledged."""
    wanted = read_uuid(query.get("id"))
    counts = await services.store.notifications.count(wanted)
    return Plan(
        title=f"Cancel notification {wanted}",
        sentence="Withdraws it from everyone who has not acknowledged it. A device that holds it is told to take it away.",
        button="Cancel it",
        count=counts["pending"] + counts["scheduled"],
        what="recipient",
        fields={"id": str(wanted)},
        back=link(f"{PATH}/notification", id=str(wanted)),
    )


async def cancel(services: Services, query: Query, actor: str) -> str:
    """Withdraw a notification."""
    count = await services.store.queues.cancel(actor, read_uuid(query.get("id")))
    if count is None:
        raise NotFound("There is no such notification any more.")
    return f"Withdrawn from {say_count(count, 'recipient')}."


async def plan_disconnect(services: Services, query: Query) -> Plan:
    """Count a user's sessions."""
    user = read_name(query.get("user"), "user")
    await services.roster.report()
    return Plan(
        title=f"Disconnect {user}",
        sentence="Closes every open session of this user with code 4410, which tells clients not to come back by themselves. "
        "To keep the user out, deny the subject as well.",
        button="Disconnect",
        count=await Survey(services.store.database).count_sessions("sub", user),
        what="session",
        fields={"user": user},
        back=user_link(user),
    )


async def disconnect(services: Services, query: Query, actor: str) -> str:
    """Close a user's sessions."""
    await services.roster.report()
    count = await services.store.sessions.disconnect(actor, read_name(query.get("user"), "user"))
    return f"{say_count(count, 'session')} told to close."


async def plan_close(services: Services, query: Query) -> Plan:
    """Find one session."""
    session = await Survey(services.store.database).find_session(read_session(query))
    if session is None:
        raise NotFound("There is no such session any more; it closed by itself.")
    return Plan(
        title=f"Close a session of {session.user}",
        sentence=f"Closes the session of device {session.device} with code 4410. Other devices stay.",
        button="Close it",
        count=1,
        what="session",
        fields={"id": str(session.id)},
        back=user_link(session.user),
    )


async def close(services: Services, query: Query, actor: str) -> str:
    """Close one session."""
    if not await services.store.sessions.close(actor, read_session(query)):
        raise NotFound("There is no such session any more; it closed by itself.")
    return "1 session told to close."


def read_session(query: Query) -> UUID:
    """Return a session's id."""
    try:
        return UUID(query.get("id") or "")
    except ValueError:
        raise NotFound("That is not the id of a session.") from None


async def plan_deny(services: Services, query: Query) -> Plan:
    """Count the sessions that a denial closes."""
    kind, value = read_kind(query.get("kind") or ""), read_name(query.get("value"), "value")
    await services.roster.report()
    what = "every token of the subject" if kind == "sub" else "the token with the jti"
    return Plan(
        title=f"Deny {value}",
        sentence=f"Refuses {what} {value} from now on, everywhere. Its open sessions close with code 4401.",
        button="Deny",
        count=await Survey(services.store.database).count_sessions(kind, value),
        what="open session",
        fields={"kind": kind, "value": value},
        back=f"{PATH}/denylist",
    )


async def deny(services: Services, query: Query, actor: str) -> str:
    """Put one on the deny list."""
    kind, value = read_kind(query.get("kind") or ""), read_name(query.get("value"), "value")
    await services.store.denials.deny(actor, kind, value)
    await services.orders.obey()
    return f"{value} is denied."


async def plan_allow(services: Services, query: Query) -> Plan:
    """Look whether it is denied."""
    kind, value = read_kind(query.get("kind") or ""), read_name(query.get("value"), "value")
    return Plan(
        title=f"Allow {value} again",
        sentence=f"Takes {value} off the deny list: tokens that are otherwise good work again.",
        button="Allow",
        count=int(await Survey(services.store.database).is_denied(kind, value)),
        what="entry",
        fields={"kind": kind, "value": value},
        back=f"{PATH}/denylist",
    )


async def allow(services: Services, query: Query, actor: str) -> str:
    """Take one off the deny list."""
    kind, value = read_kind(query.get("kind") or ""), read_name(query.get("value"), "value")
    await services.store.denials.allow(actor, kind, value)
    await services.orders.obey()
    return f"{value} is allowed again."


async def plan_send(services: Services, query: Query) -> Plan:
    """Check a test notification as the REST door would."""
    notification = await check_test(services, query)
    [user] = notification.to
    sessions = await Survey(services.store.database).count_sessions("sub", user)
    where = (
        f"{say_count(sessions, 'open session')} gets it at once"
        if sessions
        else "nobody is connected, so it waits in the queue"
    )
    return Plan(
        title=f"Send a test to {user}",
        sentence=f"Sends one notification of type {notification.type} in your name: {where}, for an hour at most.",
        button="Send",
        count=1,
        what="user",
        fields={"user": user, "type": notification.type, "data": notification.data.decode()},
        back=link(f"{PATH}/send", user=user),
        preview=notification.data.decode(),
    )


async def send(services: Services, query: Query, actor: str) -> str:
    """Send a test notification."""
    notification = await check_test(services, query)
    [user] = notification.to
    sent = await Survey(services.store.database).send_test(actor, user, notification.type, notification.data)
    return f"Sent as {sent}."


async def check_test(services: Services, query: Query) -> Notification:
    """Return a test notification. Raises InvalidRequest, which names every bad field, and TooLarge."""
    try:
        request = msgspec.convert({"to": query.get("user", ""), "type": query.get("type", "")}, SendRequest)
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"type: {error}", errors=[FieldError("/type", "must have 1 to 128 characters")]) from None
    data = (query.get("data") or "null").encode("utf-8", errors="replace")
    try:
        msgspec.json.decode(data)  # the checker takes for granted that its text came out of a JSON body
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidRequest("data: is not JSON", errors=[FieldError("/data", f"is not JSON: {error}")]) from None
    request = msgspec.structs.replace(request, data=msgspec.Raw(data))
    checker = Checker(services.settings, "console", Codec.JSON, services.store.topics.users)
    notification = await checker.check(request)
    checker.finish()
    return notification


ACTS = {
    "replay": Act(plan_replay, replay),
    "purge": Act(plan_purge, purge),
    "cancel": Act(plan_cancel, cancel),
    "disconnect": Act(plan_disconnect, disconnect),
    "close": Act(plan_close, close),
    "deny": Act(plan_deny, deny),
    "allow": Act(plan_allow, allow),
    "send": Act(plan_send, send),
    "set-webhook": Act(plan_set, set_webhook),
    "remove-webhook": Act(plan_remove, remove_webhook),
}
"""By the name in the path."""
