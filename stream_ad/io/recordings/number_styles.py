"""How a column writes its numbers: decimal sign, thousands separators, a unit; determined by all its rows."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stream_ad.core.batches import BoolArray, Float64Array, Int32Array, Int64Array
from stream_ad.errors import RecordingError
from stream_ad.io.cell_rule import BAD, NUMBER
from stream_ad.io.cells import to_float

SPACE = r"[ \x{00A0}\x{2007}\x{2009}\x{202F}]"
TICK = r"['’]"
LETTER = r"[\pL%‰°℃℉Ωµμ]"
EXPONENT = r"(?:[23²³⁻¹]|\^-?\d|-[1-4])*"
UNIT = rf"(?:{LETTER}+{EXPONENT}(?:[/·*(]+{LETTER}+{EXPONENT}\)?)*(?: {LETTER}+{EXPONENT})?|/\pL+|(?:mm|cm|in)H2O)"
CELL = (
    rf"^(?P<sign>[+\-−]?)(?P<body>\d[\d.,]*(?:{SPACE}\d{{3}}|{TICK}\d{{3}})*(?:[.,]\d*)?|[.,]\d+)"
    rf"(?P<power>(?:[eE][+-]?\d+)?){SPACE}?(?P<unit>(?:{UNIT})?)$"
)
"""A number in any style with an optional unit."""
POINT_GROUPS = r"^[+\-−]?[1-9]\d{0,2}(\.\d{3})+$"
"""Ambiguous text: 1.234."""
ADDRESS = r"^\d{1,3}(\.\d{1,3}){3}$"
MULTIPLES = frozenset("kKMGmµμ")
NO_UNITS = re.compile(r"^([ap]\.?m\.?|jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec|st|nd|rd|th|x)$", re.IGNORECASE)
PREFIXES = ("", "n", "µ", "μ", "u", "m", "c", "d", "h", "k", "K", "M", "G", "T")
# fmt: off
BASES = frozenset({
    "%", "‰", "°", "°C", "°F", "℃", "℉", "K", "C", "F", "degC", "degF", "deg", "grd", "rad", "g", "t", "lb", "lbs",
    "oz", "kg", "m", "in", "inch", "ft", "yd", "mi", "l", "L", "gal", "s", "sec", "min", "h", "hr", "hrs", "d",
    "day", "Hz", "rpm", "U", "bar", "bara", "barg", "Pa", "psi", "psia", "psig", "atm", "Torr", "mmHg", "inHg",
    "mmH2O", "inH2O", "mWS", "V", "A", "W", "VA", "var", "VAr", "Wh", "VAh", "varh", "J", "cal", "BTU", "N", "Nm",
    "Ω", "Ohm", "ohm", "S", "H", "T", "lx", "lm", "cd", "mol", "M", "ppm", "ppb", "pH", "NTU", "dB", "dBA", "dBm",
    "Bq", "Sv", "Gy", "B", "b", "bit", "Byte", "eV", "m2", "m3", "m²", "m³", "Nm3", "Nm³", "ft3", "ft2", "gpm",
    "cfm", "mph", "kn", "kph", "rh", "RH", "%RH", "%rF", "%rH", "vol", "Vol", "%vol", "mA", "min⁻¹", "min-1", "s-1",
    "EUR", "USD",
})
# fmt: on


@dataclass(frozen=True, slots=True)
class Style:
    """A number style: the decimal sign, the thousands separator ("" for none), and its pattern."""

    decimal: str
    group: str
    regex: str


def _style(decimal: str, group: str, separator: str) -> Style:
    sign = re.escape(decimal)
    whole = r"\d*" if not separator else rf"(?:\d+|[1-9]\d{{0,2}}(?:{separator}\d{{3}})+)"
    if group == ",":
        whole = r"(?:\d+|[1-9]\d{0,2}(?:,\d{3})+|[1-9]\d?(?:,\d{2})+,\d{3})"
    return Style(decimal, group, rf"^{whole}(?:{sign}\d*)?$")


STYLES = (
    _style(".", "", ""),
    _style(",", "", ""),
    _style(".", ",", ","),
    _style(",", ".", r"\."),
    _style(".", " ", SPACE),
    _style(",", " ", SPACE),
    _style(".", "'", TICK),
    _style(",", "'", TICK),
)
PLAIN = STYLES[0]
DECIMALS = {"comma": ",", "point": "."}


@dataclass(frozen=True, slots=True)
class Read:
    """A column that has been read.

    Attributes:
        values: float64[n], NaN missing, infinite bad.
        style: how its numbers are written.
        units: per group the unit after its numbers.
        without_unit: number of cells without the unit that others of their group have.
    """

    values: Float64Array
    style: Style
    units: dict[int, str]
    without_unit: int = 0


class Column:
    """The cells of one column as text, taken apart."""

    def __init__(
        self,
        name: str,
        text: pa.Array,
        where: Callable[[int], str],
        groups: Int32Array | None = None,
        channels: Sequence[str] = (),
        stated: Mapping[int, str] | None = None,
    ) -> None:
        """Split the cells and find the styles that all of them allow.

        Args:
            name: of the column.
            text: n texts, null if empty.
            where: returns the place of a row, for errors.
            groups: int32[n], the channel of each row if the column holds several; units are per channel.
            channels: names of the groups.
            stated: units given by the user for groups (0 if there is only one): cells with other units are bad.

        Raises:
            RecordingError: a group has two units.
        """
        self.name, self.text, self.where, self.channels = name, text, where, channels
        trimmed = pc.fill_null(pc.utf8_trim(text, " \t\r\n\f\v\u00a0\u202f\u2009\u2007"), "")
        found = pc.extract_regex(trimmed, CELL)
        self.is_number = found.is_valid().to_numpy(False)
        self.parts = {
            found.type.field(number).name: pc.fill_null(found.field(number), "")
            for number in range(found.type.num_fields)
        }
        self.units, self.without_unit = self._settle_units(groups, stated or {})
        fits = np.stack([pc.match_substring_regex(self.parts["body"], s.regex).to_numpy(False) for s in STYLES])
        address = pc.match_substring_regex(trimmed, ADDRESS).to_numpy(False)
        if address.any() and bool((address | ~self.is_number).all()):
            self.is_number &= ~address
        self.is_number &= fits.any(axis=0)
        self.fits = fits | ~self.is_number
        self.styles = [style for style, fit in zip(STYLES, self.fits, strict=True) if fit.all()]

    @property
    def sign(self) -> str:
        """The decimal sign determined by its own rows, "" if it is undetermined or irrelevant."""
        readings = self._readings(self.styles)
        if len(readings) != 1:
            return ""
        signs = {style.decimal for style in self.styles}
        return signs.pop() if len(signs) == 1 else ""

    def read(self, context: str, stated: str) -> Read:
        """Read the column.

        Args:
            context: decimal sign of the recording's other columns, "" if they have none or several.
            stated: the decimal sign given by the user, or "".

        Raises:
            RecordingError: its rows need both signs, or are ambiguous.
        """
        if not self.styles:
            if not stated:
                self._refuse_mixed()
            best = max((s for s in STYLES if s.decimal == stated), key=lambda s: int(self.fits[STYLES.index(s)].sum()))
            values = self._values(best)
            values[~self.fits[STYLES.index(best)]] = BAD
            return Read(values, best, self.units, self.without_unit)
        readings = self._readings(self.styles)
        sign = stated
        if len(readings) > 1 and not stated:
            if (PLAIN in self.styles) == (context == ","):
                self._refuse_open(readings)
            sign = "." if PLAIN in self.styles else ","
        style, values = next((one for one in readings if one[0].decimal == sign), readings[0])
        return Read(values, style, self.units, self.without_unit)

    def _settle_units(self, groups: Int32Array | None, stated: Mapping[int, str]) -> tuple[dict[int, str], int]:
        """Keep as numbers the cells that have their group's unit, or none."""
        coded = self.parts["unit"].dictionary_encode()
        names = [str(name) for name in coded.dictionary.to_pylist()]
        if names in ([], [""]):
            return {}, 0
        codes = coded.indices.to_numpy(False)
        of_group = np.zeros(len(codes), np.int32) if groups is None else groups
        units: dict[int, str] = {}
        without = 0
        for group in np.unique(of_group[self.is_number]).tolist():
            rows = np.flatnonzero((of_group == group) & self.is_number)
            unit = stated.get(int(group), "")
            if not unit or unit not in [names[code] for code in np.unique(codes[rows]).tolist()]:
                unit = self._unit_of(names, codes[rows], rows, self.channels[group] if self.channels else self.name)
            is_other = np.array([name not in ("", unit) for name in names])
            self.is_number[rows[is_other[codes[rows]]]] = False
            if unit:
                units[int(group)] = unit
                without += int(np.count_nonzero(codes[rows] == names.index(""))) if "" in names else 0
        return units, without

    def _unit_of(self, names: Sequence[str], codes: Int32Array, rows: Int64Array, channel: str) -> str:
        """Return the unit of a group's numbers, "" if the text after them is not a unit."""
        counts = np.bincount(codes, minlength=len(names))
        found = [number for number in np.argsort(-counts, kind="stable").tolist() if names[number] and counts[number]]
        if not found or 2 * sum(int(counts[number]) for number in found) < len(codes):
            return ""
        known = [number for number in found if is_unit(names[number])]
        letters = all(len(names[number]) == 1 and names[number].isalpha() for number in known)
        if len(known) > 1 and (not letters or self._is_spaced(rows[codes == known[0]])):
            self._refuse_units([int(rows[int(np.argmax(codes == number))]) for number in known[:2]], channel)
        if len(found) > 1 and (not known or (letters and len(known) > 1) or 2 * counts[known[0]] < len(codes)):
            return ""
        unit = names[known[0]] if len(found) > 1 else names[found[0]]
        if unit in MULTIPLES and "" in names and counts[names.index("")]:
            self._refuse_units([int(rows[int(np.argmax(codes == names.index(name)))]) for name in (unit, "")], channel)
        return "" if NO_UNITS.match(unit) else unit

    def _is_spaced(self, rows: Int64Array) -> bool:
        return " " in str(self.text[int(rows[0])].as_py()).strip()

    def _readings(self, styles: Sequence[Style]) -> list[tuple[Style, Float64Array]]:
        """Return the values in each style, without duplicates."""
        readings: list[tuple[Style, Float64Array]] = []
        for style in styles:
            values = self._values(style)
            if not any(np.array_equal(values, other, equal_nan=True) for _, other in readings):
                readings.append((style, values))
        return readings

    def _values(self, style: Style) -> Float64Array:
        body = self.parts["body"]
        if style.group:
            body = pc.replace_substring_regex(body, {" ": SPACE, "'": TICK, ".": r"\.", ",": ","}[style.group], "")
        body = pc.replace_substring(body, ",", ".") if style.decimal == "," else body
        sign = pc.replace_substring(self.parts["sign"], "−", "-")
        number = pc.binary_join_element_wise(sign, body, self.parts["power"], pa.scalar("", body.type))
        return to_float(pc.if_else(pa.array(self.is_number), number, self.text))

    def _refuse_mixed(self) -> None:
        best = int(np.argmax(self.fits.sum(axis=1)))
        row = int(np.argmin(self.fits[best]))
        others = [number for number in range(len(STYLES)) if self.fits[number, row]]
        rival = max(others, key=lambda number: int(self.fits[number].sum()))
        other = int(np.argmin(self.fits[rival] | ~self.is_number | ~self.fits[best]))
        raise RecordingError(
            f"{self.where(row)}: column {self.name!r}: {self._cell(row)} is a number {_words(STYLES[rival])}, but "
            f"{self._cell(other)} ({self.where(other)}) is one {_words(STYLES[best])}; a column must use one style: "
            "with --decimal comma or --decimal point the other cells count as bad"
        )

    def _refuse_open(self, readings: Sequence[tuple[Style, Float64Array]]) -> None:
        (first, one), (second, two) = readings[0], readings[1]
        row = int(np.argmax(~((one == two) | (np.isnan(one) & np.isnan(two)))))
        raise RecordingError(
            f"{self.where(row)}: column {self.name!r}: {self._cell(row)} can be {one[row]:.15g} ({_words(first)}) or "
            f"{two[row]:.15g} ({_words(second)}), and no row of the column decides; "
            f"add --decimal {_option(first)} or --decimal {_option(second)}"
        )

    def _refuse_units(self, rows: Sequence[int], channel: str) -> None:
        one, two = rows
        unit = self.parts["unit"][one].as_py() or self.parts["unit"][two].as_py()
        raise RecordingError(
            f"{self.where(two)}: column {self.name!r}: expected one unit, found {self._cell(two)} and "
            f"{self._cell(one)} ({self.where(one)}); convert them, or add "
            f"--unit '{channel}={unit}' to treat cells with other units as bad"
        )

    def _cell(self, row: int) -> str:
        return repr(str(self.text[row].as_py())[:80])


def is_suspect(text: pa.Array, values: Float64Array) -> bool:
    """Return whether cells that are bad by the cell rule are numbers in another style or have a unit."""
    bad = np.flatnonzero(values == BAD)
    if not len(bad):
        return False
    cells = pc.utf8_trim_whitespace(text.take(pa.array(bad)))
    other = pc.and_not(pc.match_substring_regex(cells, CELL), pc.match_substring_regex(cells, f"^(?:{NUMBER})$"))
    return bool(pc.any(other).as_py())


def has_point(text: pa.Array) -> tuple[bool, bool]:
    """Return whether plain numbers certainly have a decimal point, and whether they have an ambiguous one."""
    text = pc.utf8_trim_whitespace(text)
    dotted = pc.match_substring(text, ".").to_numpy(False).astype(np.bool_)
    grouped: BoolArray = pc.match_substring_regex(text, POINT_GROUPS).to_numpy(False).astype(np.bool_)
    return bool((dotted & ~grouped).any()), bool(grouped.any())


def is_unit(text: str) -> bool:
    """Return whether all parts of a text are known units, with or without a prefix."""
    parts = [part for part in re.split(r"[/·*() ]|\^?-?[1-4]$", text.replace("° ", "°")) if part]
    return text in BASES or (bool(parts) and all(_is_base(part) for part in parts))


def _is_base(part: str) -> bool:
    part = part.rstrip("23²³¹⁻") if part not in BASES else part
    return any(part.startswith(prefix) and part[len(prefix) :] in BASES for prefix in PREFIXES)


def _words(style: Style) -> str:
    sign = "with a decimal comma" if style.decimal == "," else "with a decimal point"
    names = {",": "commas", ".": "points", " ": "spaces", "'": "apostrophes"}
    return f"{sign} and {names[style.group]} between thousands" if style.group else sign


def _option(style: Style) -> str:
    return "comma" if style.decimal == "," else "point"
