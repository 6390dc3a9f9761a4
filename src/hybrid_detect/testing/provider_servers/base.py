"""What all scripted provider servers have in common: HTTP on loopback, a record, and a script."""

from __future__ import annotations

import contextlib
import email.utils
import json
import socket
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qsl, urlsplit

from hybrid_detect.errors import InvalidFrameError
from hybrid_detect.frames.frame import Frame
from hybrid_detect.frames.jpeg_segments import jpeg_segments
from hybrid_detect.geometry import BoundingBox, Face, Keypoint

__all__ = [
    "Answer",
    "Failure",
    "ProviderServer",
    "ReceivedRequest",
    "Refused",
    "SeenPicture",
    "json_answer",
]

ONE_FACE = (
    Face(
        BoundingBox(0.25, 0.25, 0.5, 0.75),
        0.75,
        (
            Keypoint("right_eye", 0.3125, 0.375),
            Keypoint("left_eye", 0.4375, 0.375),
            Keypoint("nose_tip", 0.375, 0.5),
        ),
    ),
)
"""What a server finds unless it is told: binary fractions, which survive every unit exactly."""

_HUFFMAN = 0xC4
_METADATA = frozenset((*range(0xE1, 0xEE), 0xEF, 0xFE))
"""APP1 to APP15 but Adobe's APP14, which tells the colours, and COM."""

_POLL_S = 0.02
"""How soon the accepting thread notices that the server closes."""


@dataclass(frozen=True, slots=True)
class ReceivedRequest:
    """A request as it came over the wire."""

    method: str
    target: str = field(repr=False)
    """Path and query as they were sent."""
    headers: Mapping[str, str] = field(repr=False)
    """By name in lower case."""
    body: bytes = field(repr=False)

    @property
    def path(self) -> str:
        """The path without the query."""
        return urlsplit(self.target).path

    @property
    def query(self) -> dict[str, str]:
        """The query's parameters."""
        return dict(parse_qsl(urlsplit(self.target).query, keep_blank_values=True))

    def json(self) -> Any:
        """The body as JSON.

        Raises:
            ValueError: If it is none.
        """
        return json.loads(self.body)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server answers with."""

    status: int
    body: bytes = field(default=b"", repr=False)
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Failure:
    """What happens to a request instead of its answer."""

    status: int = 500
    code: str = ""
    """The provider's own code, which stands in its error body."""
    body: bytes | None = None
    """A body in place of the provider's error body, such as a gateway's page."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Headers beside the provider's own, such as Retry-After."""
    delay_s: float = 0.0
    """Seconds before the answer. With a `status` of 200, the usual answer comes then."""
    hangs: bool = False
    """No answer ever comes; the connection stays open."""
    hangs_up: bool = False
    """The connection is closed instead of an answer."""


class Refused(Exception):  # noqa: N818 - a server's answer, not a fault
    """Raised by a server's `answer` for a request that its provider would refuse."""

    def __init__(self, status: int, code: str, message: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.code = code


@dataclass(frozen=True, slots=True)
class SeenPicture:
    """What a provider sees in the file it was sent."""

    format: str
    """``jpeg``, ``png`` and so on."""
    width: int
    """Pixels, the orientation of EXIF applied."""
    height: int
    """Pixels, the orientation of EXIF applied."""
    size_bytes: int
    """Bytes of the file."""
    has_metadata: bool
    """Whether a JPEG has EXIF, a comment or another segment beside the picture."""
    is_complete: bool
    """Whether a JPEG brings its own Huffman tables."""

    @classmethod
    def of(cls, data: bytes) -> Self:
        """Look into `data`, and decode it.

        Raises:
            InvalidFrameError: If it is no picture that can be decoded.
        """
        frame = Frame.of(data)
        frame.rgb()
        encoded = frame.encoded
        form = "" if encoded is None else encoded.format.lower()
        markers = {segment.marker for segment in jpeg_segments(data)} if form == "jpeg" else set()
        return cls(
            format=form,
            width=frame.width,
            height=frame.height,
            size_bytes=len(data),
            has_metadata=bool(markers & _METADATA),
            is_complete=form != "jpeg" or _HUFFMAN in markers,
        )


def json_answer(value: object, status: int = 200, **headers: str) -> Answer:
    """An answer of JSON. Headers are given as names with underscores."""
    named = {name.replace("_", "-"): text for name, text in headers.items()}
    body = json.dumps(value).encode()
    return Answer(status, body, {"Content-Type": "application/json", **named})


class ProviderServer(ABC):
    """A provider's server on loopback, in threads of its own: for async and blocking clients alike.

    A subclass gives `answer` and `error_answer`. An exception of a subclass is raised again when
    the server is closed, so that a test cannot pass over it.

    Args:
        faces: What it finds in every picture, in fractions of the picture's width and height.
    """

    faces: Sequence[Face]
    """What it finds in the next picture, in fractions of the picture's width and height."""
    requests: list[ReceivedRequest]
    """All requests in the order they came, refused ones included."""
    pictures: list[SeenPicture]
    """All pictures in them that could be read."""
    ahead_s: float = 0.0
    """How much later its clock is than this machine's, in seconds."""

    def __init__(self, *, faces: Sequence[Face] = ONE_FACE) -> None:
        self.faces = tuple(faces)
        self.requests = []
        self.pictures = []
        self._script: deque[Failure] = deque()
        self._always: Failure | None = None
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._faults: list[BaseException] = []
        self._http: _HttpServer | None = None

    # ---- what a subclass says

    @abstractmethod
    def answer(self, request: ReceivedRequest) -> Answer:
        """The answer to a request that is not made to fail.

        Raises:
            Refused: If the provider would refuse it.
        """

    @abstractmethod
    def error_answer(self, status: int, code: str, message: str) -> Answer:
        """An error in the provider's own form."""

    def see(self, data: bytes) -> SeenPicture | None:
        """The picture in `data`, recorded; `None` if it cannot be read."""
        try:
            seen = SeenPicture.of(data)
        except InvalidFrameError:
            return None
        with self._lock:
            self.pictures.append(seen)
        return seen

    def now_s(self) -> float:
        """The time on the server's clock, in seconds since 1970."""
        return time.time() + self.ahead_s

    # ---- the script

    def fail_next(self, *failures: Failure) -> None:
        """Let the next requests fail, one after the other, after those already scripted."""
        with self._lock:
            self._script.extend(failures)

    def fail_always(self, failure: Failure | None) -> None:
        """Let every request fail that `fail_next` says nothing of; `None` ends that."""
        with self._lock:
            self._always = failure

    # ---- the server

    @property
    def url(self) -> str:
        """Where it listens."""
        if self._http is None:
            msg = "the server is not open: use it in a with block"
            raise RuntimeError(msg)
        return f"http://127.0.0.1:{self._http.server_port}"

    def __enter__(self) -> Self:
        self._closing.clear()
        self._http = _HttpServer(self._respond)
        threading.Thread(
            target=self._http.serve_forever, args=(_POLL_S,), daemon=True, name="provider-server"
        ).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._closing.set()
        if self._http is not None:
            self._http.stop()
            self._http = None
        if self._faults and kind is None:
            raise self._faults[0]

    def _respond(self, request: ReceivedRequest) -> Answer | None:
        """The answer to `request`; `None` hangs up."""
        answer = self._scripted(request)
        if answer is None:
            return None
        date = email.utils.formatdate(self.now_s(), usegmt=True)
        return Answer(answer.status, answer.body, {"Date": date, **answer.headers})

    def _scripted(self, request: ReceivedRequest) -> Answer | None:
        with self._lock:
            self.requests.append(request)
            failure = self._script.popleft() if self._script else self._always
        if failure is not None:
            if failure.hangs:
                self._closing.wait()
            elif failure.delay_s:
                self._closing.wait(failure.delay_s)
            if failure.hangs or failure.hangs_up or self._closing.is_set():
                return None
        try:
            if failure is not None and failure.status != 200:
                return self._failed(failure)
            return self._answered(request, failure)
        except Exception as fault:
            self._faults.append(fault)
            return Answer(500)

    def _answered(self, request: ReceivedRequest, failure: Failure | None) -> Answer:
        try:
            answer = self.answer(request)
        except Refused as refused:
            return self.error_answer(refused.status, refused.code, str(refused))
        if failure is not None and failure.body is not None:
            return Answer(answer.status, failure.body, {**answer.headers, **failure.headers})
        return answer

    def _failed(self, failure: Failure) -> Answer:
        usual = self.error_answer(failure.status, failure.code, "as the test wished")
        body, headers = usual.body, dict(usual.headers)
        if failure.body is not None:
            body, headers = failure.body, {**headers, "Content-Type": "text/html"}
        return Answer(failure.status, body, {**headers, **failure.headers})


class _HttpServer(ThreadingHTTPServer):
    """HTTP/1.1 with connections that stay open until the client, or `stop`, closes them."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, respond: Any) -> None:
        self.respond = respond
        self._open: dict[socket.socket, threading.Thread] = {}
        super().__init__(("127.0.0.1", 0), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        thread = threading.Thread(
            target=self.process_request_thread, args=(request, client_address), daemon=True
        )
        self._open[request] = thread
        thread.start()

    def shutdown_request(self, request: Any) -> None:
        super().shutdown_request(request)
        self._open.pop(request, None)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: clients that hang up are part of every test."""

    def stop(self) -> None:
        """Close all connections and wait for their threads."""
        self.shutdown()
        for connection, thread in list(self._open.items()):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            thread.join(timeout=5)
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # head and body leave together
    server: _HttpServer

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = {name.lower(): text for name, text in self.headers.items()}
        answer = self.server.respond(ReceivedRequest(self.command, self.path, headers, body))
        if answer is None:
            self.close_connection = True
            return
        self.send_response_only(answer.status)
        for name, text in {**answer.headers, "Content-Length": str(len(answer.body))}.items():
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(answer.body)

    do_GET = do_POST = do_PUT = _serve  # noqa: N815 - names that http.server asks for

    def log_message(self, *_: object) -> None:
        """Log nothing: what a test sends is in `ProviderServer.requests`."""
