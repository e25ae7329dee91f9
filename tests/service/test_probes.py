from __future__ import annotations

import http.client
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from deploy.kafka.broker import first_of_free_ports
from stream_ad.errors import ConfigError
from stream_ad.service.metrics import RoleMetrics
from stream_ad.service.probes import CONCURRENT_REQUESTS, Probes
from tests.service.processes import finish, python, turns, wait_for


@contextmanager
def pages(alive: bool = True, ready: bool = True) -> Iterator[Probes]:
    metrics = RoleMetrics("scorer", "pumps", "a")
    probes = Probes("127.0.0.1", 0, lambda: (alive, "beats"), lambda: (ready, "3 partitions"), metrics.render)
    try:
        yield probes
    finally:
        probes.close()


def get(port: int, path: str, method: str = "GET") -> tuple[int, str, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode(), answer.headers["Content-Type"]
    finally:
        connection.close()


def test_pages() -> None:
    with pages() as probes:
        assert get(probes.port, "/livez")[:2] == (200, "beats\n")
        assert get(probes.port, "/readyz?verbose")[:2] == (200, "3 partitions\n")
        status, body, content_type = get(probes.port, "/metrics")
        assert (status, "stream_ad_build_info{" in body) == (200, True)
        assert content_type.startswith("text/plain")
        assert get(probes.port, "/")[0] == 404
        assert get(probes.port, "/livez", "HEAD")[:2] == (200, "")
        assert get(probes.port, "/livez", "POST")[0] == 501


def test_an_unready_role_is_alive() -> None:
    with pages(ready=False) as probes:
        assert get(probes.port, "/livez")[0] == 200
        assert get(probes.port, "/readyz")[0] == 503


def test_a_held_port_is_a_clear_configuration_error() -> None:
    with pages() as probes, pytest.raises(ConfigError, match=rf"cannot listen on 127.0.0.1:{probes.port}.*in use"):
        Probes("127.0.0.1", probes.port, lambda: (True, ""), lambda: (True, ""), lambda _: (b"", ""))


def test_silent_clients_cannot_take_all_threads() -> None:
    with pages() as probes:
        silent = [socket.create_connection(("127.0.0.1", probes.port)) for _ in range(CONCURRENT_REQUESTS)]
        late = socket.create_connection(("127.0.0.1", probes.port))
        late.settimeout(5)
        assert late.recv(1) == b""  # hung up on, at once
        for one in (*silent, late):
            one.close()
        wait_for(lambda: answers(probes.port))


def answers(port: int) -> bool:
    try:
        return get(port, "/livez")[0] == 200
    except (OSError, http.client.HTTPException):
        return False


@pytest.mark.process
def test_a_hung_role_is_not_alive_and_a_stopped_one_frees_its_port(tmp_path: Path) -> None:
    port = first_of_free_ports()
    process = python("tests.service.tiny_role", "work", str(tmp_path), f"port={port}")
    wait_for(lambda: turns(tmp_path) > 3)
    assert get(port, "/readyz")[:2] == (200, "3 partitions\n")
    assert "stream_ad_ready 1.0" in get(port, "/metrics")[1]
    process.send_signal(signal.SIGTERM)
    assert finish(process)[0] == 0
    with pytest.raises(ConnectionRefusedError):
        get(port, "/livez")


def test_liveness_goes_by_the_heartbeat(tmp_path: Path) -> None:
    from stream_ad.service.role import Pulse, _State
    from tests.service.tiny_role import TinyRole

    pulse = Pulse(60.0)
    state = _State(TinyRole("work", tmp_path), pulse)
    assert state.alive()[0]
    assert state.ready() == (False, "starting")
    state.opened = True
    assert state.ready()[0]
    pulse.timeout_s = 0.001
    pulse._stopped.set()  # the watchdog must not end the tests
    time.sleep(0.01)
    assert not state.alive()[0]
