"""Columns of numbers: any decimal in any country's writing is read back; what has two readings is refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_ad.errors import RecordingError
from stream_ad.io.cells import to_float
from stream_ad.io.recordings.number_columns import NumberColumns
from stream_ad.io.recordings.number_styles import is_unit

STYLES = {
    "German": (",", "."),
    "English": (".", ","),
    "French": (",", "\u202f"),
    "Swedish": (",", "\u00a0"),
    "Czech": (",", " "),
    "SI": (".", " "),
    "Swiss": (".", "'"),
    "Liechtenstein": (".", "’"),
    "plain comma": (",", ""),
    "plain": (".", ""),
}
UNITS = ["°C", "bar", "%", "l/min", "m³/h", "kWh", "rpm", "1e"]


def read(
    columns: Mapping[str, Sequence[object]],
    decimal: str | None = None,
    cut: int = 0,
    units: Mapping[str, str] | None = None,
) -> tuple[dict[str, list[float]], list[str], dict[str, dict[int, str]]]:
    """Read columns, in blocks of `cut` rows, and again where that is wanted."""
    keep: frozenset[str] = frozenset()
    while True:
        numbers = NumberColumns(decimal, keep, units)
        parts: dict[str, list[np.ndarray[tuple[int], np.dtype[np.float64]]]] = {name: [] for name in columns}
        longest = max(map(len, columns.values()))
        for first in range(0, longest, cut or longest):
            for name, cells in columns.items():
                block = pa.array(cells[first : first + (cut or longest)])
                parts[name].append(numbers.take(name, block, f"block {first} row {{}}".format))
        notes, found = numbers.finish()
        if not numbers.again:
            return {name: np.concatenate(values).tolist() for name, values in parts.items()}, notes, found
        keep |= numbers.again | set(numbers.held)


def written(value: int, decimals: int, decimal: str, group: str, every: bool) -> str:
    """A value in units of its last decimal, as a country writes it."""
    digits = f"{abs(value):0{decimals + 1}d}"
    whole, part = (digits[:-decimals], digits[-decimals:]) if decimals else (digits, "")
    whole = f"{int(whole):,}".replace(",", group) if every else str(int(whole))
    return ("-" if value < 0 else "") + whole + (decimal + part if part else "")


@pytest.mark.parametrize("name", STYLES)
@settings(max_examples=10)
@given(
    values=st.lists(st.integers(-(10**9), 10**9), min_size=1, max_size=8),
    decimals=st.integers(0, 6),
    unit=st.sampled_from(["", " °C", " bar", "%", " l/min"]),
    cut=st.integers(0, 3),
)
def test_any_decimal_is_read_back(name: str, values: list[int], decimals: int, unit: str, cut: int) -> None:
    """With a first row that only this writing allows."""
    decimal, group = STYLES[name]
    texts = [written(value, decimals, decimal, group, bool(group)) + unit for value in values]
    settles = f"1{group}234{decimal}5{unit}" if group else f"0{decimal}25{unit}"

    found, _, units = read({"x": [settles, *texts]}, cut=cut)

    assert found["x"] == [1234.5 if group else 0.25, *(float(f"{value}e-{decimals}") for value in values)]
    assert units == ({"x": {0: unit.strip()}} if unit else {})


@settings(max_examples=40)
@given(
    cells=st.lists(
        st.one_of(
            st.none(),
            st.floats().map(str),
            st.integers().map(str),
            st.text(max_size=8),
            st.from_regex(r"\A[0-9]{1,4}[.,' ]?[0-9]{0,4}[.,]?[0-9]{0,3} ?[A-Za-z%°/]{0,3}\Z"),
        ),
        min_size=1,
        max_size=6,
    ),
    decimal=st.sampled_from([None, "comma", "point"]),
    cut=st.integers(0, 2),
)
def test_any_cells_are_read_or_refused_and_cuts_change_nothing(
    cells: list[str | None], decimal: str | None, cut: int
) -> None:
    def outcome(cut: int) -> object:
        try:
            return repr(read({"x": [*cells, None]}, decimal, cut)[0])
        except RecordingError:
            return "refused"

    assert outcome(0) == outcome(cut)


@given(
    st.lists(st.one_of(st.none(), st.floats().map(repr), st.integers().map(str), st.sampled_from(["true", "", "x"])))
)
def test_plain_columns_are_read_by_the_rule_for_cells(cells: list[str | None]) -> None:
    cells = [*cells, "1.5"]

    found, notes, units = read({"x": cells})

    np.testing.assert_array_equal(found["x"], to_float(pa.array(cells, pa.string())))
    assert (notes, units) == ([], {})


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["12,34,567.5", "1"], [1_234_567.5, 1]),  # India
        (["1,5E+03", "2,5e-1"], [1500, 0.25]),
        (["−5,5", "+1,5"], [-5.5, 1.5]),
        (["1,234,567", "1"], [1_234_567, 1]),
        (["1 234", "12"], [1234, 12]),
        (["12,5 ", "\u00a01,5"], [12.5, 1.5]),
        (["1.234", "1.234,5"], [1234, 1234.5]),
        (["1,234", "1.5"], [1234, 1.5]),
        (["1,5", "Bad Input", "true", None], [1.5, np.inf, 1, np.nan]),
        (["1,5", "1e999", "1.2.3"], [1.5, np.inf, np.inf]),
        (["5 bar", "6 bar", "0", "Bad"], [5, 6, 0, np.inf]),
        (["1", "2", "3", "5 Bad"], [1, 2, 3, np.inf]),
        (["12A", "3B", "4C"], [np.inf] * 3),
        (["0x1F", "0x2A"], [np.inf] * 2),
        (["192.168.100.200"] * 2, [np.inf] * 2),
        (["1.2.3", "1.2.4"], [np.inf] * 2),
        (["48.1234, 11.5678"], [np.inf]),
        (["2 Mar", "3 Mar"], [np.inf] * 2),
        (["1.234", "5.125"], [1.234, 5.125]),
    ],
)
def test_neighbours(cells: list[object], expected: list[float]) -> None:
    np.testing.assert_array_equal(read({"x": cells})[0]["x"], expected)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"x": ["1,234"]}, r"row 0: column 'x': '1,234' can be 1.234 .* or 1234 .*--decimal comma or --decimal point"),
        ({"x": ["12", "1,234"]}, "row 1: column 'x': '1,234' can be"),
        ({"x": ["1,234"], "y": ["1.5"]}, "column 'x': '1,234' can be 1.234"),
        ({"x": ["1.234"], "y": ["60,09"]}, "column 'x': '1.234' can be 1.234 .* or 1234 "),
        ({"x": ["1,234"], "y": ["60,09"], "z": ["1.5"]}, "column 'x': '1,234' can be"),
        (
            {"x": ["1,5", "2.5"]},
            r"'1,5' is a number with a decimal comma, but '2.5' .block 0 row 1. is one with a",
        ),
        (
            {"x": ["1,234.5", "1.234,5"]},
            "column 'x': '1.*' is a number with .* between thousands, but '1",
        ),
        (
            {"x": ["5 V", "3 A"]},
            r"row 1: column 'x': expected one unit, found '3 A' and '5 V' .block 0 row 0.",
        ),
        ({"x": ["5 kW", "300 W"]}, "expected one unit, found '300 W' and '5 kW'"),
        ({"x": ["1.2k", "950"]}, "expected one unit, found '950' and '1.2k'"),
        ({"x": ["20 °C", "68 °F"]}, "expected one unit"),
    ],
)
def test_two_readings_are_refused(columns: dict[str, list[object]], message: str) -> None:
    with pytest.raises(RecordingError, match=message):
        read(columns)


@pytest.mark.parametrize(
    ("columns", "decimal", "expected"),
    [
        ({"x": ["1,234"]}, "comma", [1.234]),
        ({"x": ["1,234"]}, "point", [1234]),
        ({"x": ["1.234"], "y": ["60,09"]}, "comma", [1234]),
        ({"x": ["1.234"], "y": ["60,09"]}, "point", [1.234]),
        ({"x": ["1.234"]}, "comma", [1234]),
        ({"x": ["1,5", "2.5"]}, "comma", [1.5, np.inf]),
        ({"x": ["1,5", "2.5"]}, "point", [np.inf, 2.5]),
        ({"x": ["1.5"]}, "comma", [1.5]),
    ],
)
def test_the_option_settles_what_rows_leave_open(
    columns: dict[str, list[object]], decimal: str, expected: list[float]
) -> None:
    assert read(columns, decimal)[0]["x"] == expected


def test_other_columns_settle_a_decimal_comma() -> None:
    """As in a German export whose every pressure has three decimals."""
    assert read({"press": ["5,125", "5,099"], "temp": ["60,09", "59,5"]})[0]["press"] == [5.125, 5.099]


def test_a_comma_that_comes_late_decides_what_was_read_before() -> None:
    found, _, _ = read({"x": ["1.234", "12", "1.234,5"]}, cut=1)

    assert found["x"] == [1234, 12, 1234.5]


def test_a_stated_unit_settles_two() -> None:
    assert read({"x": ["5 kW", "300 W", "6 kW"]}, units={"x": "kW"})[0]["x"] == [5, np.inf, 6]


def test_another_sign_is_refused() -> None:
    with pytest.raises(RecordingError, match="--decimal: expected comma or point"):
        NumberColumns("dot")


@pytest.mark.parametrize("text", ["°C", "l/min", "m³/h", "Nm3/h", "kWh", "µS/cm", "1/min"[1:], "mA", "bar(g)", "kg/m3"])
def test_units_are_known(text: str) -> None:
    assert is_unit(text)


@pytest.mark.parametrize("text", ["Bad", "Mar", "foo", "x2A", "phase"])
def test_words_are_no_units(text: str) -> None:
    assert not is_unit(text)
