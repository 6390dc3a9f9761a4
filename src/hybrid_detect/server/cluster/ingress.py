"""Keeps HAProxy's places in step with the replicas there are."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Protocol

from hybrid_detect.server.cluster.replica_place import ReplicaPlace

__all__ = ["Gateway", "Places"]

logger = logging.getLogger("hybrid_detect.server")


class Gateway(Protocol):
    """What has the places; `HAProxy` does."""

    def place(self, number: int, host: str, port: int) -> None:
        """Put a replica into a place."""
        ...

    def drain(self, number: int) -> None:
        """Give the replica in a place nothing new."""
        ...

    def empty(self, number: int) -> None:
        """Empty a place."""
        ...


class Places:
    """Which replica is in which place.

    Args:
        gateway: What has the places.
        count: How many there are.
    """

    def __init__(self, gateway: Gateway, count: int) -> None:
        self._gateway = gateway
        self._free = list(range(count, 0, -1))
        self._taken: dict[str, tuple[int, ReplicaPlace]] = {}

    def __len__(self) -> int:
        return len(self._taken)

    def follow(self, replicas: Sequence[ReplicaPlace], *, are_all: bool = True) -> None:
        """Make the places those of `replicas`.

        Args:
            replicas: Where replicas are.
            are_all: Whether there are no others; else those that are missing keep their places.

        Raises:
            OSError: If the gateway does not answer; calling again goes on from there.
        """
        by_name = {replica.name: replica for replica in replicas}
        for name, (number, _) in list(self._taken.items()):
            if are_all and name not in by_name:
                self._gateway.empty(number)
                del self._taken[name]
                self._free.append(number)
                logger.info("a replica has gone from place %d", number)
        for name, replica in by_name.items():
            if name not in self._taken:
                if replica.is_leaving:
                    continue
                if not self._free:
                    logger.error("there is no place for a replica: more run than the most allowed")
                    continue
                number = self._free[-1]
                self._gateway.place(number, replica.host, replica.port)
                self._taken[name] = self._free.pop(), replica
                logger.info("a replica is in place %d", number)
            elif replica.is_leaving and not self._taken[name][1].is_leaving:
                number = self._taken[name][0]
                self._gateway.drain(number)
                self._taken[name] = number, replica

    def forget(self) -> None:
        """Start over, with a gateway whose places are empty."""
        self._free += [number for number, _ in self._taken.values()]
        self._taken.clear()
