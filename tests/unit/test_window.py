"""The window: bounded in entries and in bytes, and settled up to the first entry that awaits its ack."""

from notify.window import Window


def test_it_is_full_by_entries_or_by_bytes_and_acks_make_room() -> None:
    window = Window(2, 100)
    window.add(3, 40, 1.5)
    assert (window.room, window.is_full) == ((1, 60), False)
    window.add(4, 10, 0.0)
    assert window.is_full
    assert window.acknowledge(3) == [1.5]
    window.add(5, 90, 0.0)
    assert window.is_full
    assert window.acknowledge(9) == [0.0, 0.0]
    assert (window.room, len(window)) == ((2, 100), 0)


def test_it_is_settled_up_to_what_awaits_its_ack() -> None:
    window = Window(9, 900)
    assert window.settled(7) == 7
    window.add(5, 1, 0.0)
    window.add(7, 1, 0.0)
    assert window.settled(7) == 4
    window.acknowledge(5)
    assert window.settled(9) == 6
