"""The files under deploy/ name metrics, ports and commands that exist."""

from __future__ import annotations

import json
import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest

from stream_ad.cli.main import build_parser
from stream_ad.config import ServiceSettings
from stream_ad.role_table import BUILT_IN
from stream_ad.service.metrics import ArchiverMetrics, ScorerMetrics
from tests.docs.pages import ROOT

DEPLOY = ROOT / "deploy"
MONITORING = (DEPLOY / "prometheus" / "rules.yml", DEPLOY / "grafana" / "stream-ad.json")
SUFFIXES = ("_bucket", "_sum", "_count")


def metrics() -> dict[str, str]:
    """Return the type of each metric, by the name that a query uses."""
    found = {}
    for role in (ScorerMetrics("pumps", "a-0"), ArchiverMetrics("pumps", "a", lambda: 0)):
        for family in role.registry.collect():
            end = {"counter": "_total", "info": "_info"}.get(family.type, "")
            found[family.name + end] = family.type
    return found


@pytest.mark.parametrize("path", MONITORING, ids=lambda path: path.name)
def test_queries_name_metrics_that_exist(path: Path) -> None:
    known = metrics()
    wanted = set(re.findall(r"\bstream_ad_[a-z_]+", path.read_text()))

    assert len(wanted) > 5
    for name in wanted:
        end = next((suffix for suffix in SUFFIXES if name.endswith(suffix)), "")
        assert known.get(name.removesuffix(end)) == "histogram" if end else name in known, name


def test_the_operating_page_lists_every_metric_of_ours() -> None:
    page = (ROOT / "docs" / "operating.md").read_text()
    listed = set(re.findall(r"`(stream_ad_[a-z_]+)`", page))

    assert listed == {name for name in metrics() if name.startswith("stream_ad_")}


def test_the_dashboard_has_a_query_in_each_panel() -> None:
    panels = json.loads(MONITORING[1].read_text())["panels"]

    assert len({panel["id"] for panel in panels}) == len(panels)
    assert all(target["expr"] for panel in panels for target in panel["targets"])


def commands() -> list[list[str]]:
    unit = (DEPLOY / "systemd" / "stream-ad.service").read_text()
    found = [
        shlex.split(line.removeprefix("ExecStart=")) for line in unit.splitlines() if line.startswith("ExecStart=")
    ]
    pods = (DEPLOY / "kubernetes" / "stream-ad.yaml").read_text()
    return found + [line.split(", ") for line in re.findall(r"command: \[(.+)\]", pods)]


def test_commands_are_understood() -> None:
    parser = build_parser({"run": import_module("stream_ad.cli.run")})

    roles = [parser.parse_args(command[1:]).role for command in commands()]

    assert roles == [None, *(spec.name for spec in BUILT_IN)]


def test_ports_are_those_of_the_settings() -> None:
    port = ServiceSettings().http_port
    pods = (DEPLOY / "kubernetes" / "stream-ad.yaml").read_text()
    targets = (DEPLOY / "prometheus" / "prometheus.yml").read_text()
    ports = [str(port + spec.port_offset) for spec in BUILT_IN]

    assert re.findall(r"containerPort: (\d+)", pods) == ports
    assert re.findall(r"prometheus.io/port: \"(\d+)\"", pods) == ports
    assert re.findall(r"- name: ([a-z_]+)\n +image", pods) == [spec.name for spec in BUILT_IN]
    assert sorted(re.findall(r"127.0.0.1:(\d+)", targets)) == sorted(ports)
