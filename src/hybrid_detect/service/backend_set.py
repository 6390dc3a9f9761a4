"""The backends of one service: made as configured, started, waited for and ended together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Protocol
from urllib.parse import urlsplit

from hybrid_detect.backends import create_backend
from hybrid_detect.backends.base import Backend
from hybrid_detect.backends.remote.link_meter import LinkMeters
from hybrid_detect.backends.remote.remote_backend import RemoteBackend
from hybrid_detect.config import ServiceConfig, detection_mode
from hybrid_detect.destination import Destination
from hybrid_detect.errors import ConfigurationError
from hybrid_detect.monitoring.events import BackendEvent
from hybrid_detect.privacy.privacy_policy import PrivacyPolicy
from hybrid_detect.selection.policy import ORDERS
from hybrid_detect.service.backend_group import BackendGroup, grouped
from hybrid_detect.service.ledger import Ledger
from hybrid_detect.service.managed_backend import BackendStatus, ManagedBackend
from hybrid_detect.types import BackendKind, DetectionMode

__all__ = ["BackendSet"]


LOOK_S = 0.05
"""Seconds between two looks whether a backend is back: a fifth of its breaker's shortest pause."""


class BackendSet:
    """The backends of one service.

    Args:
        config: Says which backends there are and how they work.
        given: The backends to use instead of those that `config` asks for; `None` for those.
        privacy: A backend that may never have a frame is not even made.
        clock: Monotonic time in seconds.
        on_change: Called when a backend becomes usable or unusable; `None` if no hook asks.
        ledger: Knows what a frame costs, and whether there is money for it.

    Raises:
        ConfigurationError: If no backend can work as configured.
    """

    def __init__(
        self,
        config: ServiceConfig,
        given: Iterable[Backend] | None,
        *,
        privacy: PrivacyPolicy,
        clock: Callable[[], float],
        on_change: Callable[[BackendEvent], None] | None,
        ledger: Ledger,
    ) -> None:
        self.missing: dict[BackendKind, str] = {}
        """Why the other kinds of the mode are not there."""
        self._denied: list[Backend] = []
        host = urlsplit(config.endpoint).hostname if config.endpoint else None
        if given is None:
            backends = self._create(config, privacy, host=host or "localhost")
        else:
            backends = self._permitted(given, privacy, default_host=host or "localhost")
        self.by_kind = grouped(
            backends, clock=clock, on_change=on_change, unaffordable=ledger.refusal
        )
        """The backends; those of one kind are a group that stands in for each other."""
        self.meters = LinkMeters(host or "", clock=clock)
        """Know the links to the hosts of the remote backends."""
        for backend in backends:  # those of one host share what is known of its link
            if isinstance(backend, RemoteBackend):
                backend.meters = self.meters
                ledger.know(backend.kind, backend.targets)

    def _permitted(
        self, backends: Iterable[Backend], privacy: PrivacyPolicy, *, default_host: str
    ) -> list[Backend]:
        """Those of `backends` that may have a frame; each leaves out where it may send none.

        The others are not started, so that not even a connection is made.
        """
        permitted = []
        for backend in backends:

            def denied_reason(destination: Destination, kind: BackendKind = backend.kind) -> str:
                host = destination.host or default_host
                return privacy.destination_denied_reason(kind, replace(destination, host=host))

            if reason := backend.restrict(denied_reason):
                self.missing[backend.kind] = reason
                self._denied.append(backend)
            else:
                permitted.append(backend)
        for backend in permitted:
            self.missing.pop(backend.kind, None)
        return permitted

    def _create(self, config: ServiceConfig, privacy: PrivacyPolicy, *, host: str) -> list[Backend]:
        made = []
        errors = []
        for kind in ORDERS[detection_mode(config.mode)]:
            if reason := privacy.always_denied_reason(kind):
                self.missing[kind] = reason  # so that not even a connection is made
                continue
            try:
                made.append(create_backend(kind, config))
            except ConfigurationError as error:
                self.missing[kind] = str(error)
                errors.append(error)
        made = self._permitted(made, privacy, default_host=host)
        if made:
            return made
        if len(errors) == len(self.missing) == 1:
            raise errors[0]
        reasons = "; ".join(f"{kind.value}: {reason}" for kind, reason in self.missing.items())
        msg = f"no backend of mode {str(config.mode)!r} can work: {reasons}"
        raise ConfigurationError(msg)

    async def start(self) -> None:
        """Start all of them, without waiting for any; one that cannot work is left out.

        Raises:
            ConfigurationError: If there is only one, and it can never work as configured.
        """
        for kind, backend in tuple(self.by_kind.items()):
            try:
                await backend.start()
            except ConfigurationError as error:
                if len(self.by_kind) == 1:
                    raise
                self.missing[kind] = str(error)
                await self.by_kind.pop(kind).aclose()

    async def usable(self, mode: DetectionMode) -> None:
        """Wait until one can take a frame, or all have failed their first check."""
        device = self.by_kind.get(BackendKind.DEVICE)
        if device is not None and mode is DetectionMode.PREFER_ON_DEVICE:
            # A server may be ready sooner, but sending pictures is not what was preferred.
            await device.checked.wait()
        unchecked = list(self.by_kind.values())
        while unchecked and not any(
            backend.conditions().usable for backend in self.by_kind.values()
        ):
            await _first(backend.checked for backend in unchecked)
            unchecked = [backend for backend in unchecked if not backend.checked.is_set()]

    async def all_checked(self) -> None:
        """Wait until each has either become ready or failed to for the first time."""
        await asyncio.gather(*(backend.checked.wait() for backend in self.by_kind.values()))

    def most_pictures(self) -> int:
        """Pictures that one request of a backend may carry, at most."""
        return max((backend.most_pictures for backend in self.by_kind.values()), default=1)

    def starting(self) -> list[ManagedBackend | BackendGroup]:
        """Those that are on their way up: whether they work is not known yet."""
        return [backend for backend in self.by_kind.values() if not backend.settled.is_set()]

    async def one_may_come(self, timeout_s: float, *, is_patient: bool) -> bool:
        """Wait a while for one to become usable; False if there is nothing to wait for.

        Args:
            timeout_s: Seconds to wait at most.
            is_patient: Whether to wait also for one that works no more, rather than only for those
                that are on their way up.
        """
        if starting := self.starting():
            return await _first((backend.settled for backend in starting), timeout_s=timeout_s)
        is_out = any(not backend.conditions().usable for backend in self.by_kind.values())
        if not is_patient or not is_out or timeout_s <= 0:
            return False
        await asyncio.sleep(min(timeout_s, LOOK_S))
        return True

    def status(self) -> tuple[BackendStatus, ...]:
        """How each of them stands, missing ones included."""
        missing = (
            BackendStatus(
                kind=kind,
                usable=False,
                unavailable_reason=reason,
                breaker="",
                latency_s=None,
                answered=0,
                failed=0,
            )
            for kind, reason in self.missing.items()
        )
        present = (status for backend in self.by_kind.values() for status in backend.statuses())
        return (*present, *missing)

    async def aclose(self) -> None:
        """Stop all of them."""
        backends = (*self.by_kind.values(), *self._denied)
        await asyncio.gather(*(backend.aclose() for backend in backends))


class _Waitable(Protocol):
    """What an `asyncio.Event` is to someone who waits for it."""

    async def wait(self) -> object: ...


async def _first(events: Iterable[_Waitable], *, timeout_s: float | None = None) -> bool:
    """Wait until one of `events` is set; False if time ran out."""
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        done, _ = await asyncio.wait(waits, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        return bool(done)
    finally:
        for wait in waits:
            wait.cancel()
