"""What may name a user, a device or a topic."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notify.model import ID_LENGTH, is_identifier


@pytest.mark.parametrize(
    "value", ["a", "alice@example.org", "a/b", "..", "a b", "\u2028", "ünï", "🎈" * ID_LENGTH, " "]
)
def test_any_text_without_control_characters_is_an_identifier(value: str) -> None:
    assert is_identifier(value)


@pytest.mark.parametrize(
    "value", ["", "a" * (ID_LENGTH + 1), "a\0", "a\n", "a\t", "\x1f", "\x7f", "\x80", "\x9f", "\ud800", "a\n\n", "\r"]
)
def test_what_is_empty_too_long_or_holds_a_control_character_is_none(value: str) -> None:
    assert not is_identifier(value)


@given(st.text(st.characters(exclude_categories=()), max_size=ID_LENGTH + 5))
def test_an_identifier_is_what_unicode_and_utf8_say(value: str) -> None:
    fit = all(unicodedata.category(character) not in {"Cc", "Cs"} for character in value)
    assert is_identifier(value) == (fit and 1 <= len(value) <= ID_LENGTH)
