"""The checks of `stream-ad check`: everything that a run needs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from stream_ad.assembly import exposed_secrets, load_model, open_transport
from stream_ad.config import KafkaTransport, LocalTransport, Settings, load
from stream_ad.errors import ConfigError, RightsError, StreamAdError, TopicError
from stream_ad.inspection.finding import Finding
from stream_ad.inspection.formatting import count_text
from stream_ad.inspection.host import describe_folder, describe_ports, folders
from stream_ad.inspection.intake import FAIL, intake_lines, read_intake, split_lines, unscored_lines
from stream_ad.inspection.newest_readings import check_readings
from stream_ad.inspection.topics import check_topics
from stream_ad.io.transport import Partition, Transport
from stream_ad.replaying.standing import RESTORE_HINT, partitions_of, position_fault
from stream_ad.role_table import deciding_group, needed, roles
from stream_ad.service.roles.catalog import builder


def findings(config: Path, create: bool = False, partitions: int | None = None) -> Iterator[Finding]:
    """Yield the findings, in the order in which a run needs what they check.

    Args:
        config: the settings file.
        create: create missing topics.
        partitions: partitions of topics created; None for as many as the readings topic has.
    """
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
    """Check that the log answers, then check its topics."""
    local = settings.transport if isinstance(settings.transport, LocalTransport) else None
    where = f"local log {local.path}" if local else f"kafka at {','.join(settings.transport.servers)}"  # type: ignore[union-attr]
    if local and not local.path.exists() and not create:
        yield Finding("log", True, f"{where}: does not exist yet; created with its first topic")
        yield Finding("topics", False, "none yet: create them with `stream-ad check --create`")
        return
    try:
        with contextlib.closing(open_transport(settings)) as transport:
            with contextlib.suppress(TopicError, RightsError):  # the log has answered
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
    """Report files with secrets that all users of this machine can read; yields nothing if there are none."""
    if exposed := exposed_secrets(settings):
        yield Finding("secrets", True, "\n".join(f"{path}: readable by all users; chmod 600 it" for path in exposed))


def check_roles(settings: Settings) -> Iterator[Finding]:
    """Check and import other packages' roles; yields nothing if the settings name none."""
    lines = []
    try:
        for spec in roles(settings):
            if spec.name in settings.roles:
                builder(spec)
                address = spec.address(settings, 0)
                where = "pages disabled" if address is None else f"pages at {address[0]}:{address[1]}"
                lines.append(f"{spec.name}: {spec.module}, processes: {spec.count(settings)}, {where}")
    except ConfigError as error:
        yield Finding("roles", False, str(error))
    else:
        if lines:
            yield Finding("roles", True, "\n".join(lines))


def check_rights(transport: Transport, settings: Settings) -> Iterator[Finding]:
    """Compare the rights granted on Kafka with those that the roles need."""
    if not isinstance(settings.transport, KafkaTransport):
        return
    from stream_ad.io.kafka.log import KafkaLog
    from stream_ad.io.kafka.rights import lacking

    if isinstance(transport, KafkaLog):
        lacks = list(lacking(needed(settings), transport.allowed))
        names = [spec.name for spec in roles(settings)]
        everything = f"all that {', '.join(names[:-1])} and {names[-1]} need"
        yield Finding("rights", not lacks, "\n".join(lacks) or everything)


def check_positions(transport: Transport, settings: Settings) -> Iterator[Finding]:
    """Report committed offsets that no scorer committed; yields nothing if there are none."""
    wrong = []
    topic = settings.stream.readings_topic
    try:
        for number in range(partitions_of(transport, topic)):
            partition = Partition(topic, number)
            position = transport.committed(deciding_group(settings), partition)
            if fault := position_fault(settings, transport, partition, position):
                wrong.append(f"partition {number}: {fault}; {RESTORE_HINT}")
    except RightsError:
        return  # reported by another check
    if wrong:
        yield Finding("offsets", False, "\n".join(wrong))


def check_intake(transport: Transport, settings: Settings) -> Iterator[Finding]:
    """Report the newest input that scorers could not use; yields nothing before the first score."""
    try:
        found = read_intake(settings, transport)
    except (TopicError, RightsError):
        return  # reported by another check
    if found.until_ns is None:
        return
    shares = list(intake_lines(found))
    quiet = f"{found.readings:,} readings in the newest {found.minutes} min of log time, nearly all of them usable"
    text = "\n".join(line for _, line in shares) or quiet
    yield Finding("intake", not any(share > FAIL for share, _ in shares), text, bool(shares))
    for what, some in (("unscored", list(unscored_lines(found))), ("split", list(split_lines(found)))):
        if some:
            yield Finding(what, True, "\n".join(some), True)


def describe_bundle(settings: Settings) -> str:
    """Load and probe the bundle; return a one-line description.

    Raises:
        BundleError: it cannot be used.
    """
    model = load_model(settings)
    window = model.window
    return (
        f"{model.name} ({model.model_id[:12]}): {model.kind}, {count_text(len(model.channels), 'channel')}, "
        f"window {window.samples} x {window.period_ns / 1e9:g} s, stride {window.stride}; probe scores match"
    )
