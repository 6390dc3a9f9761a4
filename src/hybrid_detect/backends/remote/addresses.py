"""From a host's name to a connected socket: look-ups that hold nothing up, and happy eyeballs.

asyncio looks names up in the loop's default threads. A resolver that does not answer fills them,
and then whatever else needs a thread waits, closing the program included. Here a look-up runs in a
daemon thread, of which there are few, and nothing waits for one that was given up.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import itertools
import socket
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

from hybrid_detect.sources.daemon_threads import in_daemon_thread

__all__ = ["Address", "Connected", "Resolver", "connect_first", "interleaved"]

ATTEMPT_DELAY_S = 0.25
"""The next address is tried when the last has not answered for so long: RFC 8305, 8."""

MAX_LOOK_UPS = 4
"""Look-ups of one host that may hang at the same time."""

NEXT_LOOK_UP_S = 2.0
"""A look-up out for longer may be hanging with a network that was left: the next one asks anew. The
system's own resolver asks its second server after 5 s (``resolv.conf(5)``, ``timeout``)."""


class Address(NamedTuple):
    """Where a socket can be connected to."""

    family: int
    sockaddr: Any
    """As `socket.socket.connect` takes it."""


class Connected(NamedTuple):
    """A connected socket."""

    sock: socket.socket
    took_s: float
    """Seconds that connecting took: about one round trip."""


class Resolver:
    """Looks hosts up; callers that ask for a host that is being looked up share the answer."""

    def __init__(self) -> None:
        self._look_ups: defaultdict[
            tuple[str, int], list[tuple[float, asyncio.Task[list[Address]]]]
        ] = defaultdict(list)

    def close(self) -> None:
        """Wait no longer for the look-ups that hang."""
        for under_way in self._look_ups.values():
            for _, look_up in under_way:
                look_up.cancel()

    async def find(self, host: str, port: int) -> list[Address]:
        """The addresses of `host`, in the system's order; itself if it is one.

        Raises:
            OSError: If there are none.
            UnicodeError: If it cannot be a host's name.
        """
        with contextlib.suppress(ValueError):
            literal = ipaddress.ip_address(host)
            if literal.version == 4:
                return [Address(socket.AF_INET, (host, port))]
            if "%" not in host:  # which interface a scope means is the system's to say
                return [Address(socket.AF_INET6, (host, port, 0, 0))]
        under_way = self._look_ups[host, port]
        now_s = time.monotonic()
        if not under_way or (
            now_s - under_way[-1][0] > NEXT_LOOK_UP_S and len(under_way) < MAX_LOOK_UPS
        ):
            look_up = asyncio.create_task(in_daemon_thread(_look_up, host, port))
            entry = (now_s, look_up)
            under_way.append(entry)
            look_up.add_done_callback(lambda _: under_way.remove(entry))
            look_up.add_done_callback(_see)
        # The first answer counts; a look-up that fails does not speak for the others.
        waiting = {look_up for _, look_up in under_way}
        while True:
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for look_up in done:
                if look_up.cancelled():  # by `close`, which is not to look like the caller's doing
                    raise ConnectionAbortedError
                if not waiting or look_up.exception() is None:
                    return look_up.result()


def _look_up(host: str, port: int) -> list[Address]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [Address(family, sockaddr) for family, _, _, _, sockaddr in found]


def _see(look_up: asyncio.Task[list[Address]]) -> None:
    """Look at an error that every frame has given up waiting for."""
    if not look_up.cancelled():
        look_up.exception()


def interleaved(addresses: Sequence[Address]) -> list[Address]:
    """`addresses` with the families taking turns, the first one's first. Source: RFC 8305, 4."""
    families: dict[int, list[Address]] = {}
    for address in dict.fromkeys(addresses):
        families.setdefault(address.family, []).append(address)
    rounds = itertools.zip_longest(*families.values())
    return [address for each in rounds for address in each if address is not None]


async def connect_first(
    addresses: Sequence[Address], *, attempt_delay_s: float = ATTEMPT_DELAY_S
) -> Connected:
    """A socket connected to the first of `addresses` that takes it: RFC 8305, happy eyeballs.

    Each address is given `attempt_delay_s` alone, and goes on being tried beside the next ones.

    Args:
        addresses: At least one, in the order to try.
        attempt_delay_s: Seconds before the next address is tried as well.

    Raises:
        OSError: What the first address that failed said, if all fail.
    """
    untried = interleaved(addresses)
    attempts: set[asyncio.Task[Connected]] = set()
    errors: list[OSError] = []
    try:
        while untried or attempts:
            if untried:
                attempts.add(asyncio.create_task(_connect(untried.pop(0))))
            done, attempts = await asyncio.wait(
                attempts,
                timeout=attempt_delay_s if untried else None,
                return_when=asyncio.FIRST_COMPLETED,
            )
            for attempt in done:
                error = attempt.exception()
                if error is None:
                    attempts |= done - {attempt}
                    return attempt.result()
                if not isinstance(error, OSError):
                    raise error
                errors.append(error)
        raise errors[0] if errors else OSError("the host has no address")
    finally:
        for attempt in attempts:
            attempt.cancel()
            attempt.add_done_callback(_close_unused)
        errors.clear()  # they hold this frame, and it holds them


async def _connect(address: Address) -> Connected:
    sock = socket.socket(address.family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        # As asyncio and uvloop set it on the connections that they open.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        started_s = time.monotonic()
        await asyncio.get_running_loop().sock_connect(sock, address.sockaddr)
    except BaseException:
        sock.close()
        raise
    return Connected(sock, time.monotonic() - started_s)


def _close_unused(attempt: asyncio.Task[Connected]) -> None:
    if not attempt.cancelled() and attempt.exception() is None:
        attempt.result().sock.close()
