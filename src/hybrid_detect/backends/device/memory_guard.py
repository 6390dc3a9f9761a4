"""Whether there is memory for the detector's process: before it starts, and while it runs."""

from __future__ import annotations

from collections.abc import Callable

from hybrid_detect.backends.device.worker import RECYCLE_BYTES
from hybrid_detect.system.memory_probe import (
    DEVICE_DETECTOR_BYTES,
    MemoryProbe,
    MemoryReading,
    memory_shortage,
    process_private_bytes,
)

__all__ = ["MemoryGuard"]


class MemoryGuard:
    """Judges the machine's memory for one detector.

    Args:
        memory_budget_bytes: The most that the app grants itself and its children, in bytes;
            `None` for whatever the system or the cgroup has.
        read: Gives a reading whose `process_bytes` includes the children.
    """

    def __init__(
        self,
        *,
        memory_budget_bytes: int | None = None,
        read: Callable[[], MemoryReading] | None = None,
    ) -> None:
        self._budget_bytes = memory_budget_bytes
        self._read = read or MemoryProbe().read
        self._needed_bytes = DEVICE_DETECTOR_BYTES

    def why_not_start(self, extra_bytes: int = 0) -> str:
        """Why a detector should not be started now; empty if it may be.

        Args:
            extra_bytes: What it takes more than usual, for pictures above 4K; negative where the
                process it replaces gives more back.
        """
        return self._judge(max(self._needed_bytes + extra_bytes, 1))  # 0 asks of one that runs

    def why_not_go_on(self, pid: int) -> str:
        """Why the detector in process `pid` should be stopped; empty if it may go on."""
        why = self._judge(0)
        if why:
            # It shall not come back before there is room for what it really took; but what is
            # more than a detector may hold was a leak, of which a fresh one is free.
            took_bytes = min(process_private_bytes(pid) or 0, RECYCLE_BYTES)
            self._needed_bytes = max(self._needed_bytes, took_bytes)
        return why

    def _judge(self, needed_bytes: int) -> str:
        return memory_shortage(
            self._read(), memory_budget_bytes=self._budget_bytes, needed_bytes=needed_bytes
        )
