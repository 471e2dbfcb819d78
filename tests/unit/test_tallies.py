"""What is counted in plain numbers is exposed as the library's own metrics would be."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram, disable_created_metrics, generate_latest
from prometheus_client.registry import Collector

from notify.tallies import Tally, Timings

disable_created_metrics()  # type: ignore[no-untyped-call]  # as notify.metrics does

BOUNDS = (0.001, 0.5, 1, 30)


def expose(collector: Collector) -> str:
    registry = CollectorRegistry()
    registry.register(collector)
    return generate_latest(registry).decode()


@given(amounts=st.lists(st.integers(0, 500), max_size=5))
def test_a_tally_says_what_a_counter_says(amounts: Sequence[int]) -> None:
    tally, counter = Tally("a_thing", "Things."), Counter("a_thing", "Things.", registry=None)
    REGISTRY.unregister(tally)  # known to everybody from the beginning: a second one of its name is refused
    for amount in amounts:
        tally.inc(amount)
        counter.inc(amount)
    assert expose(tally) == expose(counter)


@given(times=st.lists(st.sampled_from([0, 1e-4, *BOUNDS, 29.9, 1e9]), max_size=8))
def test_timings_say_what_a_histogram_says(times: Sequence[float]) -> None:
    timings = Timings("a_thing_seconds", "Its time.", BOUNDS)
    REGISTRY.unregister(timings)
    histogram = Histogram("a_thing_seconds", "Its time.", buckets=BOUNDS, registry=None)
    for seconds in times:
        timings.observe(seconds)
        histogram.observe(seconds)
    assert expose(timings) == expose(histogram)
