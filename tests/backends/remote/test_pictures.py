"""Pictures within the limits of providers, and faces back in the frame's pixels."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from hybrid_detect.backends.remote.pictures import PictureLimits, faces_in_frame, picture_for
from hybrid_detect.backends.remote.protocol import Capabilities
from hybrid_detect.backends.remote.providers.json_endpoint import FaceMapping, JsonEndpoint
from hybrid_detect.backends.remote.targets import Target
from hybrid_detect.compression.compressed_image import CompressedImage
from hybrid_detect.compression.compressor import ImageCompressionService
from hybrid_detect.compression.filling import filled
from hybrid_detect.errors import BackendError
from hybrid_detect.exchange.wire import ResultReply
from hybrid_detect.frames.frame import Frame
from hybrid_detect.types import BackendKind, BoundingBox, Face, Plan

STRICT = Capabilities(min_side_px=80, min_picture_bytes=1024)


def target(capabilities: Capabilities) -> Target:
    protocol = JsonEndpoint(FaceMapping())
    protocol.capabilities = capabilities
    return Target(url="https://faces.example.com", protocol=protocol)


def sent(image: np.ndarray | bytes, capabilities: Capabilities, **plan: int) -> CompressedImage:
    made = Plan(backend=BackendKind.CLOUD, reason="test", deadline_s=1.0, **plan)  # type: ignore[arg-type]
    return picture_for(Frame.of(image), made, [target(capabilities)], ImageCompressionService())


def noise(width: int, height: int) -> np.ndarray:
    return np.random.default_rng(7).integers(0, 255, (height, width, 3), np.uint8)


def test_without_limits_a_small_frame_stays_as_it_is() -> None:
    picture = sent(noise(64, 48), Capabilities())
    assert (picture.width, picture.height) == (64, 48)


def test_a_small_frame_is_enlarged_and_its_faces_come_back_in_its_own_pixels() -> None:
    picture = sent(noise(64, 48), STRICT)
    assert (picture.width, picture.height) == (107, 80)
    assert (picture.original_width, picture.original_height) == (64, 48)
    reply = ResultReply(
        request_id=0, width=107, height=80, faces=(Face(BoundingBox(0, 0, 107, 40), 0.9),)
    )
    (face,) = faces_in_frame(reply, picture)
    assert face.box.xyxy == pytest.approx((0, 0, 64, 24))


@pytest.mark.parametrize(
    ("asked", "applied", "kept"),
    [
        (None, 0.45, [0.9, 0.5, 0.47, 0.01, None]),  # the server has left out what it should
        (None, None, [0.9, 0.5, None]),  # and here nothing may have been left out
        (0.5, 0.45, [0.9, 0.5, None]),
        (0.0, None, [0.9, 0.5, 0.47, 0.01, None]),
        (0.9, None, [0.9, None]),
    ],
)
def test_faces_below_the_score_are_left_out_unless_the_server_has_done_so(
    asked: float | None, applied: float | None, kept: list[float | None]
) -> None:
    box = BoundingBox(0, 0, 64, 48)
    faces = tuple(Face(box, score) for score in (0.9, 0.5, 0.47, 0.01, None))
    reply = ResultReply(request_id=0, width=64, height=48, faces=faces, min_confidence=applied)
    found = faces_in_frame(reply, sent(noise(64, 48), Capabilities()), min_confidence=asked)
    assert [face.score for face in found] == kept


def test_neither_the_plan_nor_the_budget_shrinks_below_the_least_side() -> None:
    picture = sent(noise(1600, 200), STRICT, max_side_px=320, target_bytes=6000)
    assert min(picture.width, picture.height) >= 80
    assert len(picture.data) <= 6000


def test_a_frame_that_cannot_be_within_both_limits_is_not_sent() -> None:
    with pytest.raises(BackendError, match="shorter side of at least 80"):
        sent(noise(2000, 8), Capabilities(min_side_px=80, max_side_px=4096))


@pytest.mark.parametrize("shape", [(48, 64, 3), (80, 80, 3), (200, 100, 3)])
def test_a_picture_of_one_colour_is_filled_up_and_keeps_its_pixels(shape: tuple[int, ...]) -> None:
    image = np.zeros(shape, np.uint8)
    picture = sent(image, STRICT, quality=20)
    assert len(picture.data) >= 1024
    bare = sent(image, Capabilities(min_side_px=80), quality=20)
    assert np.array_equal(opened(picture.data), opened(bare.data))
    assert picture.data.startswith(bare.data[:-2])
    assert picture.data.endswith(b"\xff\xff\xd9")


def opened(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


@pytest.mark.parametrize("progressive", [False, True])
def test_other_decoders_read_a_filled_file(progressive: bool) -> None:
    out = io.BytesIO()
    Image.fromarray(noise(90, 90)).save(out, "jpeg", quality=5, progressive=progressive)
    data = filled(out.getvalue(), 9000)
    assert len(data) == 9000
    expected = opened(out.getvalue())
    assert np.array_equal(opened(data), expected)
    assert np.array_equal(Frame.of(data).rgb(), expected)
    cv2 = pytest.importorskip("cv2")
    assert cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR).shape == (90, 90, 3)
    simplejpeg = pytest.importorskip("simplejpeg")
    assert simplejpeg.decode_jpeg(data).shape == (90, 90, 3)


def test_a_picture_within_limits_in_bytes_and_pixels() -> None:
    limits = Capabilities(max_picture_bytes=20_000, max_pixels=100_000, max_side_px=500)
    picture = sent(noise(1280, 720), limits)
    assert len(picture.data) <= 20_000
    assert picture.width * picture.height <= 100_000
    assert max(picture.width, picture.height) <= 500


def segments(data: bytes) -> list[int]:
    """The markers of a JPEG up to its first scan."""
    markers, position = [], 2
    while True:
        marker, length = struct.unpack(">xBH", data[position : position + 4])
        markers.append(marker)
        if marker == 0xDA:
            return markers
        position += 2 + length


def without_tables(data: bytes) -> bytes:
    """What a USB camera sends: no Huffman tables."""
    kept, position = [data[:2]], 2
    while data[position + 1] != 0xDA:
        length = int.from_bytes(data[position + 2 : position + 4], "big")
        if data[position + 1] != 0xC4:
            kept.append(data[position : position + 2 + length])
        position += 2 + length
    return b"".join((*kept, data[position:]))


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("complete", [True, False])
def test_a_file_leaves_complete_upright_and_without_metadata(
    orientation: int, complete: bool
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010E] = "canary"
    out = io.BytesIO()
    Image.fromarray(noise(160, 120)).save(out, "jpeg", exif=exif, comment=b"canary")
    data = out.getvalue() if complete else without_tables(out.getvalue())
    picture = sent(data, STRICT)
    assert (picture.width, picture.height) == ((160, 120) if orientation == 1 else (120, 160))
    assert b"canary" not in picture.data
    markers = segments(picture.data)
    assert markers.count(0xC4) >= 1
    assert not {0xE1, 0xE2, 0xED, 0xFE} & set(markers)


@given(
    width=st.integers(1, 4000),
    height=st.integers(1, 4000),
    wished=st.none() | st.integers(1, 2000),
    least=st.integers(1, 200),
    most=st.integers(1000, 5000),
)
@settings(max_examples=300)
def test_the_side_keeps_to_its_limits(
    width: int, height: int, wished: int | None, least: int, most: int
) -> None:
    limits = PictureLimits(min_side_px=least, max_side_px=most, max_pixels=4_000_000)
    side = limits.side_px(width, height, wished)
    assert 1 <= side <= most
    scale = min(side / max(width, height), 1)
    assert width * height * scale**2 <= 4_000_000 * 1.001
    if side < most and scale < 1 and width * height * scale**2 < 3_900_000:
        assert min(width, height) * scale >= min(least, min(width, height)) - 0.5
