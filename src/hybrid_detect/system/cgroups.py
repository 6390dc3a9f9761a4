"""The cgroups a process lies in, as Linux writes them down: memory's limits, what is left, stalls.

`MemoryGroups` reads the files, below a root that tests can bring; the parsers are pure. What is
not there, not allowed or not understood counts as unknown: nothing here raises.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

__all__ = [
    "MemoryGroups",
    "group_folders",
    "parse_limit",
    "parse_pressure",
    "parse_stat",
    "read_text",
]

UNLIMITED_BYTES = 1 << 60
"""cgroup v1 writes "no limit" as the largest number of pages (2^63 rounded down to a page)."""


class MemoryGroups:
    """This process's memory cgroup, innermost, and those around it, whose limits hold as well.

    They are found through ``/proc/self/cgroup`` and the mount table. Pages of files that were not
    used lately (``inactive_file``) count as free, because the kernel drops them before it kills.

    Args:
        root: Where the system's files lie; tests bring their own.

    Source:
        Linux, "Control Group v2", section Memory, and "PSI - Pressure Stall Information"; the
        share of inactive file pages as in Kubernetes' "working set".
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root
        self._places = ""
        self._groups: tuple[tuple[int, Path], ...] = ()

    def tightest(self) -> tuple[int, int] | None:
        """What is left in the group that leaves least, and its limit, in bytes.

        `None` if no group has a limit.
        """
        limits = [found for group in self._find() if (found := _limit_of(*group)) is not None]
        return min(limits, default=None)

    def pressure(self) -> float | None:
        """Share of the last 10 s in which some task stalled on memory, 0 to 1; `None` if untold."""
        # A group's own figure counts what its tasks wait for, caused by any group; v1 has none.
        own = [folder / "memory.pressure" for version, folder in self._find() if version == 2]
        for path in (*own[:1], self._root / "proc/pressure/memory"):
            if (pressure := parse_pressure(read_text(path))) is not None:
                return pressure
        return None

    def _find(self) -> tuple[tuple[int, Path], ...]:
        """Version and folder of each, innermost first."""
        places = read_text(self._root / "proc/self/cgroup")
        if places != self._places:  # the mount table is long, and hardly ever changes
            mounts = read_text(self._root / "proc/self/mountinfo")
            self._groups = tuple(
                (version, self._root / folder.lstrip("/"))
                for version, folder in group_folders(places, mounts, "memory")
            )
            self._places = places
        return self._groups


def _limit_of(version: int, folder: Path) -> tuple[int, int] | None:
    """What is left in a group, and its limit, in bytes; `None` if it has no limit."""
    names = ("memory.max", "memory.high") if version == 2 else ("memory.limit_in_bytes",)
    # A group above memory.high is slowed to a crawl: for a camera app that is as good as a limit.
    limits = [n for name in names if (n := parse_limit(read_text(folder / name))) is not None]
    if not limits:
        return None
    used_in = "memory.current" if version == 2 else "memory.usage_in_bytes"
    used = parse_limit(read_text(folder / used_in))
    if used is None:
        return None
    stat = read_text(folder / "memory.stat")
    # v1's plain figure leaves out the groups inside, though its usage includes them.
    idle = parse_stat(stat, "total_inactive_file" if version == 1 else "inactive_file")
    limit = min(limits)
    return max(limit - max(used - idle, 0), 0), limit


def read_text(path: Path) -> str:
    """What the file says, or "" if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except (OSError, ValueError):  # not there, not allowed, not supported, or no path at all
        return ""


# -- parsing -------------------------------------------------------------------------------------


def group_folders(places: str, mounts: str, controller: str) -> list[tuple[int, str]]:
    """The folders of a process's cgroup and of those around it, innermost first.

    Args:
        places: The text of ``/proc/<pid>/cgroup``.
        mounts: The text of ``/proc/<pid>/mountinfo``.
        controller: What they limit: ``memory`` or ``cpu``. Version 1 has groups of their own.

    Returns:
        Version (1 or 2) and absolute path of each.
    """
    path_of: dict[int, str] = {}
    for line in places.splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            path_of[2] = path
        elif controller in controllers.split(","):
            path_of[1] = path
    groups: list[tuple[int, str]] = []
    seen: set[int] = set()
    for line in mounts.splitlines():
        # id parent major:minor root mountpoint options [tags] - type source super-options
        head, _, tail = line.partition(" - ")
        fields, about = head.split(" "), tail.split(" ")
        if len(fields) < 5 or len(about) < 3:
            continue
        is_v1 = about[0] == "cgroup" and controller in about[2].split(",")
        version = 2 if about[0] == "cgroup2" else 1 if is_v1 else 0
        if version not in path_of or version in seen:
            continue
        seen.add(version)
        top, mountpoint = _unescaped(fields[3]), _unescaped(fields[4])
        # A container may see its path from outside its own mount: then the mount is its group.
        parts: list[str] = []
        path = path_of[version]
        if path.startswith("/") and top.startswith("/") and not path.startswith("/.."):
            below = posixpath.relpath(path, top)
            parts = [] if below == "." or below.startswith("..") else below.split("/")
        groups += [
            (version, posixpath.join(mountpoint, *parts[:depth]))
            for depth in range(len(parts), -1, -1)
        ]
    return groups


def parse_limit(text: str) -> int | None:
    """A cgroup's number of bytes; `None` for no limit, or for text that is no number."""
    digits = text.strip()
    if not (digits.isascii() and digits.isdigit() and len(digits) < 20):
        return None
    return found if (found := int(digits)) < UNLIMITED_BYTES else None


def parse_stat(text: str, name: str) -> int:
    """The value of `name` in a ``memory.stat``, in bytes; 0 if it is not there."""
    found = re.search(rf"^{re.escape(name)} (\d{{1,19}})$", text, re.MULTILINE | re.ASCII)
    return int(found[1]) if found else 0


def parse_pressure(text: str) -> float | None:
    """Share of time that some task stalled, 0 to 1, from a PSI file; `None` if it is none."""
    found = re.search(r"^some avg10=(\d{1,3}(?:\.\d+)?) ", text, re.MULTILINE | re.ASCII)
    return min(float(found[1]) / 100, 1.0) if found else None


def _unescaped(field: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)
