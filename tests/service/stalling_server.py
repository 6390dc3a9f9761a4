"""A server on loopback that takes a connection and then no more bytes than its buffers hold."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from websockets.asyncio.server import ServerConnection, serve

from hybrid_detect.exchange.wire import SUBPROTOCOL

__all__ = ["stalling_server", "steps"]


async def steps(count: int) -> None:
    """Give the event loop so many turns."""
    for _ in range(count):
        await asyncio.sleep(0)


@asynccontextmanager
async def stalling_server(kind: str) -> AsyncIterator[str]:
    """A server that reads a head, or opens a WebSocket, and then takes no more."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    transports: list[asyncio.Transport] = []

    async def stall(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        transports.append(writer.transport)  # type: ignore[arg-type]

    async def stall_link(link: ServerConnection) -> None:
        link.transport.pause_reading()
        transports.append(link.transport)
        await link.wait_closed()

    if kind == "cloud":
        server: Any = await asyncio.start_server(stall, sock=listener, limit=1024)
    else:
        server = await serve(
            stall_link, sock=listener, subprotocols=[SUBPROTOCOL], ping_interval=None
        )
    try:
        yield url
    finally:
        for transport in transports:
            transport.abort()
        server.close()
        await server.wait_closed()
        await steps(10)
