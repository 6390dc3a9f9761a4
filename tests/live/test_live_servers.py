"""Real servers behind the service: Triton, MLServer and our own; `nox -s providers-live`.

Their model is this library's own detector, so its boxes are known: those of calling it directly.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from hybrid_detect import (
    BackendResponseError,
    CloudDetectionService,
    HybridDetectionService,
    ServiceConfig,
)
from hybrid_detect.backends.remote.protocol import DetectParams, HttpResponse
from hybrid_detect.backends.remote.providers import protocol_of
from hybrid_detect.compression.compressed_image import CompressedImage
from hybrid_detect.errors import ProtocolError, Refusal
from hybrid_detect.types import DetectionResult

from .face_model import detect
from .real_servers import mlserver, triton, triton_folder

pytestmark = [pytest.mark.live, pytest.mark.anyio]


@pytest.fixture(scope="module")
def triton_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    wheel = triton_folder()
    if wheel is None:
        pytest.skip("TRITON_WHEEL does not say where nvidia-pytriton was unpacked")
    with triton(tmp_path_factory.mktemp("triton"), wheel) as url:
        yield url


@pytest.fixture(scope="module")
def mlserver_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    pytest.importorskip("mlserver")
    with mlserver(tmp_path_factory.mktemp("mlserver")) as url:
        yield url


@pytest.fixture(scope="module")
def jpeg() -> bytes:
    """A photo that leaves as it is: it has no metadata, and fits every plan."""
    data = pytest.importorskip("skimage.data")
    out = io.BytesIO()
    Image.fromarray(data.astronaut()).save(out, "jpeg", quality=80, optimize=True)
    return out.getvalue()


async def answered(
    url: str, picture: bytes, *, provider: str = "kserve", **options: Any
) -> DetectionResult:
    token = "test-token" if provider == "custom_backend" else None
    config = ServiceConfig(
        endpoint=url, provider=provider, provider_options=options or None, mode="cloud",
        auth_token=token,
    )  # fmt: skip
    async with HybridDetectionService(config=config) as service:
        result = await service.process_image(picture, deadline_s=30)
    return result.raise_for_status()


def require_equal(result: DetectionResult, picture: bytes) -> None:
    boxes, scores = detect(picture)
    assert len(boxes) > 0
    assert np.array_equal(result.xyxy, boxes)
    assert [face.score for face in result.faces] == pytest.approx(scores.tolist())


TRITON_OPTIONS = [
    {"model": "faces"},
    {"model": "faces", "version": "1"},
    {"model": "batched", "batched": True},
    {"model": "pixels", "encoding": "rgb-u8-hwc"},
    {"model": "pixels", "encoding": "rgb-u8-hwc", "binary": False},
]


@pytest.mark.parametrize("options", TRITON_OPTIONS, ids=str)
async def test_triton_s_boxes_are_those_of_the_model(
    triton_url: str, jpeg: bytes, options: dict[str, Any]
) -> None:
    require_equal(await answered(triton_url, jpeg, **options), jpeg)


async def test_pictures_of_a_batch_keep_their_own_boxes(triton_url: str, jpeg: bytes) -> None:
    out = io.BytesIO()
    with Image.open(io.BytesIO(jpeg)) as photo:
        photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(out, "jpeg", quality=80)
    blank = io.BytesIO()
    Image.new("RGB", (320, 240)).save(blank, "jpeg")
    pictures = [jpeg, out.getvalue(), blank.getvalue()] * 3
    config = ServiceConfig(
        mode="cloud",
        provider="kserve",
        endpoint=triton_url,
        provider_options={"model": "batched", "batched": True, "max_pictures": 4},
    )
    async with HybridDetectionService(config=config) as service:
        results = [result async for result in service.process_images(pictures, deadline_s=30)]
    for result, picture in zip(results, pictures, strict=True):
        boxes, _ = detect(picture)
        assert np.array_equal(result.raise_for_status().xyxy, boxes)


@pytest.mark.parametrize("encoding", ["jpeg-bytes", "rgb-u8-hwc"])
async def test_mlserver_s_boxes_are_those_of_the_model(
    mlserver_url: str, jpeg: bytes, encoding: str
) -> None:
    options = {"model": "faces", "encoding": encoding, "binary": False}
    require_equal(await answered(mlserver_url, jpeg, **options), jpeg)


async def test_our_own_server_says_the_same_in_its_own_protocol_and_in_json(
    server: Any, jpeg: bytes
) -> None:
    own = await answered(server.url, jpeg, provider="custom_backend")
    assert len(own.faces) > 0
    protocol = protocol_of(
        "json_endpoint",
        {
            "path": "/v1/detect",
            "box": "box.x_min,box.y_min,box.x_max,box.y_max",
            "score": "score",
        },
    )
    picture = picture_of(jpeg)
    request = protocol.encode((picture,), DetectParams())
    headers = {**request.headers, "Authorization": "Bearer test-token"}
    reply = httpx.post(server.url + request.url, content=request.body, headers=headers, timeout=30)
    faces = reply.json()["faces"]
    assert [tuple(face["box"].values()) for face in faces] == [
        pytest.approx(face.box.xyxy, abs=0.011) for face in own.faces
    ]


def picture_of(data: bytes) -> CompressedImage:
    with Image.open(io.BytesIO(data)) as image:
        width, height = image.size
    return CompressedImage(
        data=data, width=width, height=height, original_width=width, original_height=height,
        quality=80, encodes=0,
    )  # fmt: skip


async def refused(url: str, picture: bytes, **options: Any) -> BackendResponseError:
    """The error of one request."""
    protocol = protocol_of("kserve", options)
    request = protocol.encode((picture_of(picture),), DetectParams())
    async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
        answer = await client.post(
            url + request.url, content=request.body, headers=dict(request.headers)
        )
    response = HttpResponse(
        status=answer.status_code, headers=dict(answer.headers), body=answer.content
    )
    with pytest.raises(BackendResponseError) as caught:
        protocol.decode(response, (picture_of(picture),))
    return caught.value


@pytest.mark.parametrize(
    ("options", "refusal"),
    [
        ({"model": "nobody"}, Refusal.ADDRESS),
        ({"model": "faces", "version": "9"}, Refusal.ADDRESS),
        ({"model": "faces", "input": "picture"}, Refusal.CONTRACT),
        ({"model": "faces", "boxes": "rectangles"}, Refusal.CONTRACT),
        ({"model": "faces", "batched": True}, Refusal.CONTRACT),
    ],
    ids=str,
)
async def test_triton_s_refusals_of_a_wrong_setting_are_not_repeated(
    triton_url: str, jpeg: bytes, options: dict[str, Any], refusal: Refusal
) -> None:
    error = await refused(triton_url, jpeg, **options)
    assert (error.refusal, error.retryable, error.by_server) == (refusal, False, True)


@pytest.mark.parametrize(
    ("options", "refusal"),
    [
        ({"model": "nobody"}, Refusal.ADDRESS),
        ({"model": "faces", "version": "9"}, Refusal.ADDRESS),
        ({"model": "faces", "binary": True}, Refusal.CONTRACT),
    ],
    ids=str,
)
async def test_mlserver_s_refusals_of_a_wrong_setting_are_not_repeated(
    mlserver_url: str, jpeg: bytes, options: dict[str, Any], refusal: Refusal
) -> None:
    error = await refused(mlserver_url, jpeg, **{"binary": False, **options})
    assert (error.refusal, error.retryable, error.by_server) == (refusal, False, True)


async def test_health_is_that_of_the_model(triton_url: str, mlserver_url: str) -> None:
    for url, options in (
        (triton_url, {"model": "faces"}),
        (triton_url, {"model": "pixels", "encoding": "rgb-u8-hwc"}),
    ):
        async with CloudDetectionService("kserve", endpoint=url, provider_options=options) as cloud:
            await cloud.check(deadline_s=10)
    wrong = {"model": "faces", "scores": "probabilities"}
    async with CloudDetectionService(
        "kserve", endpoint=triton_url, provider_options=wrong
    ) as cloud:
        with pytest.raises(ProtocolError, match="no output named 'probabilities'"):
            await cloud.check(deadline_s=10)
    plain = {"model": "faces", "binary": False}
    async with CloudDetectionService(
        "kserve", endpoint=mlserver_url, provider_options=plain
    ) as cloud:
        await cloud.check(deadline_s=10)
