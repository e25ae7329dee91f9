"""A stream for Python programs: scores, alerts, status. Returned by `stream_ad.open_stream`."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from stream_ad.config import Settings, load
from stream_ad.core.batches import Alert
from stream_ad.errors import ConfigError
from stream_ad.inspection import alerts as published_alerts
from stream_ad.inspection.facts import Status
from stream_ad.inspection.judging import Limits, warnings
from stream_ad.inspection.scores import DeviceScores, load_device
from stream_ad.inspection.status import read_status
from stream_ad.inspection.watching import open_read_only

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Stream:
    """Read-only access to a stream. Each call reads the current state.

    Nothing stays open between calls, so there is nothing to close.
    """

    def __init__(self, settings: Settings) -> None:
        """Keep the settings; connects to nothing yet."""
        self._settings = settings

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Stream:
        """Open the stream of a settings file.

        Raises:
            ConfigError: the file is missing, or a setting is wrong.
        """
        return cls(load(Path(path)))

    @property
    def name(self) -> str:
        """The stream's name."""
        return self._settings.stream.name

    def scores(self, device: str, last: timedelta | None = None) -> DeviceScores:
        """Return a device's scores, limits and incidents, by time. Reads only the Parquet score log.

        Args:
            device: its id.
            last: only windows that end within this time before the device's newest; None for all.

        Raises:
            ConfigError: `last` is not positive.
            ScoreLogError: the score log has no rows of the device, or a file is damaged.
        """
        if last is not None and last <= timedelta():
            raise ConfigError(f"last: expected a positive time span, found {last}")
        return load_device(self._settings.store.scores, device, None if last is None else _nanoseconds(last))

    def alerts(self, device: str = "*", since: datetime | None = None, follow: bool = False) -> Iterator[Alert]:
        """Return the stream's alerts in publication order.

        The iterator reads the topic lazily, without a consumer group, so other subscribers are not affected.

        Args:
            device: a device id, or a pattern such as `pump-1*`.
            since: only alerts published at or after this time, with a time zone; None for all that are retained.
            follow: wait for new alerts instead of ending.

        Raises:
            ConfigError: `since` has no time zone.
            TransportError: from the iterator; the log does not answer, or has no alerts topic.
        """
        if since is not None and since.tzinfo is None:
            raise ConfigError(f"since: expected a time with a time zone, found {since.isoformat()}")
        return self._alerts(device, 0 if since is None else _nanoseconds(since - EPOCH), follow)

    def _alerts(self, device: str, since_ns: int, follow: bool) -> Iterator[Alert]:
        stream = self._settings.stream
        with contextlib.closing(open_read_only(self._settings)) as transport:
            found = published_alerts.alerts(transport, stream.alerts_topic, stream.name, device, since_ns, follow)
            for one in found:
                yield one.alert.alert()

    def status(self) -> Status:
        """Return the stream's status: lag, owners, model, checkpoints and parts of each partition, roles, intake.

        Raises:
            TransportError: the log does not answer, or has no readings topic.
        """
        with contextlib.closing(open_read_only(self._settings)) as transport:
            return read_status(self._settings, transport)

    def warnings(self, status: Status, before: Status | None = None) -> list[str]:
        """Return the warnings, one line each, as `stream-ad status` prints them.

        Args:
            status: returned by `status`.
            before: an earlier status, to detect a growing lag.
        """
        return warnings(status, before, Limits.of(self._settings, None, None, None))


def _nanoseconds(span: timedelta) -> int:
    return span // timedelta(microseconds=1) * 1_000
