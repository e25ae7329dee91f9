"""Whether this host has what a run needs: writable folders and free ports."""

from __future__ import annotations

import os
import socket
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from stream_ad.config import Settings
from stream_ad.errors import ConfigError
from stream_ad.role_table import processes


def folders(settings: Settings) -> tuple[Path, Path]:
    """Return the folders that a run writes to."""
    return settings.store.scores, settings.store.checkpoints


def describe_folder(folder: Path) -> str:
    """Test that files can be written, synced, linked and removed in a folder or its nearest existing parent.

    Raises:
        ConfigError: one of these fails.
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
        raise ConfigError(f"{folder}: cannot write and link files in it: {error.strerror or error}") from error
    free_gb = status.f_bavail * status.f_frsize / 1e9
    return f"{folder}: {'writable' if place == folder else 'can be created'}, {free_gb:.0f} GB free"


def describe_ports(settings: Settings) -> str:
    """Check that the pages' ports are free or used by this stream.

    Raises:
        ConfigError: another program uses one.
    """
    addresses = sorted({address for spec, index in processes(settings) if (address := spec.address(settings, index))})
    if not addresses:
        return "pages are disabled (service.http_port = 0)"
    running = [f"{host}:{port}" for host, port in addresses if not port_free(host, port, settings.stream.name)]
    spans = f"{addresses[0][0]}:{', '.join(_spans([port for _, port in addresses]))}"
    return f"{spans} " + (f"(in use by this running stream: {', '.join(running)})" if running else "free")


def _spans(numbers: list[int]) -> Iterator[str]:
    """Yield ascending numbers as text, consecutive ones as a range."""
    firsts = [number for number in numbers if number - 1 not in numbers]
    lasts = [number for number in numbers if number + 1 not in numbers]
    for first, last in zip(firsts, lasts, strict=True):
        yield str(first) if first == last else f"{first}–{last}"


def port_free(host: str, port: int, stream: str) -> bool:
    """Return whether a port is free; False if this stream uses it.

    Raises:
        ConfigError: another program uses it, or the address does not exist.
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
    """Return whether the metrics page at this address belongs to this stream."""
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}/metrics"
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return f'stream="{stream}"' in answer.read(1_000_000).decode(errors="replace")
    except (OSError, ValueError):
        return False
