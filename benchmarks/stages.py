"""Time per stage of scorer and archiver, without a broker: `python -m benchmarks.stages`.

Processor time per message of each stage, on the load of `benchmarks.pipeline`: the median over polls, run in turn.
Windows, scores and verdicts come from the pipeline's own parts, called as `core.pipeline` calls them.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks.bare import decoder as bare_decoder
from benchmarks.load import DEVICES, TOPIC, make_bundle, messages_of, settings_of, write_settings
from stream_ad import assembly
from stream_ad.core.batches import Judged
from stream_ad.core.model import Model
from stream_ad.fronts.readings import READINGS
from stream_ad.io.score_log import log as score_log
from stream_ad.io.spans import Span, Spans
from stream_ad.io.transport import Partition, RawBatch, Record
from stream_ad.io.wire import score_rows
from stream_ad.io.wire import scores as score_messages

COMMIT_ROWS = 5_000
"""About one second of rows, as between two commits of the scorer."""
NS = 1_000_000_000


class Stages:
    """Processor seconds by stage, one value per execution."""

    def __init__(self) -> None:
        self.spent: dict[str, list[tuple[float, int]]] = defaultdict(list)

    @contextmanager
    def timing(self, stage: str, messages: int) -> Iterator[None]:
        """Measure the block, which handles so many messages."""
        begun = time.process_time()
        yield
        self.spent[stage].append((time.process_time() - begun, messages))

    def wrap(self, owner: Any, method: str, stage: str, messages: Callable[[], int]) -> None:
        """Measure each call of an object's method."""
        inner = getattr(owner, method)

        def timed(*args: Any) -> Any:
            with self.timing(stage, messages()):
                return inner(*args)

        setattr(owner, method, timed)

    def microseconds(self) -> dict[str, float]:
        """Return the median microseconds per message of each stage; the first quarter is warm-up."""
        return {
            stage: 1e6 * statistics.median(seconds / count for seconds, count in runs[len(runs) // 4 :])
            for stage, runs in self.spent.items()
        }


def raw_batches(records: list[Record], poll: int) -> list[RawBatch]:
    """Split records into polls, appended at the speed of their event time."""
    first_ns = time.time_ns()
    batches = []
    for start in range(0, len(records), poll):
        part = records[start : start + poll]
        offset = np.arange(start, start + len(part), dtype=np.int64)
        batches.append(
            RawBatch(
                partition=Partition(TOPIC, 0),
                offset=offset,
                log_ns=first_ns + offset * 200_000,
                keys=[record.key for record in part],
                values=[record.value for record in part],
                headers=[record.headers for record in part],
                next_offset=start + len(part),
            )
        )
    return batches


def measure(model: Model, settings_path: Path, form: str, batches: list[RawBatch]) -> Stages:
    """Send polls through decoder, pipeline, encoder and the archiver's part."""
    settings = settings_of(settings_path)
    decoder, pipeline = READINGS.decoder(settings, model), assembly.build_pipeline(settings, model)
    front: Any = pipeline._front
    names = [channel.name for channel in model.channels]
    bare = bare_decoder(form)
    stages, now = Stages(), batches[0]
    for part, method, stage in ((front._windowing, "add", "windows"), (front._scoring, "score", "score"),
                                (pipeline._deciding, "decide", "decide")):  # fmt: skip
        stages.wrap(part, method, stage, lambda: len(now))
    pending: list[Judged] = []
    begun = now.offset[0]
    with tempfile.TemporaryDirectory() as folder:
        for now in batches:
            with stages.timing("(decoding alone)", len(now)):
                for value in now.values:
                    bare(value)
            with stages.timing("decode", len(now)):
                decoded = decoder.decode(now)
            with stages.timing("pipe", len(now)):
                pending += pipeline.step(decoded.readings).judged
            if sum(len(part.verdicts) for part in pending) >= COMMIT_ROWS:
                span = Span(int(begun), now.next_offset)
                publish(stages, pending, names, model, span, Path(folder))
                begun, pending = now.next_offset, []
    return stages


def publish(stages: Stages, pending: list[Judged], names: list[str], model: Model, span: Span, folder: Path) -> None:
    """Encode verdicts as a commit does, and archive them as the archiver does."""
    messages = span.end - span.start
    with stages.timing("encode", messages):
        rows = score_rows.table(pending, names, model.window.length_ns, 0)
        records = score_messages.encode(rows, Spans(span), Partition(TOPIC, 0), "0" * 16, 900_000)
    with stages.timing("archiver: decode", messages):
        tables = [score_messages.decode(record.value, record.headers).table for record in records]
    with stages.timing("archiver: part", messages):
        score_log.write_part(folder, 0, span, tables, NS, "topic", Spans(span), {})


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--form", choices=("series", "single", "arrow"), default="series")
    parser.add_argument("--messages", type=int, default=20_000)
    parser.add_argument("--devices", type=int, default=DEVICES)
    parser.add_argument("--poll", type=int, default=650, help="messages per poll: a fetch of 2 MB holds 650 series")
    args = parser.parse_args()
    threadpool_limits(1)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        make_bundle(folder)
        settings = write_settings(folder, "stages", 'kind = "local"\npath = "unused"', TOPIC)
        records = list(messages_of(args.form, args.messages, args.devices))
        model = assembly.load_model(settings_of(settings))
        found = measure(model, settings, args.form, raw_batches(records, args.poll)).microseconds()
    inside = sum(found[stage] for stage in ("windows", "score", "decide"))
    found["pipe"] -= inside
    print(f"{args.form}: {len(records):,} messages of {len(records[0].value):,} bytes, {args.poll} per poll")
    for stage, us in found.items():
        print(f"{'rest of the pipeline' if stage == 'pipe' else stage:20} {us:7.2f} us per message")


if __name__ == "__main__":
    main()
