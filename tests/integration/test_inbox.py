"""The inbox: reading and acknowledging stay different things, and the kept count is the true one."""

import asyncio

import asyncpg
import pytest

from notify.settings import MIB
from tests.integration.support import count_unread, list_inbox, mark_read, open_nodes
from tests.service import Service, bearer


async def test_it_is_listed_newest_first_page_by_page(service: Service) -> None:
    await service.send_many("alice", 7)
    found: list[int] = []
    before: dict[str, object] = {}
    while True:
        page = await list_inbox(service, "alice", limit=3, **before)
        found += [item["data"] for item in page["items"]]
        assert page["unread"] == 7
        if page["next"] is None:
            break
        before = {"before": page["next"]}
    assert found == [6, 5, 4, 3, 2, 1, 0]
    assert [item["seq"] for item in (await list_inbox(service, "alice", before=3))["items"]] == [2, 1]
    assert await list_inbox(service, "nobody") == {"items": [], "unread": 0, "next": None}


async def test_a_page_ends_early_after_4_mib_and_the_next_goes_on(service: Service) -> None:
    body = [{"to": "ann", "type": "t", "data": f"{place:02}" + "x" * 65_000} for place in range(70)]
    answer = await service.post({"notifications": body}, path="/v1/notifications/batch")
    assert answer.status_code == 201
    first = await list_inbox(service, "ann", limit=500)
    assert sum(len(item["data"]) for item in first["items"]) < 4 * MIB + 65_536
    rest = await list_inbox(service, "ann", limit=500, cursor=first["next"])
    assert rest["next"] is None
    found = [item["data"][:2] for item in first["items"] + rest["items"]]
    assert found == [f"{place:02}" for place in reversed(range(70))]
    [one] = (await list_inbox(service, "ann", limit=1))["items"]
    assert one["data"].startswith("69")


async def test_only_ones_own_is_there(service: Service) -> None:
    await service.send(["alice", "bob"], "both")
    await service.send("bob", "bob's")
    assert [item["data"] for item in (await list_inbox(service, "alice"))["items"]] == ["both"]


@pytest.mark.parametrize(("mark", "left", "unread"), [({"up_to": 3}, 2, [4, 3]), ({"seqs": [2, 4]}, 3, [4, 2, 0])])
async def test_a_mark_counts_and_every_device_hears_of_it(
    service: Service, mark: dict[str, object], left: int, unread: list[int]
) -> None:
    await service.send_many("alice", 5)
    async with service.connect("alice", device="away") as away:
        await away.take_backlog()
        await away.ack(5)
        await service.wait_for_acks()
    async with service.connect("alice", device="here") as here:
        await here.take_backlog()
        assert await mark_read(service, "alice", **mark) == left
        frame = await here.take()
    assert frame == {"op": "read", "seq": 6, "unread": left, **mark}
    async with service.connect("alice", device="away") as away:
        assert away.welcome["unread"] == left
        assert await away.take_backlog() == [frame]
    page = await list_inbox(service, "alice", unread="true")
    assert [item["data"] for item in page["items"]] == unread
    assert {item["seq"]: item["read_at"] is None for item in (await list_inbox(service, "alice"))["items"]} == {
        item + 1: item in unread for item in range(5)
    }


async def test_a_mark_over_the_socket_is_the_same(service: Service) -> None:
    await service.send_many("alice", 3)
    async with service.connect("alice") as alice, service.connect("alice", device="other") as other:
        await alice.take_backlog()
        await other.take_backlog()
        await alice.say({"op": "read", "up_to": 2})
        assert await alice.take() == await other.take() == {"op": "read", "seq": 4, "up_to": 2, "unread": 1}
        await other.say({"op": "read", "seqs": [3]})
        assert await alice.take() == await other.take() == {"op": "read", "seq": 5, "seqs": [3], "unread": 0}


async def test_a_mark_that_changes_nothing_leaves_no_trace(service: Service, connection: asyncpg.Connection) -> None:
    await service.send_many("alice", 3)
    assert await mark_read(service, "alice", up_to=2) == 1
    marks: list[dict[str, object]] = [{"up_to": 0}, {"seqs": [99]}, {"seqs": [0]}, {"up_to": 2}, {"seqs": [1, 2, 1]}]
    for mark in marks:
        assert await mark_read(service, "alice", **mark) == 1
    assert await connection.fetchval("SELECT head FROM notify.mailbox WHERE user_id = 'alice'") == 4


async def test_a_mark_beyond_the_head_reads_what_is_there_and_nothing_that_comes(service: Service) -> None:
    await service.send_many("alice", 2)
    assert await mark_read(service, "alice", up_to=2**62) == 0
    await service.send("alice")
    assert (await list_inbox(service, "alice"))["unread"] == 1
    assert await mark_read(service, "nobody", up_to=5) == 0


async def test_reading_acknowledges_nothing_and_acknowledging_reads_nothing(service: Service) -> None:
    await service.send_many("alice", 2)
    await mark_read(service, "alice", up_to=2)
    async with service.connect("alice") as alice:
        assert [frame["op"] for frame in await alice.take_backlog()] == ["notification", "notification", "read"]
        await service.send("alice")
        await alice.take()
        await alice.ack(4)
        await service.wait_for_acks()
    assert (await list_inbox(service, "alice"))["unread"] == 1


async def test_devices_are_listed_and_removed(service: Service) -> None:
    await service.send("alice")
    for device in ("phone", "desk/top"):
        async with service.connect("alice", device=device) as alice:
            await alice.take_backlog()
            await alice.ack(1)
    await service.wait_for_acks()
    answer = await service.client.get("/v1/inbox/devices", headers=bearer("alice"))
    assert {item["device"]: item["cursor"] for item in answer.json()["items"]} == {"phone": 1, "desk/top": 1}
    for status in (204, 404):
        answer = await service.client.delete("/v1/inbox/devices/desk%2Ftop", headers=bearer("alice"))
        assert answer.status_code == status
    answer = await service.client.delete("/v1/inbox/devices/phone", headers=bearer("bob"))
    assert answer.status_code == 404
    answer = await service.client.get("/v1/inbox/devices", headers=bearer("alice"))
    assert [item["device"] for item in answer.json()["items"]] == ["phone"]


async def test_the_kept_count_is_the_true_one_whatever_happens_at_once(
    database_url: str, connection: asyncpg.Connection
) -> None:
    """Sends, replacements, withdrawals and marks on two nodes; the mailbox is then looked at as a whole."""
    async with open_nodes(database_url) as nodes:
        for turn in range(6):
            sent = [await nodes[0].send("alice", **fields) for fields in ({}, {"collapse_key": "k"}) * 2]
            await asyncio.gather(
                *(node.send("alice", collapse_key="k") for node in nodes),
                *(node.send(["alice", "bob"]) for node in nodes),
                mark_read(nodes[0], "alice", up_to=8 * turn + 3),
                mark_read(nodes[1], "alice", seqs=list(range(8 * turn, 8 * turn + 12, 2))),
                nodes[1].client.delete(
                    f"/v1/notifications/{sent[0]}", headers=bearer("shop", scope="notifications:send")
                ),
                mark_read(nodes[1], "bob", up_to=turn),
            )
            for user in ("alice", "bob"):
                kept, looked = await count_unread(connection, user)
                assert kept == looked
                assert (await list_inbox(nodes[1], user))["unread"] == kept
        seqs = [
            row[0]
            for row in await connection.fetch("SELECT seq FROM notify.entry WHERE user_id = 'alice' ORDER BY seq")
        ]
        assert seqs == list(range(1, len(seqs) + 1))
