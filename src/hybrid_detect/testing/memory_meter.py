"""What a memory budget reads, and how.

On Linux every call is read from ``/proc/self/status`` (``RssAnon`` and ``VmSwap``, 0.06 ms), and
the kernel's high-water mark (``VmHWM``), reset before each call, shows what a call took and gave
back inside. The mark is of all resident pages; those of files are taken off it as seen before and
after the call, so files and shared memory that a call maps and unmaps inside count towards its
peak. (The reset also lowers what ``getrusage`` calls ``ru_maxrss``.) Baseline and end are counted
exactly, page by page, and glibc is asked how much of its heap is in use (``mallinfo2``): what a
leak takes in pages that were there already is seen by that alone. Where the mark cannot be reset,
and on macOS and Windows, which are read as the unique set (USS), a peak is the highest reading
between two calls.
"""

from __future__ import annotations

import ctypes
import os
import re
import time
from collections.abc import Callable

__all__ = [
    "CURVE_POINTS",
    "MemoryMeter",
    "MemoryRecorder",
    "give_free_memory_back",
    "heap_in_use",
]

CURVE_POINTS = 200
"""At most twice as many points are kept of a curve: finer than a terminal or a picture shows."""

CHILDREN_PAUSE_S = 0.02
"""Children are read at most so often: counting a large one page by page takes some 3 ms."""


class MemoryMeter:
    """Anonymous memory of this process, and of its children if asked for."""

    def __init__(self, *, children: bool = False) -> None:
        # Not at the top: pytest may import this module just to check a marker's arguments.
        from hybrid_detect.system import memory_probe as probes

        self._probes = probes
        self._pid = os.getpid()
        self._has_status = "RssAnon" in _status()
        self._with_children = children
        self._family_extra = 0
        self._family_read_s = 0.0
        self._offset = 0
        self._files = 0
        self.sees_inside_calls = _status().keys() >= _MARKED and self._rewind()

    def start(self) -> int:
        """The exact level now; what `read` returns from here on is on the same scale."""
        exact = self.exact()
        self._offset = 0
        self._offset = exact - self._level()[0]
        self._rewind()
        return exact

    def exact(self) -> int:
        """The level now, counted page by page where the system does that."""
        anonymous = self._probes.process_anonymous_bytes
        if not self._with_children:
            return anonymous(self._pid) or 0
        family = (self._pid, *self._probes.child_pids(self._pid))
        total = sum(anonymous(pid, proportional=True) or 0 for pid in family)
        # Between two such counts, the children are taken to stay as they are.
        self._family_extra = total - (anonymous(self._pid) or 0)
        self._family_read_s = time.monotonic()
        return total

    def at_rest(self) -> tuple[int, ...]:
        """What this process and its children hold, and what this one does: growth is the most.

        Children that end must not hide what this process comes to hold.
        """
        own = self._probes.process_anonymous_bytes(self._pid) or 0
        return (*((self.exact(),) if self._with_children else ()), own)

    def read(self) -> tuple[int, int]:
        """The level now, and the highest since the last reading."""
        now_s = time.monotonic()
        if self._with_children and now_s - self._family_read_s >= CHILDREN_PAUSE_S:
            self.exact()
        found = self._level()
        if self.sees_inside_calls:
            self._rewind()
        return found

    def _level(self) -> tuple[int, int]:
        extra = self._family_extra + self._offset
        if not self._has_status:
            level = (self._probes.process_anonymous_bytes(self._pid) or 0) + extra
            return level, level
        status = _status()
        level = status["RssAnon"] + status.get("VmSwap", 0)
        peak = level
        if self.sees_inside_calls:
            files = status["RssFile"] + status["RssShmem"]
            # The mark is of all resident pages. How many of a file's there were in that moment is
            # not known; the most there can have been leaves the least for anonymous ones.
            peak = max(level, status["VmHWM"] + status.get("VmSwap", 0) - max(files, self._files))
            self._files = files
        return level + extra, peak + extra

    def _rewind(self) -> bool:
        """Set the kernel's high-water mark to the present; whether that is possible."""
        try:
            with open("/proc/self/clear_refs", "wb") as marks:
                marks.write(b"5")
        except OSError:
            return False
        return True

    @property
    def description(self) -> str:
        """What is read, and how, in words."""
        whose = "this process and its children" if self._with_children else "this process"
        if not self._has_status:
            return f"unique memory (USS) of {whose}, read between calls"
        inside = "peaks inside calls from VmHWM" if self.sees_inside_calls else "read between calls"
        also = ", children between calls" if self._with_children and self.sees_inside_calls else ""
        return f"private anonymous memory of {whose}; {inside}{also}"


_MARKED = frozenset(("RssAnon", "RssFile", "RssShmem", "VmHWM"))
"""What it takes to tell a peak; gVisor, for one, has less."""


def _status() -> dict[str, int]:
    """What ``/proc/self/status`` says of resident memory, in bytes; nothing where it is not."""
    try:
        with open("/proc/self/status", "rb") as status:
            text = status.read()
    except OSError:
        return {}
    found = re.findall(rb"^(Rss\w+|VmHWM|VmSwap):\s+(\d+) kB$", text, re.MULTILINE)
    return {name.decode(): int(number) * 1024 for name, number in found}


class MemoryRecorder:
    """Keeps what a meter reads as a curve of bounded size.

    Args:
        read: Returns the level now and the highest since the last reading, in bytes.
    """

    def __init__(self, read: Callable[[], tuple[int, int]]) -> None:
        self._read = read
        self._stride = 1
        self._between = 0
        self.level = 0
        """What was read last."""
        self.calls = 0
        self.highest = 0
        self.highest_at = 0
        self.highest_level = 0
        """Of what was read between calls."""
        self.points: list[tuple[int, int, int]] = []
        """Call, level after it, and highest level since the point before, in bytes."""

    def record(self) -> int:
        """Read after a call; returns the highest level since the last reading."""
        self.level, peak = self._read()
        self.calls += 1
        self._between = max(self._between, peak)
        self.highest_level = max(self.highest_level, self.level)
        if peak > self.highest or self.calls == 1:
            self.highest, self.highest_at = peak, self.calls
        if self.calls % self._stride == 0:
            self.finish()
            if len(self.points) == 2 * CURVE_POINTS:
                pairs = zip(self.points[::2], self.points[1::2], strict=True)
                self.points = [(b[0], b[1], max(a[2], b[2])) for a, b in pairs]
                self._stride *= 2
        return peak

    def finish(self) -> None:
        """Make the last call a point of the curve, whatever its number."""
        if self.calls and (not self.points or self.points[-1][0] != self.calls):
            self.points.append((self.calls, self.level, self._between))
            self._between = 0


def give_free_memory_back() -> None:
    """Ask the C library to return what it keeps of freed memory, where it can be asked."""
    library = _c_library()
    if (trim := getattr(library, "malloc_trim", None)) is not None:
        trim(ctypes.c_size_t(0))
    elif (relieve := getattr(library, "malloc_zone_pressure_relief", None)) is not None:
        relieve(None, ctypes.c_size_t(0))


class _HeapCounts(ctypes.Structure):
    """glibc's ``struct mallinfo2``. Source: glibc 2.33, ``malloc.h``."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    )


def heap_in_use() -> tuple[int, int]:
    """Bytes of the C library's heap that are in use, without large blocks of their own and with.

    Where it does not say, both are 0. Neither alone tells a leak: a block that is replaced may move
    from the one kind to the other, and a large one need not be there but in name.
    """
    count = getattr(_c_library(), "mallinfo2", None)
    if count is None:
        return 0, 0
    count.restype = _HeapCounts
    counts = count()
    return int(counts.uordblks), int(counts.uordblks + counts.hblkhd)


def _c_library() -> ctypes.CDLL | None:
    """What the process is linked with; `None` on Windows, whose heaps cannot be asked."""
    try:
        return ctypes.CDLL(None)
    except (OSError, TypeError):
        return None
