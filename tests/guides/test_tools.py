"""What deploy/ holds, read by the programs that it is for: as much of each as runs without Docker, a cluster or an init."""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.guides.conftest import ROOT
from tests.guides.guide import Block, read_blocks
from tests.guides.reader import FOLLOWED
from tests.service import ServiceProcess

pytestmark = pytest.mark.docs

COMPOSE = ROOT / "compose.yaml"
ALERTS = ROOT / "deploy/prometheus/alerts.yaml"
DASHBOARD = ROOT / "deploy/grafana/dashboard.json"
UNIT = ROOT / "deploy/systemd/notify.service"

EXPOSURE = 2.0
"""Of 10, as `systemd-analyze security` counts what a unit may do; the unit has 1.4."""

Find = Callable[[str], str]


def run(command: Sequence[str], *, ends: int = 0, stdin: str = "", **options: Any) -> str:
    """Run a program to its end; return what it said. Fails when its exit code is another one."""
    done: subprocess.CompletedProcess[str] = subprocess.run(
        command, input=stdin, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=30, check=False, **options
    )  # fmt: skip
    assert done.returncode == ends, done.stdout
    return done.stdout


def blocks_checked_by(name: str) -> list[Block]:
    """Return the blocks of all guides that a test here answers for."""
    guides = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    found = [block for guide in guides for block in read_blocks(guide) if block.mark.check == name]
    FOLLOWED.update((block.path, block.line) for block in found)
    return found


# Prometheus


def test_prometheus_takes_the_rules_and_the_scrape_configuration_of_the_guide(
    tmp_path: Path, find_program: Find
) -> None:
    [block] = blocks_checked_by("promtool")
    promtool = find_program("promtool")
    (tmp_path / "prometheus.yml").write_text(f"rule_files: [{json.dumps(str(ALERTS))}]\n{block.text}")
    said = run([promtool, "check", "config", str(tmp_path / "prometheus.yml")])
    assert "SUCCESS: 1 rule files found" in said
    assert "FAILED" not in said


def test_prometheus_understands_every_query_of_the_dashboard(tmp_path: Path, find_program: Find) -> None:
    targets = [target for panel in json.loads(DASHBOARD.read_text())["panels"] for target in panel["targets"]]
    queries = [target["expr"].replace("$job", "notify").replace("$__rate_interval", "5m") for target in targets]
    rules = [{"record": f"panel:{place}", "expr": query} for place, query in enumerate(queries)]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    said = run([find_program("promtool"), "check", "rules", str(tmp_path / "rules.yaml")])
    assert f"SUCCESS: {len(queries)} rules found" in said


def series(name: str, values: str, **labels: str) -> dict[str, str]:
    """Return a series of values, one a minute, of a process called `a`."""
    every = {"job": "notify", "instance": "a", **labels}
    return {"series": name + "{" + ",".join(f'{key}="{value}"' for key, value in every.items()) + "}", "values": values}


FAULTS: Mapping[str, tuple[str, Sequence[Mapping[str, str]], Mapping[str, str]]] = {
    "NotifyDown": ("3m", [series("up", "0x5")], {"job": "notify", "instance": "a"}),
    "NotifyListenDown": ("2m", [series("notify_bridge_up", "0x5")], {"job": "notify", "instance": "a"}),
    "NotifyFailing": ("15m", [series("notify_requests_refused_total", "0+60x20", status="503")], {}),
    "NotifyDeliverySlow": (
        "20m",
        [
            series("notify_delivery_seconds_bucket", "0+10x20", le="1"),
            series("notify_delivery_seconds_bucket", "0+100x20", le="10"),
            series("notify_delivery_seconds_bucket", "0+100x20", le="+Inf"),
        ],
        {},
    ),
    # Of sockets alone: a wave of them must be told although no request was refused.
    "NotifyTokensRefused": ("20m", [series("notify_sockets_refused_total", "0+600x25", code="4401")], {}),
    "NotifyTransactionOpen": (
        "3m", [series("notify_oldest_transaction_seconds", "400x5")], {"job": "notify", "instance": "a"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("alert", FAULTS)
def test_an_alert_fires_at_its_fault_and_at_no_other(alert: str, tmp_path: Path, find_program: Find) -> None:
    moment, values, labels = FAULTS[alert]
    rules = {rule["alert"]: rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]}
    expected = [{"exp_labels": {**labels, **rules[alert]["labels"]}}]
    checks = [
        {"eval_time": moment, "alertname": name, "exp_alerts": expected if name == alert else []} for name in rules
    ]
    # What it says in words holds figures: only whether it fires is looked at.
    plain = [{key: rule[key] for key in ("alert", "expr", "for", "labels") if key in rule} for rule in rules.values()]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": [{"name": "notify", "rules": plain}]}))
    test = {
        "rule_files": ["rules.yaml"],
        "tests": [{"interval": "1m", "input_series": list(values), "alert_rule_test": checks}],
    }
    (tmp_path / "test.yaml").write_text(yaml.safe_dump(test))
    run([find_program("promtool"), "test", "rules", "test.yaml"], cwd=tmp_path)


@pytest.fixture
async def service(database_url: str) -> AsyncIterator[ServiceProcess]:
    """Run the service on the port that everything in deploy/ asks."""
    async with ServiceProcess(database_url, port=8000) as service:
        yield service


async def test_metrics_keep_prometheus_conventions(service: ServiceProcess, find_program: Find) -> None:
    text = (await service.client.get("/metrics")).text
    ours = [line for line in text.splitlines(keepends=True) if re.match(r"(# \w+ )?notify_", line)]
    run([find_program("promtool"), "check", "metrics"], stdin="".join(ours))


# Containers


def test_compose_takes_the_file_and_says_what_is_missing(find_program: Find) -> None:
    compose = [find_program("docker-compose"), "--file", str(COMPOSE), "config"]
    bare = {"PATH": os.environ["PATH"], "HOME": "/nonexistent"}
    assert "see the first lines of compose.yaml" in run(compose, ends=1, env=bare)
    said = run(compose, env={**bare, "POSTGRES_PASSWORD": "one", "NOTIFY_JWT_SECRET": "two"})
    services = yaml.safe_load(said)["services"]
    assert services.keys() == {"postgres", "migrate", "notify"}
    assert services["notify"]["environment"]["NOTIFY_DATABASE_URL"] == "postgresql://notify:one@postgres:5432/notify"


def health_checks() -> Mapping[str, Sequence[str]]:
    """Return the commands that ask a container how it is."""
    [in_image] = re.findall(r"HEALTHCHECK .*\\\n +CMD (\[.*\])", (ROOT / "Dockerfile").read_text())
    composed = yaml.safe_load(COMPOSE.read_text())["services"]["notify"]["healthcheck"]["test"]
    return {"Dockerfile": json.loads(in_image), "compose.yaml": composed[1:]}


@pytest.mark.usefixtures("service")
async def test_the_health_checks_of_the_containers_see_a_service_that_is_well() -> None:
    for command in health_checks().values():
        run([sys.executable, *command[1:]])


def test_the_health_checks_of_the_containers_see_one_that_is_not() -> None:
    for command in health_checks().values():
        assert "Refused" in run([sys.executable, *command[1:]], ends=1)


def test_the_image_is_built_from_files_that_are_there_and_enough(tmp_path: Path, offline: Mapping[str, str]) -> None:
    steps = re.findall(r"^(COPY|RUN) (.*)$", (ROOT / "Dockerfile").read_text().partition("\nFROM ")[2], re.MULTILINE)
    sources = [name for kind, words in steps if kind == "COPY" and "--from" not in words for name in words.split()[:-1]]
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert not {name for name in sources if name in ignored}
    for name in sources:
        (tmp_path / name).symlink_to(ROOT / name)
    # The build's last step, with nothing but what was copied. What it depends on, its first step, comes from an index.
    assert ("RUN", "/opt/notify/bin/pip install --no-deps .") in steps
    install = [sys.executable, "-m", "pip", "install", "--no-deps", f"--target={tmp_path / 'opt'}", "."]
    run(install, cwd=tmp_path, env={**os.environ, **offline})
    inside = {"PATH": os.environ["PATH"], "PYTHONPATH": f"{tmp_path / 'opt'}{os.pathsep}{offline['PYTHONPATH']}"}
    said = run(
        [sys.executable, "-c", "import notify, notify.sql as s; print(notify.__file__, len(s.migrations()))"],
        env=inside,
        cwd="/",
    )
    assert said.startswith(str(tmp_path / "opt"))


# systemd


def test_systemd_takes_the_unit_and_finds_it_closed(tmp_path: Path, find_program: Find) -> None:
    analyze = find_program("systemd-analyze")
    path = tmp_path / "notify.service"
    path.write_text(UNIT.read_text().replace("/opt/notify/bin/notify", f"{Path(sys.executable).parent}/notify"))
    assert not [line for line in run([analyze, "verify", str(path)]).splitlines() if "notify.service" in line]
    run([analyze, "security", "--offline=true", f"--threshold={EXPOSURE * 10:.0f}", str(path)])


# Kubernetes


IMAGE = "notify:another"
"""kubectl prints a manifest that it changes, and only then."""


def as_kubectl_reads(manifest: Path, kubectl: str) -> Any:
    """Return a manifest after kubectl has read it into its types: a field that they don't have is not there any more."""
    content = yaml.safe_load(manifest.read_text())
    if content["kind"] == "Service":
        selector = [f"{key}={value}" for key, value in content["spec"]["selector"].items()]
        change = ["set", "selector", ",".join(selector)]
    else:
        change = ["set", "image", f"*={IMAGE}"]
    said = run([kubectl, *change, "--local", "--filename", str(manifest), "--output=yaml"])
    return yaml.safe_load(said.replace(IMAGE, "notify:latest"))


def lacks(whole: Any, part: Any, place: str = "") -> list[str]:
    """Return where `part` does not hold what `whole` says."""
    if isinstance(whole, dict):
        if not isinstance(part, dict):
            return [place]
        return [found for key, value in whole.items() for found in lacks(value, part.get(key), f"{place}/{key}")]
    if isinstance(whole, list):
        if not isinstance(part, list) or len(part) != len(whole):
            return [place]
        return [found for at, value in enumerate(whole) for found in lacks(value, part[at], f"{place}/{at}")]
    return [] if whole == part else [place]


# It can show the others only with a cluster; they are a few lines each, looked at one by one in test_deployment.
@pytest.mark.parametrize("name", ["deployment", "migrate", "service"])
def test_kubernetes_knows_every_field_of_a_manifest(name: str, find_program: Find) -> None:
    manifest = ROOT / f"deploy/kubernetes/{name}.yaml"
    read = as_kubectl_reads(manifest, find_program("kubectl"))
    assert not lacks(yaml.safe_load(manifest.read_text()), read)


def test_kubectl_takes_every_command_of_the_guide(checkout: Path, find_program: Find) -> None:
    blocks = blocks_checked_by("kubectl")
    kubectl = find_program("kubectl")
    assert blocks
    for block in blocks:
        for line in block.text.splitlines():
            words = shlex.split(line, comments=True)
            files = [checkout / word for word in words if word.startswith("deploy/")]
            assert all(file.exists() for file in files), line
            if words[0] == "kubectl":
                (checkout / "secret.yaml").write_text((checkout / "deploy/kubernetes/secret.example.yaml").read_text())
                # It reads options and files first; then there is no cluster in this network.
                said = run([kubectl, *words[1:]], ends=1, cwd=checkout, env={"HOME": str(checkout), "PATH": ""})
                assert "refused" in said, said
