"""Our Azure request and parser beside azure-ai-vision-face, Microsoft's own client."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_detect import CloudDetectionService
from hybrid_detect.backends.remote.protocol import HttpResponse
from hybrid_detect.backends.remote.providers.azure import AzureFace
from hybrid_detect.errors import BackendResponseError
from hybrid_detect.frames.frame import Frame
from hybrid_detect.testing.provider_servers import AzureServer, Failure
from hybrid_detect.types import BackendKind, Plan

from .protocol_contract import PICTURE, json_response

face = pytest.importorskip(
    "azure.ai.vision.face", reason="the extra providers-test is not installed"
)

from azure.ai.vision.face._model_base import _deserialize  # noqa: E402
from azure.core.credentials import AzureKeyCredential  # noqa: E402
from azure.core.exceptions import HttpResponseError  # noqa: E402

JPEG_PLAN = Plan(backend=BackendKind.CLOUD, reason="test", deadline_s=20.0, retries=0)
NOISE = np.random.default_rng(3).integers(0, 255, (100, 100, 3), np.uint8)


@contextmanager
def client(server: AzureServer) -> Iterator[Any]:
    # The client's own version is a preview's.
    options = {"api_version": "v1.2", "retry_total": 0}
    with face.FaceClient(server.url, AzureKeyCredential(server.api_key), **options) as made:
        yield made


def ask_by_sdk(made: Any, picture: bytes, *, landmarks: bool = True) -> Any:
    return made.detect(
        picture,
        detection_model="detection_03",
        recognition_model="recognition_04",
        return_face_id=False,
        return_face_landmarks=landmarks,
    )


@pytest.mark.anyio
@pytest.mark.parametrize("landmarks", [True, False])
async def test_our_request_is_the_sdk_s(landmarks: bool) -> None:
    with AzureServer() as server:
        options = {"landmarks": landmarks}
        async with CloudDetectionService(
            "azure", endpoint=server.url, api_key="key", provider_options=options
        ) as service:
            await service.detect(Frame.of(NOISE), JPEG_PLAN)
        (ours,) = server.requests
        with client(server) as made:
            ask_by_sdk(made, ours.body, landmarks=landmarks)
    theirs = server.requests[-1]
    assert ours.method == theirs.method
    assert ours.target == theirs.target
    assert ours.body == theirs.body
    names = {"content-type", "content-length", "accept", "ocp-apim-subscription-key", "host"}
    assert names <= set(ours.headers)
    for name in names:
        assert ours.headers[name] == theirs.headers[name]
    beside = {"accept-encoding", "connection", "user-agent", "x-ms-client-request-id"}
    assert set(ours.headers) - names <= beside
    assert set(theirs.headers) - names <= beside


def test_our_server_s_answers_are_read_alike() -> None:
    with AzureServer() as server, client(server) as made:
        (theirs,) = ask_by_sdk(made, _noise_jpeg())
        answer = server.answer(server.requests[0])
    response = HttpResponse(status=200, headers=answer.headers, body=answer.body)
    picture = _picture_of_noise()
    (reply,) = AzureFace().decode(response, (picture,))
    (ours,) = reply.faces
    box = theirs.face_rectangle
    assert ours.box.xyxy == (box.left, box.top, box.left + box.width, box.top + box.height)
    eyes = {p.name: (p.x, p.y) for p in ours.keypoints}
    pupil = theirs.face_landmarks.pupil_left
    assert eyes["right_eye"] == (pupil.x, pupil.y)


rectangles = st.fixed_dictionaries(
    {
        "left": st.integers(-50, 100),
        "top": st.integers(-50, 100),
        "width": st.integers(0, 200),
        "height": st.integers(0, 200),
    }
)


@given(st.lists(rectangles, max_size=8))
def test_boxes_are_read_as_the_sdk_reads_them(found: list[dict[str, int]]) -> None:
    said = [{"faceRectangle": each} for each in found]
    theirs = [_deserialize(face.models.FaceDetectionResult, each) for each in said]
    (reply,) = AzureFace().decode(json_response(said), (PICTURE,))
    expected = []
    for each in theirs:
        box = each.face_rectangle
        left, top = max(box.left, 0), max(box.top, 0)
        right = min(box.left + box.width, PICTURE.width)
        bottom = min(box.top + box.height, PICTURE.height)
        if right > left and bottom > top:
            expected.append((left, top, right, bottom))
    assert [each.box.xyxy for each in reply.faces] == expected
    assert all(each.score is None for each in reply.faces)


@pytest.mark.parametrize(
    ("status", "code"),
    [(400, "InvalidImage"), (401, "401"), (403, "UnsupportedFeature"), (429, "429")],
)
def test_errors_are_read_as_the_sdk_reads_them(status: int, code: str) -> None:
    with AzureServer() as server, client(server) as made:
        server.fail_next(Failure(status, code))
        with pytest.raises(HttpResponseError) as theirs:
            ask_by_sdk(made, _noise_jpeg())
        answer = server.error_answer(status, code, "as the test wished")
    headers = {name.lower(): text for name, text in answer.headers.items()}
    with pytest.raises(BackendResponseError) as ours:
        AzureFace().decode(
            HttpResponse(status=status, headers=headers, body=answer.body), (PICTURE,)
        )
    assert theirs.value.status_code == ours.value.status_code
    assert theirs.value.error.code == ours.value.code == code


def _noise_jpeg() -> bytes:
    return _picture_of_noise().data


def _picture_of_noise() -> Any:
    from hybrid_detect.compression.compressor import ImageCompressionService

    return ImageCompressionService().compress(Frame.of(NOISE))
