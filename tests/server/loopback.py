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
from hybrid_detect.server.app import create_app
from hybrid_detect.server.config import ServerConfig
from hybrid_detect.server.connections import ConnectionLimits
from hybrid_detect.server.detectors import Detection
from hybrid_detect.server.listening import Server
from hybrid_detect.types import BoundingBox, Face

from ..waiting import LIMIT_S

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
) -> AsyncIterator[Served]:
    """The server under `config` on a free port; `limits` in the place of its usual ones."""
    config = replace(config or ServerConfig(), port=0)
    detector = detector or OneFace(config.max_pixels)
    async with Server(create_app(config, detector, tracer=tracer), config, limits=limits) as server:
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
