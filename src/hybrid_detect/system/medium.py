"""What carries a network's first hop, as far as Linux or the app tells: never by its speed.

What is not told is `Medium.UNKNOWN`, and no reading ever raises: this is only a hint to a policy.
"""

from __future__ import annotations

import ipaddress
import logging
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from hybrid_detect.system.cgroups import read_text
from hybrid_detect.types import Medium

__all__ = ["MediumProbe"]

logger = logging.getLogger(__name__)

MAX_AGE_S = 5.0
"""A reading is kept for so long. Chosen: leaving a WiFi takes a device longer than that."""

MAX_HOSTS = 16
"""Hosts of which a reading is kept."""

ETHERNET, RAW_IP = "1", {"519", "530"}
"""Types of interfaces: Ethernet and what passes for it, and the modems of phones. Source: Linux,
``if_arp.h``; 530 is Android's number for the same."""

TETHERS = {"rndis_host", "ipheth"}
"""Drivers of telephones that share their own network, whichever that is."""

MOST_LAYERS = 4
"""Bridges, bonds and VLANs on top of each other."""

UP, REJECT = 0x1, 0x200
"""Flags of a route. Source: Linux, ``route.h``."""

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class _Route(NamedTuple):
    network: int
    prefix: int
    bits: int
    """Of an address: 32 or 128."""
    metric: int
    interface: str

    def leads_to(self, address: int) -> bool:
        return (address ^ self.network) >> (self.bits - self.prefix) == 0


class MediumProbe:
    """Finds out what carries the first hop to a host, at most every `MAX_AGE_S`.

    On Linux the route to the host names the interface, and the interface its kind. A host that is
    given by its name counts as being beyond the default route.

    Args:
        told: What the app tells, or a function that does; it goes before what the system tells,
            unless it is `None`.
        root: Where the system's files lie; tests bring their own.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        told: Medium | str | Callable[[], Medium | str | None] | None = None,
        *,
        root: Path = Path("/"),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._told = told
        self._root = root
        self._clock = clock
        self._read_s = -math.inf
        self._known: dict[str, Medium] = {}
        self._has_warned = False

    def read(self, host: str) -> Medium:
        """The medium on the way to `host` now, or up to `MAX_AGE_S` ago. Never raises."""
        now_s = self._clock()
        if now_s - self._read_s >= MAX_AGE_S or len(self._known) >= MAX_HOSTS:
            self._read_s = now_s
            self._known.clear()
        if host not in self._known:
            self._known[host] = self._by_app() or self._by_system(host)
        return self._known[host]

    def _by_app(self) -> Medium | None:
        try:
            told = self._told() if callable(self._told) else self._told
            return None if told is None else Medium(told)
        except Exception as error:  # whatever the app's code raises
            if not self._has_warned:
                logger.warning("medium: the app's function failed: %s", type(error).__name__)
                self._has_warned = True
            return None

    def _by_system(self, host: str) -> Medium:
        address = _address(host)
        is_name = host == "localhost" or host.endswith(".localhost")
        if is_name or (address is not None and address.is_loopback):
            return Medium.WIRED
        routes = self._routes()
        if address is not None:
            length, number = address.max_prefixlen, int(address)
            routes = [each for each in routes if each.bits == length and each.leads_to(number)]
        else:
            routes = [each for each in routes if each.prefix == 0]
        media = set()
        for bits in {each.bits for each in routes}:
            ways = [each for each in routes if each.bits == bits]
            best = min(ways, key=lambda way: (-way.prefix, way.metric))
            media.add(self._medium_of(best.interface))
        # IPv4 and IPv6 may part company; which of them a name leads to is not known here.
        return media.pop() if len(media) == 1 else Medium.UNKNOWN

    def _routes(self) -> list[_Route]:
        """Those that are in use, of both versions of IP."""
        routes = []
        for text, read in (
            (read_text(self._root / "proc/net/route"), _ipv4_route),
            (read_text(self._root / "proc/net/ipv6_route"), _ipv6_route),
        ):
            for line in text.splitlines():
                try:
                    route = read(line.split())
                except (ValueError, IndexError):  # a heading, or a kernel that writes others
                    continue
                if route is not None and route.interface != "lo":
                    routes.append(route)
        return routes

    def _medium_of(self, interface: str, layers: int = MOST_LAYERS) -> Medium:
        """What `interface` sends over: its own radio or cable, or that of those below it."""
        folder = self._root / "sys/class/net" / interface
        kind = _facts(folder / "uevent").get("DEVTYPE")
        number = read_text(folder / "type").strip()
        if kind == "wlan" or (folder / "wireless").is_dir() or (folder / "phy80211").is_dir():
            return Medium.WIFI
        if kind == "wwan" or number in RAW_IP:
            return Medium.CELLULAR
        if (folder / "device").is_dir():
            is_tether = _facts(folder / "device/uevent").get("DRIVER") in TETHERS
            return Medium.WIRED if number == ETHERNET and not is_tether else Medium.UNKNOWN
        try:
            below = [path.name.removeprefix("lower_") for path in folder.glob("lower_*")]
        except OSError:
            below = []
        media = {self._medium_of(each, layers - 1) for each in below} if layers else set()
        return media.pop() if len(media) == 1 else Medium.UNKNOWN


def _address(host: str) -> Address | None:
    try:
        return ipaddress.ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        return None


def _facts(path: Path) -> dict[str, str]:
    """The lines ``KEY=value`` of a file."""
    return dict(line.split("=", 1) for line in read_text(path).splitlines() if "=" in line)


def _ipv4_route(fields: list[str]) -> _Route | None:
    name, network, _, flags, _, _, metric, mask, *_ = fields
    if not _is_used(int(flags, 16)):
        return None
    prefix = int(mask, 16).bit_count()
    # The kernel prints an address as a number of this machine's byte order.
    number = int.from_bytes(int(network, 16).to_bytes(4, sys.byteorder), "big")
    return _Route(number, prefix, 32, int(metric), name)


def _ipv6_route(fields: list[str]) -> _Route | None:
    network, prefix, _, _, _, metric, _, _, flags, name = fields
    if not _is_used(int(flags, 16)):
        return None
    return _Route(int(network, 16), int(prefix, 16), 128, int(metric, 16), name)


def _is_used(flags: int) -> bool:
    return bool(flags & UP) and not flags & REJECT
