"""A model of MLServer: one JPEG as base64, or pixels, to boxes."""

from __future__ import annotations

from face_model import detect, detect_pixels
from mlserver import MLModel  # type: ignore[import-not-found]
from mlserver.codecs import NumpyCodec  # type: ignore[import-not-found]
from mlserver.types import InferenceRequest, InferenceResponse  # type: ignore[import-not-found]


class FaceModel(MLModel):  # type: ignore[misc]
    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        (given,) = payload.inputs
        if given.datatype == "BYTES":
            (jpeg,) = self.decode(given)
            boxes, scores = detect(jpeg)
        else:
            boxes, scores = detect_pixels(NumpyCodec.decode_input(given))
        return InferenceResponse(
            model_name=self.name,
            outputs=[
                NumpyCodec.encode_output("boxes", boxes),
                NumpyCodec.encode_output("scores", scores),
            ],
        )
