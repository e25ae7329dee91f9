"""Private parts of kafka-python that this package uses; they may change with any release.

The version is pinned, so this matters only in environments installed in another way. `_USED` is complete: a test
compares it with the code.
"""

from __future__ import annotations

import importlib
import inspect
import logging
import re

import kafka

from stream_ad.errors import ConfigError

TESTED = "3.0.12"
"""The version of kafka-python in the requirements."""

_USED = {
    "kafka.consumer.group.KafkaConsumer": ("_client", "_cluster", "_coordinator", "_fetcher", "_manager"),
    "kafka.consumer.fetcher.Fetcher": ("_completed_fetches", "_nodes_with_pending_fetch_requests", "send_fetches"),
    "kafka.coordinator.base.BaseCoordinator": (
        "_heartbeat_enabled",
        "_join_task",
        "heartbeat",
        "rejoin_needed",
        "rejoining",
        "request_rejoin",
        "stable",
    ),
    "kafka.coordinator.heartbeat.Heartbeat": ("last_receive",),
    "kafka.cluster.ClusterMetadata": ("add_topic", "metadata_refresh_in_progress", "request_update", "topic_id"),
    "kafka.producer.kafka.KafkaProducer": ("_metadata", "_sender", "_transaction_manager"),
    "kafka.producer.sender.Sender": ("_is_retention_based_unknown_producer_id", "force_close"),
    "kafka.producer.transaction_manager.TransactionManager": ("last_error",),
    "kafka.net.compat.KafkaNetClient": ("_manager", "await_ready"),
    "kafka.net.manager.KafkaConnectionManager": ("_auth_failures", "_build_transport", "_connect", "_net", "cluster"),
    "kafka.net.transport.KafkaTCPTransport": ("_sock_recv",),
    "kafka.net.transport.KafkaSSLTransport": ("_sock_recv",),
    "kafka.net.inet": ("create_connection",),
    "kafka.net.selector": ("NetworkSelector",),
}
"""Attributes by class or module."""


def expect_known_version(installed: str = kafka.__version__) -> None:
    """Check a kafka-python version other than the tested one for everything this package uses.

    Raises:
        ConfigError: something is missing.
    """
    if installed == TESTED:
        return
    advice = f"stream_ad was tested with {TESTED}: install kafka-python=={TESTED}"
    for owner, attributes in _USED.items():
        for name in attributes:
            if not _has(owner, name):
                raise ConfigError(f"kafka-python {installed} has no {owner}.{name}; {advice}")
    logging.getLogger(__name__).warning("kafka-python %s is installed; %s", installed, advice)


def _has(owner: str, name: str) -> bool:
    """Return whether a module has an attribute, or a class has it or assigns it in its instances."""
    try:
        try:
            return hasattr(importlib.import_module(owner), name)
        except ModuleNotFoundError:
            module, _, of_module = owner.rpartition(".")
            kind = getattr(importlib.import_module(module), of_module)
    except (ImportError, AttributeError):
        return False
    assigned = re.compile(rf"\bself\.{name}\b[^=\n]*=(?!=)")
    sources = (inspect.getsource(base) for base in inspect.getmro(kind) if base.__module__.startswith("kafka."))
    return hasattr(kind, name) or any(map(assigned.search, sources))
