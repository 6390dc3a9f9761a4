"""A hook that writes events to Python's logging."""

from __future__ import annotations

import logging

from hybrid_detect.monitoring.events import BackendEvent, FrameEvent, FrameOutcome, SettingsEvent

__all__ = ["LoggingHook"]

_LEVELS = {
    FrameOutcome.INVALID: logging.WARNING,
    FrameOutcome.FAILED: logging.WARNING,
}
"""What a person should look at; all else is a frame like any other, at debug level."""


class LoggingHook:
    """Logs a line for each event.

    Frames that failed or were invalid, and backends that are out, are warnings; a backend that
    is back and changed settings are info; other frames are debug.

    Args:
        logger: The logger to write to; ``hybrid_detect.events`` if `None`.
    """

    def __init__(self, logger: logging.Logger | None = None) -> None:
        self._logger = logger or logging.getLogger("hybrid_detect.events")

    def on_frame(self, event: FrameEvent) -> None:
        """Log what became of a frame."""
        level = _LEVELS.get(event.outcome, logging.DEBUG)
        if not self._logger.isEnabledFor(level):
            return
        self._logger.log(
            level,
            "frame %s %s%s by %s in %.0f ms: %d faces, %d bytes sent (%s)",
            event.frame_id if event.frame_id is not None else "-",
            event.outcome.value,
            " after a failed attempt" if event.degraded else "",
            event.backend.value if event.backend else "no backend",
            event.total_s * 1000,
            event.faces,
            event.bytes_sent,
            event.reason,
        )

    def on_backend(self, event: BackendEvent) -> None:
        """Log a change of a backend."""
        if event.usable:
            self._logger.info("backend %s is usable", event.backend.value)
        else:
            self._logger.warning("backend %s is not usable: %s", event.backend.value, event.reason)

    def on_settings(self, event: SettingsEvent) -> None:
        """Log a change of the mode or of privacy."""
        leaves = "may leave the device" if event.may_leave else "stay on the device"
        self._logger.info("mode %s, frames %s", event.mode.value, leaves)
