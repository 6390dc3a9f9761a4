"""The server's log: as lines for people, or as JSON or logfmt for programs; and its request lines.

A request line tells what a `Record` holds, so never a picture, a face, a credential, a session or a
path.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from hybrid_detect.exchange.wire import ErrorReply, ResultReply
from hybrid_detect.server.observation import Record

if TYPE_CHECKING:
    from hybrid_detect.server.detectors import Detection

__all__ = ["LOG_FORMATS", "RequestLog", "set_up_logging"]

LOG_FORMATS = ("text", "json", "logfmt")

requests = logging.getLogger("hybrid_detect.server.requests")

_FIELDS: Final = "hybrid_detect_fields"
"""The attribute of a `logging.LogRecord` that has a line's fields."""


class RequestLog:
    """An `Observer` that logs a line for each request and stream that has ended.

    Args:
        which: One of `config.REQUEST_LOGS`.
    """

    def __init__(self, which: str) -> None:
        self._all = which == "all"

    def on_begin(self, record: Record) -> None:
        """Log nothing yet."""

    def on_look(self, record: Record, seen: Detection, trace_id: str) -> None:
        """Log nothing yet."""

    def on_reply(
        self, record: Record, reply: ResultReply | ErrorReply, message: bytes = b""
    ) -> None:
        """Log nothing yet: a stream has one line, however many pictures it brings."""

    def on_end(self, record: Record) -> None:
        """Log a line."""
        if self._all or record.refused or record.status >= 400:
            event = "stream" if record.is_stream else "request"
            fields = {"event": event, **_fields(record)}
            requests.info("%s", _logfmt(fields), extra={_FIELDS: fields})

    def on_refused_connection(self, error: ErrorReply) -> None:
        """Log a connection that got no further."""
        fields = {"event": "connection", "status": error.status, "cause": error.code}
        requests.info("%s", _logfmt(fields), extra={_FIELDS: fields})


def _fields(record: Record) -> dict[str, Any]:
    fields = {
        "request_id": record.request_id,
        "trace_id": record.trace_id or None,
        "peer": record.peer,
        "route": record.route,
        "status": record.status,
        "cause": record.cause or None,
        "close_code": record.close_code if record.is_stream else None,
        "duration_s": round(record.duration_s, 6),
        "received_bytes": record.received_bytes,
        "sent_bytes": record.sent_bytes,
    }
    if record.answered or record.refused:
        fields |= {"answered": record.answered, "refused": record.refused}
    if record.answered:
        fields |= {
            "quality": record.level or None,  # "level" is how bad it is
            "queue_s": round(record.queue_s, 6),
            "detect_s": round(record.detect_s, 6),
        }
    return {name: value for name, value in fields.items() if value is not None}


def set_up_logging(log_format: str) -> None:
    """Write what is logged in this process to standard error, in one of `LOG_FORMATS`.

    Text is the bare message of warnings and errors, as Python has it without any setting up, and
    of request lines. The others add time, level and logger, and have one line for each message.
    """
    write: dict[str, Callable[[dict[str, Any]], str]] = {
        "json": lambda fields: json.dumps(fields, ensure_ascii=False),
        "logfmt": _logfmt,
    }
    handler = logging.StreamHandler(sys.stderr)
    if log_format in write:
        handler.setFormatter(_Structured(write[log_format]))
    logging.basicConfig(handlers=[handler], format="%(message)s")
    requests.setLevel(logging.INFO)


class _Structured(logging.Formatter):
    """A line of fields for each message.

    Args:
        write: Makes a line of them.
    """

    def __init__(self, write: Callable[[dict[str, Any]], str]) -> None:
        super().__init__()
        self._write = write

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC)
        fields: dict[str, Any] = {
            "time": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
        }
        # A request line's fields are apart, so that programs need not take its message to pieces.
        fields |= getattr(record, _FIELDS, None) or {"message": record.getMessage()}
        if record.exc_info:
            fields["error"] = self.formatException(record.exc_info)
        return self._write(fields)


def _logfmt(fields: dict[str, Any]) -> str:
    """``name=value`` pairs; a value with blanks, quotes, ``=`` or control characters is quoted."""
    return " ".join(f"{name}={_quoted(str(value))}" for name, value in fields.items())


def _quoted(value: str) -> str:
    if value and value.isprintable() and not any(each in ' "=\\' for each in value):
        return value
    return json.dumps(value, ensure_ascii=True)
