"""What a record costs to decode, against parsing it alone: `python -m benchmarks.decode`."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import numpy as np
import orjson

from stream_ad.io.transport import Partition, RawBatch
from stream_ad.io.wire import Decoder
from stream_ad.io.wire_encode import ARROW_HEADERS, encode_arrow, encode_reading, encode_series

CHANNELS = [f"channel_{number}" for number in range(8)]
SAMPLES = 64
RECORDS = 1_000
T0 = 1_700_000_000_000


def raw_batch(values: list[bytes], is_arrow: bool) -> RawBatch:
    n = len(values)
    return RawBatch(
        partition=Partition("readings", 0),
        offset=np.arange(n, dtype=np.int64),
        log_ns=np.arange(n, dtype=np.int64),
        keys=[None] * n,
        values=values,
        headers=[ARROW_HEADERS if is_arrow else ()] * n,
        next_offset=n,
    )


def naive_series(values: list[bytes]) -> None:
    for value in values:
        document = orjson.loads(value)
        columns = document["values"]
        np.array([columns[channel] for channel in CHANNELS], np.float32).T.copy()


def naive_single(values: list[bytes]) -> None:
    for value in values:
        document = orjson.loads(value)
        columns = document["values"]
        np.array([columns[channel] for channel in CHANNELS], np.float32)


def parse(values: list[bytes]) -> None:
    for value in values:
        orjson.loads(value)


def best_us(works: list[Callable[[], object]], rounds: int = 60) -> list[float]:
    """Return each work's microseconds of processor time a record, the best of rounds run in turn."""
    best = [float("inf")] * len(works)
    for _ in range(rounds):
        for number, work in enumerate(works):
            start = time.process_time()
            work()
            best[number] = min(best[number], (time.process_time() - start) / RECORDS * 1e6)
    return best


def main() -> None:
    random = np.random.default_rng(0)
    devices = [f"pump-{number:04d}" for number in random.integers(0, 500, RECORDS)]
    samples = np.round(random.normal(50, 5, (SAMPLES, len(CHANNELS))), 3)
    table = {channel: samples[:, number] for number, channel in enumerate(CHANNELS)}
    gaps = {channel: np.where(random.random(SAMPLES) < 0.02, np.nan, column) for channel, column in table.items()}
    row = dict(zip(CHANNELS, samples[0].tolist(), strict=True))
    ts = np.arange(T0, T0 + SAMPLES * 1_000, 1_000)
    few = CHANNELS[:4]

    cases: dict[str, tuple[list[bytes], list[str]]] = {
        "series": ([encode_series(device, T0, 1_000, table) for device in devices], CHANNELS),
        "series with nulls": ([encode_series(device, T0, 1_000, gaps) for device in devices], CHANNELS),
        "single": ([encode_reading(device, T0, row) for device in devices], CHANNELS),
        "single, 4 channels": ([encode_reading(device, T0, {c: row[c] for c in few}) for device in devices], few),
        "arrow": ([encode_arrow([device] * SAMPLES, ts, table) for device in devices], CHANNELS),
    }
    print(f"{'':20} bytes  decode   parse   naive (us a record)")
    for name, (values, channels) in cases.items():
        decoder, batch = Decoder(channels), raw_batch(values, name == "arrow")
        works: list[Callable[[], object]] = [partial(decoder.decode, batch)]
        if name != "arrow":
            works.append(partial(parse, values))
            if "nulls" not in name and channels is CHANNELS:
                works.append(partial(naive_series if name == "series" else naive_single, values))
        print(f"{name:20} {len(values[0]):5} " + " ".join(f"{us:7.2f}" for us in best_us(works)))


if __name__ == "__main__":
    main()
