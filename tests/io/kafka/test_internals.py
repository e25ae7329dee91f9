"""The table of kafka-python's private attributes is complete, and the check finds what is missing."""

from __future__ import annotations

import ast
import logging
from importlib import metadata
from pathlib import Path

import pytest

import stream_ad.io
from stream_ad.errors import ConfigError
from stream_ad.io.kafka import internals as kafka_internals
from stream_ad.io.kafka.internals import TESTED, _has, expect_known_version

FOLDER = Path(stream_ad.io.__file__).parent
LISTED = {name for names in kafka_internals._USED.values() for name in names}


def private_attributes(tree: ast.AST) -> set[str]:
    """Return private attributes of everything but `self`."""
    found = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and not (isinstance(node.value, ast.Name) and node.value.id == "self")
    }
    return {name for name in found if name.startswith("_") and not name.startswith("__")}


def own_names(tree: ast.AST) -> set[str]:
    """Return what our own classes define or assign, on themselves."""
    names = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    for node in ast.walk(tree):
        target = node.target if isinstance(node, ast.AnnAssign) else node
        if isinstance(target, ast.Name):
            names.add(target.id)
        elif isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name) and target.value.id == "self":
            names |= {target.attr} if isinstance(target.ctx, ast.Store) else set()
    return names


def test_every_private_attribute_in_use_is_listed() -> None:
    trees = [ast.parse(file.read_text()) for file in sorted(FOLDER.glob("kafka/*.py"))]
    ours = {name for tree in trees for name in own_names(tree)}
    used = {name for tree in trees for name in private_attributes(tree)}

    assert used >= {"_fetcher", "_nodes_with_pending_fetch_requests", "_heartbeat_enabled"}
    assert used - ours - LISTED == set()


def test_the_installed_version_is_the_tested_one_and_has_all_of_it() -> None:
    assert metadata.version("kafka-python") == TESTED
    missing = [
        (owner, name) for owner, names in kafka_internals._USED.items() for name in names if not _has(owner, name)
    ]
    assert missing == []


def test_another_version_that_has_all_of_it_is_used_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        expect_known_version("3.1.0")
    assert "kafka-python 3.1.0 is installed; stream_ad was tested with" in caplog.text


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        ("kafka.consumer.fetcher.Fetcher", "_pending"),
        ("kafka.consumer.fetcher.Follower", "send_fetches"),
        ("kafka.network", "create_connection"),
        ("kafka.net.selector", "Selector2"),
    ],
)
def test_what_another_version_lacks_is_named(monkeypatch: pytest.MonkeyPatch, owner: str, name: str) -> None:
    monkeypatch.setitem(kafka_internals._USED, owner, (name,))
    with pytest.raises(ConfigError) as caught:
        expect_known_version("3.1.0")
    assert str(caught.value) == (
        f"kafka-python 3.1.0 has no {owner}.{name}; stream_ad was tested with {TESTED}: install kafka-python=={TESTED}"
    )
