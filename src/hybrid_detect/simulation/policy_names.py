"""Policies by name, so that a command line and other processes can make them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module

from hybrid_detect.errors import ConfigurationError
from hybrid_detect.selection.auto import AutoPolicy
from hybrid_detect.selection.policy import Policy
from hybrid_detect.selection.threshold import ThresholdPolicy
from hybrid_detect.simulation.reference_policies import (
    AlwaysCloud,
    AlwaysDevice,
    AutoWithoutScene,
    EwmaHysteresis,
    LastLatency,
)

__all__ = ["FIXED", "POLICIES", "make_policy"]

FIXED: dict[str, Callable[[], Policy]] = {
    "device": AlwaysDevice,
    "cloud-q80": partial(AlwaysCloud, 0),
    "cloud-q50": partial(AlwaysCloud, 1),
    "cloud-540p": partial(AlwaysCloud, 2),
    "cloud-360p": partial(AlwaysCloud, 3),
}
"""Always the same; the best of them for a trace is known only afterwards."""


POLICIES: dict[str, Callable[[], Policy]] = {
    "auto": AutoPolicy,
    "auto-without-scene": AutoWithoutScene,
    "threshold-rule": ThresholdPolicy,
    "last-latency": LastLatency,
    "ewma-hysteresis": EwmaHysteresis,
    **FIXED,
}
"""Everything that has a name of its own."""


def make_policy(name: str) -> Policy:
    """A new policy: one of `POLICIES`, or ``module:Name`` for yours.

    ``Name`` is called without arguments: a class, or a function that returns a policy.

    Raises:
        ConfigurationError: If there is none of that name, or it has no `decide`.
    """
    make = POLICIES.get(name)
    if make is None:
        module, colon, attribute = name.partition(":")
        if not (module and colon and attribute):
            known = ", ".join(POLICIES)
            msg = f"expected a policy ({known}) or 'module:Name', got {name!r}"
            raise ConfigurationError(msg)
        try:
            make = getattr(import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            msg = f"no policy {name!r}: {error}"
            raise ConfigurationError(msg) from error
    try:
        policy: Policy = make()
    except TypeError as error:
        msg = f"{name}: expected something to call without arguments: {error}"
        raise ConfigurationError(msg) from error
    if not callable(getattr(policy, "decide", None)):
        msg = f"{name}: expected a policy with a method decide, got {type(policy).__name__}"
        raise ConfigurationError(msg)
    return policy
