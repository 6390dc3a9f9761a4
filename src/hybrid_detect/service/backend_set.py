"""The backends of one service: made as configured, started, waited for and ended together."""

from __future__ import annotations

import asyncio
import time
from collections import ChainMap
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

from hybrid_detect.backends.base import Backend
from hybrid_detect.config import ServiceConfig, detection_mode
from hybrid_detect.errors import ConfigurationError
from hybrid_detect.monitoring.events import BackendEvent
from hybrid_detect.privacy.privacy_policy import PrivacyPolicy
from hybrid_detect.selection.policy import ORDERS
from hybrid_detect.service.backend_factory import BackendFactory, Made, Member
from hybrid_detect.service.held_backends import HeldBackends
from hybrid_detect.service.ledger import Ledger
from hybrid_detect.service.managed_backend import BackendStatus
from hybrid_detect.types import BackendKind, DetectionMode

__all__ = ["BackendSet"]


LOOK_S = 0.05
"""Seconds between two looks whether a backend is back: a fifth of its breaker's shortest pause."""


class BackendSet:
    """The backends of one service, which a new mode or privacy policy may change while it is open.

    What a new mode no longer needs is closed once the frames that were under way have ended; what
    a new privacy policy denies is closed at once. Backends that the app brought stay open.

    Args:
        config: Says which backends there are and how they work.
        given: The backends to use instead of those that `config` asks for; `None` for those.
        privacy: A backend that may never have a frame is not even made.
        clock: Monotonic time in seconds.
        on_change: Called when a backend becomes usable or unusable; `None` if no hook asks.
        ledger: Knows what a frame costs, and whether there is money for it.
        has_policy: Whether a policy of the app's own decides: it may use any of the given backends
            in any mode.

    Raises:
        ConfigurationError: If no backend of the mode can work as configured.
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
        has_policy: bool = False,
    ) -> None:
        self._factory = BackendFactory(
            config, privacy=privacy, clock=clock, on_change=on_change, ledger=ledger
        )
        self._is_given = given is not None
        self._serves_any_mode = has_policy and self._is_given
        if given is None:
            made = self._factory.create(ORDERS[detection_mode(config.mode)])
        else:
            given = tuple(given)
            made = self._factory.permit(given)
        self._held = HeldBackends(given or ())
        self.by_kind = made.members
        """The backends; those of one kind are a group that stands in for each other."""
        self.missing = made.missing
        """Why the other kinds of the mode are not there."""
        self._require_one(detection_mode(config.mode), made, {})
        self.meters = self._factory.meters
        """Know the links to the hosts of the remote backends."""
        self._leaving: dict[BackendKind, Member] = {}
        self.reachable: Mapping[BackendKind, Member] = ChainMap(self.by_kind, self._leaving)
        """`by_kind`, and what only the frames may use that were under way when the mode changed."""
        self._frames: set[asyncio.Event] = set()
        self._retiring: dict[BackendKind, asyncio.Task[None]] = {}
        self._closing: set[asyncio.Task[None]] = set()

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """A block in which a frame is looked at: no backend that leaves meanwhile is closed."""
        self._frames.add(frame := asyncio.Event())
        try:
            yield
        finally:
            self._frames.discard(frame)
            frame.set()

    async def add_for(self, mode: DetectionMode, *, may_wait: bool) -> None:
        """Add what `mode` needs and what is not there, or only leaving.

        Args:
            mode: The mode.
            may_wait: Whether to wait until a backend of `mode` is usable, or all have failed.
                Nothing is added before, and an error adds nothing. Without it backends are added
                as they are, and none working is no error.

        Raises:
            ConfigurationError: If no backend of `mode` can work as configured.
        """
        kinds = ORDERS[mode]
        if self._is_given:
            kept = dict(self.by_kind)
            denied, self._factory.denied = self._factory.denied, []
            for backend in denied:  # beside one of its kind it would be of no more use
                if backend.kind in kept:
                    self._factory.denied.append(backend)
            made = self._factory.permit(each for each in denied if each.kind not in kept)
        else:
            kept = {kind: self.reachable[kind] for kind in kinds if kind in self.reachable}
            made = self._factory.create(kind for kind in kinds if kind not in kept)
            denied, self._factory.denied = self._factory.denied, []
            await _close(denied)
        try:
            await _start(made)
            if may_wait:
                self._require_one(mode, made, kept)
                await _usable(kept | made.members, self._needed(mode))
        except BaseException:
            if self._is_given:  # the app's own are not closed for it
                self.by_kind.update(made.members)
            else:
                await _close(made.members.values())
            raise
        await self._join(made, kept)

    async def _join(self, made: Made, kept: Mapping[BackendKind, Member]) -> None:
        """Take in what was made, except what privacy has denied while it started."""
        denied = {}
        for kind, member in made.members.items():
            if reason := self._why_denied(member):
                made.missing[kind] = reason
                denied[kind] = member
        # One that the app brought and that could not start is not tried again.
        reasons = dict(self.missing) | made.missing if self._is_given else made.missing
        for kind, member in kept.items():
            if self._leaving.get(kind) is member:
                self._retiring.pop(kind).cancel()
                del self._leaving[kind]
                self.by_kind[kind] = member
        self.by_kind.update({k: m for k, m in made.members.items() if k not in denied})
        self.missing.clear()
        self.missing.update({k: why for k, why in reasons.items() if k not in self.by_kind})
        await _close(denied.values())

    def _require_one(
        self, mode: DetectionMode, made: Made, kept: Mapping[BackendKind, Member]
    ) -> None:
        """Raise if there is no backend for `mode`, neither made now nor kept.

        Raises:
            ConfigurationError: If there is none.
        """
        able, missing = dict(made.members), dict(made.missing)
        if self._is_given:
            missing = self.missing | missing
        for kind, member in kept.items():
            # What privacy denies is closed and made anew, but for the backends of the app.
            if self._is_given and (reason := self._why_useless(member)):
                missing[kind] = reason
            else:
                able[kind] = member
        Made(able, missing, made.error).require_one(self._needed(mode))

    def _needed(self, mode: DetectionMode) -> DetectionMode:
        """`mode`, or that of every kind where `mode` decides nothing."""
        return DetectionMode.AUTO if self._serves_any_mode else mode

    def retire_for(self, mode: DetectionMode) -> None:
        """Close what `mode` does not need once the frames that are under way have ended."""
        for kind in () if self._is_given else tuple(self.by_kind):
            if kind not in ORDERS[mode]:
                member = self._leaving[kind] = self.by_kind.pop(kind)
                self._retiring[kind] = asyncio.create_task(self._retire(member, mode))

    async def _retire(self, member: Member, mode: DetectionMode) -> None:
        for frame in tuple(self._frames):
            await frame.wait()
        # From here on it cannot be taken back.
        del self._leaving[member.kind]
        self._closing.add(task := self._retiring.pop(member.kind))
        task.add_done_callback(self._closing.discard)
        self._tell_gone(member, f"mode {mode.value} does not use it")
        await member.aclose()

    def set_privacy(self, privacy: PrivacyPolicy) -> frozenset[BackendKind]:
        """Go by `privacy` from now on.

        Returns:
            The kinds that may have no frames any more, or for other destinations than before.
        """
        self._factory.privacy = privacy
        return frozenset(
            kind
            for kind, member in self.reachable.items()
            # One of several targets has left out those that were not allowed when it was made.
            if self._why_denied(member) or any(len(each.targets) > 1 for each in member.statuses())
        )

    async def withdraw(self, kinds: Iterable[BackendKind]) -> None:
        """Close backends at once; `add_for` makes anew those that may still have frames."""
        if self._is_given:
            return
        gone = []
        for kind in kinds:
            member = self.by_kind.pop(kind, None)
            if member is None:
                member = self._leaving.pop(kind)
                self._retiring.pop(kind).cancel()
            self.missing[kind] = self._why_denied(member) or "it is made anew"
            self._tell_gone(member, self.missing[kind])
            gone.append(member)
        await _close(gone)

    def _why_denied(self, member: Member) -> str:
        """Why `member` may send no frame to one of its destinations; empty if to all."""
        reasons = (self._factory.denied_reason(member.kind, d) for d in member.destinations)
        return next(filter(None, reasons), "")

    def _why_useless(self, member: Member) -> str:
        """Why `member` may send no frame to any of its destinations; empty if to some."""
        reasons = [self._factory.denied_reason(member.kind, d) for d in member.destinations]
        return reasons[0] if all(reasons) else ""

    def _tell_gone(self, member: Member, reason: str) -> None:
        if self._factory.on_change is not None:
            event = BackendEvent(
                at_s=time.time(),
                backend=member.kind,
                host=member.host,
                usable=False,
                reason=reason,
            )
            self._factory.on_change(event)

    async def start(self, mode: DetectionMode) -> None:
        """Start all of them, without waiting for any; one that cannot work is left out.

        Raises:
            ConfigurationError: If it is the only one left of `mode`, or if one of the app's is in
                another open service.
        """
        try:
            self._held.hold()
        except ConfigurationError:
            self.by_kind.clear()  # not ours to close
            self._factory.denied.clear()
            raise
        needed = ORDERS[self._needed(mode)]
        for kind, backend in tuple(self.by_kind.items()):
            try:
                await backend.start()
            except ConfigurationError as error:
                if [each for each in needed if each in self.by_kind] == [kind]:
                    raise
                self.missing[kind] = str(error)
                await self.by_kind.pop(kind).aclose()

    async def usable(self, mode: DetectionMode) -> None:
        """Wait until one can take a frame, or all have failed their first check."""
        await _usable(self.by_kind, self._needed(mode))

    async def all_checked(self) -> None:
        """Wait until each has either become ready or failed to for the first time."""
        await asyncio.gather(*(backend.checked.wait() for backend in self.by_kind.values()))

    def most_pictures(self) -> int:
        """Pictures that one request of a backend may carry, at most."""
        return max((backend.most_pictures for backend in self.by_kind.values()), default=1)

    def starting(self) -> list[Member]:
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
        for task in tuple(self._retiring.values()):
            task.cancel()
        members = (*self.by_kind.values(), *self._leaving.values())
        try:
            await _close((*members, *self._factory.denied))
            await asyncio.gather(*self._closing, return_exceptions=True)
        finally:
            self._held.let_go()


async def _start(made: Made) -> None:
    """Start what was made; what turns out not to work as configured is missing then."""
    for kind, member in tuple(made.members.items()):
        try:
            await member.start()
        except ConfigurationError as error:
            made.missing[kind] = str(error)
            await made.members.pop(kind).aclose()


async def _close(backends: Iterable[Member | Backend]) -> None:
    await asyncio.gather(*(backend.aclose() for backend in backends))


async def _usable(backends: Mapping[BackendKind, Member], mode: DetectionMode) -> None:
    """Wait until one of `mode` can take a frame, or all have failed their first check."""
    backends = {kind: member for kind, member in backends.items() if kind in ORDERS[mode]}
    device = backends.get(BackendKind.DEVICE)
    if device is not None and mode is DetectionMode.PREFER_ON_DEVICE:
        # A server may be ready sooner, but sending pictures is not what was preferred.
        await device.checked.wait()
    unchecked = list(backends.values())
    while unchecked and not any(backend.conditions().usable for backend in backends.values()):
        await _first(backend.checked for backend in unchecked)
        unchecked = [backend for backend in unchecked if not backend.checked.is_set()]


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
