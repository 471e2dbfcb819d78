"""Tabs of one user share one connection, in a real Chromium against the real service."""

import asyncio

import pytest

from notify.errors import Close
from tests.browser.conftest import Web
from tests.browser.relay import Relay
from tests.service import Service

pytestmark = pytest.mark.browser

DEAFEN = """() => {
    const real = Object.getOwnPropertyDescriptor(MessageEvent.prototype, "data");
    const get = function () {
        return deaf && this.target instanceof BroadcastChannel ? { say: "nothing" } : real.get.call(this);
    };
    window.deaf = true;
    Object.defineProperty(MessageEvent.prototype, "data", { get });
}"""
"""As while a tab is frozen: it hears nothing of what other tabs say, as long as `deaf` is true."""


async def test_tabs_of_a_user_share_one_connection_and_survive_the_one_that_has_it(service: Service, web: Web) -> None:
    tabs = [await web.open(service.url, share=True) for _ in range(3)]
    for tab in tabs:
        await tab.wait_live()
    await service.send("alice", 1)
    for tab in tabs:
        await tab.wait_seen(1)
    assert len(service.app.hub) == 1
    leaders = [tab for tab in tabs if (await tab.run("() => states.at(-1)"))["leader"]]
    assert len(leaders) == 1
    await leaders[0].page.close()
    tabs.remove(leaders[0])
    await service.send("alice", 2)
    for tab in tabs:
        await tab.wait_seen(1, 2)
    assert len(service.app.hub) == 1


async def test_tabs_of_two_users_share_nothing(service: Service, web: Web) -> None:
    alice, bob = await web.open(service.url, share=True), await web.open(service.url, user="bob", share=True)
    await alice.wait_live()
    await bob.wait_live()
    await service.send("alice", 1)
    await service.send("bob", 2)
    await alice.wait_seen(1)
    await bob.wait_seen(2)


async def test_a_stop_stops_all_tabs_and_one_of_them_can_start_all_again(service: Service, web: Web) -> None:
    tabs = [await web.open(service.url, share=True) for _ in range(2)]
    for tab in tabs:
        await tab.wait_live()
    [session] = list(service.app.hub)
    session.leave(Close.DISCONNECTED)
    for tab in tabs:
        await tab.wait("client.state === 'stopped'")
    assert len(service.app.hub) == 0
    await tabs[1].run("() => client.reconnect()")
    for tab in tabs:
        await tab.wait_live()
    await service.send("alice", 1)
    for tab in tabs:
        await tab.wait_seen(1)


async def test_a_tab_that_missed_frames_gets_them_from_the_one_that_has_the_connection(
    service: Service, web: Web
) -> None:
    first = await web.open(service.url, share=True)
    await first.wait_live()
    second = await web.open(service.url, share=True)
    await second.wait_live()
    await service.send("alice", 1)
    await second.wait_seen(1)
    # As while it was frozen: nothing that other tabs say is heard.
    await second.run(DEAFEN)
    await service.send_many("alice", 2, first=2)
    await first.wait_seen(1, 2, 3)
    await second.run("() => { deaf = false; }")
    await service.send("alice", 4)
    await second.wait_seen(1, 2, 3, 4)
    await first.wait_seen(1, 2, 3, 4)


async def test_what_nobody_has_any_more_is_told_to_a_tab_as_truncated(service: Service, web: Web) -> None:
    first = await web.open(service.url, share=True)
    await first.wait_live()
    second = await web.open(service.url, share=True)
    await second.wait_live()
    await second.run(DEAFEN)
    await service.send_many("alice", 150)
    await first.wait_seen(*range(150))
    await second.run("() => { deaf = false; }")
    await service.send("alice", 150)
    await second.wait_seen(*range(51, 151))
    assert await second.run("() => ops.filter(({ op }) => op === 'truncated')") == [
        {"op": "truncated", "from": 1, "to": 51}
    ]


async def test_a_tab_that_leads_but_hangs_is_replaced(service: Service, web: Web) -> None:
    first = await web.open(service.url, share=True)
    await first.wait_live()
    second = await web.open(service.url, share=True)
    await second.wait_live()
    hang = "() => { console.log('hangs'); const end = Date.now() + 20_000; while (Date.now() < end); }"
    async with first.page.expect_console_message(lambda message: message.text == "hangs"):
        task = asyncio.ensure_future(first.page.evaluate(hang))
    try:
        # The clock is put forward, so that the silence and the wait for an answer are over at once.
        await second.run(
            """() => {
                const now = Date.now;
                window.late = 25_000;
                Date.now = () => now() + late;
                document.dispatchEvent(new Event("visibilitychange"));
            }"""
        )
        await second.wait("client.state === 'live' && states.at(-1).leader", seconds=30)
        await service.send("alice", 1)
        await second.wait_seen(1)
    finally:
        await task
    await first.wait_seen(1)
    assert (await first.run("() => states.at(-1)"))["leader"] is False


async def test_a_tab_that_is_looked_at_has_the_leaders_connection_looked_after(
    service: Service, relay: Relay, web: Web
) -> None:
    leader = await web.open(relay.url, share=True)
    await leader.wait_live()
    looked_at = await web.open(relay.url, share=True)
    await looked_at.wait_live()
    relay.swallow()  # as after the laptop slept: nothing comes, and nothing says so
    await service.send("alice", 1)
    await looked_at.run("() => document.dispatchEvent(new Event('visibilitychange'))")
    await leader.wait("client.state !== 'live'")
    relay.heal()
    await looked_at.wait_seen(1)


async def test_any_tab_may_end_a_pause(service: Service, web: Web) -> None:
    tabs = [await web.open(service.url, share=True) for _ in range(2)]
    for tab in tabs:
        await tab.wait_live()
    [session] = list(service.app.hub)
    session.leave(Close.DRAINING, retry_after=3_600)
    for tab in tabs:
        await tab.wait("client.state === 'waiting'")
    [follower] = [tab for tab in tabs if not (await tab.run("() => states.at(-1)"))["leader"]]
    await follower.run("() => client.reconnect()")
    for tab in tabs:
        await tab.wait_live()
