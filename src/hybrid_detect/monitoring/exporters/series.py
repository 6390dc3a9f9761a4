"""What the exporters have in common: bounds of histograms and values of labels."""

from __future__ import annotations

from hybrid_detect.errors import BackendError
from hybrid_detect.types import Attempt, BackendKind

__all__ = [
    "DURATION_BOUNDS_S",
    "ERROR_NAMES",
    "REMOTE",
    "SIZE_BOUNDS_BYTES",
    "STAGES",
    "error_name",
]

REMOTE = (BackendKind.CLOUD.value, BackendKind.STREAMING.value)
"""The backends that send requests, and can cost money."""

DURATION_BOUNDS_S = (0.005, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0)
"""Upper bounds of histograms of durations, in seconds. 0.2 s is the mission's bound for an answer:
a share can be read off a histogram exactly only at one of its bounds."""

SIZE_BOUNDS_BYTES = (5_000, 10_000, 20_000, 40_000, 81_920, 160_000, 640_000)
"""Upper bounds of the histogram of bytes per frame. 81,920 is the mission's 80 KB."""

STAGES = ("prepare", "exchange", "server_receive", "server_queue", "detect")
"""The parts of a frame's time that events tell: fields ``<stage>_s`` of `FrameEvent`."""


def _with_subclasses(error: type[BackendError]) -> list[str]:
    names = [error.__name__]
    for subclass in error.__subclasses__():
        if subclass.__module__ == error.__module__:
            names += _with_subclasses(subclass)
    return names


_GIVEN_UP, _OTHER = "given_up", "other"

ERROR_NAMES = (*_with_subclasses(BackendError), _GIVEN_UP, _OTHER)
"""What an attempt can have ended with. Names from outside this library would make as many series
as there are words."""


def error_name(attempt: Attempt) -> str:
    """What `attempt` ended with, as one of `ERROR_NAMES`.

    ``given_up`` if another backend answered first, ``other`` for an error of a third party.
    """
    if not attempt.error:
        return _GIVEN_UP
    return attempt.error if attempt.error in ERROR_NAMES else _OTHER
