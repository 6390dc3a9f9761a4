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
            `None` for all that the system or the cgroup has.
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
        self._recycle_bytes = RECYCLE_BYTES

    def expect(self, *, needed_bytes: int, recycle_bytes: int) -> None:
        """Judge from now on for a detector of this size.

        Args:
            needed_bytes: What it takes when it starts (`InputSize.needed_bytes`).
            recycle_bytes: The most that it may hold (`InputSize.recycle_bytes`).
        """
        self._needed_bytes, self._recycle_bytes = needed_bytes, recycle_bytes

    def reason_not_to_start(self) -> str:
        """Why a detector should not be started now; empty if it may be."""
        return self._judge(self._needed_bytes)

    def reason_to_stop(self, pid: int) -> str:
        """Why the detector in process `pid` should be stopped; empty if it may go on."""
        reason = self._judge(0)
        if reason:
            # It may come back once there is room for what it really took. More than a detector may
            # hold was a leak, which a fresh one does not have.
            took_bytes = min(process_private_bytes(pid) or 0, self._recycle_bytes)
            self._needed_bytes = max(self._needed_bytes, took_bytes)
        return reason

    def _judge(self, needed_bytes: int) -> str:
        return memory_shortage(
            self._read(), memory_budget_bytes=self._budget_bytes, needed_bytes=needed_bytes
        )
