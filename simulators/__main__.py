"""`python -m simulators`: list scenarios, send one to a log, or record one for training."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from simulators import producer, recorder, scenarios
from simulators.scenarios import Scenario
from stream_ad.errors import StreamAdError
from stream_ad.io.transport import Transport

REPORT_S = 1.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return 0, 1 for a runtime error, 2 for a usage error, 130 when interrupted."""
    options = _parser().parse_args(arguments)
    commands: dict[str, Callable[[argparse.Namespace], int]] = {"list": _list, "run": _run, "record": _record}
    try:
        return commands[options.command](options)
    except StreamAdError as error:
        print(f"simulators: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("simulators: interrupted", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m simulators", description="Simulated pump fleets.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="list the built-in scenarios")

    run = commands.add_parser("run", help="send a scenario to a log")
    target = run.add_mutually_exclusive_group(required=True)
    target.add_argument("-c", "--config", type=Path, help="send to the log and readings topic of this stream file")
    target.add_argument("--local", type=Path, metavar="PATH", help="send to this embedded log (SQLite file)")
    target.add_argument("--kafka", metavar="HOST:PORT[,…]", help="send to this Kafka cluster")
    pace = run.add_mutually_exclusive_group()
    pace.add_argument("--rate", type=_positive, metavar="N", help="messages per second")
    pace.add_argument("--speed", type=_speed, metavar="N|max", help="ratio of event time to wall time")
    run.add_argument("--format", choices=("series", "single", "arrow"))
    run.add_argument("--samples", type=int, help="samples per message")
    run.add_argument("--partitions", type=int, help="partitions of created topics; existing topics must have as many")
    run.add_argument("--readings-topic", metavar="NAME")
    run.add_argument("--events", action=argparse.BooleanOptionalAction, default=None, help="also send events")

    record = commands.add_parser("record", help="write a scenario without faults to a file, for training")
    record.add_argument("--out", type=Path, required=True, metavar="FILE", help=".parquet or .csv")
    for command, scenario in ((run, "demo"), (record, "quiet")):
        command.add_argument("--scenario", default=scenario, help=f"a name from `list`, or a TOML file ({scenario})")
        command.add_argument("--seed", type=int)
        command.add_argument("--devices", type=int)
        command.add_argument("--duration", type=_positive, metavar="S", help="event time in seconds")
        command.add_argument("--period-ms", type=int, help="time between two samples, milliseconds")
        command.add_argument("--start", help="RFC 3339 time of the first sample, `now` or `ending-now`")
    return parser


def _positive(text: str) -> float:
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError("expected a number above 0")
    return number


def _speed(text: str) -> float | str:
    return "max" if text == "max" else _positive(text)


def _scenario(options: argparse.Namespace) -> Scenario:
    return scenarios.load(options.scenario).changed(
        seed=options.seed,
        devices=options.devices,
        duration_s=options.duration,
        period_ms=options.period_ms,
        start=options.start,
    )


def _list(_: argparse.Namespace) -> int:
    for name in scenarios.names():
        scenario = scenarios.load(name)
        print(f"{name:10} {scenario.title}")
    return 0


def _record(options: argparse.Namespace) -> int:
    scenario = _scenario(options)
    start_ms = scenario.start_ms(time.time_ns() // 1_000_000, sending_s=0.0)
    rows = recorder.write_recording(scenario, start_ms, options.out)
    print(f"{options.out}: {rows} rows of {scenario.devices} pumps", file=sys.stderr)
    return 0


def _run(options: argparse.Namespace) -> int:
    scenario = _scenario(options).changed(
        speed=options.speed,
        format=options.format,
        samples=options.samples,
        partitions=options.partitions,
        readings_topic=options.readings_topic,
        events=options.events,
    )
    transport, topic = _target(options)
    try:
        if topic and options.readings_topic is None:
            scenario = scenario.changed(readings_topic=topic)
        producer.ensure_topics(transport, scenario, options.partitions)
        total = producer.message_count(scenario)
        sending_s = total / options.rate if options.rate else None
        start_ms = scenario.start_ms(time.time_ns() // 1_000_000, sending_s)
        progress = Progress(total, scenario, time.monotonic)
        producer.send(transport, _batches(scenario, start_ms, options.rate), progress.sent)
        progress.report(final=True)
    finally:
        transport.close()
    return 0


def _batches(scenario: Scenario, start_ms: int, rate: float | None) -> Iterator[list[producer.Message]]:
    messages = producer.simulate(scenario, start_ms)
    if rate is not None:
        return producer.paced(messages, lambda number, _: number / rate, time.monotonic, time.sleep)
    if scenario.speed == "max":
        return producer.unpaced(messages)
    per_ms = 1.0 / (1e3 * scenario.speed)
    return producer.paced(messages, lambda _, message: (message.at_ms - start_ms) * per_ms, time.monotonic, time.sleep)


def _target(options: argparse.Namespace) -> tuple[Transport, str | None]:
    """Return the log, and the readings topic of a stream file."""
    if options.config is not None:
        from stream_ad import config
        from stream_ad.assembly import open_transport

        settings = config.load(options.config)
        return open_transport(settings), settings.stream.readings_topic
    if options.local is not None:
        from stream_ad.io.local.log import LocalLog

        return LocalLog(options.local), None
    from stream_ad.io.kafka.log import KafkaLog

    return KafkaLog(options.kafka.split(",")), None


class Progress:
    """Reports a run's progress on stderr, about once per second.

    Args:
        total: expected number of reading messages.
        scenario: what runs.
        clock: monotonic seconds.
    """

    def __init__(self, total: int, scenario: Scenario, clock: Callable[[], float]) -> None:
        self._total = total
        self._topic = scenario.readings_topic
        self._clock = clock
        self._begin = self._reported = clock()
        self._readings = self._others = 0

    def sent(self, batch: list[producer.Message]) -> None:
        """Count a batch that was appended to the log."""
        readings = sum(message.topic == self._topic for message in batch)
        self._readings += readings
        self._others += len(batch) - readings
        if self._clock() - self._reported >= REPORT_S:
            self.report()

    def report(self, final: bool = False) -> None:
        """Write the progress line; on a terminal, it replaces the previous one."""
        self._reported = self._clock()
        elapsed = max(self._reported - self._begin, 1e-9)
        share = min(self._readings / self._total, 1.0)
        line = (
            f"sent {self._readings} messages with readings ({share:.0%}), {self._others} events and labels, "
            f"{(self._readings + self._others) / elapsed:.0f}/s"
        )
        inline = sys.stderr.isatty() and not final
        print(("\r" if sys.stderr.isatty() else "") + line, end="" if inline else "\n", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
