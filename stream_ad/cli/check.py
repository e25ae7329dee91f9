"""`stream-ad check`: is everything in place? One line for each thing that a run needs."""

from __future__ import annotations

import argparse
import contextlib
import os
import socket
import tempfile
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from stream_ad.cli.output import console, print_json
from stream_ad.errors import BundleError, ConfigError, RightsError, StreamAdError, TopicError

if TYPE_CHECKING:
    from stream_ad.config import Settings
    from stream_ad.io.transport import RawBatch, TopicInfo, Transport

PARTITIONS = 4
"""For topics that are made here: a few, so that scorers can be added later."""
NO_VALUE = "no value of"
NEWEST = 200
"""Records whose channels are compared with the bundle's."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the answer."""

    what: str
    good: bool
    text: str
    warns: bool = False

    @property
    def level(self) -> str:
        """`ok`, `warn` or `fail`; only the last one is a failure of the check."""
        return "fail" if not self.good else "warn" if self.warns else "ok"


STYLES = {"ok": ("ok  ", "green"), "warn": ("WARN", "bold yellow"), "fail": ("FAIL", "bold red")}


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb."""
    parser = subparsers.add_parser(
        "check",
        help="check settings, log, topics, bundle, folders and ports",
        description="Say, a line each, whether what a run needs is in place. Exits with 1 if anything is not.",
    )
    parser.add_argument(
        "--create", action="store_true", help="make the topics that are missing, add partitions that are"
    )
    parser.add_argument(
        "--partitions", type=int, metavar="N", help=f"partitions of the topics made ({PARTITIONS}, or as the readings)"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object a line")


def run(args: argparse.Namespace) -> int:
    """Check everything; return 0 if all is well, else 1."""
    out = console()
    good = True
    for finding in findings(args.config, args.create, args.partitions):
        good = good and finding.good
        if args.json:
            print_json({"check": finding.what, "ok": finding.good, "level": finding.level, "text": finding.text})
            continue
        mark, style = STYLES[finding.level]
        first, *more = finding.text.splitlines()
        out.print(f"[{style}]{mark}[/]", f"{finding.what:<9}", end=" ")
        out.print(first, markup=False)
        for line in more:
            out.print(" " * 14, line, markup=False)
    return 0 if good else 1


def findings(config: Path, create: bool = False, partitions: int | None = None) -> Iterator[Finding]:
    """Yield what was found, in the order in which a run needs it.

    Args:
        config: the settings' file.
        create: make missing topics.
        partitions: for the topics made; None is as many as the readings topic has.
    """
    from stream_ad.config import load

    try:
        settings = load(config)
    except ConfigError as error:
        yield Finding("config", False, str(error))
        return
    yield Finding("config", True, f"{config}: stream {settings.stream.name!r}, instance {settings.service.instance!r}")
    for finding in check_roles(settings):
        yield finding
        if not finding.good:
            return
    yield from check_secrets(settings)
    yield from check_log(settings, create, partitions)
    yield _guarded("bundle", lambda: describe_bundle(settings))
    yield _guarded("folders", lambda: "\n".join(describe_folder(folder) for folder in folders(settings)))
    yield _guarded("ports", lambda: describe_ports(settings))


def _guarded(what: str, describe: Callable[[], str]) -> Finding:
    try:
        return Finding(what, True, describe())
    except StreamAdError as error:
        return Finding(what, False, str(error) or type(error).__name__)


def check_log(settings: Settings, create: bool, partitions: int | None) -> Iterator[Finding]:
    """Check that the log answers, then its topics."""
    from stream_ad.assembly import open_transport
    from stream_ad.config import LocalTransport

    local = settings.transport if isinstance(settings.transport, LocalTransport) else None
    where = f"local log {local.path}" if local else f"kafka at {','.join(settings.transport.servers)}"  # type: ignore[union-attr]
    if local and not local.path.exists() and not create:
        yield Finding("log", True, f"{where}: not there yet; made with its first topic")
        yield Finding("topics", False, "none yet: make them with `stream-ad check --create`")
        return
    try:
        with contextlib.closing(open_transport(settings)) as transport:
            with contextlib.suppress(TopicError, RightsError):  # it has answered
                transport.topic(settings.stream.readings_topic)
            yield Finding("log", True, where)
            yield from check_topics(transport, settings, create, partitions)
            yield from check_positions(transport, settings)
            yield from check_rights(transport, settings)
            yield from check_readings(transport, settings)
            yield from check_intake(transport, settings)
    except StreamAdError as error:
        yield Finding("log", False, f"{where}: {error}")


def check_secrets(settings: Settings) -> Iterator[Finding]:
    """Say which files with secrets every user of this machine may read; nothing where there are none."""
    from stream_ad.assembly import exposed_secrets

    if exposed := exposed_secrets(settings):
        yield Finding("secrets", True, "\n".join(f"{path}: every user may read it; chmod 600 it" for path in exposed))


def check_roles(settings: Settings) -> Iterator[Finding]:
    """Check the roles of other packages that the settings name, and import them; nothing where there are none."""
    from stream_ad.role_table import roles
    from stream_ad.service.roles.catalog import builder

    lines = []
    try:
        for spec in roles(settings):
            if spec.name in settings.roles:
                builder(spec)
                address = spec.address(settings, 0)
                where = "pages off" if address is None else f"pages at {address[0]}:{address[1]}"
                lines.append(f"{spec.name}: {spec.module}, processes: {spec.count(settings)}, {where}")
    except ConfigError as error:
        yield Finding("roles", False, str(error))
    else:
        if lines:
            yield Finding("roles", True, "\n".join(lines))


def check_rights(transport: Transport, settings: Settings) -> Iterator[Finding]:
    """Compare what we may do on Kafka with what the roles need."""
    from stream_ad.config import KafkaTransport

    if not isinstance(settings.transport, KafkaTransport):
        return
    from stream_ad.io.kafka.log import KafkaLog
    from stream_ad.io.kafka.rights import lacking
    from stream_ad.role_table import needed, roles

    if isinstance(transport, KafkaLog):
        lacks = list(lacking(needed(settings), transport.allowed))
        names = [spec.name for spec in roles(settings)]
        everything = f"all that {', '.join(names[:-1])} and {names[-1]} need"
        yield Finding("rights", not lacks, "\n".join(lacks) or everything)


def check_topics(transport: Transport, settings: Settings, create: bool, partitions: int | None) -> Iterator[Finding]:
    """Check the topics: there, times by the log, scores and journal partitioned as the readings, sizes."""
    from stream_ad.assembly import is_growth
    from stream_ad.io.state.journal import KEEP_FOR_EVER

    stream = settings.stream
    try:
        readings = find_topic(transport, stream.readings_topic, create, partitions or PARTITIONS)
        create_more = create and is_growth(transport, stream.journal_topic, readings)
        scores = find_output(transport, stream.scores_topic, create, create_more, readings)
        journal = find_output(transport, stream.journal_topic, create, create_more, readings, KEEP_FOR_EVER)
        others = [
            find_topic(transport, name, create, partitions or readings.partitions)
            for name in (stream.alerts_topic, stream.dead_letters_topic)
        ]
        control = find_topic(transport, stream.control_topic, create, 1)
    except (TopicError, RightsError) as error:
        yield Finding("topics", False, str(error))
        return
    wrong = list(topic_faults(settings, readings, scores, journal, others))
    good = (
        f"{readings.name}: {_count(readings.partitions, 'partition')}, append times; {scores.name}, {journal.name}: "
        f"the same; {'; '.join(other.name for other in (*others, control))}"
    )
    if not wrong and not readings.append_time:
        good = good.replace("append times", "producers' times, trusted")
    yield Finding("topics", not wrong, "\n".join(wrong) or good)


def check_positions(transport: Transport, settings: Settings) -> Iterator[Finding]:
    """Say where the scorer's group stands at offsets that no scorer committed; nothing where all are right."""
    from stream_ad.io.transport import Partition
    from stream_ad.replaying.standing import VERB, partitions_of, position_fault
    from stream_ad.role_table import deciding_group

    wrong = []
    topic = settings.stream.readings_topic
    try:
        for number in range(partitions_of(transport, topic)):
            partition = Partition(topic, number)
            position = transport.committed(deciding_group(settings), partition)
            if fault := position_fault(settings, transport, partition, position):
                wrong.append(f"partition {number}: {fault}; {VERB}")
    except RightsError:
        return  # another line tells
    if wrong:
        yield Finding("offsets", False, "\n".join(wrong))


def check_readings(transport: Transport, settings: Settings) -> Iterator[Finding]:
    """Compare the newest readings with the bundle's channels; says nothing where one of them is not there."""
    from stream_ad.io.bundles.manifest import read_manifest

    try:
        manifest = read_manifest(settings.stream.bundle)
        newest = newest_records(transport, settings.stream.readings_topic, NEWEST)
    except (TopicError, RightsError, BundleError):
        return  # another line tells
    if not newest:
        yield Finding("readings", True, "none yet")
        return
    fault, text = describe_readings(settings, [channel.name for channel in manifest.channels], newest)
    yield Finding("readings", not fault, text, warns=NO_VALUE in text)


def check_intake(transport: Transport, settings: Settings) -> Iterator[Finding]:
    """Say what of the newest input the scorers could not use; nothing where none was scored yet."""
    from stream_ad.cli.status_intake import FAIL, intake_lines, look_at, split_lines, unscored_lines

    try:
        found = look_at(settings, transport)
    except (TopicError, RightsError):
        return  # another line tells
    if found.until_ns is None:
        return
    shares = list(intake_lines(found))
    quiet = f"{found.readings:,} readings in the newest {found.minutes} min of log time, nearly all of them usable"
    text = "\n".join(line for _, line in shares) or quiet
    yield Finding("intake", not any(share > FAIL for share, _ in shares), text, bool(shares))
    for what, some in (("unscored", list(unscored_lines(found))), ("split", list(split_lines(found)))):
        if some:
            yield Finding(what, True, "\n".join(some), True)


def newest_records(transport: Transport, topic: str, count: int) -> list[RawBatch]:
    """Return about the newest `count` records of a topic.

    Raises:
        TopicError: there is no such topic.
    """
    from stream_ad.io.transport import Partition

    found: list[RawBatch] = []
    partitions = transport.topic(topic).partitions
    for number in range(partitions):
        partition = Partition(topic, number)
        earliest, end = transport.bounds(partition)
        start = max(earliest, end - -(-count // partitions))
        found += [batch for batch in transport.read(partition, start, end) if len(batch)]
    return found


def describe_readings(settings: Settings, channels: list[str], newest: list[RawBatch]) -> tuple[bool, str]:
    """Return whether nothing of some records can be scored, and a line about them."""
    import numpy as np

    from stream_ad.io.wire.readings import Decoder

    decoder = Decoder(channels, settings.stream.devices)
    decoded = [decoder.decode(raw) for raw in newest]
    records = sum(map(len, newest))
    others = sum(one.unknown_devices for one in decoded)
    refused = [letter for one in decoded for letter in one.refused]
    seen = np.any([np.isfinite(one.readings.values).any(axis=0) for one in decoded], axis=0)
    start = f"the newest {_count(records, 'record')} of {settings.stream.readings_topic}"
    if others == records:
        return True, f"{start} are all of devices that stream.devices = {settings.stream.devices!r} leaves out"
    if others + len(refused) == records:
        return True, f"{start} cannot be read; the last: {refused[-1].detail}"
    if not seen.any():
        found = sorted({name for raw in newest for name in channel_names(raw)})
        return True, f"{start} have no channel of the bundle: expected {', '.join(channels)}, found {', '.join(found)}"
    absent = [name for name, has in zip(channels, seen.tolist(), strict=True) if not has]
    notes = [f"{NO_VALUE} {', '.join(absent)}"] if absent else ["all channels of the bundle"]
    notes += [f"{_count(len(refused), 'record')} refused: {refused[-1].detail}"] if refused else []
    notes += [f"{others} of other devices"] if others else []
    return False, f"{start}: {'; '.join(notes)}"


def channel_names(raw: RawBatch) -> Iterator[str]:
    """Yield the names of channels in some records; what cannot be read has none."""
    import orjson
    import pyarrow as pa

    from stream_ad.io.wire.encode import ARROW
    from stream_ad.io.wire.readings import content_type

    for value, headers in zip(raw.values, raw.headers, strict=True):
        with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError, OSError):
            if content_type(headers) == ARROW:
                with pa.ipc.open_stream(value) as reader:
                    yield from (name for name in reader.schema.names if name not in ("device", "ts"))
            else:
                yield from orjson.loads(value)["values"].keys()


def find_topic(
    transport: Transport, name: str, create: bool, partitions: int, made_with: Mapping[str, str] | None = None
) -> TopicInfo:
    """Return a topic, made where it is missing and wanted.

    Raises:
        TopicError: it is missing, or cannot be made.
    """
    try:
        return transport.topic(name)
    except TopicError as error:
        if not create:
            raise TopicError(f"{error}; make it with `stream-ad check --create`") from error
        return transport.ensure_topic(name, partitions, made_with)


def find_output(
    transport: Transport,
    name: str,
    create: bool,
    extend: bool,
    readings: TopicInfo,
    made_with: Mapping[str, str] | None = None,
) -> TopicInfo:
    """Return a topic that has to be partitioned as the readings: made or extended where wanted.

    Raises:
        TopicError: it is missing, or cannot be made or extended.
        RightsError: we may not.
    """
    found = find_topic(transport, name, create, readings.partitions, made_with)
    if extend and found.partitions < readings.partitions:
        return transport.extend_topic(name, readings.partitions)
    return found


def topic_faults(
    settings: Settings, readings: TopicInfo, scores: TopicInfo, journal: TopicInfo, others: list[TopicInfo]
) -> Iterator[str]:
    """Yield what a run would refuse."""
    from stream_ad.config import KafkaTransport

    if not readings.append_time and not settings.time.trust_producer_clocks:
        yield (
            f"{readings.name} has producers' times; set message.timestamp.type=LogAppendTime "
            "or time.trust_producer_clocks = true"
        )
    for topic in (scores, journal):
        if topic.partitions < readings.partitions:
            added = ", ".join(map(str, range(topic.partitions, readings.partitions)))
            yield (
                f"{topic.name} has {_count(topic.partitions, 'partition')}, {readings.name} has "
                f"{readings.partitions}: partition {added} of the readings is not scored; `stream-ad check --create` "
                "adds partitions, and running scorers then take them"
            )
        elif topic.partitions > readings.partitions:
            yield (
                f"{topic.name} has {_count(topic.partitions, 'partition')}, {readings.name} has "
                f"{readings.partitions}: they must be equal, and cannot be changed once scores exist"
            )
    if isinstance(settings.transport, KafkaTransport):
        ours = settings.transport.max_record_bytes
        for topic in (scores, journal, *others):
            if topic.max_record_bytes is not None and topic.max_record_bytes < ours:
                yield (
                    f"{topic.name} takes records of {topic.max_record_bytes} bytes, transport.max_record_bytes is "
                    f"{ours}: lower it, or raise the topic's max.message.bytes"
                )


def describe_bundle(settings: Settings) -> str:
    """Load and probe the bundle; return a line about it.

    Raises:
        BundleError: it cannot be used.
    """
    from stream_ad.assembly import load_model

    model = load_model(settings)
    window = model.window
    return (
        f"{model.name} ({model.model_id[:12]}): {model.kind}, {_count(len(model.channels), 'channel')}, "
        f"window {window.samples} x {window.period_ns / 1e9:g} s, stride {window.stride}; the probe agrees"
    )


def folders(settings: Settings) -> tuple[Path, Path]:
    """Return the folders that a run writes to."""
    return settings.store.scores, settings.store.checkpoints


def describe_folder(folder: Path) -> str:
    """Write, sync, link and remove a file there, or where the folder will be made.

    Raises:
        ConfigError: one of these does not work.
    """
    place = folder
    while not place.exists() and place != place.parent:
        place = place.parent
    try:
        with tempfile.TemporaryDirectory(prefix=".stream-ad-check-", dir=place) as aside:
            path = Path(aside) / "a"
            with path.open("wb") as file:
                file.write(b"check")
                os.fsync(file.fileno())
            os.link(path, Path(aside) / "b")
        status = os.statvfs(place)
    except OSError as error:
        raise ConfigError(f"{folder}: cannot write and link files there: {error.strerror or error}") from error
    free_gb = status.f_bavail * status.f_frsize / 1e9
    return f"{folder}: {'writable' if place == folder else 'can be made'}, {free_gb:.0f} GB free"


def describe_ports(settings: Settings) -> str:
    """Try the ports of the pages.

    Raises:
        ConfigError: another program than this stream holds one.
    """
    from stream_ad.role_table import processes

    addresses = sorted({address for spec, index in processes(settings) if (address := spec.address(settings, index))})
    if not addresses:
        return "pages are turned off (service.http_port = 0)"
    running = [f"{host}:{port}" for host, port in addresses if not port_free(host, port, settings.stream.name)]
    spans = f"{addresses[0][0]}:{', '.join(_spans([port for _, port in addresses]))}"
    return f"{spans} " + (f"(in use by this stream, which is running: {', '.join(running)})" if running else "free")


def _spans(numbers: list[int]) -> Iterator[str]:
    """Yield ascending numbers as text, those that follow one another as a span."""
    firsts = [number for number in numbers if number - 1 not in numbers]
    lasts = [number for number in numbers if number + 1 not in numbers]
    for first, last in zip(firsts, lasts, strict=True):
        yield str(first) if first == last else f"{first}–{last}"


def port_free(host: str, port: int, stream: str) -> bool:
    """Return whether a port is free; False if this stream holds it.

    Raises:
        ConfigError: another program holds it, or there is no such address.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        if _serves(host, port, stream):
            return False
        raise ConfigError(
            f"service.http_port: cannot listen on {host}:{port}: {error.strerror or error}; choose another http_port"
        ) from error
    return True


def _serves(host: str, port: int, stream: str) -> bool:
    """Return whether the page of metrics there is this stream's."""
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}/metrics"
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return f'stream="{stream}"' in answer.read(1_000_000).decode(errors="replace")
    except (OSError, ValueError):
        return False


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")
