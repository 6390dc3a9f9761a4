"""Makes the backends of one service: as configured, and only where privacy lets a frame go."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeAlias
from urllib.parse import urlsplit

from hybrid_detect.backends import create_backend
from hybrid_detect.backends.base import Backend
from hybrid_detect.backends.remote.link_meter import LinkMeters
from hybrid_detect.backends.remote.remote_backend import RemoteBackend
from hybrid_detect.config import ServiceConfig
from hybrid_detect.destination import Destination
from hybrid_detect.errors import ConfigurationError
from hybrid_detect.monitoring.events import BackendEvent
from hybrid_detect.privacy.privacy_policy import PrivacyPolicy
from hybrid_detect.selection.policy import ORDERS
from hybrid_detect.service.backend_group import BackendGroup, grouped
from hybrid_detect.service.ledger import Ledger
from hybrid_detect.service.managed_backend import ManagedBackend
from hybrid_detect.types import BackendKind, DetectionMode

__all__ = ["BackendFactory", "Made", "Member"]

Member: TypeAlias = ManagedBackend | BackendGroup
"""The backend of one kind, or the group of those that stand in for each other."""


@dataclass(slots=True)
class Made:
    """What was made, and what was not."""

    members: dict[BackendKind, Member]
    """The backends, not started; those of one kind are a group."""
    missing: dict[BackendKind, str]
    """Why the other kinds are not there."""
    error: ConfigurationError | None = None
    """The error of the only kind that was asked for, if that cannot work as configured."""

    def require_one(self, mode: DetectionMode) -> None:
        """Raise if no backend of `mode` was made.

        Raises:
            ConfigurationError: If none was; it names the modes that those made can serve.
        """
        if any(kind in self.members for kind in ORDERS[mode]):
            return
        if self.error is not None:
            raise self.error
        reasons = [f"{kind}: {self.missing.get(kind, 'not given')}" for kind in ORDERS[mode]]
        msg = f"no backend of mode {str(mode)!r} can work: {'; '.join(reasons)}"
        served = [each for each in DetectionMode if set(ORDERS[each]) & set(self.members)]
        if served:
            msg += f"; the backends that were given serve the modes {', '.join(served)}"
        raise ConfigurationError(msg)


class BackendFactory:
    """Makes backends and gives them what they share.

    Args:
        config: Says how they work.
        privacy: A backend that may never have a frame is not even made.
        clock: Monotonic time in seconds.
        on_change: Called when a backend becomes usable or unusable; `None` if no hook asks.
        ledger: Knows what a frame costs, and whether there is money for it.
    """

    def __init__(
        self,
        config: ServiceConfig,
        *,
        privacy: PrivacyPolicy,
        clock: Callable[[], float],
        on_change: Callable[[BackendEvent], None] | None,
        ledger: Ledger,
    ) -> None:
        self.privacy = privacy
        """What may leave the device; may be changed."""
        self.on_change = on_change
        """Called when a backend becomes usable or unusable."""
        self.denied: list[Backend] = []
        """What was made or given and may have no frame: never started, to be closed."""
        self._config = config
        self._clock = clock
        self._ledger = ledger
        host = urlsplit(config.endpoint).hostname if config.endpoint else None
        self._host = host or "localhost"
        self.meters = LinkMeters(host or "", clock=clock)
        """Know the links to the hosts of the remote backends."""

    def create(self, kinds: Iterable[BackendKind]) -> Made:
        """The backends of `kinds`, as configured."""
        made = []
        missing: dict[BackendKind, str] = {}
        errors = []
        for kind in kinds:
            if reason := self.privacy.always_denied_reason(kind):
                missing[kind] = reason  # so that not even a connection is made
                continue
            try:
                made.append(create_backend(kind, self._config))
            except ConfigurationError as error:
                missing[kind] = str(error)
                errors.append(error)
        permitted = self.permit(made)
        missing |= permitted.missing
        alone = errors[0] if len(errors) == len(missing) == 1 else None
        return Made(permitted.members, missing, alone)

    def permit(self, backends: Iterable[Backend]) -> Made:
        """Those of `backends` that may have a frame; each leaves out where it may send none.

        The others are not started, so that not even a connection is made.
        """
        permitted = []
        missing: dict[BackendKind, str] = {}
        for backend in backends:
            if reason := backend.restrict(partial(self.denied_reason, backend.kind)):
                missing[backend.kind] = reason
                self.denied.append(backend)
            else:
                permitted.append(backend)
        for backend in permitted:
            missing.pop(backend.kind, None)
            if isinstance(backend, RemoteBackend):
                backend.meters = self.meters  # those of one host share what is known of its link
                self._ledger.know(backend.kind, backend.targets)
        members = grouped(
            permitted,
            clock=self._clock,
            on_change=self.on_change,
            unaffordable=self._ledger.refusal,
        )
        return Made(members, missing)

    def denied_reason(self, kind: BackendKind, destination: Destination) -> str:
        """Why `kind` may send no frame at all to `destination`; empty if it may send some."""
        host = destination.host or self._host
        return self.privacy.destination_denied_reason(kind, replace(destination, host=host))
