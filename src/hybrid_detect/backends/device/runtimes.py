"""What runs a face model on this device: MediaPipe, or LiteRT with the steps around it in NumPy.

Both use the same model files and give the same answers (`litert_detector` names two differences).
LiteRT takes less than half of the memory and runs on more processors; MediaPipe is the reference.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from hybrid_detect.backends.device.processor import require_supported_processor
from hybrid_detect.errors import ConfigurationError, MissingExtraError
from hybrid_detect.extras import is_installed

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from hybrid_detect.types import Face

__all__ = ["LITERT", "MEDIAPIPE", "RUNTIMES", "FaceDetector", "choose_runtime", "make_detector"]

AUTO, MEDIAPIPE, LITERT = "auto", "mediapipe", "litert"

RUNTIMES = (AUTO, MEDIAPIPE, LITERT)

_MODULES = {MEDIAPIPE: ("mediapipe", "device"), LITERT: ("ai_edge_litert", "device-lite")}
"""The module of each runtime and the extra that installs it."""


class FaceDetector(Protocol):
    """One face detector, usable from any thread, one picture at a time."""

    def detect(self, image_rgb: NDArray[np.uint8]) -> tuple[Face, ...]:
        """The faces in a picture of shape (height, width, 3), uint8, RGB, C-contiguous."""

    def close(self) -> None:
        """Stop; may be called more than once."""


def choose_runtime(name: str = AUTO) -> str:
    """The runtime that `name` stands for here: `MEDIAPIPE` or `LITERT`.

    ``auto`` takes MediaPipe where it is installed and runs on this processor, else LiteRT.

    Raises:
        ConfigurationError: If there is no such runtime, or it does not run on this processor.
        MissingExtraError: If it is not installed.
    """
    if name not in RUNTIMES:
        msg = f"runtime: expected one of {', '.join(RUNTIMES)}, got {name!r}"
        raise ConfigurationError(msg)
    if name != AUTO:
        _require(name)
        return name
    shortage: ConfigurationError | None = None
    for runtime in (MEDIAPIPE, LITERT):
        try:
            _require(runtime)
        except ConfigurationError as error:
            if shortage is None or not isinstance(error, MissingExtraError):
                shortage = error
        else:
            return runtime
    assert shortage is not None  # noqa: S101 - the loop has returned or set it
    raise shortage


def _require(runtime: str) -> None:
    module, extra = _MODULES[runtime]
    if not is_installed(module):
        msg = (
            f"on-device detection needs {module}, which is not installed: "
            f"pip install 'hybrid-detect[{extra}]'"
        )
        raise MissingExtraError(msg, extra=extra)
    if runtime == MEDIAPIPE:
        require_supported_processor()


def make_detector(
    runtime: str, model: bytes, *, min_confidence: float, slim: bool = False
) -> FaceDetector:
    """A detector on `runtime`, which `choose_runtime` gave.

    Args:
        runtime: `MEDIAPIPE` or `LITERT`.
        model: The model file's bytes, verified by the caller.
        min_confidence: Faces below this score are left out, 0 to 1.
        slim: Load of MediaPipe only what detection needs; see `mediapipe_loading`.

    Raises:
        MissingExtraError: If the runtime is not installed.
        BackendUnavailableError: If it cannot be loaded here.
        ModelError: If it does not accept the model.
    """
    if runtime == LITERT:
        from hybrid_detect.backends.device.litert_detector import LiteRtFaceDetector

        return LiteRtFaceDetector(model, min_confidence=min_confidence)
    from hybrid_detect.backends.device.face_detector import MediaPipeFaceDetector

    return MediaPipeFaceDetector(model, min_confidence=min_confidence, slim=slim)
