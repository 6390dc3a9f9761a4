"""Camera planes: every layout, stride and turn gives the colours that went in."""

from __future__ import annotations

import ctypes
import io
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from hybrid_detect.errors import InvalidFrameError
from hybrid_detect.frames.camera import CameraFormat, CameraImage, Plane
from hybrid_detect.frames.frame import Frame


def corners(width: int, height: int) -> Image.Image:
    """Four colours, one a quarter, so that a swap, turn or mirror is seen at once."""
    picture = Image.new("RGB", (width, height), (220, 40, 30))
    picture.paste((30, 200, 60), (width // 2, 0, width, height))
    picture.paste((40, 60, 220), (0, height // 2, width // 2, height))
    picture.paste((200, 200, 40), (width // 2, height // 2, width, height))
    return picture


def padded(plane: np.ndarray, stride: int, *, cut: bool) -> bytes:
    """Rows of `plane` at `stride` bytes, padded with noise; `cut`: not after the last row."""
    rows, used = plane.shape
    noise = np.random.default_rng(3).integers(0, 256, (rows, stride), dtype=np.uint8)
    noise[:, :used] = plane
    data = noise.tobytes()
    return data[: (rows - 1) * stride + used] if cut else data


def planes_of(
    picture: Image.Image, layout: str, *, padding: int = 0, cut: bool = False, limited: bool = False
) -> CameraImage:
    """`picture` as a camera with that layout would deliver it.

    `layout` is a `CameraFormat`, or "android": I420 whose U and V overlap in one buffer.
    """
    ycc = np.asarray(picture.convert("YCbCr")).astype(float)
    if limited:
        ycc[..., 0] = ycc[..., 0] * 219 / 255 + 16
        ycc[..., 1:] = (ycc[..., 1:] - 128) * 224 / 255 + 128
    ycc = np.rint(ycc).astype(np.uint8)
    height, width = ycc.shape[:2]
    y = ycc[..., 0]
    u, v = (ycc[::2, ::2, channel] for channel in (1, 2))
    rows, columns = u.shape

    def plane(samples: np.ndarray, pixel_stride: int = 1) -> Plane:
        stride = samples.shape[1] + padding
        return Plane(padded(samples, stride, cut=cut), stride, pixel_stride)

    pairs = np.empty((rows, 2 * columns), np.uint8)
    pairs[:, 0::2], pairs[:, 1::2] = (v, u) if layout == "nv21" else (u, v)
    options: dict[str, Any] = {"width": width, "height": height, "full_range": not limited}
    if layout == "i420":
        return CameraImage(format="i420", planes=(plane(y), plane(u), plane(v)), **options)
    if layout == "android":
        both = plane(pairs, 2)
        # Each buffer ends with its own component's last sample, as on Android.
        end = (rows - 1) * both.row_stride + 2 * columns
        chroma = (
            Plane(both.data[: end - 1], both.row_stride, 2),
            Plane(both.data[1:end], both.row_stride, 2),
        )
        return CameraImage(format="i420", planes=(plane(y), *chroma), **options)
    if layout in {"nv12", "nv21"}:
        return CameraImage(format=layout, planes=(plane(y), plane(pairs, 2)), **options)
    packed = np.zeros((height, 4 * columns), np.uint8)
    packed[:, 0::2][:, :width] = y
    packed[:, 1::4], packed[:, 3::4] = ycc[:, ::2, 1], ycc[:, ::2, 2]
    return CameraImage(format="yuyv", planes=(plane(packed),), **options)


LAYOUTS = ["i420", "android", "nv12", "nv21", "yuyv"]


def difference(got: np.ndarray, wanted: Image.Image) -> int:
    return int(np.abs(got.astype(int) - np.asarray(wanted)).max())


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("limited", [False, True])
def test_every_layout_has_the_right_colours(layout: str, limited: bool) -> None:
    picture = corners(32, 24)
    frame = Frame.of(planes_of(picture, layout, limited=limited))
    assert frame.pil().mode == "YCbCr"
    assert difference(frame.rgb(), picture) <= (5 if limited else 3)
    assert frame.rgb().flags.c_contiguous


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(LAYOUTS),
    st.integers(1, 40),
    st.integers(1, 40),
    st.integers(0, 9),
    st.booleans(),
)
def test_odd_sizes_and_strides_lose_nothing(
    layout: str, width: int, height: int, padding: int, cut: bool
) -> None:
    picture = Image.new("RGB", (width, height), (200, 90, 40))
    camera = planes_of(picture, layout, padding=padding, cut=cut)
    assert difference(Frame.of(camera).rgb(), picture) <= 3
    y, u, v = camera.yuv()
    assert y.shape == (height, width)
    assert u.shape == v.shape == ((height + 1) // 2, (width + 1) // 2)
    for plane in (y, u, v):
        assert plane.flags.c_contiguous
    assert (y[-1, -1], u[-1, -1], v[-1, -1]) == picture.convert("YCbCr").getpixel((0, 0))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("size", [(16, 12), (17, 12), (16, 13), (15, 11)])
def test_each_pixel_has_the_chroma_of_its_block(layout: str, size: tuple[int, int]) -> None:
    noise = np.random.default_rng(5).integers(0, 256, (8, 9, 3), dtype=np.uint8)
    blocks = Image.fromarray(np.kron(noise, np.ones((2, 2, 1), np.uint8)))
    picture = blocks.crop((0, 0, *size))
    got = np.asarray(Frame.of(planes_of(picture, layout)).pil())
    assert np.array_equal(got, np.asarray(picture.convert("YCbCr")))


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("size", [(32, 24), (31, 23)])
def test_rotation_then_mirror_make_it_upright(
    rotation: int, mirror: bool, size: tuple[int, int]
) -> None:
    stored = corners(*size)
    plain = planes_of(stored, "nv21")
    camera = CameraImage(
        format=plain.format,
        width=plain.width,
        height=plain.height,
        planes=plain.planes,
        rotation=rotation,
        mirror=mirror,
    )
    wanted = stored.rotate(-rotation, expand=True)
    if mirror:
        wanted = wanted.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    frame = Frame.of(camera)
    assert (frame.width, frame.height) == wanted.size == camera.upright_size
    reference = planes_of(stored, "nv21").picture().convert("RGB").rotate(-rotation, expand=True)
    if mirror:
        reference = reference.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    assert np.array_equal(frame.rgb(), np.asarray(reference))
    for x, y in ((3, 3), (-4, 3), (3, -4), (-4, -4)):
        assert np.abs(frame.rgb()[y, x].astype(int) - np.asarray(wanted)[y, x]).max() <= 3
    luma, u, _ = camera.yuv()
    assert np.array_equal(luma, np.asarray(frame.pil())[..., 0])
    assert u.shape == ((frame.height + 1) // 2, (frame.width + 1) // 2)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("rotation", [0, 90])
def test_shrinking_keeps_colours_and_proportion(layout: str, rotation: int) -> None:
    plain = planes_of(corners(64, 48), layout)
    camera = CameraImage(
        format=plain.format, width=64, height=48, planes=plain.planes, rotation=rotation
    )
    small = Frame.of(camera).pil(max_side_px=16)
    assert small.size == ((16, 12) if rotation == 0 else (12, 16))
    wanted = np.asarray(corners(16, 12).rotate(-rotation, expand=True), int)
    got = np.asarray(small.convert("RGB"), int)
    for y, x in ((1, 1), (1, -2), (-2, 1), (-2, -2)):
        assert np.abs(got[y, x] - wanted[y, x]).max() <= 4


def test_a_chroma_buffer_one_byte_short_is_filled_from_its_neighbour() -> None:
    picture = Image.new("RGB", (8, 6), (200, 90, 40))
    for layout in ("nv12", "nv21"):
        whole = planes_of(picture, layout, padding=4, cut=True)
        luma, chroma = whole.planes
        short = Plane(chroma.data[:-1], chroma.row_stride, 2)
        camera = CameraImage(format=layout, width=8, height=6, planes=(luma, short))
        assert difference(Frame.of(camera).rgb(), picture) <= 3


@pytest.mark.parametrize(("width", "height"), [(1, 1), (2, 2), (1, 3)])
def test_the_smallest_picture_may_lack_its_last_byte(width: int, height: int) -> None:
    rows = (height + 1) // 2
    chroma = Plane(bytes([128] * (2 * rows - 1)), 2, 2)
    luma = Plane(bytes([77] * width * height), width)
    camera = CameraImage(format="nv21", width=width, height=height, planes=(luma, chroma))
    assert np.array_equal(Frame.of(camera).rgb(), np.full((height, width, 3), 77, np.uint8))


@pytest.mark.parametrize("layout", list(CameraFormat))
@pytest.mark.parametrize("size", [(16, 12), (15, 11), (1, 1)])
@pytest.mark.parametrize("row_stride", [None, 64])
def test_one_buffer_is_cut_into_its_planes(
    layout: CameraFormat, size: tuple[int, int], row_stride: int | None
) -> None:
    picture = Image.new("RGB", size, (200, 90, 40))
    plain = planes_of(picture, layout.value)
    parts = []
    for index, plane in enumerate(plain.planes):
        samples = np.frombuffer(plane.data, np.uint8).reshape(-1, plane.row_stride)
        halved = layout is CameraFormat.I420 and index > 0
        stride = plane.row_stride if row_stride is None else row_stride // (2 if halved else 1)
        parts.append(padded(samples, stride, cut=False))
    whole = b"".join(parts)
    buffers: list[Any] = [
        whole,
        bytearray(whole),
        memoryview(whole),
        np.frombuffer(whole, np.uint8),
        (ctypes.c_uint8 * len(whole)).from_buffer_copy(whole),
    ]
    for data in buffers:
        camera = CameraImage.from_buffer(
            data, format=layout, width=size[0], height=size[1], row_stride=row_stride
        )
        assert difference(Frame.of(camera).rgb(), picture) <= 3
    with pytest.raises(InvalidFrameError):
        CameraImage.from_buffer(whole[:2], format=layout, width=16, height=12)


def test_limited_range_is_expanded_and_clipped() -> None:
    luma = np.array([[0, 16, 126, 235, 255]], np.uint8)
    planes = (Plane(luma.tobytes(), 5), Plane(bytes([16, 240, 128]), 3), Plane(bytes([128] * 3), 3))
    camera = CameraImage(format="i420", width=5, height=1, planes=planes, full_range=False)
    y, u, _ = camera.yuv()
    assert y.tolist() == [[0, 0, 128, 255, 255]]
    assert u.tolist() == [[0, 255, 128]]


def test_full_range_planes_are_read_in_place() -> None:
    data = np.random.default_rng(6).integers(0, 256, 48 * 32 * 3 // 2, dtype=np.uint8)
    y, u, v = CameraImage.from_buffer(data, format="i420", width=48, height=32).yuv()
    for plane in (y, u, v):
        assert np.shares_memory(plane, data)


def test_making_one_copies_nothing() -> None:
    data = bytes(1920 * 1080 * 3 // 2)
    tracemalloc.start()
    try:
        CameraImage.from_buffer(data, format="nv21", width=1920, height=1080)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_planes_reach_a_jpeg_without_passing_through_rgb() -> None:
    noise = np.random.default_rng(8).integers(0, 256, 16 * 16 * 3 // 2, dtype=np.uint8)
    camera = CameraImage.from_buffer(noise, format="i420", width=16, height=16)
    out = io.BytesIO()
    Frame.of(camera).pil().save(out, "JPEG", quality=100, subsampling="4:2:0")
    decoded = Image.open(out)
    decoded.draft("YCbCr", None)
    y, _, _ = camera.yuv()
    # Random colours leave the RGB cube: only planes that never were RGB survive.
    assert np.abs(np.asarray(decoded)[..., 0].astype(int) - y).max() <= 3


def test_repr_shows_no_samples() -> None:
    camera = CameraImage.from_buffer(b"\x41" * 24, format="i420", width=4, height=4)
    assert "AAAA" not in repr(camera)
    assert "4x4 from camera planes of i420" in repr(Frame.of(camera))
