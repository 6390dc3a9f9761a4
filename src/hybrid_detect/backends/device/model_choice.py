"""Which model ``auto`` stands for on this device: the one that sees more, where it is quick enough.

Full range finds three times as many faces as short range on photos of people, and as many of a
selfie; a look takes 2.4 times as long and its process 7 MB more. How long it takes here is measured
at the start of the detector, and the choice is kept until the service ends. CenterFace is never
chosen: it takes 20 times as long, and memory that an app has to know of.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from hybrid_detect.backends.device.model_facts import ModelSpec
from hybrid_detect.backends.device.model_registry import MODELS, model_spec
from hybrid_detect.backends.device.models import Progress, find_model, load_model
from hybrid_detect.config import AUTO_MODEL
from hybrid_detect.errors import ModelError

__all__ = ["MOST_LOOK_S", "candidates", "is_quick_enough", "load_candidate"]

CANDIDATES = ("full_range", "short_range")
"""What ``auto`` may stand for, the better one first."""

FRAME_S = 1 / 15
"""Seconds between two frames of a camera on a good link. Source: the project's mission, which has
15 frames a second as its upper preset."""

FRAME_SHARE = 1 / 3
"""Of the time between two frames, the share that a look may take: the rest is the app's."""

MOST_LOOK_S = FRAME_SHARE * FRAME_S
"""Seconds that a look at full range may take: 22 ms. It takes 5 ms on one x86-64 core, and 11 ms
where another program keeps the core's other half busy."""


def is_quick_enough(look_s: float, *, frame_s: float = FRAME_S) -> bool:
    """Whether a look leaves a camera app its time.

    Args:
        look_s: Seconds that one look takes here.
        frame_s: Seconds between two frames.
    """
    return look_s <= FRAME_SHARE * frame_s


def candidates(model: str, path: Path | None = None) -> tuple[ModelSpec, ...]:
    """The models that `model` may stand for, the better one first.

    Args:
        model: A name from the table, or ``auto``.
        path: A file to use instead of looking for one. Which of the models it is, its size tells.

    Raises:
        ConfigurationError: If there is no such model.
    """
    if model != AUTO_MODEL:
        return (model_spec(model),)
    specs = tuple(MODELS[name] for name in CANDIDATES)
    if path is None:
        return specs
    try:
        size_bytes = path.stat().st_size
    except OSError:
        return specs[-1:]  # loading it tells what is wrong
    return tuple(spec for spec in specs if spec.size_bytes == size_bytes)[:1] or specs[-1:]


def load_candidate(
    spec: ModelSpec,
    others: Sequence[ModelSpec],
    *,
    path: Path | None,
    fetch: bool,
    progress: Progress | None,
    load: Callable[..., bytes] = load_model,
) -> bytes:
    """The verified bytes of `spec`, which is fetched only if none of `others` is here instead.

    Args:
        spec: The model that is wanted.
        others: Those that would do as well.
        path: As in `load_model`.
        fetch: As in `load_model`.
        progress: As in `load_model`.
        load: What loads it.

    Raises:
        ModelError: If it is not to be had, or another one is here.
    """
    if path is None and others and find_model(spec.name) is None:
        for other in others:
            if find_model(other.name) is not None:
                msg = f"{spec.name} is not on this machine, and {other.name} is"
                raise ModelError(msg, name=spec.name)
    return load(spec.name, path=path, fetch=fetch, progress=progress)
