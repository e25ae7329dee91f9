"""Anomaly detection for sensor fleets on Kafka.

`open_stream` opens a stream to read its scores, alerts and status. Importing this package loads nothing heavy.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stream_ad.inspection.stream import Stream

__all__ = ["__version__", "open_stream"]

__version__ = "0.2.0"


def open_stream(path: str | os.PathLike[str] = "stream.toml") -> Stream:
    """Open a stream for reading: `scores(...)`, `alerts(...)`, `status()`.

    Changes nothing, connects to nothing yet, and needs no running role.

    Args:
        path: the stream's settings file. `STREAM_AD__SECTION__KEY` in the environment overrides its settings, as on the
            command line.

    Raises:
        ConfigError: the file is missing, or a setting is wrong.
    """
    from stream_ad.inspection.stream import Stream

    return Stream.open(path)
