"""An HTTP server of somebody else's, on loopback: it answers as a test tells it to."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

__all__ = ["ForeignServer", "Request", "foreign_server", "json_answer"]


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes = field(repr=False)


Answer = Callable[[Request], Awaitable[tuple[int, bytes, str]]]


@dataclass
class ForeignServer:
    url: str = ""
    requests: list[Request] = field(default_factory=list)
    answer: Answer | None = None
    """What to answer with: status, body, content type. A coroutine that never ends hangs."""


def json_answer(value: object, status: int = 200) -> tuple[int, bytes, str]:
    return status, json.dumps(value).encode(), "application/json"


@contextlib.asynccontextmanager
async def foreign_server(answer: Answer) -> AsyncIterator[ForeignServer]:
    """Serve until the block ends; requests under way are broken off then."""
    made = ForeignServer(answer=answer)
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                method, path, _ = head[0].split(" ")
                headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                request = Request(method, path, headers, body)
                made.requests.append(request)
                assert made.answer is not None
                status, content, kind = await made.answer(request)
                writer.write(
                    f"HTTP/1.1 {status} Told\r\nContent-Type: {kind}\r\n"
                    f"Content-Length: {len(content)}\r\n\r\n".encode()
                    + content
                )
                await writer.drain()
        except (asyncio.IncompleteReadError, OSError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    made.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield made
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()
