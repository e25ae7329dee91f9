"""Quality columns, as written by OPC servers and historians beside the values."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stream_ad.core.batches import BoolArray, Float64Array, Int32Array
from stream_ad.core.names import shown

KINDS = r"(?P<kind>quality|qual|status|status_?code|validity|valid|good)"
BESIDE = re.compile(rf"(?P<base>.+?)[._ :/|-]*{KINDS}", re.IGNORECASE)
BEFORE = re.compile(r"(?P<kind>quality|status)[._ :(-]+(?:of )?(?P<base>.+?)\)?", re.IGNORECASE)
OF_ROW = frozenset({"quality", "opcquality", "dataquality", "qualitycode", "statuscode", "opcstatus", "status"})
"""Names of quality columns for a whole row, letters and digits only."""
VALUE_ENDINGS = ("", ".value", "_value", " value", ".pv", "_pv", ".val")
MOST_KINDS = 1_000
"""A column with more distinct cells is not a quality column."""
GOOD = frozenset({"ok", "okay", "valid", "true", "normal", "g", "yes", "y", "healthy", "fine", "green"})
BAD = re.compile(
    r"bad|[ub]$|uncertain|invalid|not |fail|fault|err|stale|false$|no |no$|n$|questionable|subst|time ?out|offline|i/o|"
    r"config|suspect|doubt|estimat|interpol|missing|unknown|comm|sensor|out of|last known|device|waiting|disconnect"
)
"""Prefixes of words for anything but good."""
EMPTY = frozenset({"", "nan", "null", "none", "na", "n/a"})
UA = 1 << 30
"""OPC UA: codes from this bit on are not good; OPC DA: both bits of 0xC0 set are good."""


@dataclass(frozen=True, slots=True)
class Judged:
    """Interpretation of a quality column.

    Attributes:
        bad: by distinct cell, whether it means a value that is not good.
        how: how that was decided, for people; "" if obvious.
    """

    bad: tuple[bool, ...]
    how: str = ""


@dataclass
class QualityColumn:
    """The cells of one quality column, as codes.

    Attributes:
        name: of the column.
        target: the column whose values it judges, "" for the whole row.
        is_status: it is named status, which may mean many things: only words and codes of quality count.
    """

    name: str
    target: str
    is_status: bool
    number: dict[str, int] = field(default_factory=dict)
    codes: list[Int32Array] = field(default_factory=list)
    rows: int = 0

    def add(self, before: int, column: pa.Array | None, rows: int) -> None:
        """Add a block's cells after `before` rows; None if the block lacks the column."""
        if self.rows < before:
            self.codes.append(np.full(before - self.rows, -1, np.int32))
        self.rows = before + rows
        if column is None or len(self.number) > MOST_KINDS:
            self.codes.append(np.full(rows, -1, np.int32))
            return
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        texts = pc.fill_null(column.cast(pa.string(), safe=False), "").dictionary_encode()
        words = [word.strip() for word in texts.dictionary.to_pylist()]
        numbers = np.array([self.number.setdefault(word, len(self.number)) for word in words], np.int32)
        self.codes.append(numbers[texts.indices.to_numpy(False)])

    def all_codes(self, rows: int) -> Int32Array | None:
        """Return int32[rows], the code of each cell, -1 if there is none; None if there are too many distinct cells."""
        if len(self.number) > MOST_KINDS or not self.number:
            return None
        return np.concatenate([*self.codes, np.full(rows - self.rows, -1, np.int32)])

    def bad(self, rows: int) -> tuple[BoolArray, str] | None:
        """Return bool[rows], the rows that are not good, and a note; None if it is not a quality column."""
        codes = self.all_codes(rows)
        if codes is None:
            return None
        counts = np.bincount(codes[codes >= 0], minlength=len(self.number))
        judged = judge(list(self.number), counts.tolist(), self.is_status)
        if judged is None:
            return None
        is_bad = np.array([*judged.bad, False])  # the last one is for -1
        return is_bad[codes], judged.how


def quality_columns(columns: Sequence[str], stated: str = "") -> list[QualityColumn]:
    """Return the columns that may be quality columns, by their names.

    Args:
        columns: all columns besides time, device, channel and value.
        stated: a column named by the user for the whole row.
    """
    lowered = {name.lower(): name for name in reversed(columns)}
    found = []
    for name in columns:
        plain = re.sub(r"[^a-z0-9]", "", name.lower())
        if name == stated or plain in OF_ROW:
            found.append(QualityColumn(name, "", "status" in plain and name != stated))
            continue
        match = BESIDE.fullmatch(name) or BEFORE.fullmatch(name)
        if match is None:
            continue
        targets = [lowered.get(match["base"].lower() + ending) for ending in VALUE_ENDINGS]
        target = next((one for one in targets if one and one != name), None)
        if target is not None:
            found.append(QualityColumn(name, target, "status" in match["kind"].lower()))
    return found


def without_bad(
    values: Float64Array, names: Sequence[str], quality: Mapping[str, tuple[BoolArray, str, str]], name: str
) -> int:
    """Remove values that a quality column does not call good from a wide recording, in place; return their number.

    Args:
        values: float64[n, c].
        names: c columns, including those for quality.
        quality: by quality column, the rows that are not good, and the column that it judges or "".
        name: the quality column to apply.
    """
    bad, target, _ = quality[name]
    columns = [place for place, column in enumerate(names) if column not in quality and target in ("", column)]
    count = 0
    for place in columns:
        count += int(np.count_nonzero(bad & np.isfinite(values[:, place])))
        values[bad, place] = np.nan
    return count


def quality_notes(quality: Mapping[str, tuple[BoolArray, str, str]], counts: Mapping[str, int]) -> list[str]:
    """Return notes on quality columns: at most one line on what they removed and one on how they were read."""
    if not quality:
        return []
    names = list(quality)
    taken = sum(counts.values())
    found = [f"{taken:,} values are missing because their quality is not good, by {shown(names)}"]
    if not taken:
        found = [f"{shown(names)} is a quality column, not a channel; no value is missing because of it"]
    how = {name: rule for name, (_, _, rule) in quality.items() if rule}
    if how:
        found.append("; ".join(f"{name}: {rule}" for name, rule in list(how.items())[:4]))
    return found


def judge(cells: Sequence[str], counts: Sequence[int], is_status: bool) -> Judged | None:
    """Decide which cells mean a value that is not good; uncertain is not good, an empty cell is.

    Args:
        cells: the column's distinct cells.
        counts: how often each occurs.
        is_status: treat it as quality only if nothing else is possible.
    """
    numbers = {cell: number for cell in cells if (number := _number(cell)) is not None}
    words = [cell for cell in cells if cell not in numbers and cell.lower() not in EMPTY]
    known = [_is_good_word(word) or BAD.match(word.lower()) is not None for word in words]
    good_words = [word for word in words if _is_good_word(word)]
    if is_status and not all(known):
        return None
    if words and not good_words and not all(known):
        return None
    codes = _judge_numbers(numbers, dict(zip(cells, counts, strict=True)), is_status)
    if codes is None or (not words and not numbers) or (is_status and not good_words and not numbers):
        return None
    bad, how = codes
    return Judged(tuple(bad.get(cell, cell in words and not _is_good_word(cell)) for cell in cells), how)


def _judge_numbers(
    numbers: Mapping[str, int], counts: Mapping[str, int], is_status: bool
) -> tuple[dict[str, bool], str] | None:
    """Return which numbers are not good and how that was decided; None if they are not quality codes."""
    if not numbers:
        return {}, ""
    seen = set(numbers.values())
    if max(seen) >= UA:
        return {cell: number & (3 * UA) != 0 for cell, number in numbers.items()}, ""
    if any(number & 0xC0 == 0xC0 for number in seen):
        return {cell: number & 0xC0 != 0xC0 for cell, number in numbers.items()}, ""
    if is_status:
        return None
    if seen == {0}:
        return dict.fromkeys(numbers, False), "0 alone, taken for OPC UA's Good"
    if seen <= {0, 1}:
        share = sum(counts[cell] for cell, number in numbers.items() if number == 1)
        good = int(share * 2 >= sum(counts[cell] for cell in numbers))
        return {cell: number != good for cell, number in numbers.items()}, f"{good}, the usual value, taken for good"
    if max(seen) == 100:
        return {cell: number != 100 for cell, number in numbers.items()}, "100 taken for good"
    return None


def _number(cell: str) -> int | None:
    try:
        number = float(int(cell, 16)) if cell.lower().startswith("0x") else float(cell)
    except ValueError:
        return None
    if number != number or abs(number) >= 1 << 40 or number != int(number):
        return None
    return int(number) & 0xFFFFFFFF


def _is_good_word(word: str) -> bool:
    return word.lower().startswith("good") or word.lower() in GOOD
