"""Structured logs on stderr: one event name plus fields, once per decision, never per row."""

from __future__ import annotations

import logging
import re
import sys
import traceback
from datetime import UTC, datetime
from typing import Any, Literal, TextIO, TypeAlias

import orjson

Format: TypeAlias = Literal["json", "text"]
FORMATS: tuple[Format, ...] = ("json", "text")

ROOT = "stream_ad"
SECRET = re.compile(r"passw|secret|token|credential|api_?key|private_?key|sasl_(jaas|plain)", re.IGNORECASE)
REDACTED = "[redacted]"
LONGEST_TEXT = 8_000


class EventLog:
    """Logger of one module: `log.info("commit_landed", rows=120)`.

    Field values are plain (text, numbers, lists of them); others are written as their `str`.
    The value of a field whose name looks like a secret is written as `[redacted]`.
    """

    __slots__ = ("_logger",)

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)

    def debug(self, event: str, /, **fields: object) -> None:
        """Log a detail for developers."""
        self._log(logging.DEBUG, event, fields)

    def info(self, event: str, /, **fields: object) -> None:
        """Log a decision."""
        self._log(logging.INFO, event, fields)

    def warning(self, event: str, /, **fields: object) -> None:
        """Log a problem that does not stop the work."""
        self._log(logging.WARNING, event, fields)

    def error(self, event: str, /, **fields: object) -> None:
        """Log a failure."""
        self._log(logging.ERROR, event, fields)

    def exception(self, event: str, /, **fields: object) -> None:
        """Log a failure with the traceback of the current exception."""
        self._log(logging.ERROR, event, fields, exc_info=True)

    def _log(self, level: int, event: str, fields: dict[str, object], exc_info: bool = False) -> None:
        if self._logger.isEnabledFor(level):
            self._logger.log(level, "%s", event, extra={"event": event, "fields": fields}, exc_info=exc_info)


def configure(
    level: str = "info",
    log_format: Format | None = None,
    context: dict[str, str] | None = None,
    stream: TextIO | None = None,
) -> None:
    """Send this process's logs to stderr; later calls replace earlier ones.

    Other libraries log from level warning. kafka-python is silenced: it logs each failed reconnect as an error, tens
    per second, and what matters is logged as this package's own events. Level `debug` shows its warnings too.

    Args:
        level: lowest level of this package's events.
        log_format: `json` or `text`; default: text on a terminal, else JSON.
        context: fields of every line (role, instance).
        stream: where to write; default: stderr.
    """
    target = sys.stderr if stream is None else stream
    chosen = log_format or ("text" if target.isatty() else "json")
    handler = logging.StreamHandler(target)
    handler.setFormatter(JsonFormatter(context or {}) if chosen == "json" else TextFormatter(context or {}))
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    logging.getLogger(ROOT).setLevel(level.upper())
    logging.getLogger("kafka").setLevel(logging.WARNING if level == "debug" else logging.CRITICAL)
    logging.captureWarnings(True)


def _content(record: logging.LogRecord) -> dict[str, object]:
    """Return a record's event and fields; another library's record becomes the event `library`."""
    event = getattr(record, "event", None)
    if event is None:
        content: dict[str, object] = {"event": "library", "logger": record.name, "message": record.getMessage()}
    else:
        content = {"event": event}
        fields: dict[str, object] = getattr(record, "fields", {})
        for name, value in fields.items():
            if isinstance(value, str) and len(value) > LONGEST_TEXT:
                value = value[:LONGEST_TEXT] + "…"
            content[name] = REDACTED if SECRET.search(name) else value
    if record.exc_info and record.exc_info[0] is not None:
        content["traceback"] = "".join(traceback.format_exception(*record.exc_info))[-LONGEST_TEXT:]
    return content


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class JsonFormatter(logging.Formatter):
    """One JSON object per line: `ts`, `level`, `event`, the context, the fields."""

    def __init__(self, context: dict[str, str]) -> None:
        super().__init__()
        self._context = context

    def format(self, record: logging.LogRecord) -> str:
        """Return the line without its line end."""
        line: dict[str, Any] = {"ts": _time(record), "level": record.levelname.lower()}
        line.update(self._context)
        line.update(_content(record))
        try:
            return orjson.dumps(line, default=str, option=orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY).decode()
        except orjson.JSONEncodeError:  # lone surrogates, integers over 64 bits
            return orjson.dumps({name: ascii(value) for name, value in line.items()}).decode()


class TextFormatter(logging.Formatter):
    """One line for people: time, level, event, then `name=value`."""

    def __init__(self, context: dict[str, str]) -> None:
        super().__init__()
        self._role = context.get("role", "")

    def format(self, record: logging.LogRecord) -> str:
        """Return the line without its line end."""
        content = _content(record)
        trace = content.pop("traceback", None)
        event = content.pop("event")
        fields = " ".join(f"{name}={_quoted(value)}" for name, value in content.items())
        clock = datetime.fromtimestamp(record.created).strftime("%H:%M:%S")
        line = f"{clock} {record.levelname.lower():<7} {self._role:<10} {event} {fields}".rstrip()
        return f"{line}\n{trace}".rstrip() if trace else line


def _quoted(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    text = str(value)
    return repr(text) if not text or re.search(r"\s|=", text) else text
