"""Which model ``auto`` stands for on this device: the one that sees more, where it is quick enough.

Full range finds three times as many faces as short range on photos of people, and as many of a
selfie; a look takes 2.4 times as long and its process 7 MB more. CenterFace finds the faces of a
crowd; it takes 20 times as long and 120 MB more, so only a desktop with time and memory to spare
is given it, and no app that has set itself a memory budget. How long a look takes here is measured
at the start of the detector, and the choice is kept until the service ends.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from hybrid_detect.backends.device.model_facts import ModelSpec
from hybrid_detect.backends.device.model_registry import MODELS, model_spec
from hybrid_detect.backends.device.models import Progress, find_model, load_model
from hybrid_detect.backends.device.runtimes import choose_runtime
from hybrid_detect.config import AUTO_MODEL
from hybrid_detect.errors import ConfigurationError, ModelError
from hybrid_detect.system.cores import usable_cores
from hybrid_detect.system.memory_probe import MemoryProbe
from hybrid_detect.system.power import system_battery

__all__ = [
    "MOST_CENTERFACE_S",
    "MOST_LOOK_S",
    "candidates",
    "has_time_to_spare",
    "is_quick_enough",
    "load_candidate",
]

CANDIDATES = ("full_range", "short_range")
"""What ``auto`` may stand for, the better one first."""

CENTERFACE, CENTERFACE_RUNTIME = "centerface", "onnxruntime"
"""What it stands for on a desktop. OpenCV's dnn runs the model as well, in twice the memory."""

DESKTOP_CORES = 4
"""Of which CenterFace takes half a one at ten frames a second."""

DESKTOP_BYTES = 2 * 1024**3
"""To be had besides; CenterFace's process holds 0.15 GiB."""

FRAME_S = 1 / 15
"""Seconds between two frames of a camera on a good link. Source: the project's mission, which has
15 frames a second as its upper preset."""

FRAME_SHARE = 1 / 3
"""Of the time between two frames, the share that a look may take: the rest is the app's."""

MOST_LOOK_S = FRAME_SHARE * FRAME_S
"""Seconds that a look at full range may take: 22 ms. It takes 5 ms on one x86-64 core, and 11 ms
where another program keeps the core's other half busy."""


MOST_CENTERFACE_S = 0.06
"""Seconds that one of CenterFace's may take: more than half the time between two frames at the
mission's ten a second, on a core of its own. It takes 52 ms on one x86-64 core."""


def is_quick_enough(model: str, look_s: float) -> bool:
    """Whether a look leaves a camera app its time.

    Args:
        model: The model's name.
        look_s: Seconds of processor time that one look takes here.
    """
    return look_s <= (MOST_CENTERFACE_S if model == CENTERFACE else MOST_LOOK_S)


def has_time_to_spare() -> bool:
    """Whether this is a desktop: four cores or more, no battery, and memory in plenty."""
    available_bytes = MemoryProbe().read().available_bytes or 0
    has_room = usable_cores() >= DESKTOP_CORES and available_bytes >= DESKTOP_BYTES
    return has_room and system_battery() is None


def candidates(
    model: str,
    path: Path | None = None,
    *,
    runtime: str = "auto",
    memory_budget_bytes: int | None = None,
) -> tuple[ModelSpec, ...]:
    """The models that `model` may stand for here, the better one first.

    Args:
        model: A name from the table, or ``auto``.
        path: A file to use instead of looking for one. Which of the models it is, its size tells.
        runtime: What is to run it; see `choose_runtime`.
        memory_budget_bytes: The most that the app and its children may hold.

    Raises:
        ConfigurationError: If there is no such model.
    """
    if model != AUTO_MODEL:
        return (model_spec(model),)
    specs = tuple(MODELS[name] for name in CANDIDATES)
    if path is None:
        if memory_budget_bytes is None and _runs_centerface(runtime) and has_time_to_spare():
            return (MODELS[CENTERFACE], *specs)
        return specs
    try:
        size_bytes = path.stat().st_size
    except OSError:
        return specs[-1:]  # loading it tells what is wrong
    return tuple(spec for spec in specs if spec.size_bytes == size_bytes)[:1] or specs[-1:]


def _runs_centerface(runtime: str) -> bool:
    try:
        choose_runtime(runtime, runtimes=(CENTERFACE_RUNTIME,))
    except ConfigurationError:
        return False
    return True


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
