"""What keeps the test suite quick and sound can fail a test."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from itertools import islice

import pytest

from deploy.kafka.broker import _reserve, first_of_free_ports, free_ports
from tests.support import sockets


@pytest.mark.parametrize(
    "start", [lambda: subprocess.run([sys.executable, "-c", ""], check=False), lambda: os.system("true"), os.fork]
)
def test_a_unit_test_starts_no_process(start: Callable[[], object]) -> None:
    with pytest.raises(RuntimeError, match="a unit test starts no process; mark it `process`"):
        start()


def test_a_free_port_is_given_once() -> None:
    port = first_of_free_ports(1)
    assert not {port, port + 1} & set(islice(free_ports(), 20))
    assert not _reserve(port)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        assert not _reserve(taken.getsockname()[1])


def test_a_socket_left_open_is_found() -> None:
    one = socket.socket()
    (where,) = sockets.left_open()
    assert where.startswith(__file__)
    one.close()
    assert sockets.left_open() == []
