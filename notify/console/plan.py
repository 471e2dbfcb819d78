"""What an act is: a plan that says what it would touch, and the doing of it."""

from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple

import msgspec

from notify.api.services import Services

Query = Mapping[str, str]


class Plan(msgspec.Struct, frozen=True):
    """What an act is about to do. `count` of `what` is what it will touch; `fields` say again what was asked for.

    `back` is where to go afterwards; `refusal` says why it can't be done at all; `preview` is what will be sent.
    """

    title: str
    sentence: str
    button: str
    count: int
    what: str
    fields: dict[str, str]
    back: str
    refusal: str | None = None
    preview: str | None = None


class Act(NamedTuple):
    """A pair: what would be done, and doing it. `perform` gets the actor's name, and returns what it did in words."""

    plan: Callable[[Services, Query], Awaitable[Plan]]
    perform: Callable[[Services, Query, str], Awaitable[str]]
