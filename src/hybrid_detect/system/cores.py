"""How many cores this process may use: those it may run on, and the time that its cgroups allow."""

from __future__ import annotations

import math
import os
from pathlib import Path

from hybrid_detect.system.cgroups import group_folders, read_text

__all__ = ["parse_quota", "usable_cores"]


def usable_cores(root: Path = Path("/")) -> int:
    """The cores that this process may use, 1 or more.

    A container that is limited to two of 64 cores, with ``docker run --cpus=2`` or Kubernetes'
    ``limits.cpu``, may run on all of them, but only for two seconds of processor time a second in
    total: 64 processes would stand still for most of it. A part of a core counts as one, as in Go's
    GOMAXPROCS since 1.25.

    Args:
        root: Where the system's files lie; tests bring their own.

    Source:
        Linux, "Control Group v2", ``cpu.max``; "CFS Bandwidth Control" for v1.
    """
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    places, mounts = read_text(root / "proc/self/cgroup"), read_text(root / "proc/self/mountinfo")
    for version, folder in group_folders(places, mounts, "cpu"):
        quota = _quota_of(version, root / folder.lstrip("/"))
        if quota is not None:
            cores = min(cores, math.ceil(quota))
    return max(cores, 1)


def _quota_of(version: int, folder: Path) -> float | None:
    if version == 2:
        return parse_quota(read_text(folder / "cpu.max"))
    names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
    return parse_quota(" ".join(read_text(folder / name) for name in names))


def parse_quota(text: str) -> float | None:
    """Cores' worth of time in ``quota period``, in microseconds; `None` without a limit."""
    parts = text.split()
    if len(parts) != 2 or not all(part.isascii() and part.isdigit() for part in parts):
        return None  # "max 100000", and v1's -1
    quota_us, period_us = (int(part) if len(part) < 20 else 0 for part in parts)
    return quota_us / period_us if quota_us and period_us else None
