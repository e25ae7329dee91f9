"""Sensor readings: JSON or Arrow records, windows on a grid."""

from __future__ import annotations

from stream_ad.config import Settings
from stream_ad.core.front import RowRules
from stream_ad.core.model import Model, grid_differences
from stream_ad.core.readings_front import ReadingsFront, row_rules
from stream_ad.core.windowing import TimeRules
from stream_ad.fronts.table import BUILT_IN, FrontSpec
from stream_ad.io.wire.readings import Decoder


def decoder(settings: Settings, model: Model) -> Decoder:
    """Return the decoder of the stream's readings."""
    channels = [channel.name for channel in model.channels]
    missing = {channel.name: channel.missing for channel in model.channels if channel.missing}
    stream = settings.stream
    return Decoder(channels, stream.devices, ignored=model.ignored, missing=missing, other_devices=stream.other_devices)


def time_rules(settings: Settings) -> TimeRules:
    """Return the rules for comparing event time with log time."""
    time = settings.time
    return TimeRules(
        lateness_ns=round(time.lateness_s * 1e9),
        idle_close_ns=round(time.idle_close_s * 1e9),
        max_ahead_ns=round(time.max_ahead_s * 1e9),
    )


def build(settings: Settings, model: Model) -> ReadingsFront:
    """Return an empty front for one partition."""
    return ReadingsFront(model, time_rules(settings))


def rules(settings: Settings, model: Model) -> RowRules:
    """Return the rules of its windows."""
    return row_rules(model, time_rules(settings))


READINGS = FrontSpec(BUILT_IN, decoder, build, rules, grid_differences)
