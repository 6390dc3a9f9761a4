"""From frame to bytes and back: sizes, coordinates, and what must not be sent."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from hybrid_detect.backends.remote.link_meter import Upload
from hybrid_detect.backends.remote.pictures import faces_in_frame
from hybrid_detect.backends.remote.protocol import (
    DetectParams,
    HttpRequest,
    HttpResponse,
)
from hybrid_detect.backends.remote.providers.custom import CustomProtocol
from hybrid_detect.backends.remote.remote_backend import RemoteBackend
from hybrid_detect.compression.compressed_image import CompressedImage
from hybrid_detect.compression.compressor import ImageCompressionService
from hybrid_detect.config import ServiceConfig
from hybrid_detect.errors import BackendError, InvalidFrameError
from hybrid_detect.exchange.wire import (
    CONTENT_TYPE,
    DetectRequest,
    ResultReply,
    decode_request,
    encode_reply,
)
from hybrid_detect.frames.frame import Frame
from hybrid_detect.service.hybrid import HybridDetectionService
from hybrid_detect.testing import FakeBackend
from hybrid_detect.types import BackendKind, BoundingBox, Face, Keypoint, Plan

MARKER = b"marker-of-whereabouts"


def plan(**changes: object) -> Plan:
    values: dict[str, object] = {
        "backend": BackendKind.CLOUD,
        "reason": "test",
        "deadline_s": 0.75,
        **changes,
    }
    return Plan(**values)  # type: ignore[arg-type]


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 255, (height, width, 3), dtype=np.uint8)


def sent_for(image: object, plan_: Plan) -> tuple[CompressedImage, DetectRequest]:
    """The picture and the message that a backend would send for `image`."""
    picture = ImageCompressionService().compress(
        Frame.of(image),
        target_bytes=plan_.target_bytes,
        quality=plan_.quality,
        max_side_px=plan_.max_side_px,
    )
    request = CustomProtocol().encode((picture,), DetectParams())
    return picture, decode_request(request.body)


class Loop(RemoteBackend):
    """Keeps the request and answers that it saw nothing."""

    kind = BackendKind.CLOUD
    request: DetectRequest

    async def exchange(
        self, request: HttpRequest, *, deadline_s: float, upload: Upload | None = None
    ) -> HttpResponse:
        self.request = decode_request(request.body)
        with Image.open(io.BytesIO(self.request.image)) as picture:
            reply = ResultReply(request_id=0, width=picture.width, height=picture.height)
        headers = {"content-type": CONTENT_TYPE}
        return HttpResponse(status=200, headers=headers, body=encode_reply(reply))


@pytest.mark.anyio
async def test_the_message_carries_what_the_plan_says() -> None:
    async with Loop(min_confidence=0.25, session_id="s") as backend:
        result = await backend.detect(
            Frame.of(noise(720, 1280)), plan(max_side_px=320, target_bytes=20_000, deadline_s=20)
        )
    request = backend.request
    with Image.open(io.BytesIO(request.image)) as picture:
        assert max(picture.size) <= 320
    assert len(request.image) <= 20_000
    assert (result.width, result.height) == (1280, 720)
    assert request.min_confidence == 0.25
    assert request.deadline_s is not None
    assert 0 < request.deadline_s <= 20, "the time that is left once it is compressed"
    assert request.session_id == "s"
    assert request.format == "jpeg"


@pytest.mark.anyio
async def test_the_message_names_no_score_unless_the_caller_does() -> None:
    async with Loop() as backend:
        await backend.detect(Frame.of(noise(48, 64)), plan(deadline_s=20))
        assert backend.params.min_confidence is None
    assert backend.request.min_confidence is None


@pytest.mark.anyio
async def test_a_budget_that_no_picture_meets_is_a_failed_attempt() -> None:
    async with Loop() as backend:
        with pytest.raises(BackendError, match="into 500 bytes: the smallest has") as caught:
            await backend.detect(Frame.of(noise(720, 1280)), plan(target_bytes=500, deadline_s=20))
        assert caught.value.backend == BackendKind.CLOUD.value
        assert not caught.value.retryable
        assert not hasattr(backend, "request"), "nothing was sent"


@pytest.mark.anyio
async def test_a_lack_of_memory_for_compressing_is_a_failed_attempt() -> None:
    class NoMemory(ImageCompressionService):
        def compress(self, *_: object, **__: object) -> CompressedImage:
            raise MemoryError

    async with Loop(compressor=NoMemory()) as backend:
        with pytest.raises(BackendError, match="memory to compress 1280x720 pixels"):
            await backend.detect(Frame.of(noise(720, 1280)), plan(deadline_s=20))
    assert not hasattr(backend, "request"), "nothing was sent"


@pytest.mark.anyio
async def test_another_backend_answers_where_no_picture_meets_the_budget() -> None:
    config = ServiceConfig(target_file_size_kb=0.5, deadline_s=20)
    backends = [Loop(), FakeBackend(BackendKind.DEVICE)]
    async with HybridDetectionService(
        mode="prefer_cloud", config=config, backends=backends
    ) as service:
        await service.wait_ready()
        for _ in range(2):
            result = await service.process_image(noise(720, 1280))
            assert result.backend is BackendKind.DEVICE
            assert result.answered


@pytest.mark.anyio
async def test_a_frame_with_no_deadline_tells_the_server_of_none() -> None:
    async with Loop() as backend:
        await backend.detect(Frame.of(noise(8, 8)), plan(deadline_s=float("inf")))
    assert backend.request.deadline_s is None


def picture_of(width: int, height: int) -> CompressedImage:
    return CompressedImage(
        data=b"",
        width=width,
        height=height,
        original_width=width,
        original_height=height,
        quality=80,
        encodes=1,
    )


def test_faces_come_back_in_the_frames_own_pixels_after_shrinking() -> None:
    compressed, request = sent_for(noise(600, 1200), plan(max_side_px=300))
    with Image.open(io.BytesIO(request.image)) as picture:
        width, height = picture.size
    assert (width, height) == (300, 150)
    face = Face(BoundingBox(30, 15, 60, 45), 0.9, (Keypoint("nose_tip", 45, 30),))
    reply = ResultReply(request_id=0, width=width, height=height, faces=(face,))
    (found,) = faces_in_frame(reply, compressed)
    assert found.box.xyxy == pytest.approx((120, 60, 240, 180))
    assert (found.keypoints[0].x, found.keypoints[0].y) == pytest.approx((180, 120))
    assert found.score == 0.9


def test_faces_outside_the_frame_are_dropped_and_those_across_its_edge_are_clipped() -> None:
    outside = Face(BoundingBox(200, 200, 220, 220))
    empty = Face(BoundingBox(10, 10, 10, 10))
    across = Face(BoundingBox(-10, 90, 20, 130))
    reply = ResultReply(request_id=0, width=100, height=100, faces=(outside, empty, across))
    (found,) = faces_in_frame(reply, picture_of(100, 100))
    assert found.box.xyxy == (0, 90, 20, 100)


@given(
    st.integers(1, 65535),
    st.integers(1, 65535),
    st.lists(st.floats(-1e6, 1e6), min_size=4, max_size=4),
)
def test_restored_boxes_lie_inside_the_frame(width: int, height: int, sides: list[float]) -> None:
    x, y = sorted(sides[:2]), sorted(sides[2:])
    face = Face(BoundingBox(x[0], y[0], x[1], y[1]))
    reply = ResultReply(request_id=0, width=width, height=height, faces=(face,))
    for found in faces_in_frame(reply, picture_of(640, 480)):
        assert 0 <= found.box.x_min < found.box.x_max <= 640
        assert 0 <= found.box.y_min < found.box.y_max <= 480


def jpeg_with_metadata() -> bytes:
    picture = Image.fromarray(noise(64, 96))
    exif = Image.Exif()
    exif[0x010E] = MARKER.decode()  # ImageDescription
    exif[0x0112] = 6  # Orientation: turn by 90 degrees
    out = io.BytesIO()
    picture.save(
        out, "JPEG", exif=exif, comment=MARKER, icc_profile=MARKER * 8, xmp=b"<x>" + MARKER
    )
    assert out.getvalue().count(MARKER) >= 4
    return out.getvalue()


def png_with_metadata() -> bytes:
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("Comment", MARKER.decode())
    out = io.BytesIO()
    Image.fromarray(noise(64, 96)).save(out, "PNG", pnginfo=info)
    assert MARKER in out.getvalue()
    return out.getvalue()


@pytest.mark.parametrize("make", [jpeg_with_metadata, png_with_metadata])
@pytest.mark.parametrize("max_side_px", [None, 32])
def test_no_metadata_of_the_input_is_sent(make: object, max_side_px: int | None) -> None:
    data = make()  # type: ignore[operator]
    for image in (data, Image.open(io.BytesIO(data))):
        _, request = sent_for(image, plan(max_side_px=max_side_px))
        assert MARKER not in request.image
        with Image.open(io.BytesIO(request.image)) as sent:
            assert not sent.getexif()
            assert "icc_profile" not in sent.info
            assert "comment" not in sent.info


def test_the_picture_is_sent_upright() -> None:
    compressed, request = sent_for(jpeg_with_metadata(), plan())
    with Image.open(io.BytesIO(request.image)) as sent:
        assert sent.size == (64, 96) == (compressed.original_width, compressed.original_height)


def test_a_damaged_picture_is_refused_and_nothing_is_made_to_be_sent() -> None:
    out = io.BytesIO()
    Image.fromarray(noise(200, 200)).save(out, "PNG")
    damaged = bytearray(out.getvalue())
    damaged[len(damaged) // 2] ^= 0xFF
    with pytest.raises(InvalidFrameError):
        sent_for(bytes(damaged), plan())


def test_neither_picture_nor_token_are_in_a_repr() -> None:
    request = HttpRequest(url="/v1/detect", headers={"Authorization": "canary"}, body=b"canary")
    response = HttpResponse(status=200, headers={"x": "canary"}, body=b"canary")
    assert "canary" not in f"{request!r}{response!r}"
