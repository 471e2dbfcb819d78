"""Loads sql/: the named statements and the numbered migrations.

The promise kept here: SQL stands in .sql files alone, where it can be read, explained and linted, and a mistake in
those files (a name used twice, a gap in the numbers) is found on loading, not when a statement is first needed.

sql/queries/*.sql hold blocks like this one, each a single statement:

    -- name: fetch_page
    -- The next entries of one mailbox, by entry_pkey (mailbox_id, seq).
    SELECT seq, kind FROM notify.entry WHERE mailbox_id = $1 AND seq > $2 ORDER BY seq LIMIT $3;

sql/migrations/0001_mailbox.sql and so on are numbered from 1 without gaps; migrate.py applies them.
"""

import re
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from notify.errors import ConfigurationError

NAME = re.compile(r"^-- name: ([a-z][a-z0-9_]*)[ \t]*$", re.MULTILINE)
MIGRATION = re.compile(r"([0-9]{4})_([a-z][a-z0-9_]*)\.sql")


@dataclass(frozen=True, slots=True)
class Statement:
    """One named statement: its text without the trailing semicolon, and what its comment says about it."""

    name: str
    file: str
    comment: str
    text: str


@dataclass(frozen=True, slots=True)
class Migration:
    """One step of the schema. The checksum is the SHA-256 (hex) of its text, line ends made equal first."""

    number: int
    name: str
    text: str
    checksum: str

    @property
    def file(self) -> str:
        """The file it stands in, as messages name it."""
        return f"sql/migrations/{self.number:04}_{self.name}.sql"


def query(name: str) -> str:
    """Return the text of the statement called `name` in sql/queries.

    Raises KeyError, naming the known ones, when there is none.
    """
    known = statements()
    try:
        return known[name].text
    except KeyError:
        raise KeyError(f"no statement {name!r} in sql/queries; there are: {', '.join(sorted(known))}") from None


@cache
def statements() -> dict[str, Statement]:
    """Return every named statement of sql/queries; read once in a process."""
    return load_statements(locate_sql() / "queries")


@cache
def migrations() -> list[Migration]:
    """Return every migration of sql/migrations in the order of its number; read once in a process."""
    return load_migrations(locate_sql() / "migrations")


def locate_sql() -> Traversable:
    """Return the directory sql/: inside the package in a wheel, beside it in a checkout.

    Raises ConfigurationError when this installation has neither.
    """
    packaged = files("notify") / "_sql"
    checkout = Path(__file__).resolve().parent.parent / "sql"
    for candidate in (packaged, checkout):
        if candidate.is_dir():
            return candidate
    raise ConfigurationError(f"this installation lacks its SQL files ({packaged} or {checkout}): install notify again")


def load_statements(directory: Traversable) -> dict[str, Statement]:
    """Read every .sql file of `directory` into its named statements.

    Raises ConfigurationError for a name used twice, a block without SQL, or SQL outside any block.
    """
    found: dict[str, Statement] = {}
    for file, text in read_sql(directory):
        for statement in split_statements(file, text):
            twin = found.setdefault(statement.name, statement)
            if twin is not statement:
                raise ConfigurationError(f"{file}: the name {statement.name!r} is already taken in {twin.file}")
    return found


def split_statements(file: str, text: str) -> list[Statement]:
    """Cut the text of one file into its named blocks."""
    head, *parts = NAME.split(text)
    if strip_comment(head)[1]:
        raise ConfigurationError(f"{file}: SQL before the first `-- name:` line can't be reached")
    blocks: list[Statement] = []
    for name, rest in zip(parts[::2], parts[1::2], strict=True):
        comment, body = strip_comment(rest)
        if not body:
            raise ConfigurationError(f"{file}: {name!r} has no SQL")
        blocks.append(Statement(name, file, comment, body.removesuffix(";").rstrip()))
    return blocks


def strip_comment(block: str) -> tuple[str, str]:
    """Part the comment lines a block begins with from the SQL below them; both stripped."""
    lines = block.strip().splitlines()
    end = next((i for i, line in enumerate(lines) if line.strip() and not line.startswith("--")), len(lines))
    comment = " ".join(line.removeprefix("--").strip() for line in lines[:end])
    return comment.strip(), "\n".join(lines[end:]).strip()


def load_migrations(directory: Traversable) -> list[Migration]:
    """Read every .sql file of `directory` as a migration, sorted by number.

    Raises ConfigurationError for a file name that is no migration's, and for a gap or a double in the numbers.
    """
    found: list[Migration] = []
    for file, text in read_sql(directory):
        parts = MIGRATION.fullmatch(file)
        if parts is None:
            raise ConfigurationError(f"{file}: a migration is called like 0001_mailbox.sql, in lower case")
        found.append(Migration(int(parts[1]), parts[2], text, sha256(text.encode()).hexdigest()))
    for expected, migration in enumerate(found, start=1):
        if migration.number != expected:
            raise ConfigurationError(
                f"{migration.file}: {expected:04} was to come here; numbers begin at 0001, without gaps or doubles"
            )
    return found


def read_sql(directory: Traversable) -> list[tuple[str, str]]:
    """Return name and text of every .sql file of `directory`, sorted by name.

    Raises ConfigurationError when there is none: an installation that lost them would pass for one without a schema.
    """
    entries = sorted(directory.iterdir(), key=lambda entry: entry.name) if directory.is_dir() else []
    # read_text makes line ends equal, so a checkout with CRLF has the same checksums.
    found = [(entry.name, entry.read_text(encoding="utf-8")) for entry in entries if entry.name.endswith(".sql")]
    if not found:
        raise ConfigurationError(f"there is no .sql file in {directory}: install notify again")
    return found
