"""Loading MediaPipe: the whole package, or just the five names that face detection needs.

``import mediapipe`` also loads matplotlib, OpenCV and sounddevice: half a second and two thirds
of the private memory, none of which the face detector touches. Slim loading gives Python bare
packages for the path to the detector, so that their ``__init__`` files never run. That changes
``sys.modules`` for the whole process, so it is only for one that does nothing else.
"""

from __future__ import annotations

import functools
import importlib
import sys
import types
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any, NamedTuple

from hybrid_detect.backends.device.system_libraries import loading_error
from hybrid_detect.errors import MissingExtraError
from hybrid_detect.extras import require

__all__ = ["MediaPipe", "load_mediapipe"]

BARE_PACKAGES = (
    "mediapipe",
    "mediapipe.tasks",
    "mediapipe.tasks.python",
    "mediapipe.tasks.python.components",
    "mediapipe.tasks.python.components.containers",
    "mediapipe.tasks.python.vision",
)
"""The packages between the top and the face detector, in MediaPipe 1.2."""


class MediaPipe(NamedTuple):
    """What face detection needs of MediaPipe."""

    FaceDetector: Any
    FaceDetectorOptions: Any
    BaseOptions: Any
    Image: Any
    ImageFormat: Any


def load_mediapipe(*, slim: bool = False) -> MediaPipe:
    """MediaPipe's face detection.

    Args:
        slim: Load it without its package's other dependencies, if this version allows.

    Raises:
        MissingExtraError: If MediaPipe is not installed, or is a version without this detector.
        BackendUnavailableError: If it is installed but cannot be loaded here.
    """
    try:
        return (slim and _load_slim()) or _load_whole()
    except MissingExtraError:
        raise
    except (OSError, ImportError) as exc:
        # One of its native libraries, or one that it needs from the system.
        raise loading_error(exc) from exc


def _load_whole() -> MediaPipe:
    mediapipe = require("mediapipe", extra="device", purpose="on-device detection")
    tasks: Any = getattr(mediapipe, "tasks", None)
    vision: Any = getattr(tasks, "vision", None)
    if not hasattr(vision, "FaceDetector"):
        version = getattr(mediapipe, "__version__", "of unknown version")
        msg = (
            f"on-device detection needs a MediaPipe with tasks.vision.FaceDetector, and {version} "
            "has none: pip install 'hybrid-detect[device]'"
        )
        raise MissingExtraError(msg, extra="device")
    return MediaPipe(
        vision.FaceDetector,
        vision.FaceDetectorOptions,
        tasks.BaseOptions,
        mediapipe.Image,
        mediapipe.ImageFormat,
    )


@functools.cache
def _load_slim() -> MediaPipe | None:
    """The five names, or `None` if this version keeps them elsewhere."""
    spec = PathFinder.find_spec("mediapipe")
    if spec is None or not spec.submodule_search_locations or "mediapipe" in sys.modules:
        return None
    root = Path(spec.submodule_search_locations[0])
    for name in BARE_PACKAGES:
        package = types.ModuleType(name)
        package.__path__ = [str(root.joinpath(*name.split(".")[1:]))]
        sys.modules[name] = package
    try:
        detector = importlib.import_module("mediapipe.tasks.python.vision.face_detector")
        options = importlib.import_module("mediapipe.tasks.python.core.base_options")
        image = importlib.import_module("mediapipe.tasks.python.vision.core.image")
        return MediaPipe(
            detector.FaceDetector,
            detector.FaceDetectorOptions,
            options.BaseOptions,
            image.Image,
            image.ImageFormat,
        )
    except (ImportError, AttributeError):
        for name in [name for name in sys.modules if name.partition(".")[0] == "mediapipe"]:
            del sys.modules[name]
        return None
