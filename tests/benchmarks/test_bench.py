"""`notify bench`, run for real: a service and a PostgreSQL of its own, a small load, a whole report."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

PHASES = ("connect", "latency", "single", "batch", "replay")
FAULTS = ("lost", "duplicates", "out_of_order", "failed")
RUN_SECONDS = 110

pytestmark = [pytest.mark.bench, pytest.mark.timeout(120)]


def run(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    own = {name: value for name, value in os.environ.items() if not name.startswith("NOTIFY_")}
    return subprocess.run(
        [sys.executable, "-m", "notify.cli", "bench", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=RUN_SECONDS,
        env={**own, **environment},
    )


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bench") / "targets.svg"


@pytest.fixture(scope="module")
def report(picture: Path) -> dict[str, Any]:
    small = ["--users", "50", "--rate", "100", "--seconds", "0.5", "--replay-users", "20", "--replay-queued", "5"]
    more = ["--backlog", "320", "--workers", "2", "--at-once", "20"]
    done = run("--self", *small, *more, "--json", "--plot", str(picture))
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_nothing_is_lost_doubled_or_disordered_in_any_phase(report: dict[str, Any]) -> None:
    assert {(name, fault): report[name][fault] for name in PHASES for fault in FAULTS} == {
        (name, fault): 0 for name in PHASES for fault in FAULTS
    }


def test_the_json_has_the_names_of_the_contract(report: dict[str, Any]) -> None:
    assert report["connect"]["per_second"] > 0
    assert report["connect"]["kib_per_connection"] > 0
    assert report["latency"]["rate"] == 100
    assert 0 < report["latency"]["p50_ms"] <= report["latency"]["p95_ms"] <= report["latency"]["p99_ms"]
    assert 0 <= report["latency"]["late_p50_ms"] <= report["latency"]["late_p99_ms"]
    for phase in ("single", "batch"):
        assert report[phase]["per_second"] > 0
        assert report[phase]["p99_ms"] > 0
    assert report["replay"]["seconds"] > 0
    assert report["machine"]["cores"] >= 1
    assert report["machine"]["postgresql"]


def test_every_notification_that_was_queued_is_replayed(report: dict[str, Any]) -> None:
    assert report["replay"]["notifications"] == 20 * 5


def test_a_full_database_and_one_process_alone_are_measured_too(report: dict[str, Any]) -> None:
    assert (report["growth"]["pending"], report["growth"]["mailboxes"]) == (320, 32)
    parts = [report["growth"][name] for name in ("latency", "single", "batch")]
    parts += [report["alone"][name] for name in ("single", "batch")]
    assert all(part["sent"] > 0 for part in parts)
    assert {part[fault] for part in parts for fault in FAULTS} == {0}


def test_what_is_sent_at_a_rate_is_what_the_rate_says(report: dict[str, Any]) -> None:
    assert report["latency"]["sent"] == 50


def test_every_floor_is_measured_in_the_same_run(report: dict[str, Any]) -> None:
    assert [name for name, value in report["floors"].items() if not value] == []


def test_the_targets_are_ratios_to_those_floors(report: dict[str, Any]) -> None:
    ratios = {goal["name"]: goal for goal in report["targets"] if goal["floor"]}
    assert len(ratios) == 12
    for goal in ratios.values():
        assert goal["ratio"] == pytest.approx(goal["measured"] / goal["floor"], rel=0.02)


def test_the_picture_is_an_svg_with_a_bar_for_each_target(report: dict[str, Any], picture: Path) -> None:
    drawn = ET.fromstring(picture.read_text())  # noqa: S314 - our own
    assert drawn.tag == "{http://www.w3.org/2000/svg}svg"
    assert len(drawn.findall("{http://www.w3.org/2000/svg}rect")) == 1 + 2 * len(report["targets"])


def test_without_a_secret_it_says_what_to_set() -> None:
    done = run("--users", "1")
    assert done.returncode == 2
    assert "NOTIFY_JWT_SECRET" in done.stderr
    assert done.stdout == ""


def test_a_service_that_is_not_there_is_a_failure_of_one_line() -> None:
    done = run("--users", "1", "--no-floors", NOTIFY_URL="http://127.0.0.1:1", NOTIFY_JWT_SECRET="x" * 40)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
