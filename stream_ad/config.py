"""Settings: one TOML file a stream, overlaid by the environment, frozen and checked.

`STREAM_AD__SECTION__KEY` in the environment replaces `key` in `[section]`. Relative paths count
from the folder of the file. Unknown keys are refused with their path.
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
"""Keys of `[transport]` that may stand in the environment, and not in the file."""
IN_CLIENT_OPTIONS = frozenset({"sasl_plain_password", "ssl_password"})
"""Client options that would put a secret into the file."""


class Section(BaseModel):
    """A frozen section that refuses unknown keys."""

    # Inputs stay out of errors: they may be secrets.
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class StreamSettings(Section):
    """`[stream]`: one input topic, one kind of device, one bundle."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$")]
    """Names the consumer groups, the checkpoints and the output topics."""
    readings_topic: Topic = "sensor.readings.v1"
    devices: str = "*"
    """A device's id or a shell pattern; other devices are skipped and counted."""
    other_devices: list[str] = []
    """Ids or shell patterns of devices of other streams in the topic: skipped, and not reported as unknown."""
    bundle: Path
    """The model's folder, or `pretrained:NAME` for one that ships with the package."""
    channels: dict[str, str] = {}
    """What devices send, each channel with its unit ("": not known). If given, a bundle that does not fit it is
    refused."""
    scores_topic: Topic = ""
    """Default: `sensor.scores.v1.<name>`, so that two streams never share a topic."""
    alerts_topic: Topic = "sensor.alerts.v1"
    dead_letters_topic: Topic = ""
    """Default: `<readings_topic>.dlq`."""
    journal_topic: Topic = ""
    """Default: `sensor.journal.v1.<name>`: what influenced results and is not input."""
    control_topic: Topic = "sensor.control.v1"
    """Where `stream-ad swap` writes; streams may share it."""

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
    """A process silent for longer loses its partitions; beyond any pause of a busy machine."""


class KafkaTransport(Section):
    """`[transport] kind = "kafka"`."""

    kind: Literal["kafka"]
    servers: Annotated[list[str], Field(min_length=1)]
    """`host:port` of one or more brokers."""
    session_timeout_s: PositiveFloat = 10.0
    """A member silent for longer loses its partitions."""
    transaction_timeout_s: PositiveFloat = 10.0
    """A killed scorer's open transaction holds readers back at most this long."""
    request_timeout_s: PositiveFloat = 15.0
    max_record_bytes: PositiveInt = 1_000_000
    """Largest record sent; at most the broker's `message.max.bytes`."""
    tls: bool = False
    """Encrypt, and check the brokers' certificates and host names."""
    ca_file: Path | None = None
    """PEM certificates of who may sign the brokers'; without it, those that the system trusts."""
    certificate_file: Path | None = None
    """PEM certificate that we show to the brokers (mutual TLS), with its chain."""
    key_file: Path | None = None
    """Its PEM key; without it, the key stands in `certificate_file`."""
    key_password_file: Path | None = None
    """One line: what opens the key."""
    key_password: Secret | None = None
    """From the environment only."""
    sasl_mechanism: Literal["SCRAM-SHA-512", "SCRAM-SHA-256", "PLAIN"] = "SCRAM-SHA-512"
    """How the password is shown; used with `username`."""
    username: Annotated[str, Field(min_length=1)] | None = None
    """With it, we log in."""
    password_file: Path | None = None
    """One line: the user's password."""
    password: Secret | None = None
    """From the environment only."""
    client_options: dict[str, str | int | float | bool] = {}
    """Handed to kafka-python as they are; for what the keys above do not say (for example Kerberos)."""

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
            yield "sasl_mechanism PLAIN sends the password as it is and needs tls = true"
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
                yield f"client_options.{name}: a secret does not belong into the file; use {key}_file"
            elif (self.tls or self.username) and name.startswith(("security_protocol", "ssl_", "sasl_")):
                yield f"client_options.{name}: expected either it or tls, username and the keys beside them"


class TimeSettings(Section):
    """`[time]`: event time against log time."""

    lateness_s: Annotated[float, Field(ge=0)] = 5.0
    """A reading older than its device's youngest by more is refused: late enough for retries of a gateway."""
    idle_close_s: PositiveFloat = 30.0
    """Log time after which a silent device's open windows close."""
    max_ahead_s: PositiveFloat = 60.0
    """A reading further ahead of log time is refused: a clock that is wrong."""
    evict_after_s: PositiveFloat = 86_400.0
    """Log time after which a silent device's state is dropped."""
    trust_producer_clocks: bool = False
    """Accept a topic without append times; log time is then what producers say."""

    @model_validator(mode="after")
    def _evict_last(self) -> TimeSettings:
        if self.evict_after_s < self.idle_close_s:
            raise ValueError("evict_after_s must be at least idle_close_s")
        return self


class FixedThreshold(Section):
    """`[threshold] kind = "fixed"`: one limit for all."""

    kind: Literal["fixed"]
    limit: float | None = None
    """In units of the score; without it, the calibration quantile times `factor`."""
    quantile: Share = 0.999
    factor: PositiveFloat = 1.0


class QuantileThreshold(Section):
    """`[threshold] kind = "quantile"`: sliding quantile of a device's quiet scores."""

    kind: Literal["quantile"] = "quantile"
    quantile: Share = 0.999
    memory_rows: Annotated[int, Field(ge=100, le=60_000)] = 5_000
    """Quiet rows after which an old score is forgotten; at least half of so many are remembered."""
    seed_rows: Annotated[int, Field(ge=0, le=60_000)] = 1_000
    """How many rows the bundle's calibration counts for at a device's start."""
    factor: PositiveFloat = 1.0
    """The limit is the quantile times this."""
    feedback: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Each incident lifts the limit by this share of the scores' spread, each quiet row lowers it
    by `1 - quantile` of that: keeps the rate of incidents near the budget."""


class SpotThreshold(Section):
    """`[threshold] kind = "spot"`: a generalised Pareto tail (Siffer et al., KDD 2017)."""

    kind: Literal["spot"]
    risk: Share = 1e-4
    """Probability that a quiet row exceeds the limit."""
    tail_share: Share = 0.02
    """Share of rows that count as tail."""
    peaks: Annotated[int, Field(ge=20, le=200)] = 100
    """Youngest excesses kept a device."""


class IncidentSettings(Section):
    """`[incident]`: when trouble opens and ends, in event time."""

    open_after_windows: PositiveInt = 1
    """Windows in a row over the limit that open an incident."""
    close_after_s: Annotated[float, Field(ge=0)] = 30.0
    """It ends after this long under the exit level."""
    exit_ratio: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Exit level: max(limit, this share of the incident's peak score). After-effects lie over
    the limit but far below the peak."""
    update_factor: Annotated[float, Field(gt=1)] = 2.0
    """An update is sent when the peak has grown by this factor since the last message."""
    relearn_after_s: Annotated[float, Field(ge=0)] = 0.0
    """The threshold learns the level of an incident that was judged for so long; 0: of none, since a fault that
    lasts would be learned. The incident stays open until the score is under its limit at opening."""
    sensor_windows: PositiveInt = 3
    """Windows in a row with a stuck or missing channel that open a sensor incident."""


class CommitSettings(Section):
    """`[commit]`: how often a scorer makes its results public."""

    every_s: PositiveFloat = 1.0
    max_rows: PositiveInt = 20_000
    deadline_s: PositiveFloat = 30.0
    """A commit that takes longer ends the process; it is restarted and recovers."""
    poll_records: PositiveInt = 2_000


class StoreSettings(Section):
    """`[store]`: folders."""

    scores: Path
    checkpoints: Path
    checkpoint_every_s: PositiveFloat = 10.0
    checkpoints_kept: Annotated[int, Field(ge=2)] = 3
    audit_every_s: PositiveFloat = 3_600.0
    """Of the checkpoints this far apart one stays for audits, which begin at a checkpoint."""
    audit_checkpoints_kept: Annotated[int, Field(ge=0)] = 24
    """How many of these stay."""
    warm_up_records: PositiveInt = 100_000
    """Input read again before the committed offset where no checkpoint can be used: some ten seconds' work."""
    part_max_age_s: PositiveFloat = 10.0
    """A Parquet part is closed when its first row is this old."""
    part_max_rows: PositiveInt = 1_000_000


class ServiceSettings(Section):
    """`[service]`: processes, probes, logs."""

    scorers: PositiveInt = 1
    instance: Annotated[str, Field(pattern=r"^[a-zA-Z0-9._-]{1,64}$")] = "a"
    """Name of this host's group of processes; unique among hosts that run the same stream."""
    http_host: str = "127.0.0.1"
    http_port: Annotated[int, Field(ge=0, le=65_000)] = 9_464
    """Archiver 0's; scorer k takes the (k+1)-th port above, archiver k the k-th below. 0 turns the pages off."""
    heartbeat_timeout_s: PositiveFloat = 60.0
    """A role whose loop does not move for longer is killed and restarted."""
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
    """`[roles.NAME]`: a role of another package, which checks its section (`stream_ad.role_table`). Not shown: it may
    hold secrets."""


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
        environment: where `STREAM_AD__SECTION__KEY` is looked up.

    Raises:
        ConfigError: no such file, no TOML, an unknown key (with its path) or a value out of range.
    """
    try:
        with path.open("rb") as file:
            data: dict[str, Any] = tomllib.load(file)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not TOML: {error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text: {error}") from error
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, tables of thousands of levels
        raise ConfigError(f"{path}: not TOML that can be read: {error}") from error
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
                f"{path}: transport.{key}: a secret does not belong into this file; name a file with {key}_file, "
                f"or set {PREFIX}TRANSPORT__{key.upper()} in the environment"
            )


def overlay(data: dict[str, Any], environment: Mapping[str, str]) -> None:
    """Put `STREAM_AD__SECTION__KEY` and `STREAM_AD__ROLES__NAME__KEY` over the file's values, in place.

    Servers are split at commas.

    Raises:
        ConfigError: a variable names no key, or its section is no table.
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
    """Check plain values.

    Raises:
        ConfigError: one line for each wrong key, with its path.
    """
    try:
        return Settings.model_validate(data)
    except ValidationError as error:
        # No cause: it holds the input, which a traceback or a debugger would show.
        raise ConfigError("\n".join(f"{origin}: {line}" for line in problems(error))) from None


def problems(error: ValidationError, section: str = "") -> Iterator[str]:
    """Yield one line per wrong key, with its path and without its value.

    Args:
        error: what pydantic found.
        section: path of the table that was checked, "" for all settings.
    """
    for problem in error.errors(include_url=False, include_input=False):
        where = ".".join(part for part in (section, *map(str, problem["loc"])) if part)
        yield f"{where}: {'unknown key' if problem['type'] == 'extra_forbidden' else problem['msg']}"
