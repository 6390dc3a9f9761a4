"""A network of one's own: two namespaces, and packets between them as a trace says.

Each namespace has a TUN device; a process of ours carries the IP packets between the two. Toward
the server they queue for the capacity of the moment and take half a round trip; back they take
the other half. Real TCP runs over it, with its windows, its retransmissions and its slow start.
Needs root and /dev/net/tun; no kernel module for emulation is used, since not every kernel has it.
"""

import ctypes
import fcntl
import heapq
import os
import select
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import numpy as np

CLIENT, SERVER = "10.77.0.1", "10.77.0.2"
QUEUE_BYTES = 256 * 1024
"""What the bottleneck holds before it drops: three frames, as the deep buffers of mobile links."""

_TUNSETIFF, _IFF_TUN_NO_PI = 0x400454CA, 0x1001


def unavailable_reason() -> str:
    """Why no link can be emulated here; empty if one can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "namespaces need root on Linux"
    if shutil.which("ip") is None or not os.path.exists("/dev/net/tun"):
        return "needs the ip command and /dev/net/tun"
    return ""


@contextmanager
def namespaces(tag: str) -> Iterator[tuple[str, str]]:
    """Two network namespaces named after `tag`, the client's and the server's."""
    names = f"hd-{os.getpid()}-{tag}-a", f"hd-{os.getpid()}-{tag}-b"
    try:
        for name in names:
            subprocess.run(["ip", "netns", "add", name], check=True)
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False)


def _open_tun(namespace: str, name: str, address: str, peer: str) -> int:
    libc = ctypes.CDLL("libc.so.6", use_errno=True)
    ours = os.open("/proc/self/ns/net", os.O_RDONLY)
    theirs = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    try:
        libc.setns(theirs, 0)
        device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH", name.encode(), _IFF_TUN_NO_PI))
        for command in (
            f"ip addr add {address} peer {peer} dev {name}",
            f"ip link set {name} up mtu 1400 txqueuelen 1000",
            "ip link set lo up",
        ):
            subprocess.run(command.split(), check=True)
        return device
    finally:
        libc.setns(ours, 0)
        os.close(ours)
        os.close(theirs)


def carry(
    names: tuple[str, str],
    *,
    bits_per_s: np.ndarray,
    rtt_s: np.ndarray,
    starts_s: float,
    step_s: float = 0.01,
) -> None:
    """Carry packets until the arrays end, which begin at `starts_s` of the monotonic clock."""
    client = _open_tun(names[0], "hd0", CLIENT, SERVER)
    server = _open_tun(names[1], "hd1", SERVER, CLIENT)
    print("carrying", flush=True)
    rates, delays = bits_per_s.tolist(), (rtt_s / 2).tolist()
    ends_s = starts_s + len(rates) * step_s
    waiting: list[tuple[float, int, int, bytes]] = []
    uplink = _Uplink(rates, starts_s, step_s)
    last_s = {client: 0.0, server: 0.0}
    number = 0
    while (now_s := time.monotonic()) < ends_s:
        timeout_s = max(0.0, min(waiting[0][0] - now_s if waiting else 0.1, 0.1))
        ready, _, _ = select.select([client, server], [], [], timeout_s)
        for device in ready:
            for packet in _packets(device):
                now_s = time.monotonic()
                step = min(max(int((now_s - starts_s) / step_s), 0), len(delays) - 1)
                leaves_s: float | None = now_s
                if device == client:
                    leaves_s = uplink.leaves_s(now_s, len(packet))
                if leaves_s is None:
                    continue  # the queue is full
                arrives_s = max(leaves_s + delays[step], last_s[device])  # in order
                last_s[device] = arrives_s
                number += 1
                other = server if device == client else client
                heapq.heappush(waiting, (arrives_s, number, other, packet))
        while waiting and waiting[0][0] <= time.monotonic():
            _, _, device, packet = heapq.heappop(waiting)
            with suppress(OSError):  # the other end is being taken down
                os.write(device, packet)


class _Uplink:
    """A queue before a link whose capacity changes every step."""

    def __init__(self, rates: list[float], starts_s: float, step_s: float) -> None:
        self._rates, self._starts_s, self._step_s = rates, starts_s, step_s
        self._free_s = starts_s
        self._queued: list[tuple[float, int]] = []
        self._queued_bytes = 0

    def leaves_s(self, now_s: float, size: int) -> float | None:
        """When a packet of `size` bytes has gone through; `None` if the queue is full."""
        while self._queued and self._queued[0][0] <= now_s:
            self._queued_bytes -= self._queued.pop(0)[1]
        if self._queued_bytes + size > QUEUE_BYTES:
            return None
        at_s, bits = max(self._free_s, now_s), 8.0 * size
        step = max(int((at_s - self._starts_s) / self._step_s), 0)
        while step < len(self._rates):
            # Never asked back from `at_s`: rounding could give the step that has just ended.
            ends_s = self._starts_s + (step + 1) * self._step_s
            carried = self._rates[step] * max(ends_s - at_s, 0.0)
            if carried >= bits:
                at_s += bits / self._rates[step]
                break
            bits -= carried
            at_s = max(at_s, ends_s)
            step += 1
        else:
            return None  # it is not through before the end
        self._free_s = at_s
        self._queued.append((at_s, size))
        self._queued_bytes += size
        return at_s


def _packets(device: int) -> Iterator[bytes]:
    for _ in range(64):
        try:
            yield os.read(device, 2048)
        except BlockingIOError:
            return
