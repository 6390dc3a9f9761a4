"""The model of a Triton repository: one JPEG as an element of BYTES, or pixels, to boxes."""

from __future__ import annotations

import os
import sys
from typing import Any

# Triton's Python has no virtual environment, and passes PYTHONPATH over.
sys.path[:0] = os.environ["FACE_MODEL_PATH"].split(os.pathsep)

import numpy as np  # noqa: E402
import triton_python_backend_utils as triton  # type: ignore[import-not-found]  # noqa: E402
from face_model import detect, detect_pixels  # noqa: E402


class TritonPythonModel:
    def execute(self, requests: list[Any]) -> list[Any]:
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        image = triton.get_input_tensor_by_name(request, "image").as_numpy()
        is_batch = image.ndim in (2, 4)
        try:
            if image.dtype == object:
                found = [detect(jpeg) for jpeg in image.ravel()]
            else:
                found = [detect_pixels(image.reshape(image.shape[-3:]))]
        except OSError:
            error = triton.TritonError("the picture cannot be decoded")
            return triton.InferenceResponse(error=error)
        # Pictures with fewer faces than others are filled up with zeros.
        most = max(len(scores) for _, scores in found)
        boxes = np.zeros((len(found), most, 4), np.float32)
        scores = np.zeros((len(found), most), np.float32)
        for number, (its_boxes, its_scores) in enumerate(found):
            boxes[number, : len(its_boxes)] = its_boxes
            scores[number, : len(its_scores)] = its_scores
        if not is_batch:
            boxes, scores = boxes[0], scores[0]
        return triton.InferenceResponse(
            [triton.Tensor("boxes", boxes), triton.Tensor("scores", scores)]
        )
