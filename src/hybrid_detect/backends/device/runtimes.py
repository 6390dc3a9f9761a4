"""What runs a face model on this machine: a table of runtimes, and the maker of every detector.

MediaPipe and LiteRT run MediaPipe's two model files with the same answers (`litert_detector` names
two differences). LiteRT takes less than half of the memory and runs on more processors; MediaPipe
is the reference. ONNX Runtime and OpenCV run CenterFace. Which runtimes a model has is a column of
the models' table (`model_registry`).
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from hybrid_detect.backends.device.processor import require_supported_processor
from hybrid_detect.errors import ConfigurationError, MissingExtraError
from hybrid_detect.extras import is_installed

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from hybrid_detect.types import Face

__all__ = [
    "LITERT",
    "MEDIAPIPE",
    "ONNXRUNTIME",
    "OPENCV",
    "RUNTIMES",
    "RUNTIMES_FOR_ONNX",
    "RUNTIMES_FOR_TFLITE",
    "DetectsBatches",
    "FaceDetector",
    "ModelRuntime",
    "RuntimeChoice",
    "choose_runtime",
    "factory_of",
    "make_detector",
    "register_runtime",
]

AUTO = "auto"

MEDIAPIPE, LITERT, ONNXRUNTIME, OPENCV = "mediapipe", "litert", "onnxruntime", "opencv"

RUNTIMES_FOR_TFLITE = (LITERT, MEDIAPIPE)
"""Those that run MediaPipe's two models, the preferred one first."""

RUNTIMES_FOR_ONNX = (ONNXRUNTIME, OPENCV)
"""Those that run CenterFace, the preferred one first."""


class FaceDetector(Protocol):
    """One face detector, usable from any thread, one picture at a time."""

    def detect(self, image_rgb: NDArray[np.uint8]) -> tuple[Face, ...]:
        """The faces in a picture of shape (height, width, 3), uint8, RGB, C-contiguous."""

    @property
    def runs_on(self) -> str:
        """What runs the model, for a person: "LiteRT 2.3.0, its C library"."""

    def close(self) -> None:
        """Stop; may be called more than once."""


@runtime_checkable
class DetectsBatches(Protocol):
    """A face detector that looks at several pictures at once."""

    def detect_batch(self, images_rgb: Sequence[NDArray[np.uint8]]) -> list[tuple[Face, ...]]:
        """The faces in each of several pictures, as `FaceDetector.detect` gives them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRuntime:
    """A library that runs models: a row of the table."""

    name: str
    title: str
    """Its name for a person."""
    module: str
    """The module that has to be installed."""
    factory: str
    """What makes a detector, as ``package.module:function``: text, because the detector's process
    imports it anew. It is called as `make_detector` calls it, and returns a `FaceDetector`."""
    extra: str | None = None
    """This package's extra that installs it; `None` if there is none."""
    threshold_moves_boxes: bool = True
    """Whether a lower threshold changes the faces above it as well, as weighted merging does. If
    not, one detector serves every threshold, which saves the memory of a second."""
    saves_bytes: int = 0
    """What a process on it takes less than `InputSize.needed_bytes` says."""
    merit: str = "comes first"
    """Why a model prefers it to its other runtimes, after "which"."""


_BESIDE = "hybrid_detect.backends.device"

_runtimes: dict[str, ModelRuntime] = {
    runtime.name: runtime
    for runtime in (
        ModelRuntime(
            name=MEDIAPIPE,
            title="MediaPipe",
            module="mediapipe",
            factory=f"{_BESIDE}.runtimes:_mediapipe",
            extra="device",
        ),
        ModelRuntime(
            name=LITERT,
            title="LiteRT",
            merit="takes less memory than MediaPipe",
            # 33 MB with decoders after large pictures, 40 with full range, instead of 75 and 85.
            saves_bytes=35 * 2**20,
            module="ai_edge_litert",
            factory=f"{_BESIDE}.runtimes:_litert",
            extra="device-lite",
        ),
        ModelRuntime(
            name=ONNXRUNTIME,
            title="ONNX Runtime",
            merit="is faster than OpenCV",
            module="onnxruntime",
            factory=f"{_BESIDE}.onnx_runtime:make",
            threshold_moves_boxes=False,
            extra="centerface",
        ),
        ModelRuntime(
            name=OPENCV,
            title="OpenCV",
            module="cv2",
            factory=f"{_BESIDE}.opencv_dnn:make",
            threshold_moves_boxes=False,
            extra="opencv",
        ),
        *(
            ModelRuntime(
                name=f"{ONNXRUNTIME}-{provider}",
                title=f"ONNX Runtime in batches on {place}",
                module="onnxruntime",
                factory=f"{_BESIDE}.onnx_gpu:make_{provider}",
                threshold_moves_boxes=False,
                extra="server-gpu",
            )
            for provider, place in (
                ("cpu", "the processor"),
                ("cuda", "CUDA"),
                ("tensorrt", "TensorRT"),
            )
        ),
    )
}

RUNTIMES: Mapping[str, ModelRuntime] = MappingProxyType(_runtimes)
"""The runtimes by name."""


@dataclass(frozen=True, slots=True)
class RuntimeChoice:
    """The runtime that is used here, and why."""

    name: str
    """A key of `RUNTIMES`."""
    reason: str
    """For a person: "it is installed and takes less memory than MediaPipe"."""

    def told(self, runs_on: str = "") -> str:
        """The choice as a sentence; `runs_on` of a detector says more than the runtime's name."""
        return f"{runs_on or RUNTIMES[self.name].title}, because {self.reason}"


def register_runtime(runtime: ModelRuntime) -> None:
    """Add a runtime to the table, for rows of models that name it.

    Raises:
        ConfigurationError: If another runtime has that name.
    """
    if runtime.name == AUTO or _runtimes.setdefault(runtime.name, runtime) != runtime:
        msg = f"runtime {runtime.name!r}: there is another runtime of that name"
        raise ConfigurationError(msg)


def choose_runtime(
    name: str = AUTO, *, runtimes: Sequence[str] = RUNTIMES_FOR_TFLITE
) -> RuntimeChoice:
    """The runtime that `name` stands for here, for a model. Nothing is loaded for that.

    Args:
        name: A runtime, or ``auto`` for the first of the model's that is installed and runs on this
            processor.
        runtimes: Those that run the model (`ModelSpec.runtimes`), the preferred one first.

    Raises:
        ConfigurationError: If there is no such runtime, it does not run the model, or it does not
            run on this processor.
        MissingExtraError: If it is not installed.
    """
    if name not in (AUTO, *RUNTIMES):
        msg = f"runtime: expected one of {', '.join((AUTO, *RUNTIMES))}, got {name!r}"
        raise ConfigurationError(msg)
    _require_64_bit()
    if name != AUTO:
        if name not in runtimes:
            msg = f"runtime: this model runs on {' or '.join(runtimes)}, not on {name!r}"
            raise ConfigurationError(msg)
        _require(RUNTIMES[name])
        return RuntimeChoice(name, f"runtime={name!r} asks for it")
    preferred = RUNTIMES[runtimes[0]]
    reason = f"it is installed and {preferred.merit}"
    shortage: ConfigurationError | None = None
    for runtime in runtimes:
        try:
            _require(RUNTIMES[runtime])
        except ConfigurationError as error:
            if shortage is None or not isinstance(error, MissingExtraError):
                shortage = error
            reason = f"{preferred.title}, which {preferred.merit}, is not installed"
        else:
            return RuntimeChoice(runtime, reason)
    assert shortage is not None  # noqa: S101 - the loop has returned or set it
    raise shortage


def _require_64_bit() -> None:
    # Not the machine's name: a 32-bit Raspberry Pi OS has a 64-bit kernel that says "aarch64".
    if sys.maxsize < 2**32:
        msg = (
            "on-device detection needs a 64-bit Python, because neither LiteRT nor MediaPipe is "
            "published for this 32-bit one: detect on another machine (endpoint=..., or "
            "provider=...), or install the system's 64-bit edition (Raspberry Pi OS has one)"
        )
        raise ConfigurationError(msg)


def _require(runtime: ModelRuntime) -> None:
    if not is_installed(runtime.module):
        cure = f": pip install 'hybrid-detect[{runtime.extra}]'" if runtime.extra else ""
        msg = f"on-device detection needs {runtime.module}, which is not installed{cure}"
        raise MissingExtraError(msg, extra=runtime.extra or "")
    if runtime.name == MEDIAPIPE:
        require_supported_processor()


def make_detector(
    runtime: str,
    model: bytes,
    *,
    min_confidence: float,
    side_px: int | None = None,
    slim: bool = False,
) -> FaceDetector:
    """A detector on `runtime`, which `choose_runtime` gave.

    Args:
        runtime: A name in `RUNTIMES`, or a factory, which is what a detector's process is given.
        model: The model file's bytes, verified by the caller.
        min_confidence: Faces below this score are left out, 0 to 1.
        side_px: Longer side of the picture that the network is given, as `InputSize` has it. A
            model with one size ignores it.
        slim: The process is the detector's own: load what detection needs and nothing else, and
            change what holds for the whole process.

    Raises:
        MissingExtraError: If the runtime is not installed.
        BackendUnavailableError: If it cannot be loaded here.
        ModelError: If it does not accept the model.
    """
    module, _, function = factory_of(runtime).partition(":")
    made: FaceDetector = getattr(import_module(module), function)(
        model, min_confidence=min_confidence, side_px=side_px, slim=slim
    )
    return made


def factory_of(runtime: str) -> str:
    """The factory of the runtime called `runtime`, or `runtime` if it is a factory itself."""
    return RUNTIMES[runtime].factory if runtime in RUNTIMES else runtime


def _mediapipe(model: bytes, *, min_confidence: float, slim: bool, **_: Any) -> FaceDetector:
    from hybrid_detect.backends.device.face_detector import MediaPipeFaceDetector

    return MediaPipeFaceDetector(model, min_confidence=min_confidence, slim=slim)


def _litert(model: bytes, *, min_confidence: float, **_: Any) -> FaceDetector:
    from hybrid_detect.backends.device.litert_detector import LiteRtFaceDetector
    from hybrid_detect.backends.device.litert_network import open_network

    return LiteRtFaceDetector(open_network(model), min_confidence=min_confidence)
