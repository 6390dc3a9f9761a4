"""The server's levels: which model looks, at which size, and what a picture for it needs to be.

A level is served if its model can be had and something here runs it. Where CenterFace cannot be
had, the full-range model answers every request, and health, answers and log say so.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from hybrid_detect.backends.device.batch_worker import BatchWorker
from hybrid_detect.backends.device.event_loop_worker import EventLoopWorker
from hybrid_detect.backends.device.model_facts import InputSize, ModelSpec
from hybrid_detect.backends.device.model_registry import model_spec
from hybrid_detect.backends.device.models import Progress, load_model
from hybrid_detect.backends.device.runtimes import choose_runtime
from hybrid_detect.errors import (
    ConfigurationError,
    MissingExtraError,
    ModelError,
    ModelIntegrityError,
)
from hybrid_detect.exchange.model_info import ModelInfo
from hybrid_detect.extras import is_installed
from hybrid_detect.selection.rungs import CENTERFACE_LADDER
from hybrid_detect.server.config import AUTO_MODEL, ServerConfig
from hybrid_detect.types import QualityLevel

__all__ = ["LEVELS", "Level", "ServedLevel", "model_info", "served_levels", "usual_level"]

MOST = 8
"""Pictures in a batch: `backends.device.onnx_gpu.MOST`, which is not loaded here."""

GPU_START_LIMIT_S = 900.0
"""TensorRT builds its engines in minutes, once; later starts take seconds."""

NICENESS = 5
"""Of the detectors: the server's own process, which takes a sixth of the time, must not wait for a
core to hand out the next picture, or to refuse one. With several times as much as two busy cores
could take, half of the refusals left within 8 to 30 ms instead of 21 to 112. Not more, because a
lone detector on a core that other programs want gets less."""

logger = logging.getLogger("hybrid_detect.server")

KIB = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """What looking at one level of quality means."""

    quality: QualityLevel
    model: str
    """Name of the model, as the table of models has it."""
    side_px: int | None = None
    """Longer side of the picture that the network is given; `None` for the model's usual one."""
    picture_px: int
    """Longer side of a picture beyond which next to nothing is gained."""
    picture_bytes: int
    """Size of a compressed picture beyond which next to nothing is gained."""
    rungs: tuple[tuple[int, int, float], ...] = ()
    """Pictures that are worth sending, as `ModelInfo.rungs` has them."""
    guess_s: float
    """Seconds that a look takes on one core, until this machine's own have been measured."""


# Sizes of pictures and seconds: `docs/explanation/models.md`, 78 photos with 538 faces. CenterFace
# at 640 pixels scores F1 0.95 and 0.97 on 1280x720 pictures of 80 KB, and the same on 640x360 ones
# of 40 KB; so does the full-range model with its 0.43 and 0.40. Rungs: F1 on 38 of the photos, as a
# share of the first rung's; the pictures have 36, 27, 17 and 9 KB on average (66, 46, 27 and 17).
LEVELS = (
    Level(
        quality=QualityLevel.FAST,
        model="full_range",
        picture_px=640,
        picture_bytes=40 * KIB,
        rungs=((80, 640, 1.0), (50, 640, 0.965), (50, 480, 0.928), (50, 320, 0.864)),
        guess_s=0.006,
    ),
    Level(
        quality=QualityLevel.HIGH,
        model="centerface",
        side_px=640,
        picture_px=640,
        picture_bytes=40 * KIB,
        rungs=tuple(
            (rung.quality, rung.max_side_px, rung.accuracy) for rung in CENTERFACE_LADDER.rungs
        ),
        guess_s=0.052,
    ),
    Level(
        quality=QualityLevel.MAX,
        model="centerface",
        side_px=1280,
        picture_px=1280,
        picture_bytes=80 * KIB,
        rungs=((80, 1280, 1.0), (50, 960, 0.998), (50, 640, 0.996)),
        guess_s=0.189,
    ),
)
"""The levels, the quickest first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedLevel:
    """A level whose model is here."""

    level: Level
    spec: ModelSpec
    runtime: str
    load: Callable[[], bytes]
    """Gives the model's bytes, for each start of a process."""
    most: int = 1
    """Pictures that one look takes at most; above 1 one process serves all places."""

    quality: QualityLevel = field(init=False)
    """Its name."""
    size: InputSize = field(init=False)
    """The size of the network's input, and what holds for it."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "quality", self.level.quality)
        object.__setattr__(self, "size", self.spec.input(self.level.side_px))

    def min_face_px(self, width: int, height: int) -> float:
        """Height of the smallest face that a look at such a picture usually finds."""
        return self.spec.min_face_px(width, height, side_px=self.level.side_px)

    def worker(self, config: ServerConfig) -> EventLoopWorker:
        """A detector in a process of its own, which is not started yet.

        Each level has a process of its own: it is held to its own model's limits of memory, one
        that breaks takes no other with it, and a process can open no file once it has started.
        """
        size = self.size
        return EventLoopWorker(
            self.load,
            min_confidence=max(size.threshold, config.min_confidence),
            lowest_confidence=config.min_confidence,
            enough_px=size.enough_px,
            runtime=self.runtime,
            side_px=size.side_px,
            memory_cap_bytes=size.memory_cap_bytes,
            recycle_bytes=size.recycle_bytes,
            niceness=NICENESS,
            decodes=True,
        )

    def batch_worker(self, config: ServerConfig) -> BatchWorker:
        """A detector for batches in a process of its own, which is not started yet.

        Its memory is not limited here: libraries of a graphics processor map far more than they
        use, and what they use lies on the device.
        """
        return BatchWorker(
            self.load,
            min_confidence=config.min_confidence,
            enough_px=self.size.enough_px,
            runtime=self.runtime,
            side_px=self.size.side_px,
            memory_cap_bytes=0,
            recycle_bytes=sys.maxsize,
            start_limit_s=GPU_START_LIMIT_S,
            decodes=True,
        )


def served_levels(
    config: ServerConfig, *, progress: Progress | None = None, warns: bool = True
) -> tuple[ServedLevel, ...]:
    """The levels that can be served here, the quickest first. Fetches models; takes its time.

    Args:
        config: Its `model` is one model, whose levels alone are served, or ``auto``.
        progress: Called with the progress of a fetch.
        warns: Whether to log which levels are missing, and why.

    Raises:
        MissingExtraError: If nothing is installed that runs the model.
        ConfigurationError: If what is installed does not run on this processor, or there is no
            such model.
        ModelError: If the model cannot be had from any source.
    """
    if config.provider != "cpu":
        return tuple(_batch_levels(config, progress))
    if config.model != AUTO_MODEL:
        return tuple(_served(_levels_of(config.model), config.model_path, progress))
    path_of = _paths(config.model_path)
    full_range, centerface = _levels_of("full_range"), _levels_of("centerface")
    try:
        better = tuple(_served(centerface, path_of.get("centerface"), progress))
    except (ModelError, ConfigurationError) as error:
        if "centerface" in path_of or isinstance(error, ModelIntegrityError):
            raise  # The operator named the file, and another model would hide what is wrong.
        if warns:
            logger.warning(
                "looking with the full-range model alone, which misses most small faces: %s", error
            )
        better = ()
    try:
        quick = tuple(_served(full_range, path_of.get("full_range"), progress))
    except (ModelError, ConfigurationError) as error:
        if not better or "full_range" in path_of:
            raise
        if warns:
            logger.warning("there is no level 'fast' for pictures with little time: %s", error)
        quick = ()
    return quick + better


def usual_level(levels: Iterable[ServedLevel], wished: QualityLevel) -> ServedLevel:
    """The level of requests that name none: `wished`, or the nearest below it, else the quickest.

    Args:
        levels: The levels to be had, the quickest first; at least one.
        wished: What the configuration asks for.
    """
    found, *others = levels
    order = list(QualityLevel)
    for level in others:
        if order.index(level.quality) <= order.index(wished):
            found = level
    return found


def model_info(levels: Iterable[ServedLevel], usual: ServedLevel) -> ModelInfo:
    """What clients are told of the model."""
    return ModelInfo(
        name=usual.spec.name,
        quality=usual.quality,
        qualities=tuple(level.quality.value for level in levels),
        side_px=usual.level.picture_px,
        picture_bytes=usual.level.picture_bytes,
        rungs=usual.level.rungs,
        recall=usual.size.recall_by_height,
    )


def _levels_of(model: str) -> tuple[Level, ...]:
    """The levels that `model` serves; a model that is in none looks at ``fast``."""
    found = tuple(level for level in LEVELS if level.model == model)
    if found:
        return found
    spec = model_spec(model)
    wanted_px = spec.input().enough_px
    fast = Level(
        quality=QualityLevel.FAST,
        model=model,
        picture_px=wanted_px,
        picture_bytes=80 * KIB,
        guess_s=0.0,
    )
    return (fast,)


def _served(
    levels: Iterable[Level], path: Path | None, progress: Progress | None
) -> Iterable[ServedLevel]:
    """The levels of one model, once that has been found to be here and to have a runtime."""
    for number, level in enumerate(levels):
        spec = model_spec(level.model)
        # Before the model, which could not be used without one, is fetched.
        runtime = choose_runtime(runtimes=spec.runtimes)
        load = partial(load_model, spec.name, path=path)
        if number == 0:
            logger.info("the model %s runs on %s", spec.name, runtime.told())
            load(progress=progress)  # Here, so that a download is waited for once.
        yield ServedLevel(level=level, spec=spec, runtime=runtime.name, load=load)


def _batch_levels(config: ServerConfig, progress: Progress | None) -> Iterable[ServedLevel]:
    """CenterFace's levels on a graphics processor."""
    if config.model not in {AUTO_MODEL, "centerface"}:
        msg = f"model: expected centerface on provider {config.provider!r}, got {config.model!r}"
        raise ConfigurationError(msg)
    runtime = f"onnxruntime-{config.provider}"
    if not is_installed("onnxruntime"):
        msg = f"{config.provider} needs onnxruntime: pip install 'hybrid-detect[server-gpu]'"
        raise MissingExtraError(msg, extra="server-gpu")
    spec = model_spec("centerface")
    load = partial(load_model, spec.name, path=config.model_path)
    load(progress=progress)  # Here, so that a download is waited for once.
    for level in _levels_of(spec.name):
        yield ServedLevel(level=level, spec=spec, runtime=runtime, load=load, most=MOST)


def _paths(path: Path | None) -> dict[str, Path]:
    """The model whose file `path` is by its size, if it is one; CenterFace's otherwise.

    A file that is neither is refused by its digest when it is loaded.
    """
    if path is None:
        return {}
    try:
        size_bytes = path.stat().st_size
    except OSError:
        return {"centerface": path}  # loading it tells what is wrong
    is_full_range = size_bytes == model_spec("full_range").size_bytes
    return {"full_range" if is_full_range else "centerface": path}
