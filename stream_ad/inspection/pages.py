"""Reads the HTTP pages of this host's roles."""

from __future__ import annotations

import ipaddress
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from prometheus_client.parser import text_string_to_metric_families

from stream_ad.config import Settings
from stream_ad.role_table import RoleSpec

TIMEOUT_S = 2.0
PAGE_BYTES = 4_000_000

State = Literal["ready", "not ready", "unreachable", "pages off"]

OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""The pages are on this host, so a proxy in the environment must not be used."""


@dataclass(frozen=True, slots=True)
class RoleStatus:
    """A role's state according to its pages.

    Attributes:
        name: of the process, as in the log: `archiver`, `scorer-<k>`.
        address: `host:port` of the pages, "" if they are disabled.
        state: in one word.
        text: answer of the readiness page, or why there is none.
        replaying: whether each partition (by number) is catching up from a checkpoint; only for the deciding role.
    """

    name: str
    address: str
    state: State
    text: str
    replaying: Mapping[str, bool] = field(default_factory=dict)


def query(settings: Settings, spec: RoleSpec, index: int) -> RoleStatus:
    """Query the readiness and metrics of a role on this host.

    Args:
        settings: the stream's settings.
        spec: the role.
        index: index of the process within the role.
    """
    name = spec.label(index)
    address = spec.address(settings, index)
    if address is None:
        return RoleStatus(name, "", "pages off", "service.http_port is 0")
    host, port = address
    where = f"{f'[{host}]' if ':' in host else host}:{port}"
    try:
        code, text = _get(_reachable(host), port, "/readyz")
        _, page = _get(_reachable(host), port, "/metrics")
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        return RoleStatus(name, where, "unreachable", str(getattr(reason, "strerror", None) or reason))
    if f'stream="{settings.stream.name}"' not in page:
        return RoleStatus(name, where, "unreachable", "another program or stream answers there")
    replaying = {str(number): value > 0 for number, value in _by_partition(page, "stream_ad_replaying")}
    return RoleStatus(name, where, "ready" if code == 200 else "not ready", text.strip(), replaying)


def _reachable(host: str) -> str:
    """Return the address at which a server that listens on all addresses is reachable."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if address.is_unspecified:
        return "127.0.0.1" if address.version == 4 else "[::1]"
    return host if address.version == 4 else f"[{host}]"


def _get(host: str, port: int, path: str) -> tuple[int, str]:
    try:
        with OPENER.open(f"http://{host}:{port}{path}", timeout=TIMEOUT_S) as answer:
            return answer.status, answer.read(PAGE_BYTES).decode(errors="replace")
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read(PAGE_BYTES).decode(errors="replace")


def _by_partition(page: str, metric: str) -> Iterator[tuple[int, float]]:
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            if sample.name == metric:
                yield int(sample.labels["partition"]), sample.value
