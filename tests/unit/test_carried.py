"""Entries that come with their wake-up say on the wire exactly what the same entries say when they are fetched."""

from datetime import UTC, datetime, timedelta

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from notify.carried import EPOCH, read_wake, split_wakes
from notify.frames import CODECS
from notify.model import Codec, Entry, Kind

NAMES = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), min_size=1, max_size=30)
DATA = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=3)
    ),
    max_leaves=5,
)
MOMENTS = st.datetimes(datetime(2020, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - hypothesis adds the zone


ENTRIES = st.builds(
    Entry,
    seq=st.integers(1, 2**63 - 1),
    kind=st.just(Kind.NOTIFICATION),
    live=st.just(value=True),
    notification_id=st.uuids(),
    type=NAMES,
    producer=NAMES,
    context=st.none() | st.just('{"traceparent":"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}'),
    created_at=MOMENTS,
    queued_at=MOMENTS,
    data=DATA.map(msgspec.json.encode),
    target=st.none(),
    seqs=st.none(),
    unread=st.none(),
    codec=st.just(Codec.JSON),
)


def count_microseconds(moment: datetime | None) -> int:
    """Write a time as a line has it."""
    assert moment is not None
    return (moment - EPOCH) // timedelta(microseconds=1)


@given(ENTRIES)
def test_a_carried_entry_is_the_frame_of_the_stored_one(entry: Entry) -> None:
    fields = [
        entry.seq,
        count_microseconds(entry.queued_at),
        entry.notification_id,
        count_microseconds(entry.created_at),
        entry.type,
        entry.producer,
        entry.context or "",
        entry.data.decode(),
    ]
    [(user, rest)] = split_wakes("\t".join(["ann", *map(str, fields)]))
    assert entry.queued_at is not None
    queued_at = entry.queued_at.timestamp()
    head, carried = read_wake(rest, queued_at)
    assert (user, head) == ("ann", entry.seq)
    assert carried is not None
    assert carried.entry == entry
    for codec in CODECS.values():
        assert carried.encode(codec) == codec.encode_entry(entry)
    assert read_wake(rest, queued_at + 1.0) == (entry.seq, None)  # too old: it is fetched
