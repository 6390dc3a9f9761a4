"""Our Google requests and parser beside Google's own SDK, by its protobuf messages."""

from __future__ import annotations

import base64
import io
import json
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from hybrid_detect.backends.remote.protocol import DetectParams, HttpResponse
from hybrid_detect.backends.remote.providers.google import GoogleVision
from hybrid_detect.compression.compressed_image import CompressedImage
from hybrid_detect.errors import BackendResponseError, Refusal
from hybrid_detect.exchange.wire import ResultReply
from hybrid_detect.testing.provider_servers import Failure, GoogleServer

from .protocol_contract import PICTURE, json_response

vision = pytest.importorskip(
    "google.cloud.vision", reason="the extra providers-test is not installed"
)

from google.api_core import exceptions  # noqa: E402
from google.auth.credentials import AnonymousCredentials  # noqa: E402
from google.cloud.vision_v1.services.image_annotator.transports import (  # noqa: E402
    ImageAnnotatorRestTransport,
)


def jpeg() -> bytes:
    out = io.BytesIO()
    pixels = np.random.default_rng(3).integers(0, 255, (48, 64, 3), np.uint8)
    Image.fromarray(pixels).save(out, "jpeg")
    return out.getvalue()


def picture() -> CompressedImage:
    return CompressedImage(
        data=jpeg(),
        width=64,
        height=48,
        original_width=64,
        original_height=48,
        quality=75,
        encodes=1,
    )


def ask_by_sdk(server: GoogleServer, count: int = 1, **feature: Any) -> Any:
    """What Google's client makes of the server's answer, over its REST transport."""
    transport = ImageAnnotatorRestTransport(
        host=server.url.removeprefix("http://"),
        credentials=AnonymousCredentials(),
        url_scheme="http",
    )
    asked = vision.AnnotateImageRequest(
        image=vision.Image(content=jpeg()),
        features=[vision.Feature(type_=vision.Feature.Type.FACE_DETECTION, **feature)],
    )
    with vision.ImageAnnotatorClient(transport=transport) as client:
        return client.batch_annotate_images(
            requests=[asked] * count,
            retry=None,
            timeout=10,
            metadata=[("x-goog-api-key", server.api_key)],
        )


def as_message(body: bytes) -> Any:
    """A request's body as Google's own message; unknown fields and values are an error."""
    return vision.BatchAnnotateImagesRequest.from_json(body.decode())


@pytest.mark.parametrize("count", [1, 3, 16])
def test_our_request_is_the_sdks(count: int) -> None:
    with GoogleServer() as server:
        ask_by_sdk(server, count, max_results=100, model="builtin/stable")
        (theirs,) = server.requests
    ours = GoogleVision().encode((picture(),) * count, DetectParams())
    assert as_message(ours.body) == as_message(theirs.body)
    assert ours.url.partition("?")[0] == theirs.path
    for each in json.loads(ours.body)["requests"]:
        # The parser above also takes the URL-safe alphabet and missing padding.
        assert base64.b64decode(each["image"]["content"], validate=True) == jpeg()


def test_the_mask_names_fields_that_there_are() -> None:
    query = GoogleVision().encode((PICTURE,), DetectParams()).url.partition("fields=")[2]
    names = set(re.findall(r"[A-Za-z]+", query))
    messages = (
        vision.BatchAnnotateImagesResponse,
        vision.AnnotateImageResponse,
        vision.FaceAnnotation,
        vision.FaceAnnotation.Landmark,
    )
    known = {field.json_name for each in messages for field in each.pb().DESCRIPTOR.fields}
    assert names <= known


def test_our_servers_answers_are_valid_messages_and_read_alike() -> None:
    with GoogleServer() as server:
        server.picture_errors = {1: 3}
        theirs = ask_by_sdk(server, 2)
        ours = GoogleVision().encode((picture(), picture()), DetectParams())
        import httpx

        answer = httpx.post(
            server.url + ours.url,
            headers={**ours.headers, "X-Goog-Api-Key": "key"},
            content=ours.body,
            trust_env=False,
        )
    vision.BatchAnnotateImagesResponse.from_json(answer.text)
    response = HttpResponse(status=200, headers=dict(answer.headers), body=answer.content)
    first, second = GoogleVision().decode(response, (PICTURE, PICTURE))
    assert isinstance(first, ResultReply)
    (face,) = first.faces
    (annotation,) = theirs.responses[0].face_annotations
    corners = [(vertex.x, vertex.y) for vertex in annotation.fd_bounding_poly.vertices]
    assert face.box.xyxy == (*corners[0], *corners[2])
    assert face.score == annotation.detection_confidence
    assert isinstance(second, BackendResponseError)
    assert second.code == str(theirs.responses[1].error.code)


def test_googles_own_default_is_ten_faces() -> None:
    with GoogleServer(faces=[GoogleServer().faces[0]] * 30) as server:
        assert len(ask_by_sdk(server).responses[0].face_annotations) == 10


COORDINATES = st.integers(-200, 200)
VERTICES = st.fixed_dictionaries({}, optional={"x": COORDINATES, "y": COORDINATES})
POLYGONS = st.fixed_dictionaries({}, optional={"vertices": st.lists(VERTICES, max_size=5)})
ANNOTATIONS = st.fixed_dictionaries(
    {},
    optional={
        "fdBoundingPoly": POLYGONS,
        "boundingPoly": POLYGONS,
        "detectionConfidence": st.floats(0, 1, width=32),
        "landmarks": st.lists(
            st.fixed_dictionaries(
                {},
                optional={
                    "type": st.sampled_from(["LEFT_EYE", "NOSE_TIP", "CHIN_GNATHION"]),
                    "position": st.fixed_dictionaries({}, optional={"x": st.floats(0, 9)}),
                },
            ),
            max_size=3,
        ),
        "rollAngle": st.floats(-180, 180, width=32),
    },
)


@settings(deadline=None)
@given(annotations=st.lists(ANNOTATIONS, max_size=4))
def test_our_parser_finds_what_the_sdk_finds(annotations: list[Any]) -> None:
    value = {"responses": [{"faceAnnotations": annotations}]}
    theirs = vision.BatchAnnotateImagesResponse.from_json(json.dumps(value)).responses[0]
    (reply,) = GoogleVision().decode(json_response(value), (PICTURE,))
    assert isinstance(reply, ResultReply)
    expected = []
    for face in theirs.face_annotations:
        corners = face.fd_bounding_poly.vertices or face.bounding_poly.vertices
        if not corners:
            continue
        across = [min(max(corner.x, 0), 64) for corner in corners]
        down = [min(max(corner.y, 0), 48) for corner in corners]
        if max(across) > min(across) and max(down) > min(down):
            sides = (min(across), min(down), max(across), max(down))
            expected.append((sides, face.detection_confidence))
    assert [(face.box.xyxy, face.score) for face in reply.faces] == [
        (sides, pytest.approx(score)) for sides, score in expected
    ]


@pytest.mark.parametrize(
    ("status", "code", "theirs", "ours"),
    [
        (400, "INVALID_ARGUMENT", exceptions.InvalidArgument, Refusal.CONTRACT),
        (403, "PERMISSION_DENIED", exceptions.Forbidden, Refusal.FORBIDDEN),
        (429, "RESOURCE_EXHAUSTED", exceptions.ResourceExhausted, Refusal.THROTTLED),
        (500, "INTERNAL", exceptions.InternalServerError, Refusal.TRANSIENT),
        (503, "UNAVAILABLE", exceptions.ServiceUnavailable, Refusal.TRANSIENT),
        (504, "DEADLINE_EXCEEDED", exceptions.GatewayTimeout, Refusal.TRANSIENT),
    ],
)
def test_our_servers_errors_are_the_sdks_and_mean_the_same(
    status: int, code: str, theirs: type[Exception], ours: Refusal
) -> None:
    with GoogleServer() as server:
        server.fail_next(Failure(status, code))
        with pytest.raises(exceptions.GoogleAPICallError) as caught:
            ask_by_sdk(server)
        body = server.error_answer(status, code, "no").body
    assert isinstance(caught.value, theirs) or caught.value.code == status
    with pytest.raises(BackendResponseError) as refused:
        GoogleVision().decode(
            HttpResponse(status=status, headers={"content-type": "application/json"}, body=body),
            (PICTURE,),
        )
    assert (refused.value.refusal, refused.value.code) == (ours, code)
