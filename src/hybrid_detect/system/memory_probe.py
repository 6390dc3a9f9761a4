"""Readings of the machine's memory that decisions rest on.

What a process holds, what can still be had before the system or a memory cgroup is at its limit,
and how long tasks stall for want of it. Every part is optional: what a platform does not tell is
`None`, and no reading ever raises. `memory_shortage` judges a reading and is pure.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from hybrid_detect.system.cgroups import MemoryGroups, read_text

__all__ = [
    "DEVICE_DETECTOR_BYTES",
    "MemoryProbe",
    "MemoryReading",
    "child_pids",
    "memory_shortage",
    "process_anonymous_bytes",
    "process_private_bytes",
]

MIB = 1024 * 1024

DEVICE_DETECTOR_BYTES = 90 * MIB
"""What the device's detector takes: 65 to 71 MB in its worker, and room for large frames."""

START_RESERVE_BYTES = 64 * MIB
"""Left to the app beside a detector that is about to start. Above `RUN_RESERVE_BYTES`, so that
unloading at one mark does not make room to load again at once."""

RUN_RESERVE_BYTES = 32 * MIB
"""Left to the app beside a detector that runs: a dozen raw 1280x720 frames of 2.6 MiB."""

START_STALL_RATIO = 0.1
"""A machine that stalls a tenth of the time already drops frames of a 10 fps camera."""

RUN_STALL_RATIO = 0.3
"""Above `START_STALL_RATIO` for the same reason as the reserves, and far below a standstill."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryReading:
    """How memory stood at one moment, in bytes."""

    process_bytes: int = 0
    """Private memory of this process, and of its children if they were asked for."""
    available_bytes: int | None = None
    """What can still be allocated before the system or the cgroup is at its limit."""
    bound_by: str = ""
    """Which of the two is nearer: ``system`` or ``cgroup``; empty if neither is known."""
    limit_bytes: int | None = None
    """The cgroup limit that would be hit first; `None` where there is no limit."""
    pressure: float | None = None
    """Share of the last 10 s in which some task stalled on memory, 0 to 1 (Linux PSI)."""


def memory_shortage(
    reading: MemoryReading, *, memory_budget_bytes: int | None = None, needed_bytes: int = 0
) -> str:
    """Why the device's detector should not start (or not go on), or "" if nothing speaks against.

    Args:
        reading: The present; its `process_bytes` should include the children.
        memory_budget_bytes: The most that the app grants this process and its children, in bytes;
            `None` for no such limit.
        needed_bytes: What starting would take, such as `DEVICE_DETECTOR_BYTES`; 0 asks whether a
            detector that runs already, and is part of `reading`, may go on.

    Returns:
        A sentence a person can read.
    """
    wants = f"the device's detector needs {needed_bytes / MIB:.0f}"
    held = reading.process_bytes
    if memory_budget_bytes is not None and held + needed_bytes > memory_budget_bytes:
        also = f", {wants}" if needed_bytes else ""
        budget = f"the budget is {memory_budget_bytes / MIB:.0f}"
        return f"this process holds {held / MIB:.0f} MiB{also}: {budget}"
    if (left := reading.available_bytes) is not None:
        reserve = START_RESERVE_BYTES if needed_bytes else RUN_RESERVE_BYTES
        if left < needed_bytes + reserve:
            where = {"cgroup": "in the cgroup", "system": "on the system"}.get(reading.bound_by, "")
            head = f"only {left / MIB:.0f} MiB are left {where}".rstrip()
            if not needed_bytes:
                return f"{head}, {reserve / MIB:.0f} are kept for the app"
            kept = "" if left < needed_bytes else f" beside {reserve / MIB:.0f} kept for the app"
            return f"{head}, {wants}{kept}"
    if reading.pressure is not None:
        most = START_STALL_RATIO if needed_bytes else RUN_STALL_RATIO
        if reading.pressure > most:
            share = f"{reading.pressure:.0%} of the last 10 s"
            return f"memory is short: tasks stalled on it for {share}, {most:.0%} are tolerated"
    return ""


# -- processes -----------------------------------------------------------------------------------


def process_private_bytes(pid: int) -> int | None:
    """Memory that would be freed if process `pid` ended, in bytes; `None` if it cannot be read.

    On Linux resident minus shared pages, which costs microseconds where the exact figure (USS)
    costs milliseconds for walking every mapping. On Windows what is committed for it alone;
    elsewhere the USS, or the resident set where the system does not say.
    """
    try:
        process = psutil.Process(pid)
        info = process.memory_info()
        if hasattr(info, "shared"):
            return int(info.rss - info.shared)
        if hasattr(info, "private"):
            return int(info.private)
        with suppress(psutil.AccessDenied, AttributeError):
            return int(process.memory_full_info().uss)
    except psutil.Error:
        return None
    return int(info.rss)


def process_anonymous_bytes(pid: int, *, proportional: bool = False) -> int | None:
    """Exactly what process `pid` holds that no file backs, in bytes; `None` if it cannot be read.

    Linux: anonymous pages and swap, counted by walking the mappings (0.7 ms for a process of
    50 MB, 3 ms for 250 MB). Elsewhere the unique set (USS), or the resident set where that is
    not known.

    Args:
        pid: The process.
        proportional: Whether a page shared by n processes (after a fork) counts as 1/n of a page,
            so that the sum over a family of processes is what the family holds.
    """
    rollup = _kib_lines(read_text(Path(f"/proc/{pid}/smaps_rollup")))
    if proportional and "Pss_Anon" in rollup:
        return rollup["Pss_Anon"] + rollup.get("SwapPss", 0)
    if "Anonymous" in rollup:
        return rollup["Anonymous"] + rollup.get("Swap", 0)
    status = _kib_lines(read_text(Path(f"/proc/{pid}/status")))
    if "RssAnon" in status:
        return status["RssAnon"] + status.get("VmSwap", 0)
    with suppress(psutil.Error, AttributeError):
        return int(psutil.Process(pid).memory_full_info().uss)
    return process_private_bytes(pid)


def child_pids(pid: int) -> tuple[int, ...]:
    """The processes below `pid`: its children, and theirs.

    Linux lists the children of each thread, which costs tens of microseconds a process; without
    that list (and elsewhere) every process of the machine is looked at.
    """
    if sys.platform == "linux" and os.path.exists(f"/proc/{pid}/task/{pid}/children"):
        found: list[int] = []
        waiting = [pid]
        while waiting:
            children = list(_listed_children(waiting.pop()))
            found += children
            waiting += children
        return tuple(found)
    try:
        return tuple(child.pid for child in psutil.Process(pid).children(recursive=True))
    except psutil.Error:
        return ()


def _listed_children(pid: int) -> Iterator[int]:
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return  # it has ended
    for thread in threads:
        yield from map(int, read_text(Path(f"/proc/{pid}/task/{thread}/children")).split())


def _kib_lines(text: str) -> dict[str, int]:
    """``Name:   123 kB`` lines, as bytes by name."""
    found = re.findall(r"^(\w+):\s+(\d+) kB$", text, re.MULTILINE)
    return {name: int(number) * 1024 for name, number in found}


# -- the probe -----------------------------------------------------------------------------------


def system_available_bytes() -> int | None:
    """What the system can still give without swapping, in bytes; `None` if it does not say."""
    try:
        return int(psutil.virtual_memory().available)
    except (psutil.Error, OSError, RuntimeError):
        return None


class MemoryProbe:
    """Reads how memory stands. A reading costs 0.2 to 0.4 ms: once a second is nothing.

    Args:
        children: Whether `MemoryReading.process_bytes` includes the processes below this one,
            which adds 0.05 ms for each.
        root: Where the system's files lie; tests bring their own.
        system: Tells what the system can still give, in bytes.
    """

    def __init__(
        self,
        *,
        children: bool = True,
        root: Path = Path("/"),
        system: Callable[[], int | None] = system_available_bytes,
    ) -> None:
        self._children = children
        self._groups = MemoryGroups(root)
        self._system = system

    def read(self) -> MemoryReading:
        """How memory stands now. Never raises."""
        left: int | None = self._system()
        bound_by = "" if left is None else "system"
        limit: int | None = None
        if (tightest := self._groups.tightest()) is not None:
            left_in_group, limit = tightest
            if left is None or left_in_group < left:
                left, bound_by = left_in_group, "cgroup"
        return MemoryReading(
            process_bytes=self._process_bytes(),
            available_bytes=left,
            bound_by=bound_by,
            limit_bytes=limit,
            pressure=self._groups.pressure(),
        )

    def _process_bytes(self) -> int:
        pid = os.getpid()
        pids = (pid, *child_pids(pid)) if self._children else (pid,)
        return sum(process_private_bytes(each) or 0 for each in pids)
