"""What a stranger without a credential costs the others: latency, memory and log lines.

A server in a process of its own with a stand-in detector (two places, 20 ms a look), and callers
with the token: one over HTTP, one on a stream, ten pictures a second each. Each kind of stranger
runs in a third process, for as long as the quiet time before it. Printed are the others' p99 with
the stranger as a ratio of that without, the growth of the server's memory, and its log lines a
second. The stranger shares the machine, so a part of the ratio is its own use of the cores: the
row "a busy core" is a process that only computes.

    python benchmarks/bench_strangers.py [SECONDS]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import logging
import multiprocessing
import socket
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx
import numpy as np
import psutil
from PIL import Image
from websockets.asyncio.client import connect

from hybrid_detect.exchange.wire import DetectRequest, decode_reply, encode_request
from hybrid_detect.server.admission import Admission
from hybrid_detect.server.app import create_app
from hybrid_detect.server.config import ServerConfig
from hybrid_detect.server.detectors import Detection
from hybrid_detect.server.listening import Server

TOKEN = "the-token-of-the-others"  # noqa: S105 - of a server of its own
LOOK_S = 0.02
EVERY_S = 0.1
STRANGERS_CONNECTIONS = 50


def picture() -> bytes:
    out = io.BytesIO()
    pixels = np.random.default_rng(1).integers(0, 255, (240, 320, 3), np.uint8)
    Image.fromarray(pixels).save(out, "JPEG", quality=85)
    return out.getvalue()


class StandIn:
    """A detector of two places that takes `LOOK_S`."""

    model = "stand-in"
    info = None

    def __init__(self) -> None:
        self._admission = Admission(max_waiting=16)

    async def start(self) -> None:
        self._admission.open(2)

    async def detect(
        self, request: DetectRequest, *, is_abandoned: object = None, **_: object
    ) -> Detection:
        async with self._admission.place(request.deadline_s) as look:
            await asyncio.sleep(LOOK_S)
        return Detection(width=320, height=240, faces=(), queue_s=look.queue_s, detect_s=LOOK_S)

    async def aclose(self) -> None: ...


def serve(port: int, log: str) -> None:
    logging.basicConfig(filename=log, level=logging.INFO)
    config = ServerConfig(port=port, auth_token=TOKEN, rate_per_s=0)
    Server(create_app(config, StandIn()), config).run()


# -- the others ------------------------------------------------------------------------------


async def others(port: int, seconds: float) -> list[float]:
    """The latencies of two callers with the token."""
    ends_s = time.perf_counter() + seconds
    image = picture()
    headers = {"Authorization": f"Bearer {TOKEN}"}
    times: list[float] = []

    async def repeat(call: Callable[[], Awaitable[object]]) -> None:
        while time.perf_counter() < ends_s:
            began_s = time.perf_counter()
            await call()
            times.append(time.perf_counter() - began_s)
            await asyncio.sleep(max(EVERY_S - times[-1], 0))

    async with (
        httpx.AsyncClient(headers=headers, timeout=30) as client,
        connect(
            f"ws://127.0.0.1:{port}/v1/stream", additional_headers=headers, compression=None
        ) as link,
    ):

        async def post() -> None:
            reply = await client.post(f"http://127.0.0.1:{port}/v1/detect", content=image)
            reply.raise_for_status()

        async def send() -> None:
            await link.send(encode_request(DetectRequest(request_id=1, image=image)))
            decode_reply(await link.recv())

        await asyncio.gather(repeat(post), repeat(send))
    return times


# -- strangers -------------------------------------------------------------------------------

OPENING = (
    b"GET /v1/stream HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)
REQUEST = b"POST /v1/detect HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello"


async def dialled(port: int, act: Callable[..., Awaitable[None]]) -> None:
    """Run `act` on one connection after the other, for ever."""
    while True:
        writer: asyncio.StreamWriter | None = None
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            await act(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            await asyncio.sleep(0.001)
        finally:
            if writer is not None:
                writer.close()


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(OPENING + b"X: " + b"x" * 9000)
    await reader.read()


async def handshakes(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(OPENING + b"\r\n")
    await reader.read()


async def garbage(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"\x16\x03\x01 is not HTTP\r\n\r\n")
    await reader.read()


async def requests(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(REQUEST)
        if not await reader.read(65536):
            return


async def pipelining(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    async def flood() -> None:
        while True:
            writer.write(REQUEST * 500)
            await writer.drain()

    flooding = asyncio.create_task(flood())
    try:
        while await reader.read(65536):
            pass
    finally:
        flooding.cancel()
        with contextlib.suppress(asyncio.CancelledError, OSError):
            await flooding


async def untaken(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Sends requests and takes no answer."""
    reader._transport.pause_reading()  # type: ignore[attr-defined]
    while True:
        writer.write(REQUEST * 500)
        await writer.drain()


async def slow_bodies(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"POST /v1/detect HTTP/1.1\r\nHost: x\r\nContent-Length: 4000000\r\n\r\n")
    while not writer.is_closing():
        writer.write(b"x")
        await asyncio.sleep(0.1)


async def large_bodies(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"POST /v1/detect HTTP/1.1\r\nHost: x\r\nContent-Length: 4000000000\r\n\r\n")
    while not writer.is_closing():
        writer.write(bytes(65536))
        await writer.drain()


STRANGERS: dict[str, Callable[..., Awaitable[None]] | None] = {
    "a busy core": None,
    "silent handshakes": silent,
    "handshakes": handshakes,
    "no HTTP": garbage,
    "requests": requests,
    "pipelined requests": pipelining,
    "answers not taken": untaken,
    "slow bodies": slow_bodies,
    "large bodies": large_bodies,
}


def stranger(name: str, port: int) -> None:
    act = STRANGERS[name]
    if act is None:
        while True:
            pass

    async def run() -> None:
        await asyncio.gather(*(dialled(port, act) for _ in range(STRANGERS_CONNECTIONS)))

    asyncio.run(run())


# -- measuring -------------------------------------------------------------------------------


def p99_ms(times: list[float]) -> float:
    return statistics.quantiles(times, n=100)[98] * 1000


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("seconds", nargs="?", type=float, default=4.0)
    parser.add_argument("--only", choices=STRANGERS, help="one kind of stranger")
    arguments = parser.parse_args()
    port = free_port()
    processes = multiprocessing.get_context("spawn")
    log = Path(tempfile.mkdtemp()) / "server.log"
    server = processes.Process(target=serve, args=(port, str(log)), daemon=True)
    server.start()
    memory = psutil.Process(server.pid).memory_full_info
    while True:
        with contextlib.suppress(httpx.TransportError):
            httpx.get(f"http://127.0.0.1:{port}/v1/health")
            break
        time.sleep(0.05)
    asyncio.run(others(port, 1.0))
    print(f"{'stranger':20} {'p99 without':>12} {'with':>8} {'ratio':>6} {'memory':>9} {'log':>9}")
    for name in [arguments.only] if arguments.only else STRANGERS:
        before = p99_ms(asyncio.run(others(port, arguments.seconds)))
        uss, lines = memory().uss, log.read_text().count("\n")
        process = processes.Process(target=stranger, args=(name, port), daemon=True)
        process.start()
        time.sleep(1.0)
        during = p99_ms(asyncio.run(others(port, arguments.seconds)))
        grown = (memory().uss - uss) / 2**20
        rate = (log.read_text().count("\n") - lines) / (arguments.seconds + 1)
        process.kill()
        process.join()
        time.sleep(0.5)
        print(
            f"{name:20} {before:9.1f} ms {during:5.1f} ms {during / before:6.2f}"
            f" {grown:+6.1f} MiB {rate:6.2f}/s",
            flush=True,
        )
    server.terminate()
    server.join()


if __name__ == "__main__":
    main()
