"""CenterFace on OpenCV's own network runner, for machines that have OpenCV and no ONNX Runtime.

It reads the file as it is, gives the same answers and takes about a quarter more time and memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hybrid_detect.backends.device.centerface import CenterFaceDetector, Maps
from hybrid_detect.errors import BackendUnavailableError, ModelError
from hybrid_detect.extras import require
from hybrid_detect.types import BackendKind

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["OpenCvNetwork", "make"]

OUTPUTS = ("537", "538", "539", "540")
"""Heat, size, offset and points, as the file names them."""


class OpenCvNetwork:
    """The file in an OpenCV network.

    Args:
        model: The file's bytes, verified by the caller.
        owns_process: Whether OpenCV may be told to use one thread, which holds for the process.

    Raises:
        MissingExtraError: If OpenCV is not installed.
        ModelError: If it does not accept the model.
    """

    def __init__(self, model: bytes, *, owns_process: bool = False) -> None:
        self._cv2: Any = require("cv2", extra="opencv", purpose="the runtime 'opencv'")
        self.runs_on = f"OpenCV {self._cv2.__version__}"
        import numpy as np

        if owns_process:
            self._cv2.setNumThreads(1)
        try:
            self._net = self._cv2.dnn.readNetFromONNX(np.frombuffer(model, np.uint8))
        except self._cv2.error as exc:
            msg = f"OpenCV does not accept the model of {len(model)} bytes: {_reason(exc)}"
            raise ModelError(msg) from exc

    def run(self, pixels: NDArray[np.float32]) -> Maps:
        """See `centerface.Network`.

        Raises:
            BackendUnavailableError: If OpenCV fails.
        """
        try:
            self._net.setInput(pixels)
            heat, size, offset, points = self._net.forward(OUTPUTS)
        except self._cv2.error as exc:
            msg = f"OpenCV failed on a picture of shape {pixels.shape}: {_reason(exc)}"
            raise BackendUnavailableError(msg, backend=BackendKind.DEVICE, retryable=True) from exc
        return Maps(heat[0, 0], size[0], offset[0], points[0])


def make(
    model: bytes, *, min_confidence: float, side_px: int, slim: bool = False
) -> CenterFaceDetector:
    """A detector on OpenCV; see `runtimes.make_detector`."""
    network = OpenCvNetwork(model, owns_process=slim)
    return CenterFaceDetector(network, side_px=side_px, min_confidence=min_confidence)


def _reason(exc: Exception) -> str:
    return (str(exc).strip().splitlines() or [type(exc).__name__])[0][:300]
