from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import pytest

from stream_ad.core.detectors.parameters import Declared, Parameter, Real, Sizes, Whole
from stream_ad.errors import ConfigError


class X(Declared):
    name = "x"
    parameters: ClassVar[Mapping[str, Parameter]] = {
        "layers": Sizes((8, 2), 1, 64, 3),
        "lags": Whole(None, 1, 9, optional=True),
        "steps": Whole(5, 1, 9),
        "rate": Real(0.1, 0.0, 1.0),
        "shrink": Real("auto", 0.0, 1.0, ("auto",)),
    }


def test_defaults_stand_where_nothing_is_said() -> None:
    expected = {"layers": [8, 2], "lags": None, "steps": 5, "rate": 0.1, "shrink": "auto"}
    assert X().defaults() == X().complete({}) == expected


@pytest.mark.parametrize(
    ("name", "value", "read"),
    [
        ("layers", (3,), [3]),
        ("layers", [64, 64, 64], [64, 64, 64]),
        ("lags", None, None),
        ("lags", 9, 9),
        ("rate", 1, 1.0),
        ("shrink", 0.5, 0.5),
        ("shrink", "auto", "auto"),
    ],
)
def test_values_in_range_are_taken(name: str, value: Any, read: Any) -> None:
    found = X().complete({name: value})[name]
    assert found == read
    assert type(found) is type(read)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("layers", [], "a list of 1 to 3 whole numbers from 1 to 64"),
        ("layers", [1, 2, 3, 4], "a list of 1 to 3"),
        ("layers", [0], "from 1 to 64"),
        ("layers", [1.0], "whole numbers"),
        ("layers", 8, "a list"),
        ("lags", 0, "a whole number from 1 to 9 or None"),
        ("steps", None, "a whole number from 1 to 9,"),
        ("steps", 2.0, "a whole number"),
        ("steps", True, "a whole number"),
        ("rate", 1.01, "a number from 0 to 1, found 1.01"),
        ("rate", float("nan"), "found NaN"),
        ("rate", "auto", "a number"),
        ("shrink", "never", 'a number from 0 to 1 or "auto"'),
    ],
)
def test_values_out_of_range_are_refused(name: str, value: Any, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        X().complete({name: value})
    assert f"x.{name}: expected" in str(caught.value)
    assert expected in str(caught.value)


def test_every_wrong_setting_has_its_line() -> None:
    with pytest.raises(ConfigError) as caught:
        X().complete({"steps": 0, "rate": 2, "colour": "red"})
    lines = str(caught.value).splitlines()
    assert len(lines) == 3
    assert "x.colour: unknown setting, expected one of lags, layers, rate, shrink, steps" in lines
