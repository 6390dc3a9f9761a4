"""HTTP/1.1 as bytes and values: the head of a request, a body in chunks, the head of an answer.

No sockets and no clocks. llhttp (`httptools`) reads every byte whose meaning could be disputed. It
is given one head at a time, so that it never runs ahead into a request whose turn has not come,
and never takes a part of a body for a request: what an ``Upgrade`` asks for is a header like any
other here (RFC 9110, 7.8 lets a server ignore it).
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from urllib.parse import unquote

import httptools

from hybrid_detect.server.head_facts import HeadFacts

__all__ = [
    "MAX_HEAD_BYTES",
    "BadRequestError",
    "ChunkedBody",
    "HeadParser",
    "HeadReader",
    "RequestHead",
    "header_lines",
    "response_head",
    "response_start",
]

MAX_HEAD_BYTES = 64 * 1024
"""Request line and headers; and, of a body in chunks, what is not body: sizes and trailers. Our
client's head has 400 bytes, and a token at most 8 KiB."""

_END = b"\r\n\r\n"

_UNSAFE_VALUE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_UNSAFE_NAME = re.compile(rb"[^!#$%&'*+\-.^_`|~0-9A-Za-z]")


class BadRequestError(Exception):
    """The bytes are not HTTP as this server reads it.

    Attributes:
        status: The status of the answer.
        code: A word for programs.
    """

    def __init__(self, detail: str, *, status: int = 400, code: str = "bad_request") -> None:
        super().__init__(detail)
        self.status = status
        self.code = code


@dataclass(slots=True)
class RequestHead:
    """The request line and the headers of one request."""

    method: str
    raw_path: bytes
    path: str
    """`raw_path` with its percent-encoding decoded."""
    query: bytes
    http_version: str
    headers: list[tuple[bytes, bytes]] = field(repr=False)
    """Names in lower case, in the order they came, repeated ones included."""
    keep_alive: bool
    """Whether another request may follow on the same connection."""
    body_bytes: int | None
    """The length of the body; `None` if it comes in chunks."""
    expects_continue: bool
    facts: HeadFacts = field(repr=False, compare=False)
    """What the headers say; those of an equal head are the same object."""

    def values(self, name: bytes) -> list[bytes]:
        """The values of every header `name` (lower case)."""
        return [value for key, value in self.headers if key == name]

    @property
    def opens_websocket(self) -> bool:
        """Whether it asks for a WebSocket, which is the only upgrade there is here."""
        if self.method != "GET":
            return False
        upgrades = b",".join(self.values(b"upgrade")).lower().split(b",")
        return [word.strip() for word in upgrades] == [b"websocket"]


class HeadParser:
    """Reads the head of one request from bytes that come in any pieces."""

    def __init__(self) -> None:
        self._parser = httptools.HttpRequestParser(self)
        self._size = 0
        self._tail = b""
        self._target = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._keep_alive = False

    @property
    def has_begun(self) -> bool:
        """Whether any byte has come, empty lines included."""
        return self._size > 0

    def feed(self, data: bytes) -> tuple[RequestHead | None, bytes]:
        """Read on; returns the head once it is complete, and the bytes that are behind it.

        Raises:
            BadRequestError: If this is no HTTP, or too much of it.
        """
        if not self._tail:
            # An empty line before a request is allowed (RFC 9112, 2.2), and counts.
            stripped = data.lstrip(b"\r\n")
            self._size += len(data) - len(stripped)
            data = stripped
        end = (self._tail + data).find(_END)
        taken = data if end < 0 else data[: end + len(_END) - len(self._tail)]
        self._size += len(taken)
        if self._size > MAX_HEAD_BYTES:
            msg = "the request's head is too large"
            raise BadRequestError(msg, status=431, code="too_large")
        try:
            self._parser.feed_data(taken)
        except httptools.HttpParserUpgrade:
            pass  # the head is complete; what comes behind it is read here
        except httptools.HttpParserError:
            raise BadRequestError(_NOT_HTTP) from None
        if end < 0:
            self._tail = (self._tail + taken)[-len(_END) + 1 :]
            return None, b""
        return self._head(), data[len(taken) :]

    def on_url(self, part: bytes) -> None:
        """Called by the parser."""
        self._target += part

    def on_header(self, name: bytes, value: bytes) -> None:
        """Called by the parser."""
        self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """Called by the parser."""
        self._keep_alive = self._parser.should_keep_alive()

    def _head(self) -> RequestHead:
        try:
            url = httptools.parse_url(self._target)
            raw_path = url.path or b"/"
            path = unquote(raw_path.decode("ascii"))
        except (httptools.HttpParserError, UnicodeDecodeError):
            raise BadRequestError(_NOT_HTTP) from None
        version = self._parser.get_http_version()
        found = {b"host": 0, b"content-length": 0, b"transfer-encoding": 0}
        length = b"0"
        expects = False
        for name, value in self._headers:
            if name in found:
                found[name] += 1
                length = value if name == b"content-length" else length
            elif name == b"expect":
                expects = value.lower() == b"100-continue"
        if version not in {"1.0", "1.1"} or found[b"host"] > 1:
            raise BadRequestError(_NOT_HTTP)
        is_chunked = found[b"transfer-encoding"] > 0
        if is_chunked:
            codings = [v.lower() for n, v in self._headers if n == b"transfer-encoding"]
            # A proxy in front may read such a body in another way (RFC 9112, 6.1).
            if codings != [b"chunked"] or version == "1.0" or found[b"content-length"]:
                raise BadRequestError(_NOT_HTTP)
        return RequestHead(
            method=self._parser.get_method().decode("ascii"),
            raw_path=raw_path,
            path=path,
            query=url.query or b"",
            http_version=version,
            headers=self._headers,
            keep_alive=self._keep_alive and version == "1.1",
            body_bytes=None if is_chunked else int(length),
            expects_continue=expects and version == "1.1",
            facts=HeadFacts(self._headers),
        )


class HeadReader:
    """Reads the heads of one connection, one after the other.

    The heads of one client differ only in the length of the body. A head that equals the last one,
    except for those digits, is not parsed again. The result is the same: up to `MAX_DIGITS` of them
    mean the same to the parser wherever they stand.
    """

    def __init__(self) -> None:
        self._parser: HeadParser | None = None
        self._last: RequestHead | None = None
        self._length_at = 0  # in its headers
        self._before = self._behind = b""  # of the digits in the bytes of `_last`

    @property
    def has_begun(self) -> bool:
        """Whether any byte of the next head has come, empty lines included."""
        return self._parser is not None and self._parser.has_begun

    def feed(self, data: bytes) -> tuple[RequestHead | None, bytes]:
        """Read on; see `HeadParser.feed`.

        Raises:
            BadRequestError: If this is no HTTP, or too much of it.
        """
        if self._parser is None:
            if self._last is not None and (known := self._known(self._last, data)) is not None:
                return known
            self._parser = HeadParser()
            head, rest = self._parser.feed(data)
            self._remember(head, data[: len(data) - len(rest)])
        else:
            head, rest = self._parser.feed(data)
        if head is not None:
            self._parser = None
        return head, rest

    def _known(self, last: RequestHead, data: bytes) -> tuple[RequestHead, bytes] | None:
        if not data.startswith(self._before):
            return None
        begin = len(self._before)
        end = data.find(b"\r", begin, begin + MAX_DIGITS + 1)
        digits = data[begin:end] if end > 0 else b""
        if not digits.isdigit() or not data.startswith(self._behind, end):
            return None
        headers = last.headers.copy()
        headers[self._length_at] = b"content-length", digits
        head = RequestHead(
            last.method,
            last.raw_path,
            last.path,
            last.query,
            last.http_version,
            headers,
            last.keep_alive,
            int(digits),
            last.expects_continue,
            last.facts,
        )
        return head, data[end + len(self._behind) :]

    def _remember(self, head: RequestHead | None, data: bytes) -> None:
        """Remember the head that is the whole of `data`, if it is a usual one."""
        self._last = None
        found = _LENGTH_LINE.search(data) if len(data) <= MAX_REMEMBERED_BYTES else None
        if head is not None and head.body_bytes is not None and found is not None:
            self._last = head
            self._length_at = [name for name, _ in head.headers].index(b"content-length")
            self._before, self._behind = data[: found.start(1)], data[found.end(1) :]


MAX_REMEMBERED_BYTES = 4096
"""Of a head. Chosen: ten times our client's, with room for a token."""

MAX_DIGITS = 18
"""Of a length that is known again."""

_LENGTH_LINE = re.compile(rb"\r\ncontent-length: *([0-9]{1,%d})\r\n" % MAX_DIGITS, re.IGNORECASE)


class ChunkedBody:
    """Decodes a body in chunks (RFC 9112, 7.1)."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._overhead = 0
        self.is_complete = False
        self.has_more = False
        """Whether bytes came behind the end in one piece with it; they are dropped."""
        self._parser = httptools.HttpRequestParser(self)
        # The parser reads chunks behind a head only. With "close" it stops where the body ends.
        self._parser.feed_data(
            b"POST / HTTP/1.1\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
        )

    def feed(self, data: bytes) -> list[bytes]:
        """The pieces of the body in `data`.

        Raises:
            BadRequestError: If these are no chunks, or if sizes, extensions and trailers together
                exceed `MAX_HEAD_BYTES`.
        """
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            if not self.is_complete:
                msg = "the body's chunks are malformed"
                raise BadRequestError(msg) from None
            self.has_more = True
        parts, self._parts = self._parts, []
        self._overhead += len(data) - sum(map(len, parts))
        if self._overhead > MAX_HEAD_BYTES and not self.is_complete:
            msg = "the body's chunks are too small or its trailers too large"
            raise BadRequestError(msg, status=431, code="too_large")
        return parts

    def on_body(self, part: bytes) -> None:
        """Called by the parser."""
        self._parts.append(part)

    def on_message_complete(self) -> None:
        """Called by the parser."""
        self.is_complete = True


def response_head(
    status: int,
    headers: Iterable[tuple[bytes, bytes]],
    *,
    close: bool,
    chunked: bool = False,
) -> bytes:
    """The status line and the headers of an answer, with a Date (RFC 9110, 6.6.1).

    Args:
        status: The status code.
        headers: Names and values; of ``Connection`` and ``Transfer-Encoding`` the other arguments
            decide.
        close: Whether the connection ends with this answer.
        chunked: Whether the body comes in chunks.

    Raises:
        ValueError: If a name or a value would break the head.
    """
    lines = [response_start(status, int(time.time())), header_lines(tuple(headers), close=close)]
    if chunked:
        lines.append(b"Transfer-Encoding: chunked\r\n")
    lines.append(b"\r\n")
    return b"".join(lines)


@lru_cache(maxsize=64)
def response_start(status: int, second: int) -> bytes:
    """How the head of an answer begins: the status line, and the Date of `second` (since 1970)."""
    return _status_line(status) + _date(second)


@lru_cache(maxsize=64)
def header_lines(headers: tuple[tuple[bytes, bytes], ...], *, close: bool) -> bytes:
    """The lines of these headers, and of the end of the connection; see `response_head`."""
    lines = [_header_line(name, value) for name, value in headers]
    if close:
        lines.append(b"Connection: close\r\n")
    return b"".join(lines)


@lru_cache(maxsize=256)
def _header_line(name: bytes, value: bytes) -> bytes:
    """Empty for what `response_head` writes itself."""
    if _UNSAFE_NAME.search(name) or not name or _UNSAFE_VALUE.search(value):
        msg = "expected a header that HTTP can carry, got control characters"
        raise ValueError(msg)
    if name.lower() in {b"connection", b"transfer-encoding"}:
        return b""
    return b"%b: %b\r\n" % (name, value)


@lru_cache(maxsize=64)
def _status_line(status: int) -> bytes:
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:  # 499, which no standard names
        phrase = ""
    return f"HTTP/1.1 {status} {phrase}\r\n".encode("ascii")


@lru_cache(maxsize=1)
def _date(second: int) -> bytes:
    return f"Date: {formatdate(second, usegmt=True)}\r\n".encode("ascii")


_NOT_HTTP = "that is not HTTP as this server reads it"
