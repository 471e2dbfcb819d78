"""The books of a loader: whatever goes wrong with a notification is counted, and under its own name."""

from array import array

from notify.bench.ledger import Ledger, Tally, merge
from notify.bench.result import percentile

MILLISECOND = 1_000_000


def opened() -> Ledger:
    ledger = Ledger()
    ledger.open()
    return ledger


async def test_what_was_accepted_and_does_not_arrive_is_lost() -> None:
    ledger = opened()
    first = ledger.number(3)
    ledger.accept(first, 3)
    ledger.deliver(first + 1, 0, MILLISECOND, in_order=True)
    await ledger.settle(0.01)
    assert (ledger.tally.lost, ledger.tally.delivered) == (2, 1)


async def test_what_arrives_before_its_answer_is_not_lost() -> None:
    ledger = opened()
    number = ledger.number(1)
    ledger.deliver(number, 0, MILLISECOND, in_order=True)
    ledger.accept(number, 1)
    await ledger.settle(0.01)
    assert (ledger.tally.lost, ledger.tally.delivered) == (0, 1)


async def test_what_was_refused_is_not_missed() -> None:
    ledger = opened()
    ledger.number(1)
    await ledger.settle(0.01)
    assert ledger.tally.lost == 0


def test_a_second_delivery_is_a_duplicate_and_counts_once() -> None:
    ledger = opened()
    number = ledger.number(1)
    for _ in range(2):
        ledger.deliver(number, 0, MILLISECOND, in_order=True)
    assert (ledger.tally.duplicates, ledger.tally.delivered) == (1, 1)


def test_what_comes_again_in_a_later_phase_is_a_duplicate() -> None:
    ledger = opened()
    number = ledger.number(1)
    ledger.deliver(number, 0, MILLISECOND, in_order=True)
    ledger.open()
    ledger.deliver(number, 0, MILLISECOND, in_order=False)
    assert ledger.tally.duplicates == 1


def test_what_comes_behind_a_greater_seq_is_out_of_order() -> None:
    ledger = opened()
    ledger.deliver(ledger.number(1), 0, MILLISECOND, in_order=False)
    assert ledger.tally.out_of_order == 1


async def test_a_backlog_is_booked_over_the_phase_that_stores_it_and_the_one_that_delivers_it() -> None:
    ledger = opened()
    first = ledger.number(2)
    ledger.accept(first, 2)
    ledger.resume()
    ledger.deliver(first, 0, MILLISECOND, in_order=True)
    await ledger.settle(0.01)
    assert (ledger.tally.accepted, ledger.tally.delivered, ledger.tally.lost) == (2, 1, 1)


def test_latency_counts_from_when_a_send_was_due() -> None:
    ledger = opened()
    ledger.deliver(ledger.number(1), 2 * MILLISECOND, 7 * MILLISECOND, in_order=True)
    assert percentile(ledger.close().latencies, 0.99) == 5.0


def test_percentiles_are_by_nearest_rank() -> None:
    values = array("d", range(1, 101)).tobytes()
    assert [percentile(values, share) for share in (0.5, 0.95, 0.99, 1.0)] == [50, 95, 99, 100]


def test_loaders_add_up_and_the_busiest_one_counts() -> None:
    one = Tally(accepted=2, lost=1, started=1.0, ended=3.0, busiest=0.4, latencies=b"a")
    other = Tally(accepted=3, duplicates=1, started=2.0, ended=4.0, busiest=0.9, latencies=b"b")
    whole = merge([one, other])
    assert (whole.accepted, whole.lost, whole.duplicates, whole.busiest) == (5, 1, 1, 0.9)
    assert (whole.started, whole.ended, whole.latencies) == (1.0, 4.0, b"ab")
