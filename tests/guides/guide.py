"""Guides as the tests read them: every fenced block, under which heading it stands, and what its mark says.

A block without a mark is run as it stands. A comment on the line above its fence says what differs:

    <!-- run: background until "ready" -->   it goes on; the next block's turn is when its output has the text
    <!-- run: until "order.shipped" -->      it never ends by itself: it is stopped once its output has the text
    <!-- run: "A" for "B" -->                with A in place of B; `$NAME` in A is what the test gives
    <!-- check: kubectl -->                  it can't be run here; the test of that name holds it against what can

Several of the first three are joined by `; `.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
MARK = re.compile(r"<!-- (run|check): (.+) -->\Z")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
CLAUSE = re.compile(r'(?P<background>background )?until "(?P<text>[^"]+)"|"(?P<new>[^"]*)" for "(?P<old>[^"]+)"')
CLAUSES = re.compile(r'(((background )?until "[^"]+"|"[^"]*" for "[^"]+")(; (?!\Z)|\Z))+')


@dataclass(frozen=True)
class Mark:
    """What differs when a block is run here."""

    check: str | None = None
    background: bool = False
    until: str | None = None
    changes: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, line: str) -> Self:
        """Read the line above a fence. Raises ValueError for a mark that says nothing known."""
        found = MARK.search(line)
        if found is None:
            if line.endswith("-->"):
                raise ValueError(f"no mark of ours: {line}")
            return cls()
        kind, said = found.groups()
        if kind == "check":
            return cls(check=said)
        background, until, changes = False, None, {}
        if CLAUSES.fullmatch(said) is None:
            raise ValueError(f"no clauses of ours: {said}")
        for match in CLAUSE.finditer(said):
            if match["text"]:
                background, until = bool(match["background"]), match["text"]
            else:
                changes[match["old"]] = match["new"]
        return cls(background=background, until=until, changes=changes)


@dataclass(frozen=True)
class Block:
    """A fenced block. `line` is where its text begins in the file."""

    path: Path
    line: int
    section: str
    language: str
    text: str
    mark: Mark

    @property
    def place(self) -> str:
        """Where a person finds it."""
        return f"{self.path.name}:{self.line}"


def read_blocks(path: Path) -> list[Block]:
    """Return the blocks of a guide, in order. Raises ValueError for a mark that says nothing known."""
    text = path.read_text()
    fences = list(FENCE.finditer(text))
    inside = [range(*fence.span()) for fence in fences]
    headings = [
        heading for heading in HEADING.finditer(text) if not any(heading.start() in fenced for fenced in inside)
    ]
    blocks = []
    for fence in fences:
        indent, language, body = fence.groups()
        above = text[: fence.start()].rstrip("\n").rpartition("\n")[2].strip()
        section = next((h[1] for h in reversed(headings) if h.start() < fence.start()), "")
        line = text.count("\n", 0, fence.start(3)) + 1
        body = re.sub(rf"^{indent}", "", body, flags=re.MULTILINE)
        blocks.append(Block(path, line, section, language, body, Mark.read(above)))
    return blocks
