"""The score log at full size: time and memory of `verify` and `compact`, and of a query before and after.

python -m benchmarks.score_log --rows 10000000 --devices 20000
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa

from stream_ad.io.score_log import log as score_log
from stream_ad.io.spans import Span, Spans
from stream_ad.io.wire.score_rows import schema

CHANNELS = [f"c{k}" for k in range(8)]
T0_US = 1_767_225_600_000_000
PARTS_AN_HOUR = 360
MEASURE = "import resource, sys; from stream_ad.cli.main import main; code = main(sys.argv[1:]); " + (
    "used = resource.getrusage(resource.RUSAGE_SELF); "
    "print(f'{used.ru_utime + used.ru_stime:.1f} s of processor time, {used.ru_maxrss / 1024:.0f} MiB at most', "
    "file=sys.stderr); "
    "sys.exit(code)"
)


def write(folder: Path, rows: int, devices: int) -> None:
    """Write one partition of parts, ten seconds of log time each, with equally many windows per device."""
    ids = pa.array([f"pump-{k:05d}" for k in range(devices)])
    rng = np.random.default_rng(1)
    each = -(-rows // PARTS_AN_HOUR // 2)
    position = 0
    for number in range(-(-rows // each)):
        n = min(each, rows - position)
        index = np.arange(position, position + n)
        score = rng.gamma(2.0, 0.05, n)
        end = T0_US + index // devices * 16_000_000
        values: list[pa.Array] = [
            ids.take(pa.array(index % devices)),
            pa.array(end - 64_000_000).cast(pa.timestamp("us", "UTC")),
            pa.array(end).cast(pa.timestamp("us", "UTC")),
            *(pa.array(score), pa.array(score * 0.9), pa.array(np.full(n, 1.0)), pa.array(np.zeros(n, np.bool_))),
            pa.nulls(n, pa.timestamp("us", "UTC")),
            *(pa.array(np.zeros(n, np.uint32)), pa.array(np.ones(n, np.float32))),
            pa.StructArray.from_arrays([pa.array(rng.random(n, np.float32)) for _ in CHANNELS], CHANNELS),
            pa.array(["m"] * n),
            *(pa.array(np.zeros(n, np.uint16)), pa.array(index // devices), pa.array(np.zeros(n, np.int32))),
            pa.array(index),
        ]
        names = schema(CHANNELS).names
        score_log.write_part(
            folder,
            0,
            Span(number, number + 1),
            [pa.table(dict(zip(names, values, strict=True)))],
            T0_US * 1_000 + number * 10_000_000_000,
            "topic",
            Spans(Span(position, position + n)),
            {"model_ids": "m"},
            is_first=number == 0,
        )
        position += n


def timed(*arguments: str) -> None:
    """Run a command in its own process; print its output."""
    begun = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", MEASURE, *arguments], capture_output=True, text=True, check=True)
    lines = [line for line in done.stdout.splitlines() + done.stderr.splitlines()[-1:] if line]
    print(f"{arguments[2]} {time.perf_counter() - begun:.1f} s in total: " + " | ".join(lines[-3:]))


def queried(folder: Path) -> None:
    """Time a query over all rows."""
    begun = time.perf_counter()
    query = f"select device, count(*), max(smoothed / \"limit\") from '{folder}/**/*.parquet' group by device"
    with duckdb.connect() as connection:
        found = connection.execute(query).fetchall()
    files = sum(1 for path in folder.glob("log_date=*/*/*.parquet") if path.is_file())
    print(f"DuckDB {time.perf_counter() - begun:.2f} s for {sum(row[1] for row in found):,} rows in {files:,} files")


def main() -> None:
    """Write a score log, verify it, compact it, verify it again."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--devices", type=int, default=20_000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as text:
        folder, config = Path(text) / "scores", Path(text) / "stream.toml"
        config.write_text(
            '[stream]\nname = "pumps"\nbundle = "b"\n[transport]\nkind = "local"\npath = "l"\n'
            '[store]\nscores = "scores"\ncheckpoints = "c"\n'
        )
        begun = time.perf_counter()
        write(folder, args.rows, args.devices)
        size = sum(path.stat().st_size for path in folder.glob("log_date=*/*/*.parquet") if path.is_file())
        print(f"wrote {args.rows:,} rows, {size / 1e6:,.0f} MB, in {time.perf_counter() - begun:.1f} s")
        for _ in range(2):
            timed("-c", str(config), "verify")
            queried(folder)
        timed("-c", str(config), "compact")
        for _ in range(2):
            timed("-c", str(config), "verify")
            queried(folder)
        size = sum(path.stat().st_size for path in folder.glob("log_date=*/*/*.parquet") if path.is_file())
        print(f"{size / 1e6:,.0f} MB now; {os.cpu_count()} processors")


if __name__ == "__main__":
    main()
