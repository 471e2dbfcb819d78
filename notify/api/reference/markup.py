"""HTML out of Python values.

Keeps the promise that no text becomes markup by accident: a string is escaped, only what `tag` made is not.
"""

import html
import re
from collections.abc import Iterator

_CODE = re.compile(r"`([^`]+)`")
_STRONG = re.compile(r"\*\*([^*]+)\*\*")


class Html(str):
    """Markup that is safe to put on a page: made by this module out of escaped text."""

    __slots__ = ()


Child = str | None
"""What stands inside an element; None is nothing."""


def tag(name: str, *children: Child, **attributes: str) -> Html:
    """Return an element. In an attribute's name `class_` is class, `aria_label` aria-label."""
    names = {key: key.rstrip("_").replace("_", "-") for key in attributes}
    written = "".join(f' {names[key]}="{html.escape(value)}"' for key, value in attributes.items())
    return Html(f"<{name}{written}>{join(*children)}</{name}>")


def join(*children: Child) -> Html:
    """Return children one after the other, escaped where they are text."""
    return Html(
        "".join(child if isinstance(child, Html) else html.escape(child) for child in children if child is not None)
    )


def inline(text: str) -> Html:
    """Return a line of our prose: `code` and **strong**, everything else as it is."""
    escaped = html.escape(text, quote=False)
    return Html(_STRONG.sub(r"<strong>\1</strong>", _CODE.sub(r"<code>\1</code>", escaped)))


def prose(text: str | None) -> Html:
    """Return our prose as paragraphs and lists."""
    return join(*_blocks(text or ""))


def _blocks(text: str) -> Iterator[Html]:
    for block in text.strip().split("\n\n"):
        if block.startswith("- "):
            yield tag("ul", *(tag("li", inline(item)) for item in block.removeprefix("- ").split("\n- ")))
        elif block:
            yield tag("p", inline(block))
