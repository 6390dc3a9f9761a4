"""CenterFace on a graphics processor: several pictures at once, in shapes that never change.

ONNX Runtime falls back to the processor without a word where CUDA or TensorRT cannot be loaded, and
a server would run for weeks at a fiftieth of its speed. So one provider is asked for here, the one
that the session really has is read back, and another one is refused: the server's configuration
says whether it then looks on the processor.

TensorRT builds an engine for each shape, which takes minutes the first time and is kept in the
cache folder; CUDA tunes its convolutions for each. So every picture is filled up with black to a
square, and every batch to one of `BATCHES`.

Source: ONNX Runtime's documentation, "Execution Providers" (names, options, the fall-back).
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from hybrid_detect.backends.device.centerface import Maps, faces_in, filling, scaled_pixels
from hybrid_detect.backends.device.face_detector import check_pixels
from hybrid_detect.backends.device.models import cache_dir
from hybrid_detect.backends.device.onnx_shapes import with_free_sizes
from hybrid_detect.errors import (
    BackendUnavailableError,
    ClosedError,
    ConfigurationError,
    ModelError,
)
from hybrid_detect.extras import require
from hybrid_detect.types import BackendKind

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hybrid_detect.types import Face

__all__ = [
    "BATCHES",
    "MOST",
    "PROVIDERS",
    "BatchedCenterFace",
    "make_cpu",
    "make_cuda",
    "make_tensorrt",
    "open_session",
    "require_provider",
]

MOST = 8
"""Pictures in a batch at most: a 640 pixel batch of them takes 0.4 GB of the network's own maps."""

BATCHES = (1, MOST)
"""The sizes of a batch; a smaller one is filled up with black pictures."""

PROVIDERS: Mapping[str, str] = MappingProxyType(
    {
        "cpu": "CPUExecutionProvider",
        "cuda": "CUDAExecutionProvider",
        "tensorrt": "TensorrtExecutionProvider",
    }
)
"""ONNX Runtime's names of the providers that may be asked for."""

ERRORS_ONLY = 3
"""Log severity: the reason of a failed load is in the exception or in the refusal here."""


def require_provider(provider: str, *, available: Sequence[str]) -> str:
    """ONNX Runtime's name of `provider`, if this build of it has that.

    Args:
        provider: A key of `PROVIDERS`.
        available: ``onnxruntime.get_available_providers()``.

    Raises:
        ConfigurationError: If there is no such provider, or this build lacks it.
    """
    name = PROVIDERS.get(provider)
    if name is None:
        msg = f"provider: expected one of {', '.join(PROVIDERS)}, got {provider!r}"
        raise ConfigurationError(msg)
    if name not in available:
        msg = (
            f"this build of onnxruntime has no {name}: pip uninstall onnxruntime, then "
            "pip install 'hybrid-detect[server-gpu]' (both install the same module)"
        )
        raise ConfigurationError(msg)
    return name


def open_session(model: bytes, provider: str, *, ort: Any = None) -> Any:
    """A session of the model on `provider` and on no other.

    Args:
        model: The file's bytes, verified by the caller.
        provider: A key of `PROVIDERS`.
        ort: The module ``onnxruntime``; found by itself if `None`.

    Raises:
        MissingExtraError: If ONNX Runtime is not installed.
        ConfigurationError: If this build of it lacks the provider.
        BackendUnavailableError: If the provider could not be loaded and the session fell back.
        ModelError: If the model is not accepted.
    """
    if ort is None:
        ort = require("onnxruntime", extra="server-gpu", purpose="a graphics processor")
    name = require_provider(provider, available=ort.get_available_providers())
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = ERRORS_ONLY
    try:
        session = ort.InferenceSession(
            with_free_sizes(model), options, providers=[(name, _options_of(provider))]
        )
    except ModelError:
        raise
    except Exception as exc:  # ONNX Runtime's errors have no base class of their own.
        reason = (str(exc).strip().splitlines() or [type(exc).__name__])[0][:300]
        msg = f"ONNX Runtime does not accept the model of {len(model)} bytes: {reason}"
        raise ModelError(msg) from exc
    used = session.get_providers()
    if not used or used[0] != name:
        msg = (
            f"ONNX Runtime could not load {name} and fell back to {', '.join(used) or 'none'}: "
            "the driver, CUDA or cuDNN is missing or of another version"
        )
        raise BackendUnavailableError(msg, backend=BackendKind.DEVICE)
    return session


def _options_of(provider: str) -> dict[str, str]:
    if provider != "tensorrt":
        return {}
    folder = cache_dir().parent / "tensorrt"
    folder.mkdir(parents=True, exist_ok=True)
    return {"trt_engine_cache_enable": "1", "trt_engine_cache_path": str(folder)}


class BatchedCenterFace:
    """A face detector for one picture or several at once, usable from any thread.

    Args:
        session: Runs the network.
        runs_on: What that is, for a person.
        side_px: Side of the square that each picture is scaled into, a multiple of 32.
        min_confidence: Faces below this score are left out, 0 to 1.
    """

    def __init__(self, session: Any, *, runs_on: str, side_px: int, min_confidence: float) -> None:
        self.runs_on = runs_on
        self._session = session
        self._input = session.get_inputs()[0].name
        self._side_px = side_px
        self._min_confidence = min_confidence
        self._lock = threading.Lock()
        for count in BATCHES:  # now, because what a shape needs is loaded when it is first met
            self._run(np.zeros((count, 3, side_px, side_px), np.float32))

    def detect(self, image_rgb: NDArray[np.uint8]) -> tuple[Face, ...]:
        """The faces in one picture; see `detect_batch`."""
        return self.detect_batch((image_rgb,))[0]

    def detect_batch(self, images_rgb: Sequence[NDArray[np.uint8]]) -> list[tuple[Face, ...]]:
        """Find the faces in each of up to `MOST` pictures.

        Args:
            images_rgb: Each of shape (height, width, 3), uint8, RGB, C-contiguous.

        Returns:
            For each picture its faces, in its pixels, best first.

        Raises:
            InvalidFrameError: If an array is anything else.
            ClosedError: If the detector is closed.
            BackendUnavailableError: If ONNX Runtime failed.
        """
        count = next(size for size in BATCHES if size >= len(images_rgb))
        pixels = np.zeros((count, 3, self._side_px, self._side_px), np.float32)
        sizes = []
        for image, padded in zip(images_rgb, pixels, strict=False):
            check_pixels(image)
            size = filling(image.shape[1], image.shape[0], self._side_px)
            padded[:, : size[1], : size[0]] = scaled_pixels(image, size)
            sizes.append(size)
        heat, log_size, offset, points = self._run(pixels)
        found = []
        for index, (image, size) in enumerate(zip(images_rgb, sizes, strict=True)):
            maps = Maps(heat[index, 0], log_size[index], offset[index], points[index])
            picture = image.shape[1], image.shape[0]
            found.append(faces_in(maps, size, picture, min_score=self._min_confidence))
        return found

    def close(self) -> None:
        """Stop, after a detection that is going on. May be called more than once."""
        with self._lock:
            self._session = None

    def _run(self, pixels: NDArray[np.float32]) -> Any:
        with self._lock:
            if self._session is None:
                msg = "the face detector is closed: make a new one"
                raise ClosedError(msg)
            try:
                return self._session.run(None, {self._input: pixels})
            except MemoryError:
                raise
            except Exception as exc:
                reason = (str(exc).strip().splitlines() or [type(exc).__name__])[0][:300]
                msg = f"ONNX Runtime failed on a batch of {len(pixels)} pictures: {reason}"
                raise BackendUnavailableError(
                    msg, backend=BackendKind.DEVICE, retryable=True
                ) from exc


def _make(
    provider: str, model: bytes, *, min_confidence: float, side_px: int, slim: bool = False
) -> BatchedCenterFace:
    """A detector on `provider`; see `runtimes.make_detector`."""
    del slim  # there is no smaller form of ONNX Runtime
    session = open_session(model, provider)
    return BatchedCenterFace(
        session,
        runs_on=f"ONNX Runtime, {session.get_providers()[0]}",
        side_px=side_px,
        min_confidence=min_confidence,
    )


make_cpu, make_cuda, make_tensorrt = (partial(_make, provider) for provider in PROVIDERS)
"""The factories of the runtimes, by provider. The one for the processor is for tests and for
comparisons: a batch gains nothing there."""
