"""A producer's share: what it lets through, and how it says what is left (draft-ietf-httpapi-ratelimit-headers-11)."""

import re

import pytest

from notify.errors import RateLimited
from notify.quota import MAX_PRODUCERS, Quota


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("notify.quota.time", clock)
    return clock


def read_refusal(quota: Quota, recipients: int) -> dict[str, int]:
    """Take what is too much, and read the header fields of the refusal: each an item with integer parameters."""
    with pytest.raises(RateLimited) as caught:
        quota.take("shop", recipients)
    headers = caught.value.headers
    policy = re.fullmatch(r'"recipients";q=(\d+);w=(\d+);qu="recipients"', headers["RateLimit-Policy"])
    left = re.fullmatch(r'"recipients";r=(\d+);t=(\d+)', headers["RateLimit"])
    assert policy, headers
    assert left, headers
    found = {"q": int(policy[1]), "w": int(policy[2]), "r": int(left[1]), "t": int(left[2])}
    assert int(headers["Retry-After"]) >= found["t"]  # never before the end of the window
    return found


def test_a_refusal_tells_the_quota_and_when_to_come_back(clock: Clock) -> None:
    quota = Quota(10)
    quota.take("shop", 8)
    assert read_refusal(quota, 5) == {"q": 10, "w": 1, "r": 2, "t": 1}
    clock.now += 1
    quota.take("shop", 5)


def test_what_is_larger_than_the_quota_passes_and_is_paid_off(clock: Clock) -> None:
    quota = Quota(10)
    quota.take("shop", 40)
    assert read_refusal(quota, 1) == {"q": 10, "w": 1, "r": 0, "t": 4}
    clock.now += 3
    assert read_refusal(quota, 1)["t"] == 1
    clock.now += 1
    quota.take("shop", 1)


def test_a_rate_below_one_a_second_says_so_in_its_window(clock: Clock) -> None:
    quota = Quota(0.25)
    quota.take("shop", 1)
    assert read_refusal(quota, 1) == {"q": 1, "w": 4, "r": 0, "t": 4}
    clock.now += 4
    quota.take("shop", 1)


def test_a_producer_over_its_quota_takes_nothing_from_another(clock: Clock) -> None:
    quota = Quota(10)
    for producer in ("shop", "other"):
        quota.take(producer, 10)
    clock.now += 0.5
    read_refusal(quota, 6)
    quota.take("other", 5)


def test_producers_take_a_bounded_amount_of_memory(clock: Clock) -> None:
    quota = Quota(10)
    for number in range(MAX_PRODUCERS + 10):
        clock.now += 1
        quota.take(f"shop{number}", 1)
    assert len(quota._buckets) == MAX_PRODUCERS
