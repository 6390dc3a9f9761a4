"""The configuration that `bench backends` would choose from what it measured, and why. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from hybrid_detect.cli.backend_trials import CONTROL, Trial
from hybrid_detect.config import ServiceConfig
from hybrid_detect.environment import ENV_PREFIX
from hybrid_detect.types import BackendKind, DetectionMode

__all__ = ["Recommendation", "recommended"]

IN_TIME = 0.95
"""The share of looks that have to meet the deadline, for a backend to be the first choice."""

ROOM = 1.5
"""A deadline that is proposed is so much longer than what 95 of 100 looks took."""


@dataclass(frozen=True, slots=True)
class Recommendation:
    """A configuration, and the reason for it."""

    settings: tuple[tuple[str, str | float], ...]
    """Fields of `ServiceConfig` that are not left at their defaults."""
    reason: str

    @property
    def python(self) -> str:
        """A line of Python that configures a service so."""
        fields = ", ".join(f"{name}={value!r}" for name, value in self.settings)
        return f"config = ServiceConfig({fields})"

    @property
    def environment(self) -> dict[str, str]:
        """The same as variables."""
        return {
            f"{ENV_PREFIX}{name.upper()}": value if isinstance(value, str) else f"{value:g}"
            for name, value in self.settings
        }


def recommended(trials: Sequence[Trial], config: ServiceConfig) -> Recommendation | None:
    """What to configure; `None` if no backend answered.

    Args:
        trials: Of the control and of every backend.
        config: What the trials were made with; its deadline is the app's.
    """
    usable = [each for each in trials if each.answered and each.name != CONTROL]
    if not usable:
        return None
    device = next((each for each in usable if each.name == BackendKind.DEVICE), None)
    remote = min(
        (each for each in usable if each is not device),
        key=lambda each: (not _in_time(each, config), each.quantile_s(0.95)),
        default=None,
    )
    if device is None or remote is None:
        first = device or remote
        assert first is not None  # noqa: S101 - one of them is usable
        mode, reason = _without_a_choice(first, usable, trials)
    else:
        first, mode, reason = _chosen(device, remote, config)
    deadline_s = config.deadline_s
    if not _in_time(first, config):
        p95_s = min(first.quantile_s(0.95), max(s for s in first.took_s if math.isfinite(s)))
        deadline_s = max(math.ceil(p95_s * ROOM * 10) / 10, deadline_s)
        reason += (
            f"; only {first.share_within(config.deadline_s):.0%} of its looks took at most "
            f"{config.deadline_s:g} s, so the deadline is longer"
        )
    return Recommendation(_settings(mode, deadline_s, config), reason)


def _in_time(trial: Trial, config: ServiceConfig) -> bool:
    return trial.share_within(config.deadline_s) >= IN_TIME


def _without_a_choice(
    first: Trial, usable: Sequence[Trial], trials: Sequence[Trial]
) -> tuple[DetectionMode, str]:
    missing = "; ".join(
        f"{each.name}: {each.unusable or each.error}"
        for each in trials
        if each not in usable and each.name != CONTROL
    )
    if first.name == BackendKind.DEVICE:
        return DetectionMode.ON_DEVICE, f"the device alone answered ({missing})"
    if len(usable) == 1:
        return DetectionMode(first.name), f"{first.name} alone answered ({missing})"
    reason = f"the server answers both ways, {first.name} sooner, and each stands in for the other"
    return DetectionMode.AUTO, f"{reason} ({missing})"


def _chosen(
    device: Trial, remote: Trial, config: ServiceConfig
) -> tuple[Trial, DetectionMode, str]:
    """The backend that answers first, the mode for that, and the reason."""
    found = f"the server finds {remote.faces} faces in these pictures, the device {device.faces}"
    device_late, remote_late = (not _in_time(each, config) for each in (device, remote))
    if device_late and remote_late:
        if device.quantile_s(0.95) <= remote.quantile_s(0.95):
            return device, DetectionMode.PREFER_ON_DEVICE, "the device is the faster one"
        return remote, DetectionMode.PREFER_CLOUD, "the server is the faster one"
    if remote_late:
        why = f"the device answers within {config.deadline_s:g} s and the server does not"
        return device, DetectionMode.PREFER_ON_DEVICE, why
    if device_late:
        why = f"the server answers within {config.deadline_s:g} s and the device does not"
        return remote, DetectionMode.PREFER_CLOUD, why
    if remote.faces > device.faces:
        paid = f", at {remote.cost_of_1000} for 1,000 pictures" if remote.cost_of_1000 else ""
        why = (
            f"{found}{paid}; both answer in time, so auto asks the server where that gains and "
            "the device where it does not or the network ends"
        )
        return remote, DetectionMode.AUTO, why
    saved = f"{remote.bytes_per_look / 1000:.0f} KB a picture"
    why = f"{found}; the device answers in time and saves {saved}, and the server stands in for it"
    return device, DetectionMode.PREFER_ON_DEVICE, why


def _settings(
    mode: DetectionMode, deadline_s: float, config: ServiceConfig
) -> tuple[tuple[str, str | float], ...]:
    defaults = ServiceConfig()
    settings: list[tuple[str, str | float]] = [("mode", mode.value)]
    if mode is not DetectionMode.ON_DEVICE:
        if config.endpoint is not None:
            settings.append(("endpoint", config.endpoint))
        if config.provider != defaults.provider:
            settings.append(("provider", str(config.provider)))
    if mode not in {DetectionMode.CLOUD, DetectionMode.STREAMING}:
        settings += [("model", config.model)] if config.model != defaults.model else []
    if deadline_s != defaults.deadline_s:
        settings.append(("deadline_s", deadline_s))
    return tuple(settings)
