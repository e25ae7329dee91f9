"""Settings: one TOML file per stream, overlaid by the environment, frozen and validated.

`STREAM_AD__SECTION__KEY` in the environment replaces `key` in `[section]`. Relative paths are
relative to the file's folder. Unknown keys are refused with their path.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    SecretStr,
    ValidationError,
    model_validator,
)

from stream_ad import pretrained
from stream_ad.errors import ConfigError

PREFIX = "STREAM_AD__"
TOPIC = re.compile(r"^[a-zA-Z0-9._-]{1,249}$")

Topic = Annotated[str, Field(pattern=TOPIC.pattern)]
Share = Annotated[float, Field(gt=0, lt=1)]
Secret = Annotated[SecretStr, Field(min_length=1)]

ENVIRONMENT_ONLY = ("password", "key_password")
"""Keys of `[transport]` that are allowed in the environment but not in the file."""
IN_CLIENT_OPTIONS = frozenset({"sasl_plain_password", "ssl_password"})
"""Client options that would put a secret in the file."""


class Section(BaseModel):
    """A frozen section that refuses unknown keys."""

    # Errors do not show input: it may be a secret.
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class StreamSettings(Section):
    """`[stream]`: one input topic, one kind of device, one bundle."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$")]
    """Used in the names of consumer groups, checkpoints and output topics."""
    front: str = "readings"
    """What turns records into scored rows: `readings` cuts windows; installed packages may add others."""
    readings_topic: Topic = "sensor.readings.v1"
    devices: str = "*"
    """A device id or a shell pattern; other devices are skipped and counted."""
    other_devices: list[str] = []
    """Ids or shell patterns of other streams' devices in the topic: skipped, and not reported as unknown."""
    bundle: Path
    """The model's folder, or `pretrained:NAME` for a bundle that ships with the package."""
    channels: dict[str, str] = {}
    """What devices send: each channel with its unit ("" if unknown). If given, a bundle that does not match is
    refused."""
    scores_topic: Topic = ""
    """Default: `sensor.scores.v1.<name>`. Two streams cannot share a scores topic."""
    alerts_topic: Topic = "sensor.alerts.v1"
    dead_letters_topic: Topic = ""
    """Default: `<readings_topic>.dlq`."""
    journal_topic: Topic = ""
    """Default: `sensor.journal.v1.<name>`. Records everything that influences results and is not input."""
    control_topic: Topic = "sensor.control.v1"
    """Topic that `stream-ad swap` writes to; streams may share it."""

    @model_validator(mode="before")
    @classmethod
    def _name_topics(cls, data: Any) -> Any:
        if isinstance(data, dict):
            data = dict(data)
            readings = data.get("readings_topic", "sensor.readings.v1")
            data.setdefault("scores_topic", f"sensor.scores.v1.{data.get('name', '')}")
            data.setdefault("dead_letters_topic", f"{readings}.dlq")
            data.setdefault("journal_topic", f"sensor.journal.v1.{data.get('name', '')}")
        return data


class LocalTransport(Section):
    """`[transport] kind = "local"`: a durable log in one SQLite file on this machine."""

    kind: Literal["local"] = "local"
    path: Path
    session_timeout_s: PositiveFloat = 10.0
    """A process that is silent for longer loses its partitions. Must exceed any pause of a busy machine."""


class KafkaTransport(Section):
    """`[transport] kind = "kafka"`."""

    kind: Literal["kafka"]
    servers: Annotated[list[str], Field(min_length=1)]
    """`host:port` of one or more brokers."""
    session_timeout_s: PositiveFloat = 10.0
    """A member that is silent for longer loses its partitions."""
    transaction_timeout_s: PositiveFloat = 10.0
    """The longest a killed scorer's open transaction blocks `read_committed` readers."""
    request_timeout_s: PositiveFloat = 15.0
    max_record_bytes: PositiveInt = 1_000_000
    """Largest record sent; at most the broker's `message.max.bytes`."""
    tls: bool = False
    """Encrypt connections and verify the brokers' certificates and host names."""
    ca_file: Path | None = None
    """PEM file of the authorities trusted to sign broker certificates; default: the system's."""
    certificate_file: Path | None = None
    """PEM client certificate for mutual TLS, with its chain."""
    key_file: Path | None = None
    """PEM key of the client certificate; default: the key is in `certificate_file`."""
    key_password_file: Path | None = None
    """File with one line: the passphrase of the key."""
    key_password: Secret | None = None
    """Passphrase of the key; from the environment only."""
    sasl_mechanism: Literal["SCRAM-SHA-512", "SCRAM-SHA-256", "PLAIN"] = "SCRAM-SHA-512"
    """SASL mechanism, used with `username`."""
    username: Annotated[str, Field(min_length=1)] | None = None
    """Enables SASL authentication."""
    password_file: Path | None = None
    """File with one line: the user's password."""
    password: Secret | None = None
    """The user's password; from the environment only."""
    client_options: dict[str, str | int | float | bool] = {}
    """Passed to kafka-python unchanged, for what the keys above do not cover (for example Kerberos)."""

    @model_validator(mode="after")
    def _check_security(self) -> KafkaTransport:
        for problem in self._conflicts():
            raise ValueError(problem)
        return self

    def _conflicts(self) -> Iterator[str]:
        yield from self._conflicts_of_files()
        has_password = self.password is not None or self.password_file is not None
        if has_password and self.username is None:
            yield "a password needs username"
        if self.username is not None and not has_password:
            yield f"username needs password_file, or {PREFIX}TRANSPORT__PASSWORD in the environment"
        if "sasl_mechanism" in self.model_fields_set and self.username is None:
            yield "sasl_mechanism needs username"
        if self.username is not None and self.sasl_mechanism == "PLAIN" and not self.tls:
            yield "sasl_mechanism PLAIN sends the password unencrypted and needs tls = true"
        yield from self._conflicts_of_options()

    def _conflicts_of_files(self) -> Iterator[str]:
        given = {key for key in type(self).model_fields if getattr(self, key) is not None}
        for key in ("ca_file", "certificate_file", "key_file", "key_password_file", "key_password"):
            if key in given and not self.tls:
                yield f"{key} needs tls = true"
        for key in ("key_file", "key_password_file", "key_password"):
            if key in given and "certificate_file" not in given:
                yield f"{key} needs certificate_file"
        for key in ENVIRONMENT_ONLY:
            if {key, f"{key}_file"} <= given:
                yield f"expected one of {key} (environment) and {key}_file, found both"

    def _conflicts_of_options(self) -> Iterator[str]:
        for name in sorted(self.client_options):
            if name in IN_CLIENT_OPTIONS:
                key = "password" if name.startswith("sasl") else "key_password"
                yield f"client_options.{name}: secrets are not allowed in the file; use {key}_file"
            elif (self.tls or self.username) and name.startswith(("security_protocol", "ssl_", "sasl_")):
                yield f"client_options.{name}: conflicts with tls or username; set security in one place only"


class TimeSettings(Section):
    """`[time]`: event time against log time."""

    lateness_s: Annotated[float, Field(ge=0)] = 5.0
    """A reading older than its device's newest by more is refused. Allows for a gateway's retries."""
    idle_close_s: PositiveFloat = 30.0
    """Log time after which a silent device's open windows close."""
    max_ahead_s: PositiveFloat = 60.0
    """A reading further ahead of log time is refused: its clock is wrong."""
    evict_after_s: PositiveFloat = 86_400.0
    """Log time after which a silent device's state is dropped."""
    trust_producer_clocks: bool = False
    """Accept a topic without append times. Log time is then the producers' time."""

    @model_validator(mode="after")
    def _evict_last(self) -> TimeSettings:
        if self.evict_after_s < self.idle_close_s:
            raise ValueError("evict_after_s must be at least idle_close_s")
        return self


class FixedThreshold(Section):
    """`[threshold] kind = "fixed"`: one limit for all devices."""

    kind: Literal["fixed"]
    limit: float | None = None
    """In units of the score. Default: the calibration quantile times `factor`."""
    quantile: Share = 0.999
    factor: PositiveFloat = 1.0


class QuantileThreshold(Section):
    """`[threshold] kind = "quantile"`: a sliding quantile of each device's quiet scores."""

    kind: Literal["quantile"] = "quantile"
    quantile: Share = 0.999
    memory_rows: Annotated[int, Field(ge=100, le=60_000)] = 5_000
    """Number of quiet rows after which an old score is forgotten; at least half as many are remembered."""
    seed_rows: Annotated[int, Field(ge=0, le=60_000)] = 1_000
    """Weight of the bundle's calibration when a device starts, in rows."""
    factor: PositiveFloat = 1.0
    """The limit is the quantile times this factor."""
    feedback: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Each incident raises the limit by this share of the scores' spread; each quiet row lowers it
    by `1 - quantile` of that. Keeps the incident rate near the budget."""


class SpotThreshold(Section):
    """`[threshold] kind = "spot"`: a generalised Pareto tail (Siffer et al., KDD 2017)."""

    kind: Literal["spot"]
    risk: Share = 1e-4
    """Probability that a quiet row exceeds the limit."""
    tail_share: Share = 0.02
    """Share of rows in the tail."""
    peaks: Annotated[int, Field(ge=20, le=200)] = 100
    """Number of most recent excesses kept per device."""


class IncidentSettings(Section):
    """`[incident]`: when an incident opens and ends, in event time."""

    open_after_windows: PositiveInt = 1
    """Consecutive windows over the limit that open an incident."""
    close_after_s: Annotated[float, Field(ge=0)] = 30.0
    """An incident ends after this long below the exit level."""
    exit_ratio: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Exit level: max(limit, this share of the incident's peak score). After-effects score above
    the limit but far below the peak."""
    update_factor: Annotated[float, Field(gt=1)] = 2.0
    """An update is sent when the peak has grown by this factor since the last message."""
    relearn_after_s: Annotated[float, Field(ge=0)] = 0.0
    """The threshold learns the level of an incident that has lasted this long. 0 disables this, since a permanent
    fault would be learned. The incident stays open until the score is below the limit it opened with."""
    sensor_windows: PositiveInt = 3
    """Consecutive windows with a stuck or missing channel that open a sensor incident."""


class CommitSettings(Section):
    """`[commit]`: how often a scorer publishes its results."""

    every_s: PositiveFloat = 1.0
    max_rows: PositiveInt = 20_000
    deadline_s: PositiveFloat = 30.0
    """A commit that takes longer ends the process, which is restarted and recovers."""
    poll_records: PositiveInt = 2_000


class StoreSettings(Section):
    """`[store]`: folders."""

    scores: Path
    checkpoints: Path
    checkpoint_every_s: PositiveFloat = 10.0
    checkpoints_kept: Annotated[int, Field(ge=2)] = 3
    audit_every_s: PositiveFloat = 3_600.0
    """One checkpoint per interval is kept for audits, which start at a checkpoint."""
    audit_checkpoints_kept: Annotated[int, Field(ge=0)] = 24
    """Number of audit checkpoints kept."""
    warm_up_records: PositiveInt = 100_000
    """Input reread before the committed offset when no checkpoint is usable; takes about ten seconds."""
    part_max_age_s: PositiveFloat = 10.0
    """A Parquet part is closed when its first row is this old."""
    part_max_rows: PositiveInt = 1_000_000


class ServiceSettings(Section):
    """`[service]`: processes, probes, logs."""

    scorers: PositiveInt = 1
    instance: Annotated[str, Field(pattern=r"^[a-zA-Z0-9._-]{1,64}$")] = "a"
    """Name of this host's processes; unique among hosts that run the same stream."""
    http_host: str = "127.0.0.1"
    http_port: Annotated[int, Field(ge=0, le=65_000)] = 9_464
    """Port of archiver 0. Scorer k uses the (k+1)-th port above, archiver k the k-th below. 0 disables the pages."""
    heartbeat_timeout_s: PositiveFloat = 60.0
    """A role whose loop makes no progress for longer is killed and restarted."""
    shutdown_timeout_s: PositiveFloat = 30.0
    log_level: Literal["debug", "info", "warning", "error"] = "info"


class Settings(Section):
    """All settings of a stream."""

    stream: StreamSettings
    transport: Annotated[LocalTransport | KafkaTransport, Field(discriminator="kind")]
    time: TimeSettings = TimeSettings()
    threshold: Annotated[FixedThreshold | QuantileThreshold | SpotThreshold, Field(discriminator="kind")] = (
        QuantileThreshold()
    )
    incident: IncidentSettings = IncidentSettings()
    commit: CommitSettings = CommitSettings()
    store: StoreSettings
    service: ServiceSettings = ServiceSettings()
    roles: Annotated[dict[str, dict[str, Any]], Field(repr=False)] = {}
    """`[roles.NAME]`: a role from another package, which validates its section (`stream_ad.role_table`). Not shown in
    `repr`: it may hold secrets."""


PATHS = (
    ("stream", "bundle"),
    ("transport", "path"),
    *(("transport", f"{what}_file") for what in ("ca", "certificate", "key", "key_password", "password")),
    ("store", "scores"),
    ("store", "checkpoints"),
)


def load(path: Path, environment: Mapping[str, str] = os.environ) -> Settings:
    """Read a stream's settings.

    Args:
        path: the TOML file.
        environment: source of `STREAM_AD__SECTION__KEY`.

    Raises:
        ConfigError: the file is missing or not TOML, a key is unknown (with its path) or a value is out of range.
    """
    try:
        with path.open("rb") as file:
            data: dict[str, Any] = tomllib.load(file)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text: {error}") from error
    except (ValueError, RecursionError) as error:  # numbers with thousands of digits, thousands of nested tables
        raise ConfigError(f"{path}: not valid TOML: {error}") from error
    _refuse_secrets(data, path)
    overlay(data, environment)
    for section, key in PATHS:
        value = data.get(section, {}).get(key) if isinstance(data.get(section), dict) else None
        if isinstance(value, str) and value.startswith(pretrained.PREFIX) and key == "bundle":
            data[section][key] = str(pretrained.path(value.removeprefix(pretrained.PREFIX)))
        elif isinstance(value, str):
            data[section][key] = str(path.parent.resolve() / Path(value).expanduser())
    return parse(data, str(path))


def _refuse_secrets(data: Mapping[str, Any], path: Path) -> None:
    transport = data.get("transport")
    for key in ENVIRONMENT_ONLY:
        if isinstance(transport, dict) and key in transport:
            raise ConfigError(
                f"{path}: transport.{key}: secrets are not allowed in this file; name a file with {key}_file, "
                f"or set {PREFIX}TRANSPORT__{key.upper()} in the environment"
            )


def overlay(data: dict[str, Any], environment: Mapping[str, str]) -> None:
    """Apply `STREAM_AD__SECTION__KEY` and `STREAM_AD__ROLES__NAME__KEY` to the file's values, in place.

    `servers` is split at commas.

    Raises:
        ConfigError: a variable names no key, or its section is not a table.
    """
    for name, text in sorted(environment.items()):
        if not name.startswith(PREFIX):
            continue
        section, _, key = name[len(PREFIX) :].lower().partition("__")
        path = [section]
        if section == "roles":
            role, _, key = key.partition("__")
            path.append(role)
        if not key:
            raise ConfigError(f"{name}: expected {PREFIX}{'ROLES__NAME' if section == 'roles' else 'SECTION'}__KEY")
        table = data
        for depth, part in enumerate(path, 1):
            table = table.setdefault(part, {})
            if not isinstance(table, dict):
                raise ConfigError(f"{'.'.join(path[:depth])}: expected a table")
        table[key] = text.split(",") if key == "servers" else text


def parse(data: Mapping[str, Any], origin: str = "settings") -> Settings:
    """Validate plain values.

    Raises:
        ConfigError: one line per wrong key, with its path.
    """
    try:
        return Settings.model_validate(data)
    except ValidationError as error:
        # No cause: it contains the input, which a traceback or a debugger would show.
        raise ConfigError("\n".join(f"{origin}: {line}" for line in problems(error))) from None


def problems(error: ValidationError, section: str = "") -> Iterator[str]:
    """Yield one line per wrong key, with its path but without its value.

    Args:
        error: pydantic's error.
        section: path of the validated table, "" for all settings.
    """
    for problem in error.errors(include_url=False, include_input=False):
        where = ".".join(part for part in (section, *map(str, problem["loc"])) if part)
        yield f"{where}: {'unknown key' if problem['type'] == 'extra_forbidden' else problem['msg']}"
