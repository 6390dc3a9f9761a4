"""The model of a Triton repository: one JPEG as an element of BYTES, or pixels, to boxes."""

from __future__ import annotations

import os
import sys
from typing import Any

# Triton's Python has no virtual environment, and passes PYTHONPATH over.
sys.path[:0] = os.environ["FACE_MODEL_PATH"].split(os.pathsep)

import triton_python_backend_utils as triton  # type: ignore[import-not-found]  # noqa: E402
from face_model import detect, detect_pixels  # noqa: E402


class TritonPythonModel:
    def execute(self, requests: list[Any]) -> list[Any]:
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        image = triton.get_input_tensor_by_name(request, "image").as_numpy()
        try:
            boxes, scores = (
                detect(image.ravel()[0])
                if image.dtype == object
                else detect_pixels(image.reshape(image.shape[-3:]))
            )
        except OSError:
            error = triton.TritonError("the picture cannot be decoded")
            return triton.InferenceResponse(error=error)
        batch = (1,) if image.ndim in (2, 4) else ()
        return triton.InferenceResponse(
            [
                triton.Tensor("boxes", boxes.reshape(*batch, -1, 4)),
                triton.Tensor("scores", scores.reshape(*batch, -1)),
            ]
        )
