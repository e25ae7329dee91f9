"""Label columns, which mark rows as faults: numbers or words, from people, data sets and simulators."""

from __future__ import annotations

import re

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stream_ad.core.batches import Float32Array, Float64Array

NAMES = frozenset(
    {
        "anomaly", "anomalies", "is_anomaly", "isanomaly", "anomalous", "is_anomalous", "anomaly_label", "label",
        "labels", "is_fault", "isfault", "fault", "faults", "faulty", "is_faulty", "fault_label", "fault_number",
        "faultnumber", "attack", "is_attack", "isattack", "attack_label", "att_flag", "normal_attack",
        "attack_lable_1_no_attack_1_attack", "outlier", "is_outlier", "isoutlier", "ground_truth", "groundtruth",
        "failure", "is_failure", "isfailure", "machine_failure", "abnormal", "is_abnormal", "y_true", "changepoint",
        "change_point", "is_changepoint", "störung", "stoerung", "fehler", "ausfall", "anomalie", "défaut", "panne",
        "fallo", "falla", "anomalía", "anomalia", "guasto",
    }
)  # fmt: skip
"""Names of label columns, in lower case, with `_` for anything but letters and digits."""
CHANGES = frozenset({"changepoint", "change_point", "is_changepoint"})
"""Labels that mark changes rather than durations of faults."""
STATES = frozenset({"status", "state", "condition", "machine_status", "machine_state", "class", "target", "category"})
"""Names of columns that are labels if their words are."""
NORMAL = frozenset(
    {
        "normal", "ok", "okay", "good", "healthy", "no", "none", "false", "n", "f", "benign", "inlier", "nominal",
        "clean", "no attack", "no fault", "no anomaly", "no failure", "not anomalous", "non-anomalous", "running",
        "fine", "regular", "gut", "in ordnung", "i.o.", "io", "bon", "sain",
    }
)  # fmt: skip
FAULTY = frozenset(
    {
        "attack", "a ttack", "anomaly", "anomalous", "abnormal", "fault", "faulty", "failure", "failed", "broken",
        "error", "alarm", "defect", "defective", "outlier", "malicious", "recovering", "bad", "damaged",
        "unhealthy", "true", "yes", "y", "t", "störung", "stoerung", "gestört", "fehler", "defekt", "ausfall", "n.i.o.",
        "nio", "panne", "défaut",
    }
)  # fmt: skip
UNKNOWN = frozenset({"", "unknown", "unlabeled", "unlabelled", "nan", "null", "na", "n/a", "-", "?", "nil"})


def normalised(name: str) -> str:
    """Return a name normalised as in `NAMES`."""
    return re.sub(r"[\W_]+", "_", name.lower()).strip("_")


def is_label(name: str) -> bool:
    """Return whether a column is a label by its name."""
    return normalised(name) in NAMES


def marks_faults(name: str) -> bool:
    """Return whether a label's marks mean faults; change points do not."""
    return normalised(name) not in CHANGES


def read_words(column: pa.Array, numbers: Float64Array) -> tuple[Float64Array, bool]:
    """Convert a label's words to numbers.

    Args:
        column: n cells.
        numbers: float64[n], the numeric cells, others not finite.

    Returns:
        float64[n]: the numbers, 0 for words of normal operation, 1 for others, NaN for unknown ones; and whether all
        cells are known words.
    """
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    numbers = np.where(np.isfinite(numbers), numbers, np.nan)
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        return numbers, False
    coded = pc.utf8_lower(pc.utf8_trim_whitespace(pc.fill_null(column, ""))).dictionary_encode()
    words = coded.dictionary.to_pylist()
    values = np.array([0.0 if word in NORMAL else np.nan if word in UNKNOWN else 1.0 for word in words])
    found = values[coded.indices.to_numpy(False)] if len(words) else np.zeros(0)
    return np.where(np.isnan(numbers), found, numbers), all(word in NORMAL | FAULTY | UNKNOWN for word in words)


def to_marks(values: Float64Array) -> Float32Array:
    """Return 1 where a label marks a fault, 0 where it does not, NaN where it is unknown.

    0 is normal and a positive number a fault or its kind. Of -1 and 1, -1 is the fault, as in outlier libraries, unless
    most rows have it. Fractional numbers mark nothing.

    Args:
        values: float64[n], NaN if missing.
    """
    known = np.isfinite(values)
    seen = np.unique(values[known])
    marks = np.full(len(values), np.nan, np.float32)
    if len(seen) and (seen == np.floor(seen)).all():
        # Outlier libraries use -1 for outliers; if most rows have it, it means normal.
        reversed_ = set(seen.tolist()) == {-1.0, 1.0} and 2 * np.count_nonzero(values == -1) <= known.sum()
        marks[known] = np.where(values[known] < 0 if reversed_ else values[known] > 0, 1.0, 0.0)
        if not reversed_ and set(seen.tolist()) != {-1.0, 1.0}:
            marks[known & (values < 0)] = np.nan
    return marks
