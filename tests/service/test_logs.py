from __future__ import annotations

import io
import json
import logging
from typing import Any

import pytest

from stream_ad.service import logs
from stream_ad.service.logs import EventLog

log = EventLog("stream_ad.service.test")


def written(text: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.getvalue().splitlines()]


def test_a_line_holds_event_context_and_fields() -> None:
    text = io.StringIO()
    logs.configure("info", None, {"role": "scorer-0"}, text)
    log.info("commit_landed", rows=3, seconds=0.5, level_s=float("nan"), where={"a": 1}, path=io)
    log.debug("unseen")

    (line,) = written(text)
    assert line["event"] == "commit_landed"
    assert (line["level"], line["role"], line["rows"], line["level_s"]) == ("info", "scorer-0", 3, None)
    assert line["ts"].endswith("Z")
    assert "module" in line["path"]


@pytest.mark.parametrize("name", ["password", "sasl_plain_password", "apiKey", "token", "ssl_private_key"])
def test_secrets_are_never_written(name: str) -> None:
    text = io.StringIO()
    logs.configure(stream=text)
    log.warning("options", **{name: "hunter2"})

    assert "hunter2" not in text.getvalue()
    assert written(text)[0][name] == "[redacted]"


def test_other_libraries_are_heard_from_warnings_on() -> None:
    text = io.StringIO()
    logs.configure("debug", stream=text)
    logging.getLogger("kafka.client").info("reconnecting %s", "b")
    logging.getLogger("kafka.client").warning("lost %s", "broker 1")
    log.debug("seen")

    assert [(line["event"], line.get("message")) for line in written(text)] == [
        ("library", "lost broker 1"),
        ("seen", None),
    ]


def test_a_traceback_stays_on_the_line() -> None:
    text = io.StringIO()
    logs.configure(stream=text)
    try:
        raise ZeroDivisionError("x")
    except ZeroDivisionError:
        log.exception("crashed", role="scorer")

    (line,) = written(text)
    assert line["traceback"].rstrip().endswith("ZeroDivisionError: x")


def test_what_json_cannot_hold_is_still_written() -> None:
    text = io.StringIO()
    logs.configure(stream=text)
    log.error("odd", text="\ud800", number=2**70)

    assert written(text)[0]["event"] == "'odd'"


def test_text_is_for_people() -> None:
    text = io.StringIO()
    logs.configure("info", "text", {"role": "archiver"}, text)
    log.info("part_linked", rows=1200, path="a b", seconds=0.1234567891)

    line = text.getvalue()
    assert line.split()[1:4] == ["info", "archiver", "part_linked"]
    assert line.endswith("rows=1200 path='a b' seconds=0.123457\n")
