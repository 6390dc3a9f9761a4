"""A connection before HTTP: the TLS handshake, counted and limited like everything after it.

asyncio's own server makes a protocol only once a handshake has ended. Until then a silent stranger
would hold a socket and some 100 KiB that no limit counts.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import Any, cast

from hybrid_detect.server.connections import Context, peer_addresses
from hybrid_detect.server.http_connection import HttpConnection

__all__ = ["TlsGreeting"]


class TlsGreeting(asyncio.Protocol):
    """Does the TLS handshake of a connection and hands it to `HttpConnection`."""

    def __init__(self, context: Context, tls: ssl.SSLContext) -> None:
        self._context = context
        self._tls = tls
        self._early = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count the connection, and close it if there is no room."""
        self._transport = cast("asyncio.Transport", transport)
        if not self._context.connections.add(self, peer_addresses(self._transport)["peer"]):
            self._transport.abort()  # a refusal would need the handshake
            return
        # Not paused here: uvloop starts to read all the same, and `start_tls` would then take the
        # transport for paused and not pause it itself.
        self._greeting = asyncio.get_running_loop().create_task(self._greet())

    def connection_lost(self, exc: Exception | None) -> None:
        """Count it no longer."""
        self._context.connections.discard(self)

    def data_received(self, data: bytes) -> None:
        """Keep what comes before `start_tls` has taken over, and what ends the handshake."""
        self._early += data

    def stop(self) -> None:
        """Close: nothing has been asked yet."""
        self._transport.abort()

    def give_up(self) -> None:
        """Close at once."""
        self._transport.abort()

    def _pass_hello_on(self) -> None:
        """Give TLS what came before it had taken over, on a busy machine the client's hello."""
        tls: Any = self._transport.get_protocol()
        if not hasattr(tls, "get_buffer"):
            return  # it has failed already
        while self._early:
            room = tls.get_buffer(len(self._early))
            part = self._early[: len(room)]
            room[: len(part)] = part
            del self._early[: len(part)]
            tls.buffer_updated(len(part))

    async def _greet(self) -> None:
        loop = asyncio.get_running_loop()
        upgrade = loop.create_task(
            loop.start_tls(
                self._transport,
                self,
                self._tls,
                server_side=True,
                ssl_handshake_timeout=self._context.limits.head_s,
            )
        )
        # These run right after the upgrade's first step, and after what it has scheduled, with no
        # read in between: a hello that came early is the first thing that TLS gets.
        loop.call_soon(loop.call_soon, self._pass_hello_on)
        try:
            encrypted = await upgrade
        except OSError:  # no TLS, no certificate that was asked for, too slow, or gone
            encrypted = None
        self._context.connections.discard(self)
        if encrypted is None or encrypted.is_closing():
            self._transport.abort()
            return
        protocol = HttpConnection(self._context)
        encrypted.set_protocol(protocol)
        protocol.connection_made(encrypted)
        if self._early:
            protocol.data_received(bytes(self._early))
