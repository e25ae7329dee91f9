"""Finds the last record of a partition."""

from __future__ import annotations

from stream_ad.io.transport import Headers, Partition, Transport


def newest_record(transport: Transport, partition: Partition, start: int, end: int) -> tuple[int, Headers] | None:
    """Return log time and headers of the last record at or after `start`, searching back from the end."""
    span = 4
    while end > start:
        found = None
        for raw in transport.read(partition, max(start, end - span), end):
            if len(raw):
                found = int(raw.log_ns[-1]), raw.headers[-1]
        if found is not None or end - span <= start:
            return found
        span *= 8
    return None
