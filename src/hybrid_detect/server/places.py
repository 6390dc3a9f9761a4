"""A place: one picture at a time, looked at by the detector of its level."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from hybrid_detect.server.config import ServerConfig
from hybrid_detect.server.levels import ServedLevel
from hybrid_detect.server.served_worker import ServedWorker

__all__ = ["Place"]


class Place:
    """A detector for each level, each in a process of its own.

    Args:
        levels: The levels; those that are looked at in batches are left out.
        config: The configuration of their processes.
        grace_s: Gives the seconds that a look may take beyond its due time.
    """

    def __init__(
        self, levels: Iterable[ServedLevel], config: ServerConfig, *, grace_s: Callable[[], float]
    ) -> None:
        self.workers = {
            level.quality: ServedWorker(
                level.worker(config), thread_name=f"detector-{level.quality}", grace_s=grace_s
            )
            for level in levels
            if level.most == 1
        }
