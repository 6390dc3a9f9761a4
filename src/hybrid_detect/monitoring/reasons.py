"""Why a backend answered, as one of a few kinds. Pure.

A reason is made for people and has numbers, names of hosts and messages of others in it. Its kind
has none, so that kinds can be counted and kept.
"""

from __future__ import annotations

import re

from hybrid_detect.monitoring.events import FrameEvent

__all__ = ["error_words", "kind_of_reason"]

_OUT = re.compile(r"\b(cloud|streaming|device) is out \((.*)")
_LATE = re.compile(r"\b(cloud|streaming|device) would be late \(")
_PROBE = re.compile(r"^\w+: \w+ probe\b")

_WHY_OUT = (
    ("consent", "no consent"),
    ("privacy", "not allowed to leave"),
    ("local_only", "not allowed to leave"),
    ("lets no frame leave", "not allowed to leave"),
    ("budget of", "budget spent"),
    ("spending cap", "budget spent"),
    ("asks to wait", "server asked to wait"),
    ("starting", "still starting"),
    ("no endpoint", "not configured"),
    ("no such backend", "not configured"),
    ("not installed", "not installed"),
)
"""By words of the library's own messages; what has none of them is ``failing``."""


def kind_of_reason(event: FrameEvent) -> str:
    """Why the backend of an answered frame gave the answer, such as ``cloud failed: timeout``."""
    for attempt in event.attempts:
        if attempt.error:
            return f"{attempt.backend} failed: {error_words(attempt.error)}"
    reason = event.reason
    # Plain searches first: they take a tenth of the time, and most reasons have none of it.
    if "was asked as well, because" in reason:
        return "device was unsure"
    if event.planned is not event.backend and event.planned is not None:
        if " probe" in reason and _PROBE.match(reason):
            return f"{event.planned.value} only probed"
        return f"faster than {event.planned.value}"
    if " is out (" in reason and (found := _OUT.search(reason)):
        return f"{found[1]} out: {_why_out(found[2])}"
    if " would be late (" in reason and (found := _LATE.search(reason)):
        return f"{found[1]} too slow"
    return "first choice"


def error_words(name: str) -> str:
    """The class of an error in words: ``timeout`` for ``BackendTimeoutError``."""
    short = name.removesuffix("Error").removeprefix("Backend") or name
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", short).lower()


def _why_out(text: str) -> str:
    return next((kind for word, kind in _WHY_OUT if word in text), "failing")
