"""What /metrics counts is what happened: each figure that a dashboard or an alert relies on moves with its cause."""

from collections.abc import Mapping

import pytest
from prometheus_client.parser import text_string_to_metric_families

from notify.errors import Close
from tests.service import Service, bearer, mint_token, until


async def read_metrics(service: Service) -> Mapping[str, float]:
    """Return every sample of /metrics, by its name and the values of its labels."""
    answer = await service.client.get("/metrics")
    return {
        " ".join([sample.name, *sample.labels.values()]): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


async def moves(service: Service, before: Mapping[str, float], expected: Mapping[str, float]) -> bool:
    """Whether every figure of `expected` went up by that much."""
    now = await read_metrics(service)
    return all(now.get(name, 0) - before.get(name, 0) == rise for name, rise in expected.items())


async def test_sends_deliveries_replays_and_acks_are_counted_and_timed(service: Service) -> None:
    before = await read_metrics(service)
    await service.send(["ann", "bob"])
    async with service.connect("ann") as socket:
        [replayed] = await socket.take_backlog()
        await service.send("ann")
        live = await socket.take()
        await socket.ack(live["seq"])
        expected = {
            "notify_notifications_accepted_total": 2,
            "notify_recipients_accepted_total": 3,
            "notify_notifications_delivered_total": 2,
            "notify_notifications_replayed_total": 1,
            "notify_entries_acknowledged_total": 2,
            "notify_delivery_seconds_count": 1,  # the live one: what waited for its user says nothing about the service
            "notify_acknowledgement_seconds_count": 1,
            "notify_sessions_opened_total": 1,
            "notify_sessions": 1,
        }
        assert replayed["seq"] < live["seq"]
        await until(lambda: moves(service, before, expected))
        later = await read_metrics(service)
    acked, delivered = (
        later[name] - before[name] for name in ("notify_acknowledgement_seconds_sum", "notify_delivery_seconds_sum")
    )
    assert acked >= delivered
    assert later["notify_batch_items_count send"] > before["notify_batch_items_count send"]


async def test_the_depth_of_all_queues_is_told(service: Service) -> None:
    await service.send(["ann", "bob"])
    await service.send("ann")

    async def told() -> bool:
        await service.app._need_running().services.roster.measure()  # every ten seconds otherwise
        now = await read_metrics(service)
        return (now["notify_pending_notifications"], now["notify_pending_mailboxes"]) == (3, 2)

    await until(told)


async def test_what_is_turned_away_is_counted_by_its_reason(service: Service) -> None:
    before = await read_metrics(service)
    async with service.dial(token="nonsense", user="ann") as socket:
        assert (await socket.take_close())[0] == Close.UNAUTHENTICATED
    service.app._need_running().gateway.draining = True
    with pytest.raises(Exception, match="503"):
        async with service.dial("ann"):
            pass
    service.app._need_running().gateway.draining = False
    assert (await service.client.get("/v1/inbox")).status_code == 401
    assert (await service.client.get("/v1/admin/nodes", headers=bearer("ann"))).status_code == 403
    async with service.connect("ann", token=mint_token("ann")) as socket:
        [session] = list(service.app.hub)
        session.leave(Close.DISCONNECTED)
        assert (await socket.take_close())[0] == Close.DISCONNECTED
    expected = {
        "notify_sockets_refused_total 4401": 1,
        "notify_sockets_refused_total 503": 1,
        "notify_requests_refused_total 401": 1,
        "notify_requests_refused_total 403": 1,
        "notify_sessions_closed_total 4410": 1,
    }
    assert await moves(service, before, expected)
