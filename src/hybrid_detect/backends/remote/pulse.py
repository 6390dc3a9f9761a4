"""Whether a WebSocket lives, and how long its round trip takes."""

from __future__ import annotations

import array
import asyncio
import math
import socket
import sys
import time

import websockets
from websockets.asyncio.client import ClientConnection

from hybrid_detect.backends.remote.link_meter import LinkMeter

if sys.platform == "linux":
    import fcntl
    import termios

__all__ = ["Pulse"]

SILENT_ROUND_TRIPS = 3.0
"""A link is not given up before so many round trips without a sign of life."""

PING_S = 0.2
"""A ping for every second frame at 10 fps, at most one under way: 84 bytes each, 0.4 KB/s. Source:
of the settings tried over recorded network traces the best, `docs/explanation/choosing.md`."""

BUSY_S = 2.0
"""So long after the last frame the link is of interest; then the heartbeat is enough."""


class Pulse:
    """Feels whether a link lives, and measures its round trip.

    A link lives while pings are answered or bytes leave this device. websockets' own keepalive is
    off: it waits for its buffer to empty before it waits for a ping's answer, which over a dead
    link with frames in the buffer is for ever, and its limit does not follow the round trip.

    Args:
        link: The link, just opened.
        meter: Is told of the pings: one's own round trip tells a slow link from a large frame.
        heartbeat_s: Seconds between pings while no frames flow, and for a ping's answer.
        round_trip_s: The link's round trip, as far as is known.
    """

    def __init__(
        self, link: ClientConnection, *, meter: LinkMeter, heartbeat_s: float, round_trip_s: float
    ) -> None:
        self._link = link
        self._meter = meter
        self._heartbeat_s = heartbeat_s
        self._round_trip_s = round_trip_s
        self._sent_bytes = 0
        self._last_sent_s = -math.inf

    def sent(self, size_bytes: int) -> None:
        """A frame of `size_bytes` was handed to the link's transport."""
        self._sent_bytes += size_bytes
        self._last_sent_s = time.monotonic()

    async def feel(self) -> None:
        """Ping for as long as the link lives, more often while frames flow; then break it."""
        link, meter = self._link, self._meter
        while True:
            is_busy = time.monotonic() - self._last_sent_s < BUSY_S
            await asyncio.sleep(PING_S if is_busy else self._heartbeat_s)
            sent_s = meter.clock()
            meter.link.pinged(now_s=sent_s)
            answered = asyncio.create_task(_is_answered(link))
            try:
                if not await self._is_alive(answered):
                    link.transport.abort()
                    return
            finally:
                answered.cancel()
            self._round_trip_s = link.latency
            meter.link.ponged(sent_s, now_s=meter.clock())

    async def _is_alive(self, answered: asyncio.Task[bool]) -> bool:
        """Whether a ping is answered before nothing has moved for too long."""
        left, moved_s = self._left(), time.monotonic()
        while not answered.done():
            limit_s = max(self._heartbeat_s, SILENT_ROUND_TRIPS * self._round_trip_s)
            wait_s = moved_s + limit_s - time.monotonic()
            if wait_s <= 0:
                return False
            await asyncio.wait([answered], timeout=min(wait_s, limit_s / 4))
            if (now_left := self._left()) > left:
                left, moved_s = now_left, time.monotonic()
        return answered.result()

    def _left(self) -> int:
        """Bytes of frames that have left this device, as far as the system tells."""
        unsent = self._link.transport.get_write_buffer_size()
        return self._sent_bytes - unsent - _unacknowledged(self._link)


async def _is_answered(link: ClientConnection) -> bool:
    """Whether a ping is answered before the link is closed."""
    try:
        await (await link.ping())
    except websockets.ConnectionClosed:
        return False
    return True


def _unacknowledged(link: ClientConnection) -> int:
    """Bytes in the system's buffer that the other end has not acknowledged; 0 if it cannot tell."""
    sock: socket.socket | None = link.transport.get_extra_info("socket")
    if sock is None or sys.platform != "linux":
        return 0
    count = array.array("i", [0])
    try:
        fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, count)
    except (OSError, ValueError):
        return 0
    return count[0]
