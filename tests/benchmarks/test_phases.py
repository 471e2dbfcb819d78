"""What a phase tells its loaders."""

import time
from collections.abc import Sequence
from typing import cast

from notify.bench.fleet import Fleet
from notify.bench.ledger import Tally
from notify.bench.meter import Meter
from notify.bench.orders import Order, Pace, Target
from notify.bench.phases import Phases, Plan

PLAN = Plan(users=1, rate=1, seconds=0.1, replay_users=1, replay_queued=1, payload_bytes=60, loaders=1)


class Listening:
    """Stands for the loaders: notes how long before its start each order to send at a rate arrives."""

    def __init__(self) -> None:
        self.leads: list[float] = []

    def order(self, orders: Sequence[Order], *, seconds: float) -> Tally:
        assert seconds > 0
        self.leads += [order.start - time.monotonic() for order in orders if isinstance(order, Pace)]
        return Tally()


def test_nothing_is_due_before_a_loader_has_its_order() -> None:
    """Else the first sends would all be late, and p99 would be theirs."""
    fleet = Listening()
    target = Target("", 0, "", tls=False, secret="", issuer="", audience="")
    Phases(cast("Fleet", fleet), Meter(None, None), PLAN, target, lambda _name, _seconds: None).latency()
    assert len(fleet.leads) == 2
    assert min(fleet.leads) > 0.2
