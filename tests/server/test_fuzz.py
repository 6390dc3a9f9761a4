"""Whatever is sent, the server answers, never with a 5xx, and goes on.

`nox -s fuzz` runs this for minutes, and schemathesis beside it.
"""

import logging
import re
import socket
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from hybrid_detect.exchange.key_files import write_key_file
from hybrid_detect.exchange.key_ring import KeyRing
from hybrid_detect.exchange.keys import PrivateKey, Suite
from hybrid_detect.exchange.sealing import seal_request
from hybrid_detect.exchange.wire import DetectRequest, encode_request
from hybrid_detect.server.config import ServerConfig

from ..fuzzing import examples
from .loopback import Served, jpeg, served_beside

TIMEOUT_S = 5
"""Far below the server's own limits: waiting for one of them counts as a hang."""

fuzzed = settings(
    max_examples=examples(100),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)

LIMITS = {"rate_per_s": 0, "max_body_bytes": 100_000, "max_pixels": 100_000}

MESSAGE = encode_request(DetectRequest(request_id=7, image=jpeg(), deadline_s=1.0, session_id="me"))
WIRE = b"Content-Type: application/vnd.hybrid-detect.v1"

KEY = PrivateKey.generate(Suite.X25519_CHACHA20, datetime.now(UTC) + timedelta(days=1))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("server")
    write_key_file(folder / "keys.json", KeyRing((KEY,)))
    files = {"history_path": folder / "history.db", "keys_path": folder / "keys.json"}
    with served_beside(ServerConfig(**files, **LIMITS)) as running:  # type: ignore[arg-type]
        yield running


class Complaints(logging.Handler):
    """What was logged as an error: a bug that cost a connection shows nowhere else."""

    LOGGERS = ("asyncio", "hybrid_detect.server")

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


@pytest.fixture(autouse=True)
def complaints(server: Served) -> Iterator[None]:
    heard = Complaints()
    for name in heard.LOGGERS:
        logging.getLogger(name).addHandler(heard)
    yield
    for name in heard.LOGGERS:
        logging.getLogger(name).removeHandler(heard)
    assert heard.lines == []


def answer(server: Served, data: bytes) -> bytes:
    """What comes back for `data` when nothing more is sent."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=TIMEOUT_S) as link:
        parts = []
        try:
            link.sendall(data)
            link.shutdown(socket.SHUT_WR)
            while part := link.recv(65536):
                parts.append(part)
        except ConnectionError:
            pass  # closed while we were still sending
        return b"".join(parts)


def request(body: bytes = b"", *headers: bytes, line: bytes = b"POST /v1/detect HTTP/1.1") -> bytes:
    lines = [line, b"Host: x", *headers, b"Connection: close", b"Content-Length: %d" % len(body)]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def check(server: Served, got: bytes) -> None:
    # A body could hold anything: what counts is each line that begins an answer.
    for status in re.findall(rb"(?:^|[\r\n}])HTTP/1\.1 (\d{3}) ", got):
        assert int(status) < 500, got
    good = answer(server, request(jpeg()))
    assert good.startswith(b"HTTP/1.1 200 "), good


METHODS = [b"GET", b"POST", b"DELETE", b"HEAD", b"OPTIONS", b"CONNECT", b"TRACE", b"\xff", b""]
TARGETS = [
    b"/v1/detect",
    b"/v1/health",
    b"/v1/stream",
    b"/v1/keys",
    b"/v1/openapi.json",
    b"/v1/sessions/me/export",
    b"/v1/sessions/",
    b"*",
    b"/",
]
HEADERS = [
    b"Content-Type",
    b"Content-Length",
    b"Transfer-Encoding",
    b"Authorization",
    b"X-API-Key",
    b"Accept",
    b"Origin",
    b"Expect",
    b"Connection",
    b"Upgrade",
    b"Sec-WebSocket-Key",
    b"Sec-WebSocket-Version",
    b"Sec-WebSocket-Protocol",
]
VALUES = [
    b"application/vnd.hybrid-detect.v1",
    b"application/vnd.hybrid-detect.sealed.v1",
    b"chunked",
    b"100-continue",
    b"upgrade",
    b"websocket",
    b"13",
    b"0",
    b"-1",
    b"99999999999999999999",
    b"Bearer x",
]


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """`whole` with a few pieces changed, taken out or put in."""
    data = whole
    for _ in range(draw(st.integers(0, 4))):
        place = draw(st.integers(0, len(data)))
        cut = draw(st.integers(0, 20))
        data = data[:place] + draw(st.binary(max_size=20)) + data[place + cut :]
    return data


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    target = draw(st.sampled_from(TARGETS)) + draw(st.binary(max_size=8))
    line = draw(st.sampled_from(METHODS)) + b" " + target + b" HTTP/1.1"
    values = st.sampled_from(VALUES) | st.binary(max_size=20)
    headers = draw(st.lists(st.tuples(st.sampled_from(HEADERS), values), max_size=6))
    body = draw(st.binary(max_size=200) | damaged(MESSAGE))
    return request(body, *(name + b": " + value for name, value in headers), line=line)


@fuzzed
@given(data=st.binary(max_size=300) | requests() | damaged(request(MESSAGE, WIRE)))
@example(data=request(b"0\r\n\r\n", b"Transfer-Encoding: xchunked"))
@example(data=b"CONNECT x:1 HTTP/1.1\r\n\r\n")
@example(data=b"GET * HTTP/1.1\r\n\r\n")
@example(data=b"GET http:// HTTP/1.1\r\n\r\n")
@example(data=b"GET /\xff HTTP/1.1\r\n\r\n")
def test_any_request_is_answered(server: Served, data: bytes) -> None:
    check(server, answer(server, data))


sealed_starts = st.builds(
    lambda kind, rest: b"HS\1" + kind + rest, st.binary(max_size=2), st.binary()
)


@fuzzed
@given(body=damaged(MESSAGE), is_wire=st.booleans())
def test_any_message_is_answered(server: Served, body: bytes, is_wire: bool) -> None:
    got = answer(server, request(body, *([WIRE] if is_wire else [])))
    assert re.match(rb"HTTP/1\.1 (200|400|422) ", got), got
    check(server, got)


@fuzzed
@given(data=st.data())
def test_any_sealed_message_is_answered(server: Served, data: st.DataObject) -> None:
    message = data.draw(st.just(MESSAGE) | damaged(MESSAGE))
    sealed = seal_request(message, KEY.public, now_s=time.time()).data
    got = answer(server, request(data.draw(st.just(sealed) | damaged(sealed) | sealed_starts)))
    assert re.match(rb"HTTP/1\.1 (200|400|412|421|422) ", got), got
    check(server, got)


@fuzzed
@given(picture=damaged(jpeg()))
def test_any_picture_is_answered(server: Served, picture: bytes) -> None:
    got = answer(server, request(picture))
    assert re.match(rb"HTTP/1\.1 (200|400|422) ", got), got
    check(server, got)


OPENING = (
    b"GET /v1/stream HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


@st.composite
def frames(draw: st.DrawFn) -> bytes:
    head = draw(st.integers(0, 255))
    payload = draw(st.binary(max_size=50) | damaged(MESSAGE))
    size = draw(st.just(len(payload)) | st.integers(0, 65535))
    return bytes((head, 0x80 | 126)) + size.to_bytes(2, "big") + bytes(4) + payload


@fuzzed
@given(data=st.lists(frames(), max_size=4).map(b"".join) | st.binary(max_size=100))
@example(data=b"\x81\x82\0\0\0\0a\xb8")  # text that is not UTF-8: was logged as an exception
def test_any_frames_are_survived(server: Served, data: bytes) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=TIMEOUT_S) as link:
        link.sendall(OPENING)
        opened = link.recv(65536)
        assert opened.startswith(b"HTTP/1.1 101 "), opened
        try:
            link.sendall(data)
            link.shutdown(socket.SHUT_WR)
            while link.recv(65536):
                pass
        except ConnectionError:
            pass
    check(server, b"")
