"""Messages that are not stored travel in parts that fit, and come out as they went in."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from notify.model import Codec
from notify.momentary import MAX_OPEN, MAX_PARTS, Assembler, BrokenPart, Momentary, cut, split, wrap

LIMIT = 7_999
"""Bytes of one NOTIFY payload at most (https://www.postgresql.org/docs/current/sql-notify.html)."""

BATCH = "01a20bb8-7075-7fe7-a63e-87f8aaa917d8"


def message(data: bytes = b"1", to: tuple[str, ...] = ("alice",), codec: Codec = Codec.JSON) -> Momentary:
    return Momentary(UUID(int=1), "t", "shop", datetime(2030, 1, 1, tzinfo=UTC), codec, wrap(data, codec), to)


def assemble(parts: list[str], assembler: Assembler | None = None) -> list[Momentary]:
    """Put parts together; nothing may come before the last."""
    assembler = assembler or Assembler()
    assert [assembler.add(part) for part in parts[:-1]] == [()] * (len(parts) - 1)
    return list(assembler.add(parts[-1]))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(
    st.lists(st.tuples(JSON, st.lists(st.text(min_size=1), min_size=1)), min_size=1, max_size=4), st.integers(1, 300)
)
def test_what_comes_out_is_what_went_in(contents: list[tuple[Any, list[str]]], times: int) -> None:
    messages = [message(msgspec.json.encode([data] * times), tuple(to)) for data, to in contents]
    parts = split(BATCH, messages)
    assert all(len(part.encode()) <= LIMIT for part in parts)
    found = assemble(parts)
    assert [(one.payload, list(one.to), one.type, one.id) for one in found] == [
        (one.payload, list(one.to), one.type, one.id) for one in messages
    ]


@given(st.binary(max_size=20_000))
def test_msgpack_stays_the_bytes_it_was(data: bytes) -> None:
    assert assemble(split(BATCH, [message(data, codec=Codec.MSGPACK)]))[0].payload == data


@given(st.text(min_size=1), st.integers(4, 50))
def test_a_text_is_cut_between_characters(text: str, size: int) -> None:
    pieces = list(cut(text.encode(), size))
    assert "".join(pieces) == text
    assert all(0 < len(piece.encode()) <= size for piece in pieces)


def test_the_longest_batch_that_can_come_still_fits() -> None:
    body = message(b'"' + b"x" * (24 * 1024 * 1024) + b'"')
    parts = split(BATCH, [body])
    assert len(parts) < MAX_PARTS
    assert assemble(parts)[0].payload == body.payload


def test_parts_of_several_batches_may_come_mixed() -> None:
    batches = [split(f"{n}", [message(msgspec.json.encode(f"{n}" * 20_000))]) for n in range(4)]
    assembler = Assembler()
    found = [one for parts in zip(*batches, strict=True) for part in parts for one in assembler.add(part)]
    assert [one.payload[1:2] for one in found] == [b"0", b"1", b"2", b"3"]


def test_who_listens_from_the_middle_on_gets_nothing_of_it_and_the_next_one_whole() -> None:
    parts = split(BATCH, [message(b'"' + b"x" * 30_000 + b'"')])
    assembler = Assembler()
    assert [assembler.add(part) for part in parts[1:]] == [()] * (len(parts) - 1)
    assert len(assemble(parts, assembler)) == 1


def test_batches_that_are_never_whole_are_forgotten() -> None:
    first = split("first", [message(b'"' + b"x" * 10_000 + b'"')])
    assembler = Assembler()
    assert assembler.add(first[0]) == ()
    for n in range(MAX_OPEN):
        assert assembler.add(split(f"{n}", [message(b'"' + b"x" * 10_000 + b'"')])[0]) == ()
    assert assembler.add(first[1]) == ()


@pytest.mark.parametrize(
    "payload",
    [
        "",
        "x",
        "b 0 1",
        "b x 1 []",
        "b 1 1 []",
        "b -1 1 []",
        f"b 0 {MAX_PARTS + 1} x",
        "b 0 1 [",
        "b 0 1 [1]",
        "b 0 1 {}",
    ],
)
def test_what_is_none_of_ours_is_refused_and_leaves_nothing_behind(payload: str) -> None:
    assembler = Assembler()
    with pytest.raises(BrokenPart):
        assembler.add(payload)
    assert len(assemble(split(BATCH, [message()]), assembler)) == 1
