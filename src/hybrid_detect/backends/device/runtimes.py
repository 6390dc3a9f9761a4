"""What runs a face model on this device: LiteRT with the steps around it in NumPy, or MediaPipe.

Both use the same model files and give the same answers (`litert_detector` names two differences).
LiteRT takes less than half of the memory and runs on more processors; MediaPipe is the reference.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

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
    "RUNTIMES",
    "FaceDetector",
    "RuntimeChoice",
    "choose_runtime",
    "make_detector",
]

AUTO, MEDIAPIPE, LITERT = "auto", "mediapipe", "litert"

RUNTIMES = (AUTO, MEDIAPIPE, LITERT)

_TITLES = {MEDIAPIPE: "MediaPipe", LITERT: "LiteRT"}

_MODULES = {MEDIAPIPE: ("mediapipe", "device"), LITERT: ("ai_edge_litert", "device-lite")}
"""The module of each runtime and the extra that installs it."""


class FaceDetector(Protocol):
    """One face detector, usable from any thread, one picture at a time."""

    def detect(self, image_rgb: NDArray[np.uint8]) -> tuple[Face, ...]:
        """The faces in a picture of shape (height, width, 3), uint8, RGB, C-contiguous."""

    @property
    def runs_on(self) -> str:
        """What runs the model, for a person: "LiteRT 2.3.0, its C library"."""

    def close(self) -> None:
        """Stop; may be called more than once."""


@dataclass(frozen=True, slots=True)
class RuntimeChoice:
    """The runtime that is used here, and why."""

    name: str
    """`MEDIAPIPE` or `LITERT`."""
    reason: str
    """For a person: "it is installed and takes less memory than MediaPipe"."""

    def told(self, runs_on: str = "") -> str:
        """The choice as a sentence; `runs_on` of a detector says more than the runtime's name."""
        return f"{runs_on or _TITLES[self.name]}, because {self.reason}"


def choose_runtime(name: str = AUTO) -> RuntimeChoice:
    """The runtime that `name` stands for here.

    ``auto`` takes LiteRT where it is installed, else MediaPipe if it is installed and runs on this
    processor. Nothing is loaded for that.

    Raises:
        ConfigurationError: If there is no such runtime, or it does not run on this processor.
        MissingExtraError: If it is not installed.
    """
    if name not in RUNTIMES:
        msg = f"runtime: expected one of {', '.join(RUNTIMES)}, got {name!r}"
        raise ConfigurationError(msg)
    _require_64_bit()
    if name != AUTO:
        _require(name)
        return RuntimeChoice(name, f"runtime={name!r} asks for it")
    try:
        _require(LITERT)
    except MissingExtraError as without_litert:
        if not is_installed(_MODULES[MEDIAPIPE][0]):
            raise without_litert from None
        _require(MEDIAPIPE)
        return RuntimeChoice(MEDIAPIPE, "LiteRT, which takes less memory, is not installed")
    return RuntimeChoice(LITERT, "it is installed and takes less memory than MediaPipe")


def _require_64_bit() -> None:
    # Not the machine's name: a 32-bit Raspberry Pi OS has a 64-bit kernel that says "aarch64".
    if sys.maxsize < 2**32:
        msg = (
            "on-device detection needs a 64-bit Python, because neither LiteRT nor MediaPipe is "
            "published for this 32-bit one: detect on another machine (endpoint=..., or "
            "provider=...), or install the system's 64-bit edition (Raspberry Pi OS has one)"
        )
        raise ConfigurationError(msg)


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
        from hybrid_detect.backends.device.litert_network import open_network

        return LiteRtFaceDetector(open_network(model), min_confidence=min_confidence)
    from hybrid_detect.backends.device.face_detector import MediaPipeFaceDetector

    return MediaPipeFaceDetector(model, min_confidence=min_confidence, slim=slim)
