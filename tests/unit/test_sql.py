"""SQL stands in sql/ alone: every statement is explained and used, and none is written in Python."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import notify
from notify import sql
from notify.errors import ConfigurationError
from notify.sql import load_migrations, load_statements, query, split_statements

SOURCES = sorted(Path(notify.__file__).parent.rglob("*.py"))

SQL = re.compile(
    r"\b(?:SELECT|WITH RECURSIVE|UPDATE\s+\S+\s+SET|INSERT\s+INTO|DELETE\s+FROM|TRUNCATE|LOCK\s+TABLE"
    r"|UNLISTEN|^\s*LISTEN|^\s*NOTIFY|(?:CREATE|ALTER|DROP)\s+(?:TABLE|SCHEMA|INDEX|DATABASE|FUNCTION|ROLE))\s"
)  # LISTEN and NOTIFY are also words of our prose: only at the beginning are they a statement

CALLS = frozenset(
    {"query", "rows", "row", "value", "value_within"}
)  # notify.sql's, and those of notify.store's Database

ALLOWED = {
    # module: why it may; database names can't be arguments of a statement, and there is no schema yet at that point
    "embedded.py": "creates and drops whole databases by name",
    "bench/database_floors.py": "measures bare statements that the service does not have",
    "bench/meter.py": "asks any PostgreSQL how much it worked, with no schema of ours in it",
}


def relative(source: Path) -> str:
    return str(source.relative_to(Path(notify.__file__).parent))


def strings(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield line and text of the string literals that aren't docstrings."""
    prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            yield node.lineno, node.value


def queries(source: Path) -> Iterator[str]:
    """Yield the names of statements a module uses: what it passes to `query`, or to the database's methods that do.

    A name only passed on is somebody else's literal; one that is put together fails, since nobody could find it.
    """
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Call) and node.args and ast.unparse(node.func).rpartition(".")[2] in CALLS:
            name = node.args[0]
            if isinstance(name, ast.Constant) and isinstance(name.value, str):
                yield name.value
            else:
                assert isinstance(name, ast.Name), f"{relative(source)}:{node.lineno}: a statement's name is a literal"


def test_every_statement_says_what_it_does() -> None:
    bare = [f"{one.file}: {one.name}" for one in sql.statements().values() if len(one.comment.split()) < 4]
    assert bare == []


def test_every_statement_is_used_and_every_one_used_exists() -> None:
    used = {name for source in SOURCES for name in queries(source)}
    assert used - set(sql.statements()) == set(), "not in sql/queries"
    assert set(sql.statements()) - used == set(), "in sql/queries, used by nobody"


def test_nobody_writes_sql_in_python() -> None:
    found = [
        f"{relative(source)}:{line}: {text[:60]!r}"
        for source in SOURCES
        if relative(source) not in ALLOWED
        for line, text in strings(ast.parse(source.read_text()))
        if SQL.search(text)
    ]
    assert found == []


def test_the_search_for_sql_finds_it_and_leaves_english_alone() -> None:
    assert SQL.search("SELECT 1")
    assert SQL.search("insert".upper() + " INTO notify.entry VALUES ($1)")
    assert not SQL.search("select a device, then update the cursor")


def test_an_unknown_statement_is_named_along_with_the_known_ones() -> None:
    with pytest.raises(KeyError, match=r"no statement 'fetch_moon' in sql/queries; there are: .*record_migration"):
        query("fetch_moon")


def test_a_block_has_a_name_a_comment_and_one_statement_without_its_semicolon() -> None:
    text = (
        "-- A file.\n\n-- name: one\n-- What it does,\n-- by which index.\nSELECT 1 -- why\n  + 1;\n\n"
        "-- name: two\nSELECT 2\n"
    )
    one, two = split_statements("some.sql", text)
    assert (one.name, one.comment, one.text) == ("one", "What it does, by which index.", "SELECT 1 -- why\n  + 1")
    assert (two.name, two.comment, two.text) == ("two", "", "SELECT 2")


@pytest.mark.parametrize(
    ("files", "complaint"),
    [
        ({"a.sql": "-- name: one\nSELECT 1", "b.sql": "-- name: one\nSELECT 2"}, r"b\.sql: the name 'one'.* in a\.sql"),
        ({"a.sql": "-- name: one\nSELECT 1\n-- name: one\nSELECT 2"}, "already taken"),
        ({"a.sql": "-- name: one\n-- nothing\n"}, r"a\.sql: 'one' has no SQL"),
        ({"a.sql": "SELECT 1\n-- name: one\nSELECT 2"}, "before the first"),
        ({}, "no .sql file"),
    ],
)
def test_a_mistake_in_the_statements_is_found_on_loading(files: dict[str, str], complaint: str, tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(ConfigurationError, match=complaint):
        load_statements(tmp_path)


def test_migrations_come_in_order_with_a_checksum_that_line_ends_do_not_change(tmp_path: Path) -> None:
    (tmp_path / "0002_second.sql").write_text("SELECT 2;\n")
    (tmp_path / "0001_first.sql").write_text("SELECT 1;\n")
    first, second = load_migrations(tmp_path)
    assert (first.number, first.name, first.text, second.number) == (1, "first", "SELECT 1;\n", 2)
    assert first.checksum != second.checksum
    (tmp_path / "0001_first.sql").write_bytes(b"SELECT 1;\r\n")
    assert load_migrations(tmp_path)[0].checksum == first.checksum


@pytest.mark.parametrize(
    ("files", "complaint"),
    [
        (["0001_a.sql", "0003_c.sql"], "0002 was to come here"),
        (["0001_a.sql", "0001_b.sql"], "0001_b.*0002 was to come here"),
        (["0002_b.sql"], "0001 was to come here"),
        (["1_a.sql"], "called like 0001_mailbox.sql"),
        ([], "no .sql file"),
    ],
)
def test_a_gap_or_a_double_in_the_migrations_is_found_on_loading(
    files: list[str], complaint: str, tmp_path: Path
) -> None:
    for name in files:
        (tmp_path / name).write_text("SELECT 1;\n")
    with pytest.raises(ConfigurationError, match=complaint):
        load_migrations(tmp_path)


def test_the_real_migrations_leave_their_transaction_to_the_runner() -> None:
    control = re.compile(r"^\s*(?:BEGIN|COMMIT|ROLLBACK|START TRANSACTION)\s*;", re.MULTILINE | re.IGNORECASE)
    assert [step.file for step in sql.migrations() if control.search(step.text)] == []
