"""The server's own HTTP and WebSocket against general ASGI servers, under the same app.

The detector finds a face at once, so that nothing hides the cost of a request. Eight clients send
pictures of 2 KB and of 90 KB without pause, to one server after the other, in turns. CPU time is
compared, because it hardly depends on what else the machine does. Servers that are not installed
are left out. They run bare: without the limits of connections, heads, bodies and pipelining that
the own one has.

    pip install uvicorn hypercorn; python benchmarks/bench_server.py [SECONDS]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib.util
import multiprocessing
import socket
import statistics
import struct
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import psutil

from hybrid_detect.exchange.wire import DetectRequest, encode_request
from hybrid_detect.server.app import create_app
from hybrid_detect.server.config import ServerConfig
from hybrid_detect.server.detectors import Detection
from hybrid_detect.server.listening import Server
from hybrid_detect.types import BoundingBox, Face

CLIENTS = 8
ROUNDS = 6
SIZES = (2_000, 90_000)
FOUND = (Face(BoundingBox(1, 2, 30, 40), 0.9),)


class Instant:
    """Finds a face at once."""

    model = "instant"
    info = None

    async def start(self) -> None: ...

    async def detect(
        self, request: DetectRequest, *, is_abandoned: Any = None, **_: object
    ) -> Detection:
        await is_abandoned()
        return Detection(width=64, height=48, faces=FOUND, queue_s=0.0, detect_s=0.0)

    async def aclose(self) -> None: ...


def own(app: Any, config: ServerConfig) -> None:
    Server(app, config).run()


def uvicorn_of(http: str) -> Callable[[Any, ServerConfig], None]:
    def run(app: Any, config: ServerConfig) -> None:
        import uvicorn

        uvicorn.run(
            app,
            port=config.port,
            http=http,
            ws="websockets-sansio",
            ws_per_message_deflate=False,
            log_level="error",
        )

    return run


def hypercorn(app: Any, config: ServerConfig) -> None:
    import hypercorn.asyncio
    import hypercorn.config
    import uvloop

    settings = hypercorn.config.Config()
    settings.bind = [f"127.0.0.1:{config.port}"]
    settings.loglevel = "ERROR"
    uvloop.run(hypercorn.asyncio.serve(app, settings))


SERVERS: dict[str, tuple[str, Callable[[Any, ServerConfig], None]]] = {
    "own": ("starlette", own),
    "uvicorn, httptools": ("uvicorn", uvicorn_of("httptools")),
    "uvicorn, h11": ("uvicorn", uvicorn_of("h11")),
    "hypercorn": ("hypercorn", hypercorn),
}


def serve(name: str, port: int) -> None:
    config = ServerConfig(port=port, rate_per_s=0)
    SERVERS[name][1](create_app(config, Instant()), config)


# -- clients ---------------------------------------------------------------------------------

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def dialled(port: int) -> Streams:
    for _ in range(200):
        with contextlib.suppress(OSError):
            return await asyncio.open_connection("127.0.0.1", port)
        await asyncio.sleep(0.05)
    raise SystemExit("the server did not start")


async def over_http(port: int, size: int) -> Callable[[], Awaitable[None]]:
    reader, writer = await dialled(port)
    head = f"POST /v1/detect HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n\r\n"
    request = head.encode() + bytes(size)

    async def call() -> None:
        writer.write(request)
        answer = await reader.readuntil(b"\r\n\r\n")
        assert b" 200 " in answer.partition(b"\r\n")[0]
        await reader.readexactly(int(answer.lower().split(b"content-length: ")[1].split()[0]))

    return call


async def over_a_stream(port: int, size: int) -> Callable[[], Awaitable[None]]:
    reader, writer = await dialled(port)
    writer.write(
        b"GET /v1/stream HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    await reader.readuntil(b"\r\n\r\n")
    message = encode_request(DetectRequest(request_id=1, image=bytes(size)))
    length = (126, "H") if len(message) < 65536 else (127, "Q")
    frame = struct.pack(f"!BB{length[1]}4x", 0x82, 0x80 | length[0], len(message)) + message

    async def call() -> None:
        writer.write(frame)
        _, length = await reader.readexactly(2)
        if length == 126:
            (length,) = struct.unpack("!H", await reader.readexactly(2))
        await reader.readexactly(length)

    return call


async def measure(port: int, kind: Callable[..., Any], size: int, seconds: float) -> list[float]:
    times: list[float] = []
    calls = [await kind(port, size) for _ in range(CLIENTS)]
    ends_s = time.perf_counter() + seconds

    async def repeat(call: Callable[[], Awaitable[None]]) -> None:
        while time.perf_counter() < ends_s:
            began_s = time.perf_counter()
            await call()
            times.append(time.perf_counter() - began_s)

    await asyncio.gather(*(repeat(call) for call in calls))
    return times


def started(name: str) -> tuple[int, Any]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=serve, args=(name, port), daemon=True)
    process.start()
    asyncio.run(measure(port, over_http, SIZES[0], 0.2))
    return port, process


def cpu_s(process: Any) -> float:
    times = psutil.Process(process.pid).cpu_times()
    return float(times.user + times.system)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("seconds", nargs="?", type=float, default=0.5)
    arguments = parser.parse_args()
    kinds = {"HTTP": over_http, "stream": over_a_stream}
    cases = [(kind, size) for kind in kinds for size in SIZES]
    names = [name for name, (module, _) in SERVERS.items() if importlib.util.find_spec(module)]
    servers = {name: started(name) for name in names}
    cpu: Counter[tuple[str, str, int]] = Counter()
    found: dict[tuple[str, str, int], list[float]] = {}
    for _ in range(ROUNDS):
        for kind, size in cases:
            for name, (port, process) in servers.items():
                before_s = cpu_s(process)
                times = asyncio.run(measure(port, kinds[kind], size, arguments.seconds))
                cpu[name, kind, size] += cpu_s(process) - before_s
                found.setdefault((name, kind, size), []).extend(times)
    print(f"{'server':20}", *(f"{f'{kind} {size // 1000} KB':>26}" for kind, size in cases))
    for name in names:
        cells = []
        for case in cases:
            each = {other: cpu[(other, *case)] / len(found[(other, *case)]) for other in names}
            p99_ms = statistics.quantiles(found[(name, *case)], n=100)[98] * 1000
            cells.append(
                f"{each[name] * 1000:5.2f} ms {each[name] / each['own']:5.2f} {p99_ms:7.1f} ms"
            )
        print(f"{name:20}", *(f"{cell:>26}" for cell in cells))
    print("the server's CPU time a request, as a multiple of the own one's, and p99")
    for _, process in servers.values():
        process.kill()


if __name__ == "__main__":
    main()
