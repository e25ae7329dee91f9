"""Settings to objects: the only place that wires."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import SecretStr

from stream_ad.config import KafkaTransport, Settings
from stream_ad.core.deciding import Deciding
from stream_ad.core.incidents import IncidentRules
from stream_ad.core.model import Model
from stream_ad.core.pipeline import PartitionPipeline, StepResult
from stream_ad.core.thresholds.base import Threshold
from stream_ad.core.thresholds.catalog import make_threshold
from stream_ad.errors import AccessError, BundleDigestError, ConfigError, TopicError
from stream_ad.fronts.table import front
from stream_ad.io.bundles import bundles
from stream_ad.io.kafka.security import Security, read_secret, readable_by_others
from stream_ad.io.state import journal
from stream_ad.io.transport import Partition, TopicInfo, Transport

LOCAL_MAX_RECORD_BYTES = 1_000_000
MIN_RECORD_BYTES = 100_000
"""A dead letter takes tens of kilobytes for keys, headers and its own facts."""


def open_transport(settings: Settings) -> Transport:
    """Open the log that the settings name.

    Raises:
        UnreachableError: the file cannot be opened, or no broker answers.
        AccessError: the broker refused us.
        ConfigError: a certificate or the file of a secret cannot be used, or kafka-python has another version that
            lacks what we need.
    """
    transport = settings.transport
    if isinstance(transport, KafkaTransport):
        from stream_ad.io.kafka.internals import expect_known_version  # only streams on Kafka load the client

        expect_known_version()
        from stream_ad.io.kafka.log import KafkaLog

        return KafkaLog(
            transport.servers,
            session_timeout_s=transport.session_timeout_s,
            transaction_timeout_s=transport.transaction_timeout_s,
            request_timeout_s=transport.request_timeout_s,
            commit_deadline_s=settings.commit.deadline_s,
            max_record_bytes=transport.max_record_bytes,
            security=kafka_security(transport),
            client_options=transport.client_options,
        )
    from stream_ad.io.local.log import LocalLog

    return LocalLog(transport.path, session_timeout_s=transport.session_timeout_s)


def kafka_security(transport: KafkaTransport) -> Security:
    """Return how to speak with the brokers, with the secrets read from their files.

    Raises:
        ConfigError: a file of a secret cannot be used.
    """
    return Security(
        tls=transport.tls,
        ca_file=transport.ca_file,
        certificate_file=transport.certificate_file,
        key_file=transport.key_file,
        key_password=_secret(transport.key_password, transport.key_password_file, "transport.key_password_file"),
        mechanism=transport.sasl_mechanism,
        username=transport.username,
        password=_secret(transport.password, transport.password_file, "transport.password_file"),
    )


def _secret(value: SecretStr | None, file: Path | None, setting: str) -> str | None:
    if value is not None:
        return value.get_secret_value()
    return None if file is None else read_secret(file, setting)


def exposed_secrets(settings: Settings) -> list[Path]:
    """Return the files with secrets that every user of this machine may read."""
    transport = settings.transport
    if not isinstance(transport, KafkaTransport):
        return []
    files = [transport.password_file, transport.key_password_file]
    if transport.certificate_file is not None:
        files.append(transport.key_file or transport.certificate_file)
    return [path for path in files if path is not None and readable_by_others(path)]


def ensure_topics(settings: Settings, transport: Transport) -> dict[str, TopicInfo]:
    """Check the readings topic and make the output topics that are missing.

    Scores and journal go to the same partition number as the readings they tell of, so these topics have as many;
    partitions that were added to the readings are added to them, where we may.
    Several streams may share the topics of alerts, dead letters and commands, whatever their numbers of partitions.

    Returns:
        what the log says of each topic, by name.

    Raises:
        TopicError: there is no readings topic, or scores or journal have more partitions.
        ConfigError: record times are producers' and the settings do not accept that.
        AccessError: we may not make a topic.
    """
    stream = settings.stream
    readings = transport.topic(stream.readings_topic)
    if not readings.append_time and not settings.time.trust_producer_clocks:
        raise ConfigError(
            f"{stream.readings_topic}: expected message.timestamp.type=LogAppendTime, found producers' times; "
            "set it on the topic, or accept the risk with time.trust_producer_clocks = true"
        )
    found = {
        name: _ensure_output(transport, stream.journal_topic, name, readings, made_with)
        for name, made_with in ((stream.scores_topic, None), (stream.journal_topic, journal.KEEP_FOR_EVER))
    }
    shared = {stream.alerts_topic: readings.partitions, stream.dead_letters_topic: readings.partitions}
    for name, partitions in (shared | {stream.control_topic: 1}).items():
        try:
            found[name] = transport.topic(name)
        except TopicError:
            found[name] = transport.ensure_topic(name, partitions)
    return found | {stream.readings_topic: readings}


def _ensure_output(
    transport: Transport, journal_topic: str, name: str, readings: TopicInfo, made_with: Mapping[str, str] | None
) -> TopicInfo:
    """Return a topic that is partitioned as the readings: made where it is missing, extended where it has fewer.

    It may still have fewer: where we may not add any.

    Raises:
        TopicError: it has more partitions than the readings, or fewer, and the readings were made anew.
        AccessError: it is missing, and we may not make it.
    """
    try:
        return transport.ensure_topic(name, readings.partitions, made_with)
    except TopicError as error:
        found = transport.topic(name)
        if found.partitions < readings.partitions and is_growth(transport, journal_topic, readings):
            return extended(transport, found, readings.partitions)
        raise TopicError(
            f"{error}, as many as {readings.name}: they cannot be changed once scores exist; a stream over a readings "
            "topic with another count needs a new stream.name"
        ) from error


def is_growth(transport: Transport, journal_topic: str, readings: TopicInfo) -> bool:
    """Return whether partitions were added to the readings; False where the topic was made anew with more."""
    try:
        count = transport.topic(journal_topic).partitions
    except TopicError:
        return True
    for number in range(count):
        for entry in journal.read(transport, Partition(journal_topic, number)):
            if isinstance(entry, journal.StartEntry) and entry.topic_id:
                return entry.topic_id == readings.topic_id
    return True


def extended(transport: Transport, topic: TopicInfo, partitions: int) -> TopicInfo:
    """Return a topic with partitions added, or as it is where we may not add any."""
    try:
        return transport.extend_topic(topic.name, partitions)
    except (AccessError, TopicError):
        return topic


def max_payload_bytes(settings: Settings, topics: Mapping[str, TopicInfo]) -> int:
    """Return the size of the largest payload that we send: a tenth is left for headers and the batch.

    Args:
        settings: of the stream.
        topics: what `ensure_topics` returned.

    Raises:
        ConfigError: an output topic takes only small records, so that a dead letter might not fit.
    """
    transport, stream = settings.transport, settings.stream
    sent = transport.max_record_bytes if isinstance(transport, KafkaTransport) else LOCAL_MAX_RECORD_BYTES
    limits = {"transport.max_record_bytes": sent}
    for name in (stream.scores_topic, stream.alerts_topic, stream.dead_letters_topic, stream.journal_topic):
        limits[name] = topics[name].max_record_bytes or sent
    least = min(limits, key=lambda name: limits[name])
    if limits[least] < MIN_RECORD_BYTES:
        raise ConfigError(f"{least}: expected room for records of {MIN_RECORD_BYTES} bytes, found {limits[least]}")
    return limits[least] * 9 // 10


def load_model(settings: Settings, bundle: Path | None = None) -> Model:
    """Load a bundle, run its probe and hold it against what the stream's devices are said to send.

    Args:
        settings: of the stream.
        bundle: its folder; None is the stream's.

    Raises:
        BundleError: it cannot be used; the class says why.
        ConfigError: the stream's front is not installed.
    """
    front(settings)
    model = bundles.load(bundle or settings.stream.bundle)
    if settings.stream.channels:
        bundles.check_fits(model, settings.stream.channels)
    return model


class Models:
    """The models of a stream, each loaded and probed once: the configured one, and those that swaps brought.

    Args:
        settings: of the stream.

    Raises:
        BundleError: the configured bundle cannot be used.
    """

    def __init__(self, settings: Settings) -> None:
        self.bundle = str(settings.stream.bundle)
        self.configured = load_model(settings)
        self._settings = settings
        self._loaded = {self.configured.model_id: self.configured}

    def get(self, bundle: str, model_id: str) -> Model:
        """Return a model by its digest.

        Args:
            bundle: folder where it was loaded from; read only if the model is not in memory.
            model_id: its digest.

        Raises:
            BundleError: it is not there any more, or another one is.
        """
        if model_id not in self._loaded:
            model = bundles.load(Path(bundle))
            if model.model_id != model_id:
                raise BundleDigestError(f"{bundle}: expected the bundle {model_id[:16]}, found {model.model_id[:16]}")
            self.add(model)
        return self._loaded[model_id]

    def load(self, bundle: str) -> Model:
        """Load another bundle for the stream; it is not kept before `add`, so any thread may do this.

        Raises:
            BundleError: it cannot be used; the class says why.
        """
        return load_model(self._settings, Path(bundle))

    def add(self, model: Model) -> None:
        """Keep a model that was loaded elsewhere."""
        self._loaded[model.model_id] = model


def build_pipeline(settings: Settings, model: Model) -> PartitionPipeline:
    """Return an empty pipe for one partition.

    Raises:
        ConfigError: the stream's front is not installed.
    """
    names = [channel.name for channel in model.channels]
    spec, incident = front(settings), settings.incident
    rows = spec.rules(settings, model)
    rules = IncidentRules(
        open_after_windows=incident.open_after_windows,
        close_after_ns=nanoseconds(incident.close_after_s),
        exit_ratio=incident.exit_ratio,
        update_factor=incident.update_factor,
        relearn_after_ns=nanoseconds(incident.relearn_after_s),
        sensor_windows=incident.sensor_windows,
        step_ns=rows.step_ns,
    )
    return PartitionPipeline(
        front=spec.build(settings, model),
        deciding=Deciding(
            settings.stream.name,
            names,
            model.smoothing,
            build_threshold(settings, model),
            rules,
            ends_rise=rows.ends_rise,
        ),
        evict_after_ns=nanoseconds(settings.time.evict_after_s),
    )


def build_threshold(settings: Settings, model: Model) -> Threshold:
    """Return a threshold without devices, seeded by the model's calibration."""
    chosen = settings.threshold.model_dump()
    return make_threshold(chosen.pop("kind"), model.calibration, chosen)


def swap_model(settings: Settings, pipeline: PartitionPipeline, model: Model, offset: int) -> StepResult:
    """Let a pipe score with another model that fits its front; see `PartitionPipeline.swap`."""
    reason = f"the bundle {model.name} took over; if the trouble goes on a new incident opens"
    return pipeline.swap(model, build_threshold(settings, model), offset, reason)


def nanoseconds(seconds: float) -> int:
    """Return a duration in nanoseconds."""
    return round(seconds * 1e9)
