"""The table of roles, and that nobody else names a role."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from stream_ad.config import Settings, parse
from stream_ad.io.kafka.rights import Resource
from stream_ad.role_table import ARCHIVER, BUILT_IN, SCORER, decider, deciding_group, needed, processes
from tests.docs.pages import ROOT

PACKAGE = ROOT / "stream_ad"
OWNERS = {PACKAGE / "role_table.py", PACKAGE / "config.py", *(PACKAGE / "service" / "roles").glob("*.py")}
"""The table, `ServiceSettings` and the roles themselves may name roles."""


def settings(**service: object) -> Settings:
    return parse(
        {
            "stream": {"name": "pumps", "bundle": "b"},
            "transport": {"kind": "kafka", "servers": ["h:1"]},
            "store": {"scores": "s", "checkpoints": "c"},
            "service": service,
        }
    )


def names_of_roles(source: str) -> Iterator[str]:
    """Yield string literals in which a role is named for programs; docstrings and sentences name it for people."""
    role = re.compile(rf"(?<![a-z])({'|'.join(spec.name for spec in BUILT_IN)})(?![a-z])")
    for node in ast.walk(ast.parse(source)):
        text = node.value if isinstance(node, ast.Constant) else None
        if isinstance(text, str) and role.search(text) and not re.search(r"\s", text):
            yield text


@pytest.mark.parametrize(
    "literal", ['"scorer"', "f'{instance}-archiver-{index}'", '"stream_ad.service.roles.scorer"', 'f"scorer-{k}"']
)
def test_a_literal_that_names_a_role_is_found(literal: str) -> None:
    assert len(list(names_of_roles(f"name = {literal}"))) == 1


@pytest.mark.parametrize("literal", ['"--scorers"', '"the scorer\'s lag"', "settings.service.scorers"])
def test_options_and_sentences_are_no_names(literal: str) -> None:
    assert list(names_of_roles(f"name = {literal}")) == []


def test_only_the_table_the_roles_and_the_settings_name_a_role() -> None:
    found = {
        str(path.relative_to(ROOT)): names
        for path in sorted(PACKAGE.rglob("*.py"))
        if path not in OWNERS and (names := list(names_of_roles(path.read_text())))
    }

    assert found == {}
    assert list(names_of_roles((PACKAGE / "role_table.py").read_text())), "the search finds the table's own names"


def test_names_groups_members_and_ports_of_the_built_in_roles() -> None:
    two = settings(scorers=2, instance="host-1", http_port=9_464)
    named = [(spec.label(k), spec.consumer_group(two), spec.topic(two)) for spec, k in processes(two)]
    placed = [(spec.member(two, k), spec.address(two, k)) for spec, k in processes(two)]

    readings, scores = "sensor.readings.v1", "sensor.scores.v1.pumps"
    assert named == [
        ("scorer-0", "stream-ad.pumps.scorer", readings),
        ("scorer-1", "stream-ad.pumps.scorer", readings),
        ("archiver", "stream-ad.pumps.archiver", scores),
    ]
    assert placed == [
        ("host-1-scorer-0", ("127.0.0.1", 9_465)),
        ("host-1-scorer-1", ("127.0.0.1", 9_466)),
        ("host-1-archiver-0", ("127.0.0.1", 9_464)),
    ]
    assert [ARCHIVER.label(1), ARCHIVER.address(two, 1)] == ["archiver-1", ("127.0.0.1", 9_463)]
    assert SCORER.address(settings(http_port=0), 0) is None


def test_one_role_decides() -> None:
    assert decider() is SCORER
    assert deciding_group(settings()) == "stream-ad.pumps.scorer"


def test_rights_name_the_transactional_id_of_the_first_process() -> None:
    found = [right.name for right in needed(settings()) if right.resource is Resource.TRANSACTIONAL_ID]

    assert found == ["stream-ad.pumps.scorer.a-scorer-0", "stream-ad.pumps.archiver.a-archiver-0"]
    assert [right.name for right in SCORER.rights(settings())][-1] == "stream-ad.pumps.scorer."


def test_each_row_names_a_module_that_is_there() -> None:
    for spec in BUILT_IN:
        assert (ROOT / Path(*spec.module.split("."))).with_suffix(".py").exists()
