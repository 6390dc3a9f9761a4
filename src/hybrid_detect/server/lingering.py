"""The end of a connection whose peer may still be sending: what comes is read and dropped.

Closing at once, while bytes are on their way here, would reset the connection, and may cost the
peer what was written last, which says why it ends (RFC 6455, 7.1.1; RFC 9112, 9.6).
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Protocol

from hybrid_detect.server.connections import LINGER_S, Connection, Context, Timer
from hybrid_detect.server.unread_bytes import DropPace

__all__ = ["end_sending", "linger"]


class Replaced(Connection, Protocol):
    """A connection whose transport is taken over."""

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of everything."""
        ...


def linger(context: Context, transport: asyncio.Transport, connection: Replaced) -> None:
    """Let the peer read what was written to `transport`, and close it then.

    Args:
        context: What the server's connections share.
        transport: Of the connection. It reads, or `connection_lost` has it read on.
        connection: The one that is over. It must not use the transport any more.
    """
    if transport.is_closing():
        return
    lingering = Lingering(context, transport)
    context.connections.replace(connection, lingering)
    transport.set_protocol(lingering)
    connection.connection_lost(None)
    lingering.start()


def end_sending(transport: asyncio.Transport) -> None:
    """Tell the peer that nothing more comes, once it has taken what waits; TLS cannot tell."""
    if transport.can_write_eof() and not transport.is_closing():
        with contextlib.suppress(OSError):  # the peer has reset the connection
            transport.write_eof()


class Lingering(asyncio.BufferedProtocol):
    """Reads on for `LINGER_S` and drops what comes, at the pace of `DropPace`; then it closes."""

    def __init__(self, context: Context, transport: asyncio.Transport) -> None:
        self._context = context
        self._transport = transport
        self._timer = Timer()
        self._pace = DropPace(self._control_reading)

    def start(self) -> None:
        """Begin, where nothing else uses the transport any more."""
        end_sending(self._transport)
        self._timer.start(LINGER_S, self.give_up)

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of everything."""
        self._timer.end()
        self._pace.end()
        self._context.connections.discard(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the next bytes go, which nothing keeps."""
        return self._context.read

    def buffer_updated(self, nbytes: int) -> None:
        """Drop them."""
        self._pace.note(nbytes)

    def stop(self) -> None:
        """There is nothing to be answered, and the end is near."""

    def give_up(self) -> None:
        """Close, at the latest when the peer has had its time to take what was written."""
        self._timer.start(self._context.limits.answer_s, self._transport.abort)
        self._transport.close()

    def _control_reading(self) -> None:
        if self._transport.is_closing():
            return
        if self._pace.is_paused:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()
