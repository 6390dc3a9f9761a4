"""Bytes that are not wanted: taken off a socket without being copied, or at a bearable pace.

What has come for a connection waits in the kernel. To read 80 KB of it only to drop them takes 50
to 100 us, most of it for the copies; to have the kernel drop them takes 10 us (Linux 6.18,
loopback).
"""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Callable

__all__ = ["DropPace", "can_drop_unread", "drop_unread"]

_NOWHERE = bytearray(1024 * 1024)
"""What `recv_into` wants, to know its size; more takes several calls. Nothing is written to it, so
that it takes no memory: its pages are never touched."""


DROPPED_BYTES = 256 * 1024
DROP_PAUSE_S = 0.05
"""What has to be read to be dropped is read at this pace, 5 MiB a second."""


class DropPace:
    """The pace of one connection.

    Args:
        changed: Called when it is paused, and when it goes on.
    """

    def __init__(self, changed: Callable[[], object]) -> None:
        self._changed = changed
        self._dropped = 0
        self.is_paused = False
        """Whether it is too early to read what is dropped anyway."""

    def note(self, size: int) -> None:
        """So many bytes were read and dropped."""
        self._dropped += size
        if self._dropped >= DROPPED_BYTES and not self.is_paused:
            self._dropped = 0
            self.is_paused = True
            self._changed()
            asyncio.get_running_loop().call_later(DROP_PAUSE_S, self._go_on)

    def end(self) -> None:
        """Pause no longer, and tell of nothing: another one reads."""
        self._changed = lambda: None
        self.is_paused = False

    def _go_on(self) -> None:
        self.is_paused = False
        self._changed()


def can_drop_unread(transport: asyncio.Transport) -> bool:
    """Whether `drop_unread` can do anything for `transport`.

    Only Linux can, for TCP (``MSG_TRUNC``, tcp(7)), and not where the bytes are encrypted.
    """
    if sys.platform != "linux" or transport.get_extra_info("sslcontext") is not None:
        return False
    given = transport.get_extra_info("socket")
    return given is not None and given.family in (socket.AF_INET, socket.AF_INET6)


def drop_unread(transport: asyncio.Transport, most: int) -> int:
    """Drop up to `most` bytes that have come over `transport` and were not read.

    Args:
        transport: One for which `can_drop_unread` is true.
        most: Bytes.

    Returns:
        How many were dropped: fewer if fewer have come.
    """
    if transport.is_closing() or (number := transport.get_extra_info("socket").fileno()) < 0:
        return 0
    # A socket of our own for the same descriptor, because the transport's cannot be read from. The
    # base class, which is written in C, is enough. The family does not matter: no address is read.
    own = socket.SocketType(_FAMILY, _STREAM, 0, number)
    dropped = 0
    try:
        if own.gettimeout() is not None:  # the app's `socket.setdefaulttimeout` would have it wait
            own.setblocking(False)
        while dropped < most:
            size = min(most - dropped, len(_NOWHERE))
            got = own.recv_into(_NOWHERE, size, _DROPPED_AT_ONCE)
            dropped += got
            if got < size:
                break  # nothing more has come; or the peer has ended, which the transport tells
    except OSError:  # nothing has come; or an error, which the transport tells
        pass
    finally:
        own.detach()
    return dropped


_FAMILY, _STREAM = int(socket.AF_INET), int(socket.SOCK_STREAM)
_DROPPED_AT_ONCE = int(getattr(socket, "MSG_TRUNC", 0)) | int(getattr(socket, "MSG_DONTWAIT", 0))
