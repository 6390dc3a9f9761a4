"""Observing: puts together for the policy what is known at the moment of deciding."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from urllib.parse import urlsplit

from hybrid_detect.backends.remote.link_meter import LinkMeters
from hybrid_detect.config import ServiceConfig
from hybrid_detect.destination import Destination
from hybrid_detect.errors import ConfigurationError
from hybrid_detect.privacy.consent import ConsentLedger
from hybrid_detect.privacy.consent_record import ConsentRecord
from hybrid_detect.privacy.privacy_policy import FramePrivacy, PrivacyPolicy
from hybrid_detect.selection.conditions import (
    BackendConditions,
    Conditions,
    LinkConditions,
    SceneConditions,
)
from hybrid_detect.selection.network import NetworkClassifier
from hybrid_detect.selection.scene import SceneEstimator
from hybrid_detect.service.backend_group import BackendGroup
from hybrid_detect.service.ledger import Ledger
from hybrid_detect.service.managed_backend import ManagedBackend
from hybrid_detect.system.medium import MediumProbe
from hybrid_detect.system.power import PowerProbe
from hybrid_detect.types import BackendKind, Plan

__all__ = ["ConditionsBuilder", "FrameContext", "checked_deadline_s", "frame_privacy"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameContext:
    """What holds for one frame, whichever backend looks at it."""

    ends_s: float
    """When its deadline passes, in seconds of the service's clock."""
    interval_s: float = math.inf
    """Seconds until the next frame of its stream; infinite for a lone picture."""
    must_answer: bool = True
    """Whether it may not be left out."""
    is_patient: bool = False
    """Whether it waits, inside its deadline, for a backend that is out for the moment."""
    privacy: FramePrivacy = FramePrivacy.DEFAULT
    """What may be done with it."""
    captured_at_s: float | None = None
    """When it was captured, in seconds of `time.monotonic`; `None` counts as now."""
    side_px: int | None = None
    """Its longer side; `None` if unknown."""
    source_index: int | None = None
    """Its number in its source, from 0; `None` outside a stream."""
    source_time_s: float | None = None
    """Its source's own time of it, in seconds."""
    dropped_before: int = 0
    """Frames of the source that were dropped between the one before and this one."""
    scene: SceneEstimator | None = None
    """What has been seen in its stream; `None` for a lone picture, which tells nothing of the
    next."""


class ConditionsBuilder:
    """Asks every probe and puts the answers together.

    Args:
        config: What the user knows and no probe can see: prices, caps, a metered network.
        backends: The backends by kind.
        missing: Why the other kinds are missing.
        meters: Know the links to the hosts of the remote backends.
        privacy: What may leave the device.
        consent: The consents that `privacy` may ask for.
        ledger: Knows whether there is money for a frame.
        clock: Monotonic time in seconds.
    """

    def __init__(
        self,
        config: ServiceConfig,
        backends: Mapping[BackendKind, ManagedBackend | BackendGroup],
        missing: Mapping[BackendKind, str],
        *,
        meters: LinkMeters,
        privacy: PrivacyPolicy,
        consent: ConsentLedger | None,
        ledger: Ledger,
        clock: Callable[[], float],
    ) -> None:
        self._config = config
        self._backends = backends
        self._missing = missing
        self._meters = meters
        self.privacy = privacy
        """What may leave the device; may be changed."""
        self._consent = consent
        self._ledger = ledger
        self._clock = clock
        self._host = urlsplit(config.endpoint).hostname if config.endpoint else None
        self._networks: dict[str, NetworkClassifier] = {}
        self._power = PowerProbe()
        self._medium = MediumProbe(config.medium)
        self._previous: BackendKind | None = None

    def build(self, context: FrameContext) -> Conditions:
        """What is known now, for the frame of `context`."""
        now_s = self._clock()
        missing = tuple(
            BackendConditions(kind=kind, usable=False, unavailable_reason=why)
            for kind, why in self._missing.items()
        )
        backends = tuple(
            self._backend_conditions(backend, context.privacy, now_s)
            for backend in self._backends.values()
        )
        return Conditions(
            now_s=now_s,
            backends=backends + missing,
            deadline_s=context.ends_s - now_s,
            link=_first_link(backends),
            interval_s=context.interval_s,
            must_answer=context.must_answer,
            age_s=0.0
            if context.captured_at_s is None
            else max(time.monotonic() - context.captured_at_s, 0.0),
            frame_side_px=context.side_px,
            frame_bytes=self._meters.frame_bytes,
            previous=self._previous,
            metered=self._config.metered,
            spent=self._ledger.used_share(),
            power=self._power.read(),
            scene=self._scene(context.scene, now_s),
        )

    def _scene(self, scene: SceneEstimator | None, now_s: float) -> SceneConditions | None:
        device = self._backends.get(BackendKind.DEVICE)
        if scene is None or device is None:
            return None
        scene.device = device.recall_by_height
        scene.prior = self._config.device_accuracy
        return scene.conditions(now_s=now_s)

    def _backend_conditions(
        self, backend: ManagedBackend | BackendGroup, privacy: FramePrivacy, now_s: float
    ) -> BackendConditions:
        known = backend.conditions()
        if backend.kind is BackendKind.DEVICE:
            return replace(
                known, accuracy=self._config.device_accuracy, cost=self._config.device_cost
            )
        if backend.measures_link:
            known = replace(known, link=self._link(backend.host, now_s))
        unavailable_reason = self.denied_reason(backend.kind, privacy)
        return (
            replace(known, usable=False, unavailable_reason=unavailable_reason)
            if unavailable_reason
            else known
        )

    def denied_reason(
        self, kind: BackendKind, privacy: FramePrivacy, destination: Destination | None = None
    ) -> str:
        """Why a frame may not be given to `kind` now; empty if it may.

        Args:
            kind: The backend.
            privacy: The frame's own.
            destination: Where that backend would send it to; `None` for any of its destinations.
        """
        backend = self._backends.get(kind)
        destinations = backend.destinations if backend else (Destination(),)
        if destination is not None:
            destinations = (destination,)
        record = self._consent_record()
        now = datetime.now(UTC)
        reasons = (
            self.privacy.denied_reason(
                kind,
                # A backend that the app brings need not use the configured endpoint.
                host=each.host or self._host or "localhost",
                provider=each.provider,
                region=each.region,
                now=now,
                privacy=privacy,
                source=self._config.session_id,
                consent=record,
            )
            or self._ledger.refusal(kind, (each,))
            for each in destinations
        )
        first = ""
        for reason in reasons:
            if not reason:
                return ""
            first = first or reason
        return first

    def consent_left_s(self) -> float:
        """Seconds until the consent that lets frames leave expires; infinite if it does not."""
        record = self._consent_record()
        if not self.privacy.require_consent or record is None or record.expires_at is None:
            return math.inf
        return (record.expires_at - datetime.now(UTC)).total_seconds()

    def _consent_record(self) -> ConsentRecord | None:
        source = self._config.session_id
        if self._consent is None or not source:
            return None
        return self._consent.current(
            source, scope=self.privacy.consent_scope, version=self.privacy.consent_version
        )

    def _link(self, host: str, now_s: float) -> LinkConditions:
        estimator = self._meters.of(host).link
        link = estimator.conditions(now_s=now_s)
        is_measured = estimator.is_measured
        classifier = self._networks.setdefault(host, NetworkClassifier())
        network = classifier.classify(
            now_s=now_s,
            rtt_s=link.rtt_s if is_measured else None,
            bits_per_s=link.bits_per_s if is_measured else None,
            silent_s=link.silent_s,
        )
        return replace(link, network=network, medium=self._medium.read(host))

    def on_plan(self, plan: Plan) -> None:
        """Learn from the plan of a frame that was carried out."""
        chosen = plan.hedge if plan.probe else plan.backend
        if chosen is not None:
            self._previous = chosen


def _first_link(backends: Iterable[BackendConditions]) -> LinkConditions | None:
    """The link of the first remote backend that is usable, or of the first."""
    remote = [backend for backend in backends if backend.link is not None]
    usable = [backend for backend in remote if backend.usable]
    return next((backend.link for backend in usable or remote), None)


def frame_privacy(value: str) -> FramePrivacy:
    """The frame privacy named `value`.

    Raises:
        ConfigurationError: If there is none.
    """
    try:
        return FramePrivacy(value)
    except ValueError:
        names = ", ".join(privacy.value for privacy in FramePrivacy)
        msg = f"privacy: expected one of {names}, got {value!r}"
        raise ConfigurationError(msg) from None


def checked_deadline_s(value: float | None, config: ServiceConfig) -> float:
    """The seconds that a frame has: `value`, or those of `config` if it is `None`.

    Raises:
        ConfigurationError: If it is no number of seconds.
    """
    deadline_s = config.deadline_s if value is None else value
    if not isinstance(deadline_s, int | float) or not math.isfinite(deadline_s):
        msg = f"deadline_s: expected a number of seconds, got {deadline_s!r}"
        raise ConfigurationError(msg)
    return deadline_s
