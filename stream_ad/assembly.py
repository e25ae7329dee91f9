"""Settings to objects: the only module that constructs and connects them."""

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
"""A dead letter needs tens of kilobytes for keys, headers and its own facts."""


def open_transport(settings: Settings) -> Transport:
    """Open the configured log.

    Raises:
        UnreachableError: the file cannot be opened, or no broker answers.
        AccessError: the broker refused us.
        ConfigError: a certificate or secret file is unusable, or the installed kafka-python lacks something that this
            package needs.
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
    """Return TLS and SASL settings, with the secrets read from their files.

    Raises:
        ConfigError: a secret file is unusable.
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
    """Return the files with secrets that all users of this machine can read."""
    transport = settings.transport
    if not isinstance(transport, KafkaTransport):
        return []
    files = [transport.password_file, transport.key_password_file]
    if transport.certificate_file is not None:
        files.append(transport.key_file or transport.certificate_file)
    return [path for path in files if path is not None and readable_by_others(path)]


def ensure_topics(settings: Settings, transport: Transport) -> dict[str, TopicInfo]:
    """Check the readings topic and create missing output topics.

    Scores and journal use the partition number of their readings, so these topics have as many partitions; partitions
    added to the readings topic are added to them if allowed. Several streams may share the alerts, dead-letter and
    control topics, whatever their partition counts.

    Returns:
        description of each topic, by name.

    Raises:
        TopicError: the readings topic is missing, or the scores or journal topic has more partitions.
        ConfigError: record times are the producers' and the settings do not accept that.
        AccessError: creating a topic is not allowed.
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
    """Return a topic with as many partitions as the readings: created if missing, extended if it has fewer.

    It may still have fewer if adding partitions is not allowed.

    Raises:
        TopicError: it has more partitions than the readings, or fewer after the readings topic was recreated.
        AccessError: it is missing and creating it is not allowed.
    """
    try:
        return transport.ensure_topic(name, readings.partitions, made_with)
    except TopicError as error:
        found = transport.topic(name)
        if found.partitions < readings.partitions and is_growth(transport, journal_topic, readings):
            return extended(transport, found, readings.partitions)
        raise TopicError(
            f"{error}; the count must equal that of {readings.name} and cannot be changed once scores exist: set "
            "another stream.name for a readings topic with another count"
        ) from error


def is_growth(transport: Transport, journal_topic: str, readings: TopicInfo) -> bool:
    """Return whether partitions were added to the readings topic; False if it was recreated with more."""
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
    """Return a topic with partitions added, or unchanged if adding them is not allowed."""
    try:
        return transport.extend_topic(topic.name, partitions)
    except (AccessError, TopicError):
        return topic


def max_payload_bytes(settings: Settings, topics: Mapping[str, TopicInfo]) -> int:
    """Return the maximum payload size; a tenth is reserved for headers and the batch.

    Args:
        settings: the stream's settings.
        topics: from `ensure_topics`.

    Raises:
        ConfigError: an output topic's limit is too small for a dead letter.
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
    """Load a bundle, run its probe and check it against `stream.channels`.

    Args:
        settings: the stream's settings.
        bundle: its folder; None for the configured one.

    Raises:
        BundleError: it cannot be used; the subclass gives the reason.
        ConfigError: the stream's front is not installed.
    """
    front(settings)
    model = bundles.load(bundle or settings.stream.bundle)
    if settings.stream.channels:
        bundles.check_fits(model, settings.stream.channels)
    return model


class Models:
    """A stream's models, each loaded and probed once: the configured one, and those of swaps.

    Args:
        settings: the stream's settings.

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
            BundleError: it no longer exists, or the folder has another one.
        """
        if model_id not in self._loaded:
            model = bundles.load(Path(bundle))
            if model.model_id != model_id:
                raise BundleDigestError(f"{bundle}: expected bundle {model_id[:16]}, found {model.model_id[:16]}")
            self.add(model)
        return self._loaded[model_id]

    def load(self, bundle: str) -> Model:
        """Load another bundle for the stream without keeping it (see `add`), so any thread may call this.

        Raises:
            BundleError: it cannot be used; the subclass gives the reason.
        """
        return load_model(self._settings, Path(bundle))

    def add(self, model: Model) -> None:
        """Keep a model that was loaded elsewhere."""
        self._loaded[model.model_id] = model


def build_pipeline(settings: Settings, model: Model) -> PartitionPipeline:
    """Return an empty pipeline for one partition.

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
    """Switch a pipeline to another model that fits its front; see `PartitionPipeline.swap`."""
    reason = f"the bundle {model.name} took over; if the trouble continues, a new incident opens"
    return pipeline.swap(model, build_threshold(settings, model), offset, reason)


def nanoseconds(seconds: float) -> int:
    """Return a duration in nanoseconds."""
    return round(seconds * 1e9)
