"""The server on a real loopback socket."""

from __future__ import annotations

import asyncio
import contextlib
import io
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from PIL import Image

from hybrid_detect.exchange.model_info import ModelInfo
from hybrid_detect.exchange.wire import DetectRequest
from hybrid_detect.frames.frame import Frame
from hybrid_detect.monitoring.tracing import Tracer
from hybrid_detect.server.admission import Admission
from hybrid_detect.server.app import create_app
from hybrid_detect.server.config import ServerConfig
from hybrid_detect.server.connections import ConnectionLimits
from hybrid_detect.server.detectors import Detection
from hybrid_detect.server.listening import Server
from hybrid_detect.types import BoundingBox, Face

from ..waiting import LIMIT_S, until

FACE = Face(BoundingBox(1, 2, 30, 40), 0.9)


def jpeg(width: int = 64, height: int = 48) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.zeros((height, width, 3), np.uint8)).save(out, "JPEG")
    return out.getvalue()


class OneFace:
    """A detector that decodes the picture under the pixel limit and sees one face."""

    model = "fake"
    info: ModelInfo | None = None

    def __init__(self, max_pixels: int = 1_000_000) -> None:
        self._max_pixels = max_pixels
        self.looks = 0

    async def start(self) -> None:
        pass

    async def detect(
        self,
        request: DetectRequest,
        *,
        caller: str = "",
        is_abandoned: Callable[[], Awaitable[bool]] | None = None,
    ) -> Detection:
        self.looks += 1
        frame = Frame.of(request.image, max_pixels=self._max_pixels)
        frame.rgb()
        return Detection(
            width=frame.width, height=frame.height, faces=(FACE,), queue_s=0.0, detect_s=0.0
        )

    async def aclose(self) -> None:
        pass


class Busy(OneFace):
    """A detector of one place, which looks at a picture until it is let go.

    With `hold`, its place is taken and so many pictures wait that no other is let in.
    """

    def __init__(self, *, max_waiting: int = 2) -> None:
        super().__init__()
        self.admission = Admission(max_waiting=max_waiting)
        self.go = asyncio.Event()
        self._max_waiting = max_waiting
        self._held: list[asyncio.Task[Detection]] = []

    async def start(self) -> None:
        self.admission.open(1)

    async def detect(
        self,
        request: DetectRequest,
        *,
        caller: str = "",
        is_abandoned: Callable[[], Awaitable[bool]] | None = None,
    ) -> Detection:
        place = self.admission.place(request.deadline_s, caller=caller, is_abandoned=is_abandoned)
        async with place:
            await self.go.wait()
            return await super().detect(request)

    async def hold(self, caller: str = "peer 127.0.0.1") -> None:
        for _ in range(1 + self._max_waiting):
            held = self.detect(DetectRequest(request_id=0, image=jpeg()), caller=caller)
            self._held.append(asyncio.create_task(held))
        await until(lambda: self.admission.waiting == self._max_waiting)

    async def let_one_go(self) -> None:
        """Let one of them go that wait since `hold`."""
        waiting = self.admission.waiting
        self._held[-1].cancel()
        await until(lambda: self.admission.waiting == waiting - 1)

    @property
    def displaced(self) -> int:
        """Of the pictures that `hold` brought, those that had to go for another."""
        return sum(held.done() for held in self._held)

    async def aclose(self) -> None:
        for held in self._held:
            held.cancel()
        await asyncio.gather(*self._held, return_exceptions=True)


@dataclass(frozen=True)
class Served:
    """A server that runs."""

    port: int
    detector: OneFace
    server: Server

    @property
    def connections(self) -> int:
        return self.server.connections

    async def raw(self, *parts: bytes) -> bytes:
        """Everything the server answers to these bytes until it closes the connection."""
        async with self.dialled() as (reader, writer):
            for part in parts:
                writer.write(part)
            return await answer_of(reader)

    @asynccontextmanager
    async def dialled(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        async with asyncio.timeout(LIMIT_S):
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            try:
                yield reader, writer
            finally:
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()


async def answer_of(reader: asyncio.StreamReader) -> bytes:
    """To the end of the connection, whichever way it ends."""
    parts = []
    with contextlib.suppress(ConnectionError):
        while part := await reader.read(65536):
            parts.append(part)
    return b"".join(parts)


@asynccontextmanager
async def served(
    config: ServerConfig | None = None,
    *,
    limits: ConnectionLimits | None = None,
    detector: OneFace | None = None,
    tracer: Tracer | None = None,
    admission: Admission | None = None,
) -> AsyncIterator[Served]:
    """The server under `config` on a free port; `limits` in the place of its usual ones."""
    config = replace(config or ServerConfig(), port=0)
    detector = detector or OneFace(config.max_pixels)
    app = create_app(config, detector, tracer=tracer, admission=admission)
    async with Server(app, config, limits=limits) as server:
        yield Served(server.port, detector, server)


@contextmanager
def served_beside(config: ServerConfig) -> Iterator[Served]:
    """The same in a thread and loop of its own, to be shared by many tests."""
    started: Future[Served] = Future()
    ends: list[Callable[[], object]] = []

    async def serve() -> None:
        end = asyncio.Event()
        ends.append(partial(asyncio.get_running_loop().call_soon_threadsafe, end.set))
        async with served(config) as server:
            started.set_result(server)
            await end.wait()

    with ThreadPoolExecutor(1) as threads:
        done = threads.submit(asyncio.run, serve())
        try:
            yield started.result(LIMIT_S)
        finally:
            ends[0]()
            done.result(LIMIT_S)
