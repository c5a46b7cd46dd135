"""What is deployed fits what it deploys: metrics, mounts, user, the route of its health."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from servers import Reply, serving
from typer.main import get_command

from twotower import runs
from twotower.cli import app
from worlds import trained

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())
DOCKERFILE = (ROOT / "Dockerfile").read_text()
ALERTS = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())
DASHBOARD = json.loads((DEPLOY / "grafana" / "dashboards" / "twotower.json").read_text())


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Reply]]:
    """What a service that has answered and refused says of itself."""
    place = tmp_path_factory.mktemp("deployed") / "runs"
    place.mkdir()
    run = runs.save(trained(), place / "one")
    with serving(run) as server:
        server.items_of(107, k=3)
        server.post("/v1/recommend", {"people": 7})
        yield {
            path: server.ask("GET", path)
            for path in ("/metrics", re.search(r"127\.0\.0\.1:8000(/\w+)'", DOCKERFILE)[1])  # type: ignore[index]
        }


@pytest.fixture(scope="module")
def exported(asked: dict[str, Reply]) -> dict[str, set[str]]:
    """The series of a real answer, and the labels of each."""
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(asked["/metrics"].body.decode()):
        for sample in family.samples:
            if not sample.name.endswith("_created"):
                found.setdefault(sample.name, set()).update(sample.labels)
    return found


def expressions(value: Any) -> Iterator[str]:
    """Every query, however deep it lies."""
    if isinstance(value, dict):
        if isinstance(value.get("expr"), str):
            yield value["expr"]
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            yield from expressions(each)


QUERIES = [*expressions(DASHBOARD), *expressions(ALERTS)]


@pytest.mark.parametrize("query", sorted(set(QUERIES)))
def test_a_query_asks_for_what_the_service_exports(
    query: str, exported: dict[str, set[str]]
) -> None:
    named = set(re.findall(r"\btwotower_\w+", query))
    assert named or query.startswith(("up", "sum(up"))
    assert named <= set(exported)
    labels = {
        name for part in re.findall(r"by \(([^)]*)\)", query) for name in part.split(", ")
    }
    labels |= set(re.findall(r"[{,](\w+)=", query))
    assert labels <= {"job"} | set().union(*(exported[name] for name in named))


def test_every_figure_is_drawn(exported: dict[str, set[str]]) -> None:
    drawn = " ".join(expressions(DASHBOARD))
    assert exported
    assert {name for name in exported if not re.search(rf"\b{name}\b", drawn)} == set()


def test_the_dashboard_asks_the_source_that_is_provisioned() -> None:
    [file] = (DEPLOY / "grafana" / "provisioning" / "datasources").iterdir()
    [source] = yaml.safe_load(file.read_text())["datasources"]
    assert {panel["datasource"]["uid"] for panel in DASHBOARD["panels"]} == {source["uid"]}
    host = re.fullmatch(r"http://(\w+):9090", source["url"])
    assert host
    assert host[1] in COMPOSE["services"]
    places = [
        (box["x"] + dx, box["y"] + dy)
        for box in (panel["gridPos"] for panel in DASHBOARD["panels"])
        for dx in range(box["w"])
        for dy in range(box["h"])
    ]
    assert len(places) == len(set(places)), "panels lie on each other"
    [file] = (DEPLOY / "grafana" / "provisioning" / "dashboards").iterdir()
    [provider] = yaml.safe_load(file.read_text())["providers"]
    mounts = [volume.split(":")[1] for volume in COMPOSE["services"]["grafana"]["volumes"]]
    assert provider["options"]["path"] in mounts


def test_every_path_that_is_mounted_is_there_or_named_by_who_starts_it() -> None:
    for service in COMPOSE["services"].values():
        for volume in service.get("volumes", []):
            source = re.sub(r"^\$\{\w+:\?[^}]*\}:.*", "", volume).split(":")[0]
            if source.startswith("."):
                assert (ROOT / source).is_dir(), volume
            elif source:
                assert source in COMPOSE["volumes"], volume


def test_prometheus_asks_the_service_where_it_listens() -> None:
    config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    [job] = config["scrape_configs"]
    [target] = job["static_configs"][0]["targets"]
    # It listens beyond loopback, and there /metrics wants a key.
    mounts = [each.split(":")[-2] for each in COMPOSE["services"]["prometheus"]["volumes"]]
    assert job["authorization"]["credentials_file"] in mounts
    host, port = target.split(":")
    assert host in COMPOSE["services"]
    assert f"EXPOSE {port}" in DOCKERFILE
    assert all((DEPLOY / "prometheus" / name).is_file() for name in config["rule_files"])


def test_nothing_but_loopback_is_opened_and_the_service_wants_keys() -> None:
    ports = [port for each in COMPOSE["services"].values() for port in each.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)
    command, *options = COMPOSE["services"]["twotower"]["command"]
    known = {
        name
        for option in get_command(app).commands[command].params  # type: ignore[attr-defined]
        for name in option.opts
    }
    given = {option.split("=")[0] for option in options if option.startswith("--")}
    assert {"--host", "--keys"} <= given <= known


def test_the_image_is_not_roots_and_its_health_is_that_of_the_service(
    asked: dict[str, Reply],
) -> None:
    last = DOCKERFILE[DOCKERFILE.rindex("\nFROM ") :]
    user = re.findall(r"^USER (\S+)$", last, re.M)
    assert user == ["10001"]
    assert "useradd --uid 10001 " in last
    [path] = set(asked) - {"/metrics"}
    assert path == "/readyz"
    assert asked[path].status == 200
    assert f":{re.findall(r'^EXPOSE (.*)$', last, re.M)[0]}{path}" in last


def test_the_image_has_what_a_service_may_need() -> None:
    [extras] = re.findall(r"pip install .*'\.\[(.*)\]'", DOCKERFILE)
    # Of a run with an index too, which would else be searched exactly.
    assert set(extras.split(",")) == {"serve", "postgresql", "ann"}


def test_what_the_image_copies_is_there_and_not_ignored() -> None:
    ignored = (ROOT / ".dockerignore").read_text().split()
    for line in re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE, re.M):
        for name in shlex.split(line)[:-1]:
            assert (ROOT / name).exists()
            assert f"!{name}" in ignored


def test_prometheus_itself_takes_the_rules() -> None:
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not here; the rules were only read as YAML")
    for what in (
        ["rules", str(DEPLOY / "prometheus" / "alerts.yml")],
        ["config", "--syntax-only", str(DEPLOY / "prometheus" / "prometheus.yml")],
    ):
        command = ["promtool", "check", *what]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
