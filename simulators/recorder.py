"""Writes a simulated recording as Parquet or CSV, for training."""

from __future__ import annotations

from pathlib import Path

from simulators.fleet import CHANNELS
from simulators.producer import recording
from simulators.scenarios import Scenario
from stream_ad.errors import ConfigError, StorageError


def write_recording(scenario: Scenario, start_ms: int, path: Path) -> int:
    """Write the healthy fleet of a scenario: a column `device`, a column `time`, one a channel.

    Args:
        scenario: the fleet; its faults are left out.
        start_ms: event time of the first sample, epoch milliseconds.
        path: a `.parquet` or `.csv` file; units are in the Parquet fields' metadata.

    Returns:
        the number of rows.

    Raises:
        ConfigError: another suffix.
        StorageError: the file cannot be written.
    """
    import pyarrow as pa
    import pyarrow.csv as pa_csv
    import pyarrow.parquet as pa_parquet

    schema = pa.schema(
        [pa.field("device", pa.string()), pa.field("time", pa.timestamp("ms", "UTC"))]
        + [pa.field(name, pa.float64(), metadata={"unit": unit}) for name, unit in CHANNELS.items()]
    )
    if path.suffix not in (".parquet", ".csv"):
        raise ConfigError(f"{path}: expected a file name ending in .parquet or .csv")
    rows = 0
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with (
            pa_parquet.ParquetWriter(path, schema, compression="zstd")
            if path.suffix == ".parquet"
            else pa_csv.CSVWriter(path, schema)
        ) as writer:
            for columns in recording(scenario, start_ms):
                arrays = [pa.array(columns[field.name]).cast(field.type) for field in schema]
                table = pa.table(arrays, schema=schema)
                writer.write_table(table)
                rows += table.num_rows
    except OSError as error:
        raise StorageError(f"{path}: cannot be written: {error}") from error
    return rows
