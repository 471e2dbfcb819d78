"""What operators copy: every file parses, and says nothing of metrics, settings, commands, paths or times that isn't so."""

import configparser
import json
import re
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from prometheus_client.metrics import MetricWrapperBase

from notify import metrics
from notify.api.health import livez, readyz
from notify.api.health import metrics as metrics_route
from notify.api.stream import PATH_STREAM
from notify.cli import root
from notify.server.limits import ServerLimits
from notify.server.process import KEEP_ALIVE_SECONDS
from notify.settings import MIB, Settings
from notify.tallies import Tally, Timings

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
MANIFESTS = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
GUIDES = sorted((ROOT / "docs").glob("*.md"))
TEXTS = [ROOT / "compose.yaml", *(path for path in sorted(DEPLOY.rglob("*")) if path.is_file()), *GUIDES]

CLIENT_VARIABLES = {"NOTIFY_URL", "NOTIFY_TOKEN"}
"""What the client commands read (contract, section 1); they are no settings of the service."""

METRICS = (MetricWrapperBase, Tally, Timings)
LEAVE_SECONDS = ServerLimits(max_connections=1).leave_seconds
DEFAULTS = Settings.model_construct()
PORT = 8_000


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def manifest(kind: str) -> dict[str, Any]:
    [found] = [document for document in map(load, MANIFESTS) if document["kind"] == kind]
    return dict(found)


def container(kind: str) -> dict[str, Any]:
    [found] = manifest(kind)["spec"]["template"]["spec"]["containers"]
    return dict(found)


def seconds(text: str) -> int:
    value, unit = re.fullmatch(r"(\d+)(s|min)", text).groups()  # type: ignore[union-attr]  # no match is a failure
    return int(value) * {"s": 1, "min": 60}[unit]


def exposed_names() -> set[str]:
    """Return every name that /metrics has for us."""
    families = [value for value in vars(metrics).values() if isinstance(value, METRICS)]
    names: set[str] = set()
    for family in [family for value in families for family in value.collect()]:
        suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}.get(family.type, [""])
        names.update(family.name + suffix for suffix in suffixes)
    return names


def expressions() -> list[str]:
    dashboard = json.loads((DEPLOY / "grafana/dashboard.json").read_text())
    rules = [rule for group in load(DEPLOY / "prometheus/alerts.yaml")["groups"] for rule in group["rules"]]
    panels = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    return [*panels, *(rule["expr"] for rule in rules)]


def written_metrics() -> set[str]:
    """Return the names of metrics that some code writes: one that is only declared stays at 0 for ever."""
    code = "".join(path.read_text() for path in sorted((ROOT / "notify").rglob("*.py")))
    return {
        family.name
        for constant, value in vars(metrics).items()
        if isinstance(value, METRICS) and re.search(rf"\b(metrics\.)?{constant}\b\.(inc|set|labels|observe)", code)
        for family in value.collect()
    }


@pytest.mark.parametrize("expression", expressions())
def test_dashboard_and_alerts_name_metrics_that_exist_and_are_written(expression: str) -> None:
    named = set(re.findall(r"\bnotify_\w+", expression))
    assert named <= exposed_names()
    for name in named:
        assert re.sub(r"_(total|bucket|sum|count)$", "", name) in written_metrics()
    assert named or re.search(r"\b(up|process_\w+)\b", expression)
    assert expression.count("(") == expression.count(")")
    assert expression.count("{") == expression.count("}")


def test_every_alert_says_how_bad_it_is_and_what_to_do() -> None:
    rules = [rule for group in load(DEPLOY / "prometheus/alerts.yaml")["groups"] for rule in group["rules"]]
    assert len({rule["alert"] for rule in rules}) == len(rules)
    for rule in rules:
        assert rule["labels"]["severity"] in {"warning", "critical"}
        assert rule["annotations"]["summary"]
        assert rule["annotations"]["description"]


def test_panels_have_an_id_each_and_do_not_overlap() -> None:
    panels = json.loads((DEPLOY / "grafana/dashboard.json").read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = [panel["gridPos"] for panel in panels]
    cells = [(x, y) for p in places for x in range(p["x"], p["x"] + p["w"]) for y in range(p["y"], p["y"] + p["h"])]
    assert len(set(cells)) == len(cells)
    assert all(x < 24 for x, _ in cells)


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_variable_is_a_setting(path: Path) -> None:
    known = {f"NOTIFY_{name.upper()}" for name in Settings.model_fields} | CLIENT_VARIABLES
    assert set(re.findall(r"\bNOTIFY_[A-Z_]+[A-Z]", path.read_text())) <= known


@pytest.mark.parametrize("path", GUIDES, ids=lambda path: path.name)
def test_every_command_and_option_in_a_guide_exists(path: Path) -> None:
    context = click.Context(root)
    for code in re.findall(r"^ *```sh\n(.*?)^ *```|`([^`\n]+)`", path.read_text(), re.DOTALL | re.MULTILINE):
        for name, rest in re.findall(r"(?:^|\s|/|\()notify ([a-z]+)([^\n)]*)", "\n".join(code)):
            command = root.get_command(context, name)
            assert command is not None, name
            options = {option for p in command.get_params(context) for option in [*p.opts, *p.secondary_opts]}
            assert set(re.findall(r"(?<=\s)--[a-z-]+", rest)) <= options, rest


@pytest.mark.parametrize("path", GUIDES, ids=lambda path: path.name)
def test_every_link_in_a_guide_leads_somewhere(path: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)#]*)#?([^)]*)\)", path.read_text()):
        if target.startswith("https://"):
            continue  # somebody else's to keep
        file = path.parent / target if target else path
        assert file.exists(), target
        if anchor:
            titles = re.findall(r"^#+ (.+)$", file.read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}


def test_compose_migrates_before_it_serves_and_waits_for_the_drain() -> None:
    services = load(ROOT / "compose.yaml")["services"]
    assert services["migrate"]["command"] == ["migrate"]
    assert services["migrate"]["depends_on"] == {"postgres": {"condition": "service_healthy"}}
    assert services["notify"]["depends_on"]["migrate"] == {"condition": "service_completed_successfully"}
    assert services["notify"]["command"][-1] == str(PORT)
    assert services["notify"]["ports"] == [f"127.0.0.1:{PORT}:{PORT}"]
    assert f"'127.0.0.1', {PORT}" in services["notify"]["healthcheck"]["test"][-1]
    assert "'/readyz'" in services["notify"]["healthcheck"]["test"][-1]
    compile(services["notify"]["healthcheck"]["test"][-1], "healthcheck", "exec")
    assert services["postgres"]["healthcheck"]["test"][1] == "pg_isready"
    assert seconds(services["notify"]["stop_grace_period"]) > LEAVE_SECONDS


def test_every_manifest_is_one_object_of_a_known_kind() -> None:
    versions = {document["kind"]: document["apiVersion"] for document in map(load, MANIFESTS)}
    assert versions == {
        "Deployment": "apps/v1",
        "Job": "batch/v1",
        "PodDisruptionBudget": "policy/v1",
        "Secret": "v1",
        "Service": "v1",
    }
    assert len(versions) == len(MANIFESTS)


def test_selectors_find_the_pods_that_serve_and_not_those_that_migrate() -> None:
    serving = manifest("Deployment")["spec"]["template"]["metadata"]["labels"]
    selectors = [
        manifest("Deployment")["spec"]["selector"]["matchLabels"],
        manifest("PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        manifest("Service")["spec"]["selector"],
    ]
    migrating = manifest("Job")["spec"]["template"]["metadata"]["labels"]
    for selector in selectors:
        assert selector.items() <= serving.items()
        assert not selector.items() <= migrating.items()


def test_probes_ask_the_paths_and_the_port_that_are_served() -> None:
    serving = container("Deployment")
    assert serving["ports"] == [{"name": "http", "containerPort": PORT}]
    assert serving["args"][-1] == str(PORT)
    assert serving["livenessProbe"]["httpGet"] == {"path": "/livez", "port": "http"}
    assert serving["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "http"}
    assert manifest("Service")["spec"]["ports"][0]["targetPort"] == "http"
    assert {"/livez", "/readyz", "/metrics"} <= livez.paths | readyz.paths | metrics_route.paths
    annotations = manifest("Deployment")["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/path"] in metrics_route.paths
    assert annotations["prometheus.io/port"] == str(PORT)


def test_a_pod_has_the_time_to_drain() -> None:
    [_sleep, pause] = container("Deployment")["lifecycle"]["preStop"]["exec"]["command"]
    grace = manifest("Deployment")["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    assert grace > int(pause) + LEAVE_SECONDS


def test_a_node_can_be_drained() -> None:
    unavailable = manifest("PodDisruptionBudget")["spec"]["maxUnavailable"]
    assert 1 <= unavailable < manifest("Deployment")["spec"]["replicas"]


@pytest.mark.parametrize("kind", ["Deployment", "Job"])
def test_pods_have_no_privileges(kind: str) -> None:
    pod = manifest(kind)["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["automountServiceAccountToken"] is False
    security = container(kind)["securityContext"]
    assert security["allowPrivilegeEscalation"] is False
    assert security["readOnlyRootFilesystem"] is True
    assert security["capabilities"] == {"drop": ["ALL"]}
    assert container(kind)["envFrom"] == [{"secretRef": {"name": manifest("Secret")["metadata"]["name"]}}]


def test_the_unit_gives_the_drain_its_time_and_the_workers_their_parent() -> None:
    unit = configparser.RawConfigParser(strict=False)  # systemd repeats keys
    unit.optionxform = str  # type: ignore[assignment,method-assign]  # its documented use: keys keep their case
    unit.read(DEPLOY / "systemd/notify.service")
    service = unit["Service"]
    assert service["ExecStartPre"].endswith("/notify migrate")
    assert service["ExecStart"].endswith(f"/notify serve --host 127.0.0.1 --port {PORT}")
    assert int(service["TimeoutStopSec"]) > LEAVE_SECONDS + 1
    assert service["KillMode"] == "mixed"
    for hardening in ("NoNewPrivileges", "PrivateTmp", "ProtectHome", "DynamicUser"):
        assert service[hardening] == "yes"
    assert service["ProtectSystem"] == "strict"


def test_nginx_is_more_patient_than_the_pings_and_less_than_our_keep_alive() -> None:
    text = (DEPLOY / "nginx.conf").read_text()
    for timeout in re.findall(r"proxy_read_timeout (\w+);", text):
        assert seconds(timeout) >= 2 * DEFAULTS.ping_interval
    assert KEEP_ALIVE_SECONDS > 60  # nginx's own default for `keepalive` connections
    assert f"client_max_body_size {DEFAULTS.max_body_bytes // MIB}m;" in text
    assert f"server 127.0.0.1:{PORT};" in text
    [stream] = re.findall(rf"location = {PATH_STREAM} \{{(.*?)\}}", text, re.DOTALL)
    assert "proxy_buffering off;" in stream
    assert text.count("{") - text.count("\\{") == text.count("}")


def test_caddy_does_not_collect_events() -> None:
    text = (DEPLOY / "Caddyfile").read_text()
    assert "flush_interval -1" in text
    assert f"reverse_proxy 127.0.0.1:{PORT} {{" in text
    assert f"max_size {DEFAULTS.max_body_bytes // MIB}MiB" in text
    [keepalive] = re.findall(r"keepalive (\d+)s", text)
    assert int(keepalive) < KEEP_ALIVE_SECONDS


@pytest.mark.parametrize("name", ["nginx.conf", "Caddyfile"])
def test_a_proxy_keeps_inside_what_belongs_there(name: str) -> None:
    [pattern] = re.findall(r"(\^/\+\([^\"]*\))\"", (DEPLOY / name).read_text())
    inside = re.compile(pattern, re.IGNORECASE)
    for path in (
        "/metrics",
        "/admin",
        "/admin/queues",
        "//admin",
        "/v1/admin/queues/%2e%2e%2finbox",
        "/livez",
        "/readyz",
    ):
        assert inside.search(path), path
    for path in (
        "/v1/ws?device=admin",
        "/v1/stream",
        "/v1/inbox",
        "/v1/topics/admin/subscribers/a",
        "/client/notify.js",
    ):
        assert not inside.search(path), path
