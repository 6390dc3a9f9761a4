"""CenterFace on ONNX Runtime: one thread, and no more memory kept than one shape needs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hybrid_detect.backends.device.centerface import CenterFaceDetector, Maps
from hybrid_detect.backends.device.onnx_shapes import with_free_sizes
from hybrid_detect.errors import BackendUnavailableError, ModelError
from hybrid_detect.extras import require
from hybrid_detect.types import BackendKind

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["OnnxRuntimeNetwork", "make"]

ERRORS_ONLY = 3
"""Log severity: warnings about the processor's caches help no user."""


class OnnxRuntimeNetwork:
    """The file in an ONNX Runtime session.

    Args:
        model: The file's bytes, verified by the caller.

    Raises:
        MissingExtraError: If ONNX Runtime is not installed.
        ModelError: If it does not accept the model.
    """

    def __init__(self, model: bytes) -> None:
        ort = require("onnxruntime", extra="centerface", purpose="the model 'centerface'")
        self.runs_on = f"ONNX Runtime {ort.__version__}"
        options = ort.SessionOptions()
        # A second thread gains nothing where both cores are busy, and a thread that spins while it
        # waits for work costs 60 % more CPU time.
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = ERRORS_ONLY
        self._usual, self._shrinking = ort.RunOptions(), ort.RunOptions()
        self._shrinking.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        self._shape: tuple[int, ...] = ()
        try:
            self._session: Any = ort.InferenceSession(
                with_free_sizes(model), options, providers=["CPUExecutionProvider"]
            )
        except ModelError:
            raise
        except Exception as exc:  # ONNX Runtime's errors have no base class of their own.
            msg = f"ONNX Runtime does not accept the model of {len(model)} bytes: {_reason(exc)}"
            raise ModelError(msg) from exc
        self._input = self._session.get_inputs()[0].name

    def run(self, pixels: NDArray[np.float32]) -> Maps:
        """See `centerface.Network`.

        Raises:
            BackendUnavailableError: If ONNX Runtime fails.
        """
        # The arena keeps what the largest picture took. Give it back when the shape changes: a
        # camera's pictures have one shape and pay nothing, those of a server a sixth of the time.
        options = self._usual if pixels.shape == self._shape else self._shrinking
        self._shape = pixels.shape
        try:
            heat, size, offset, points = self._session.run(None, {self._input: pixels}, options)
        except MemoryError:
            raise
        except Exception as exc:
            msg = f"ONNX Runtime failed on a picture of shape {pixels.shape}: {_reason(exc)}"
            raise BackendUnavailableError(msg, backend=BackendKind.DEVICE, retryable=True) from exc
        return Maps(heat[0, 0], size[0], offset[0], points[0])


def make(
    model: bytes, *, min_confidence: float, side_px: int, slim: bool = False
) -> CenterFaceDetector:
    """A detector on ONNX Runtime; see `runtimes.make_detector`."""
    del slim  # there is no smaller form of ONNX Runtime
    return CenterFaceDetector(
        OnnxRuntimeNetwork(model), side_px=side_px, min_confidence=min_confidence
    )


def _reason(exc: Exception) -> str:
    return (str(exc).strip().splitlines() or [type(exc).__name__])[0][:300]
