"""Fixtures of the whole test tree and the profile of hypothesis."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.support.broker import kafka_broker

__all__ = ["kafka_broker"]

# Derandomised, so that a red build is red again; the deadline is off because machines differ.
settings.register_profile("ci", derandomize=True, deadline=None, max_examples=50, print_blob=True)
settings.register_profile("thorough", deadline=None, max_examples=1000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

# A job in the background of a shell script ignores SIGINT, and what it starts inherits that.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Accept sockets that kafka-python leaves open: it gives up closing them on a busy machine."""
    for item in items:
        if item.get_closest_marker("broker") is not None:
            item.add_marker(pytest.mark.filterwarnings("ignore:unclosed <socket.socket:ResourceWarning"))


@pytest.fixture(autouse=True)
def _restore_logging() -> Iterator[None]:
    """Undo what `logs.configure` does to the process, so that no test hears more or less because of another."""
    root = logging.getLogger()
    handlers = list(root.handlers)
    levels = {name: logging.getLogger(name).level for name in ("", "stream_ad", "kafka")}
    yield
    root.handlers[:] = handlers
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    logging.captureWarnings(False)
