"""What the JavaScript client promises, in a real Chromium against the real service."""

from collections.abc import Callable
from typing import Any

import asyncpg
import pytest
from playwright.async_api import Request

from notify.errors import Close
from tests.browser.conftest import Web
from tests.browser.relay import Relay
from tests.service import Service, bearer, until

pytestmark = pytest.mark.browser


async def read_counts(service: Service, notification: str) -> dict[str, int]:
    """Return how a notification's recipients stand."""
    answer = await service.client.get(
        f"/v1/notifications/{notification}", headers=bearer("shop", scope="notifications:send")
    )
    return {name: count for name, count in answer.json()["counts"].items() if count}


async def test_what_was_queued_and_what_comes_live_arrives_in_order_and_is_acknowledged(
    service: Service, web: Web
) -> None:
    await service.send_many("alice", 250)
    tab = await web.open(service.url)
    await tab.wait_live()
    last = await service.send("alice", 250)
    await tab.wait_seen(*range(251))

    async def delivered() -> bool:
        return await read_counts(service, last) == {"delivered": 1}

    await until(delivered)


async def test_an_entry_is_acknowledged_only_after_its_handler_is_through(service: Service, web: Web) -> None:
    tab = await web.open(service.url)
    await tab.run(
        """() => {
            window.releases = [];
            client.on("notification", () => new Promise((resolve) => releases.push(resolve)));
        }"""
    )
    await tab.wait_live()
    first, second = [await service.send("alice", number) for number in range(2)]
    await tab.wait("releases.length === 1")
    await service.wait_for_acks()
    assert await read_counts(service, first) == {"pending": 1}
    await tab.run("() => releases[0]()")
    await tab.wait("releases.length === 2")

    async def delivered() -> bool:
        return await read_counts(service, first) == {"delivered": 1}

    await until(delivered)
    assert await read_counts(service, second) == {"pending": 1}  # it has arrived, and its handler is still at work


async def test_a_client_that_comes_back_says_where_it_was(service: Service, relay: Relay, web: Web) -> None:
    tab = await web.open(relay.url)
    urls: list[str] = []
    tab.page.on("websocket", lambda socket: urls.append(socket.url))
    await tab.wait_live()
    await service.send_many("alice", 3)
    await tab.wait_seen(0, 1, 2)
    relay.drop()
    epoch = await tab.run("() => ops.find(({ op }) => op === 'welcome').epoch")
    await until(lambda: any(url.endswith(f"&after=3&epoch={epoch}") for url in urls))


async def test_a_failing_handler_leaves_its_entry_unacknowledged_and_gets_it_again_before_anything_else(
    service: Service, web: Web
) -> None:
    tab = await web.open(service.url)
    await tab.run(
        """() => {
            let failed = 0;
            client.on("notification", ({ data }) => { if (data === 1 && failed++ < 2) throw new Error("no"); });
        }"""
    )
    await tab.wait_live()
    await service.send("alice", 1)
    await service.send("alice", 2)
    await tab.wait_seen(1, 1, 1, 2)
    assert await tab.run("() => failures.length") == 2


async def test_what_an_error_event_says_to_skip_is_skipped(service: Service, web: Web) -> None:
    tab = await web.open(service.url)
    await tab.run(
        """() => {
            const refuse = ({ data }) => (data === 1 ? Promise.reject(new Error("no")) : undefined);
            client.addEventListener("notification", (event) => event.waitUntil(refuse(event.detail)));
            client.addEventListener("error", (event) => event.preventDefault());
        }"""
    )
    await tab.wait_live()
    await service.send("alice", 1)
    await service.send("alice", 2)
    await tab.wait_seen(1, 2)


async def test_an_entry_that_is_sent_again_is_handed_out_once(service: Service, relay: Relay, web: Web) -> None:
    tab = await web.open(relay.url)
    await tab.run("() => client.on('notification', () => new Promise((resolve) => { window.release = resolve; }))")
    await tab.wait_live()
    sent = await service.send("alice", 1)
    await tab.wait("window.release !== undefined")
    relay.drop()  # no ack has been sent: the service sends it again
    await tab.wait("states.filter((s) => s.transport).length > 2")
    await tab.run("() => release()")
    await service.send("alice", 2)
    await tab.wait_seen(1, 2)
    await tab.run("() => release()")

    async def delivered() -> bool:
        return await read_counts(service, sent) == {"delivered": 1}

    await until(delivered)


async def test_what_was_sent_while_the_browser_was_offline_is_replayed(service: Service, web: Web) -> None:
    tab = await web.open(service.url)
    await tab.wait_live()
    await service.send("alice", 1)
    await tab.wait_seen(1)
    await web.context.set_offline(True)
    await service.send_many("alice", 3, first=2)
    await web.context.set_offline(False)
    await tab.wait_seen(1, 2, 3, 4)


async def test_a_cut_network_loses_nothing_and_repeats_nothing(service: Service, relay: Relay, web: Web) -> None:
    tab = await web.open(relay.url)
    await tab.wait_live()
    for round_ in range(3):
        relay.cut()
        await tab.wait("client.state === 'waiting'")
        await service.send_many("alice", 5, first=5 * round_)
        relay.heal()
        await tab.wait_live()
    await tab.wait_seen(*range(15))


async def test_a_network_that_swallows_everything_is_found_out_when_the_page_is_looked_at(
    service: Service, relay: Relay, web: Web
) -> None:
    tab = await web.open(relay.url)
    await tab.wait_live()
    relay.swallow()
    await service.send("alice", 1)
    await tab.run("() => dispatchEvent(new Event('online'))")  # as after a change of networks
    await tab.wait("client.state !== 'live'")
    relay.heal()
    await tab.wait_seen(1)


async def test_a_page_that_was_frozen_goes_on_where_it_was(service: Service, relay: Relay, web: Web) -> None:
    tab = await web.open(relay.url)
    await tab.wait_live()
    session = await web.context.new_cdp_session(tab.page)
    await session.send("Page.setWebLifecycleState", {"state": "frozen"})
    relay.drop()
    await service.send_many("alice", 3)
    await session.send("Page.setWebLifecycleState", {"state": "active"})
    await tab.wait_seen(0, 1, 2)


async def test_a_fresh_token_is_presented_on_the_open_socket_before_the_old_one_expires(
    service: Service, web: Web
) -> None:
    tab = await web.open(service.url, ttl=3)
    await tab.wait_live()
    [session] = list(service.app.hub)
    first = session.identity.expires_at
    await until(lambda: session.identity.expires_at > first)
    assert [state["state"] for state in await tab.run("() => states")].count("live") == 1


async def test_a_page_that_wakes_past_half_of_its_tokens_life_presents_a_fresh_one(service: Service, web: Web) -> None:
    tab = await web.open(service.url, ttl=60)
    await tab.wait_live()
    [session] = list(service.app.hub)
    first = session.identity.expires_at
    web.ttl = 120
    await tab.run(
        """() => {
            const now = Date.now;
            Date.now = () => now() + 32_000;
            document.dispatchEvent(new Event("visibilitychange"));
        }"""
    )
    await until(lambda: session.identity.expires_at > first)


async def test_a_session_whose_token_expired_comes_back_at_once_with_a_fresh_one(service: Service, web: Web) -> None:
    tab = await web.open(service.url)
    await tab.wait_live()
    minted = web.minted
    [session] = list(service.app.hub)
    session.leave(Close.TOKEN_EXPIRED)
    await until(lambda: web.minted > minted)
    await tab.wait("states.filter((s) => s.state === 'live').length === 2")
    assert "waiting" not in [state["state"] for state in await tab.run("() => states")]


async def test_where_websockets_are_blocked_events_are_streamed_and_acknowledged(service: Service, web: Web) -> None:
    sent = await service.send("alice", 1)
    tab = await web.open(service.url, blocked=True)
    await tab.wait_live()
    [welcome] = await tab.run("() => ops.filter(({ op }) => op === 'welcome')")

    def acks_both(request: Request) -> bool:
        """Tell the second ack from the first, which may still be on its way."""
        return request.url.endswith("/v1/inbox/ack") and (request.post_data_json or {}).get("seq") == 2

    async with tab.page.expect_request(acks_both) as asked:
        await service.send("alice", 2)
    assert (await asked.value).post_data_json == {"device": "web", "seq": 2, "epoch": welcome["epoch"]}
    await tab.wait_seen(1, 2)
    assert (await tab.run("() => states.at(-1)"))["transport"] == "sse"

    async def delivered() -> bool:
        return await read_counts(service, sent) == {"delivered": 1}

    await until(delivered)


@pytest.mark.parametrize("close", [Close.DISCONNECTED, Close.TOO_MANY_SESSIONS, Close.FORBIDDEN])
async def test_a_close_that_means_stop_stops_the_client_until_it_is_told_to_go_on(
    service: Service, web: Web, close: Close
) -> None:
    tab = await web.open(service.url)
    await tab.wait_live()
    [session] = list(service.app.hub)
    session.leave(close)
    await tab.wait("client.state === 'stopped'")
    assert (await tab.run("() => states.at(-1)"))["code"] == close
    assert [state["state"] for state in await tab.run("() => states")][-2:] == ["live", "stopped"]
    await service.send("alice", 1)
    await tab.run("() => client.reconnect()")
    await tab.wait_seen(1)


async def test_a_refused_token_is_replaced_once_and_then_the_client_stops(service: Service, web: Web) -> None:
    tab = await web.open(service.url, user="bob")
    await tab.wait_live()
    await tab.run(
        """() => import("/client/notify.js").then(({ connect }) => {
            window.asked = 0;
            window.other = connect({ url: location.origin, share: false, token: () => `bad.bad.${++asked}` });
        })"""
    )
    await tab.wait("other.state === 'stopped'")
    assert await tab.run("() => asked") <= 3


async def test_a_draining_service_is_come_back_to_when_it_says(service: Service, web: Web) -> None:
    tab = await web.open(service.url)
    await tab.wait_live()
    [session] = list(service.app.hub)
    session.leave(Close.DRAINING, retry_after=0.3)
    await tab.wait("states.some((s) => s.state === 'waiting')")
    [waiting] = [state for state in await tab.run("() => states") if state["state"] == "waiting"]
    assert waiting["retryIn"] == 300
    await tab.wait_live()


async def test_the_count_of_unread_follows_what_comes_what_is_read_and_what_is_withdrawn(
    service: Service, web: Web
) -> None:
    tab = await web.open(service.url, device="one")
    other = await web.open(service.url, device="two")
    await tab.wait_live()
    await other.wait_live()
    await service.send_many("alice", 3)
    await tab.wait("client.unread === 3")
    assert await tab.run("() => client.inbox().then((p) => client.markRead({ seqs: [p.items[0].seq] }))") == {
        "unread": 2
    }
    await other.wait("client.unread === 2")
    await other.run("() => client.markRead({ upTo: 1_000 })")
    await tab.wait("client.unread === 0")


async def test_what_is_not_stored_comes_without_a_seq_and_without_waiting(service: Service, web: Web) -> None:
    tab = await web.open(service.url)
    await tab.run("() => client.on('notification', (frame) => frame.seq && new Promise(() => {}))")
    await tab.wait_live()
    await service.send("alice", "stored")
    await tab.wait_seen("stored")
    await service.post({"to": "alice", "type": "t", "data": "now", "ttl": 0})
    await tab.wait_seen("stored", "now")


async def test_a_database_of_another_epoch_is_begun_anew(
    service: Service, web: Web, connection: asyncpg.Connection
) -> None:
    await service.send("alice", 1)
    tab = await web.open(service.url)
    await tab.wait_seen(1)
    await tab.wait_live()
    await service.wait_for_acks()
    # As after a restore to a time before all this: numbers begin at 1 again, under another epoch.
    await connection.execute("DELETE FROM notify.cursor")
    await connection.execute("UPDATE notify.mailbox SET head = 0, floor = 0, unread = 0")
    await connection.execute("DELETE FROM notify.entry")
    service.store.mailboxes.epoch = "another"
    [session] = list(service.app.hub)
    session.leave(Close.RESTART)
    await tab.wait("ops.filter((o) => o.op === 'welcome').length === 2")
    welcome = (await tab.run("() => ops.filter((o) => o.op === 'welcome')"))[-1]
    assert (welcome["recovered"], welcome["after"]) == (False, 0)
    await service.send("alice", 2)
    await tab.wait_seen(1, 2)


@pytest.mark.slow
async def test_silence_beyond_the_ping_interval_is_doubted(make_service: Callable[..., Any], web: Web) -> None:
    async with make_service(ping_interval=0.5) as service, Relay(service.port) as relay:
        tab = await web.open(relay.url)
        await tab.wait_live()
        relay.swallow()
        await service.send("alice", 1)
        await tab.run("() => { const now = Date.now; Date.now = () => now() + 20_000; }")
        await tab.wait("client.state !== 'live'", seconds=30)
        relay.heal()
        await tab.wait_seen(1)


async def test_after_an_outage_an_event_stream_gives_way_to_a_websocket_again(relay: Relay, web: Web) -> None:
    tab = await web.open(relay.url)
    await tab.wait_live()
    # As when the service is away exactly while WebSockets are tried, and back for the stream.
    await tab.page.evaluate(
        """() => import("/client/notify.js").then(({ connect }) => {
            window.tries = 0;
            const Flaky = function (...given) {
                tries += 1;
                if (tries === 2 || tries === 3) given[0] = "ws://127.0.0.1:1/";
                return new WebSocket(...given);
            };
            window.outage = [];
            const client = connect({ url: location.origin, token: () => mint(), device: "b", share: false, WebSocket: Flaky });
            client.on("state", ({ state, transport }) => outage.push(`${state} ${transport}`));
        })"""
    )
    await tab.wait("outage.at(-1) === 'live websocket'")
    relay.drop()
    await tab.wait("outage.includes('live sse')")
    await tab.wait("outage.at(-1) === 'live websocket'")
