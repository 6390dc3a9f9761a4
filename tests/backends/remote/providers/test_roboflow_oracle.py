"""Our Roboflow requests and parser beside inference-sdk, Roboflow's own client."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hybrid_detect.backends.remote.credentials import key_credentials
from hybrid_detect.backends.remote.protocol import DetectParams, HttpRequest, HttpResponse
from hybrid_detect.backends.remote.providers.roboflow import Roboflow
from hybrid_detect.compression.compressed_image import CompressedImage
from hybrid_detect.testing.provider_servers import ReceivedRequest, RoboflowServer

sdk = pytest.importorskip("inference_sdk", reason="nox -s providers installs inference-sdk")

PARAMS = DetectParams(min_confidence=0.4)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(3).integers(0, 255, (48, 64, 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "jpeg")
    path = tmp_path / "photo.jpg"
    path.write_bytes(out.getvalue())
    return path


def picture_of(photo: Path) -> CompressedImage:
    return CompressedImage(
        data=photo.read_bytes(), width=64, height=48, original_width=64, original_height=48,
        quality=75, encodes=1,
    )  # fmt: skip


@contextmanager
def client(server: RoboflowServer, api: str) -> Iterator[Any]:
    made = sdk.InferenceHTTPClient(server.url, api_key=server.api_key)
    # As a header is what the SDK itself recommends; it is the only place that ours uses.
    settings = {
        "confidence_threshold": 0.4,
        "max_detections": 300,
        "disable_active_learning": True,
        "api_key_transport": "header",
    }
    made.configure(sdk.InferenceConfiguration(**settings))
    if api == "v1":
        made.select_api_v1()
    else:
        made.select_api_v0()
    yield made


def asked_by_sdk(photo: Path, api: str) -> tuple[ReceivedRequest, Any, HttpResponse]:
    """The request with the picture, what the SDK makes of the answer, and the answer."""
    with RoboflowServer() as server, client(server, api) as made:
        result = made.infer(str(photo), model_id="faces/1")
        request = server.requests[-1]
        answer = server.answer(request)
    return request, result, HttpResponse(status=200, headers=answer.headers, body=answer.body)


def signed(request: HttpRequest) -> HttpRequest:
    return key_credentials(Roboflow(model="faces/1"), "key").apply(request, now_s=0.0)


def test_our_request_is_the_sdk_s_by_bytes(photo: Path) -> None:
    theirs, _, _ = asked_by_sdk(photo, "v1")
    ours = signed(Roboflow(model="faces/1").encode((picture_of(photo),), PARAMS))
    assert (ours.method, ours.url, ours.body) == (theirs.method, theirs.target, theirs.body)
    for name in ("Content-Type", "Authorization"):
        assert ours.headers[name] == theirs.headers[name.lower()]


def test_our_request_of_the_older_form_is_the_sdk_s(photo: Path) -> None:
    theirs, _, _ = asked_by_sdk(photo, "legacy")
    made = Roboflow(model="faces/1", api="legacy").encode((picture_of(photo),), PARAMS)
    ours = ReceivedRequest(made.method, made.url, {}, made.body)
    assert (ours.method, ours.path, ours.body) == (theirs.method, theirs.path, theirs.body)
    about_masks = {"allow_reduced_mask_resolution": "False"}
    assert {**ours.query, **about_masks} == theirs.query


@pytest.mark.parametrize("api", ["v1", "legacy"])
def test_the_answer_is_read_alike(photo: Path, api: str) -> None:
    _, result, response = asked_by_sdk(photo, api)
    (theirs,) = result["predictions"]
    (reply,) = Roboflow(model="faces/1", api=api).decode(response, (picture_of(photo),))
    (ours,) = reply.faces
    half_width, half_height = theirs["width"] / 2, theirs["height"] / 2
    assert ours.box.xyxy == (
        theirs["x"] - half_width,
        theirs["y"] - half_height,
        theirs["x"] + half_width,
        theirs["y"] + half_height,
    )
    assert ours.score == theirs["confidence"]
