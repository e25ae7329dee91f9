"""docs/configuration.md names every key of the settings, with the default in force, and no others."""

from __future__ import annotations

import json

import pytest
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from stream_ad import config, role_table
from tests.docs.pages import ROOT, tables

SECTIONS: dict[str, type[BaseModel]] = {
    "`[stream]`": config.StreamSettings,
    '`[transport]` with `kind = "local"`': config.LocalTransport,
    '`[transport]` with `kind = "kafka"`': config.KafkaTransport,
    "`[time]`": config.TimeSettings,
    '`[threshold]` with `kind = "quantile"`': config.QuantileThreshold,
    '`[threshold]` with `kind = "spot"`': config.SpotThreshold,
    '`[threshold]` with `kind = "fixed"`': config.FixedThreshold,
    "`[incident]`": config.IncidentSettings,
    "`[commit]`": config.CommitSettings,
    "`[store]`": config.StoreSettings,
    "`[service]`": config.ServiceSettings,
}


def written(default: object) -> str:
    if default is PydanticUndefined:
        return "required"
    return "none" if default is None else json.dumps(default)


@pytest.mark.parametrize("heading", SECTIONS)
def test_the_page_has_every_key_with_its_default(heading: str) -> None:
    page = tables((ROOT / "docs" / "configuration.md").read_text())
    fields = SECTIONS[heading].model_fields

    assert page[heading] == {name: written(field.default) for name, field in fields.items()}


def test_the_page_has_every_section() -> None:
    page = tables((ROOT / "docs" / "configuration.md").read_text())
    sections = {heading.split("]")[0].removeprefix("`[") for heading in SECTIONS}

    assert set(page) == {*SECTIONS, "`[roles.NAME]`"}
    assert {*sections, "roles"} == set(config.Settings.model_fields)


def test_the_page_has_the_one_key_of_a_role_that_is_ours() -> None:
    page = tables((ROOT / "docs" / "configuration.md").read_text())

    assert list(page["`[roles.NAME]`"]) == [role_table.OFFSET_KEY]
