"""docs/security.md names the rights in the table of roles, and what `lacking` makes of them."""

from __future__ import annotations

import re

import pytest

from stream_ad.config import parse
from stream_ad.io.kafka.rights import Resource, lacking
from stream_ad.role_table import BUILT_IN, RoleSpec, needed
from tests.docs.pages import ROOT

SETTINGS = parse(
    {
        "stream": {"name": "pumps", "bundle": "b"},
        "transport": {"kind": "kafka", "servers": ["h:1"]},
        "store": {"scores": "s", "checkpoints": "c"},
    }
)
KINDS = {"topic": Resource.TOPIC, "group": Resource.GROUP, "transactional id, prefix": Resource.TRANSACTIONAL_ID}
ALL = frozenset({"READ", "WRITE", "DESCRIBE", "DESCRIBE_CONFIGS"})


def table() -> dict[str, dict[tuple[Resource, str], set[str]]]:
    """Return what the page says each role needs."""
    text = (ROOT / "docs" / "security.md").read_text()
    found: dict[str, dict[tuple[Resource, str], set[str]]] = {spec.name: {} for spec in BUILT_IN}
    for line in text.splitlines():
        match = re.match(r"\| (topic|group|transactional id, prefix) `([^`]+)` ", line)
        if match is None:
            continue
        cells = [cell.strip() for cell in line.split("|")[2:4]]
        key = KINDS[match[1]], match[2].replace("<s>", "pumps")
        for role, cell in zip(found, cells, strict=True):
            if cell:
                found[role][key] = {re.sub(r"(?<=[a-z])(?=[A-Z])", "_", word).upper() for word in cell.split(", ")}
    return found


@pytest.mark.parametrize("spec", BUILT_IN, ids=lambda spec: spec.name)
def test_the_page_has_the_rights_of_each_role(spec: RoleSpec) -> None:
    assert table()[spec.name] == {(one.resource, one.name): set(one.operations) for one in spec.rights(SETTINGS)}


def test_nothing_lacks_where_all_is_allowed_or_cannot_be_told() -> None:
    assert list(lacking(needed(SETTINGS), lambda kind, name: ALL)) == []
    assert list(lacking(needed(SETTINGS), lambda kind, name: None)) == []


def test_each_thing_that_lacks_is_a_line_with_its_name() -> None:
    def allowed(kind: str, name: str) -> frozenset[str]:
        return ALL - {"WRITE"} if name == "sensor.alerts.v1" else frozenset() if kind == "TRANSACTIONAL_ID" else ALL

    lines = list(lacking(needed(SETTINGS), allowed))
    assert [line.split(":")[0] for line in lines] == [
        "topic sensor.alerts.v1",
        "transactional id stream-ad.pumps.scorer.a-scorer-0",
        "transactional id stream-ad.pumps.archiver.a-archiver-0",
    ]
    assert all("not allowed: WRITE" in line for line in lines)
