"""The proof must be able to fail: each way in which a run can be wrong is seen."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from stream_ad.io.wire.scores import decode
from tests.chaos import ledger
from tests.chaos.ledger import Entry
from tests.chaos.proof import Codes, Compared, matrix
from tests.chaos.watch import Death, Watch
from tests.support.scores import messages, verdicts


def table() -> pa.Table:
    parts = [messages(verdicts(first, 5, devices=3), (first, first + 5)) for first in (0, 5)]
    return pa.concat_tables([decode(one.value, one.headers).table for part in parts for one in part])


def compared(found: pa.Table, expected: pa.Table) -> Compared:
    result, codes = Compared(), Codes()
    result.rows_differ("rows", matrix(found, codes), matrix(expected, codes))
    return result


def changed(rows: pa.Table, column: str, value: object) -> pa.Table:
    index = rows.column_names.index(column)
    values = rows[column].to_pylist()
    values[7] = value
    return rows.set_column(index, column, pa.array(values, rows.schema.field(column).type))


def test_the_same_rows_in_another_order_and_as_plain_text_are_the_same() -> None:
    rows = table()
    plain = rows.set_column(0, "device", rows["device"].cast(pa.string()))
    mixed = plain.take(pa.array(np.random.default_rng(1).permutation(len(plain))))
    assert compared(mixed, rows) == Compared()


def test_missing_and_repeated_rows_are_counted() -> None:
    rows = table()
    lost = compared(rows.slice(2), rows)
    assert (lost.missing, lost.repeated, len(lost.wrong)) == (2, 0, 1)
    twice = compared(pa.concat_tables([rows, rows.slice(3, 4)]), rows)
    assert (twice.missing, twice.repeated, len(twice.wrong)) == (0, 4, 1)
    assert compared(rows.slice(0, 0), rows).missing == len(rows)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("score", np.nextafter(0.5, 1.0)),
        ("smoothed", None),
        ("limit", -1.0),
        ("is_anomaly", True),
        ("sequence", 99),
        ("device", "another"),
        ("device", None),
        ("contribution", {"current": 0.1, "pressure": 0.1, "vibration": 0.2}),
        ("contribution", None),
        ("model_id", "another"),
        ("offset", 10_000),
    ],
)
def test_one_other_bit_is_seen(column: str, value: object) -> None:
    rows = table()
    found = compared(changed(rows, column, value), rows)
    assert (found.missing, found.repeated) == (1, 1)


def test_alerts_are_compared_each_with_its_number() -> None:
    result = Compared()
    result.values_differ("alerts", [b"a", b"b"], [b"b", b"a"])
    assert not result.wrong
    result.values_differ("alerts", [b"a", b"a"], [b"a", b"b"])
    assert (result.missing, result.repeated) == (1, 1)


MARKS = [ledger.digest(b"%d" % number) for number in range(5)]
SENT = [Entry(0, 0, MARKS[0]), Entry(0, 1, MARKS[1]), Entry(1, 0, MARKS[2])]
FOUND = [(entry.partition, entry.offset, entry.digest) for entry in SENT]


def test_a_ledger_that_holds() -> None:
    assert ledger.compare(SENT, [], FOUND) == []
    assert ledger.compare(SENT, [MARKS[3]], [*FOUND, (1, 1, MARKS[3])]) == []  # nobody knew of it, and it is there


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (FOUND[1:], "not where they were put"),
        ([*FOUND, (1, 1, MARKS[0])], "more than once"),
        ([*FOUND, (1, 1, MARKS[4])], "nobody sent"),
        ([(0, 0, MARKS[1]), (0, 1, MARKS[0]), FOUND[2]], "not where they were put"),
    ],
)
def test_a_ledger_that_does_not(found: list[tuple[int, int, bytes]], words: str) -> None:
    (line,) = ledger.compare(SENT, [], found)
    assert words in line


def test_recovery_is_counted_from_the_kill_to_the_last_of_the_victims_partitions() -> None:
    watch = Watch(["127.0.0.1:9"], {"scorer": "group"})
    offsets = [(10, 10), (12, 10), (12, 10), (12, 13), (15, 13)]
    watch.looks = [(float(at), {("scorer", 0): low, ("scorer", 1): high}) for at, (low, high) in enumerate(offsets)]
    both = Death(0.5, "scorer", frozenset({0, 1}))  # what is seen at 1 was under way
    assert watch.recoveries_s([both]) == [3.5]
    assert watch.recoveries_s([Death(0.5, "scorer", frozenset({1}))]) == [2.5]
    assert watch.recoveries_s([Death(0.5, "scorer", frozenset()), Death(3.5, "scorer", frozenset({1}))]) == []
    assert watch.longest_silence_s(until=9.0) == (2.0, 3.0)
