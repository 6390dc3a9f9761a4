"""Compression: never over budget, nothing but pixels, and the way back to the original's."""

from __future__ import annotations

import io
import struct
import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from hybrid_detect import extras
from hybrid_detect.compression.codec import Codec, PillowCodec, TurboCodec, jpeg_codec
from hybrid_detect.compression.compressor import PRESETS, CompressedImage, ImageCompressionService
from hybrid_detect.compression.ladder import MIN_SIDE_PX
from hybrid_detect.errors import ConfigurationError, InvalidFrameError
from hybrid_detect.frames.camera import CameraImage
from hybrid_detect.frames.frame import Frame

CODECS = ["pillow", "turbo"]


def codec_called(name: str) -> Codec:
    if name == "pillow":
        return PillowCodec()
    pytest.importorskip("simplejpeg", reason="the extra turbo brings it")
    return TurboCodec()


@pytest.fixture(params=CODECS)
def service(request: pytest.FixtureRequest) -> ImageCompressionService:
    return ImageCompressionService(codec=codec_called(request.param))


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    data = pytest.importorskip("skimage.data", reason="scikit-image brings the photo")
    return np.tile(data.astronaut(), (2, 3, 1))[:720, :1280]


def markers(jpeg: bytes) -> list[int]:
    """The second bytes of all markers up to the first scan."""
    assert jpeg[:2] == b"\xff\xd8"
    found, position = [], 2
    while True:
        assert jpeg[position] == 0xFF
        found.append(jpeg[position + 1])
        if found[-1] == 0xDA:
            return found
        position += 2 + struct.unpack(">H", jpeg[position + 2 : position + 4])[0]


def nv21(photo: np.ndarray, **options: Any) -> CameraImage:
    ycc = np.asarray(Image.fromarray(photo).convert("YCbCr"))
    chroma = ycc[::2, ::2, :0:-1]  # V before U.
    data = np.concatenate([ycc[:, :, 0].ravel(), np.ascontiguousarray(chroma).ravel()])
    height, width = photo.shape[:2]
    return CameraImage.from_buffer(data, format="nv21", width=width, height=height, **options)


def opened(compressed: CompressedImage) -> Image.Image:
    picture = Image.open(io.BytesIO(compressed.data))
    picture.load()
    return picture


@pytest.mark.parametrize("target_kb", [200, 80, 40, 20, 10, 3, 1])
def test_a_photo_fits_and_fills_its_budget(
    service: ImageCompressionService, photo: np.ndarray, target_kb: int
) -> None:
    compressed = service.compress(photo, target_bytes=target_kb * 1024, quality=90)
    assert compressed.file_size_kb == len(compressed.data) / 1024 <= target_kb
    assert compressed.file_size_kb > 0.7 * target_kb
    assert compressed.encodes <= 3
    picture = opened(compressed)
    assert picture.size == (compressed.width, compressed.height)
    assert compressed.format == "jpeg"
    assert (compressed.original_width, compressed.original_height) == (1280, 720)


def test_a_picture_within_its_budget_takes_one_encode_at_the_asked_quality(
    service: ImageCompressionService,
) -> None:
    compressed = service.compress(np.zeros((720, 1280, 3), np.uint8), quality=73)
    assert (compressed.encodes, compressed.quality) == (1, 73)
    assert (compressed.width, compressed.height) == (1280, 720)
    assert compressed.scale == compressed.scale_x == compressed.scale_y == 1.0


def test_size_gives_way_before_quality_becomes_poor(
    service: ImageCompressionService, photo: np.ndarray
) -> None:
    floors = dict(zip((1280, 640, 320), (40, 25, 10), strict=True))
    for target_kb in (80, 40, 20, 10):
        compressed = service.compress(photo, target_bytes=target_kb * 1024)
        assert compressed.quality >= floors[compressed.width]
    assert compressed.width < 1280


def test_planes_have_sizes_in_between(service: ImageCompressionService, photo: np.ndarray) -> None:
    camera = nv21(photo)
    widths = []
    for target_kb in (110, 74, 50, 34, 22, 14):
        compressed = service.compress(camera, target_bytes=target_kb * 1024, quality=92)
        assert len(compressed.data) <= target_kb * 1024
        assert compressed.scale_x == pytest.approx(compressed.scale_y)
        wanted = Image.fromarray(photo).resize((compressed.width, compressed.height))
        assert np.abs(np.asarray(opened(compressed), int) - np.asarray(wanted)).mean() < 9
        widths.append(compressed.width)
    assert {960, 640} <= set(widths) <= {1280, 960, 640, 480, 320}
    assert widths == sorted(widths, reverse=True)


def test_the_smallest_picture_gives_up_quality(
    service: ImageCompressionService, photo: np.ndarray
) -> None:
    compressed = service.compress(photo, target_bytes=1024)
    assert compressed.width == 80
    assert compressed.width / 2 < MIN_SIDE_PX
    assert compressed.quality < 10


@pytest.mark.parametrize(("min_face_px", "width"), [(None, 80), (60, 320), (30, 640), (14, 1280)])
def test_the_smallest_wanted_face_keeps_its_pixels(
    service: ImageCompressionService, photo: np.ndarray, min_face_px: float | None, width: int
) -> None:
    compressed = service.compress(
        photo, target_bytes=1024, min_face_px=min_face_px, on_impossible="smallest"
    )
    assert compressed.width == width
    assert compressed.fits == (width == 80)


def test_a_face_already_too_small_keeps_the_size_asked_for(photo: np.ndarray) -> None:
    compressed = ImageCompressionService().compress(
        photo, target_bytes=20_000, max_side_px=640, min_face_px=5
    )
    assert compressed.width == 640


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 300),
    st.integers(1, 300),
    st.integers(700, 30_000),
    st.integers(1, 95),
    st.none() | st.integers(1, 400),
    st.sampled_from(["rgb", "bgra", "gray"]),
    st.integers(0, 255),
    st.sampled_from(CODECS if extras.is_installed("simplejpeg") else CODECS[:1]),
)
def test_is_never_over_budget(
    width: int,
    height: int,
    target_bytes: int,
    quality: int,
    max_side_px: int | None,
    pixel_format: str,
    contrast: int,
    codec: str,
) -> None:
    channels = {"rgb": (3,), "bgra": (4,), "gray": ()}[pixel_format]
    shape = (height, width, *channels)
    service = ImageCompressionService(codec=codec_called(codec))
    noise = np.random.default_rng(width * height).integers(0, contrast + 1, shape, dtype=np.uint8)
    frame = Frame.of(noise, pixel_format=pixel_format)
    try:
        compressed = service.compress(
            frame, target_bytes=target_bytes, quality=quality, max_side_px=max_side_px
        )
    except ConfigurationError:
        assert target_bytes < 3000  # What 64x64 pixels of noise may need.
        return
    assert len(compressed.data) <= target_bytes
    assert compressed.quality <= quality
    assert max(compressed.width, compressed.height) <= (max_side_px or 300)
    assert compressed.scale_x >= 1
    assert compressed.scale_y >= 1
    assert opened(compressed).size == (compressed.width, compressed.height)


def test_an_impossible_budget_is_an_error_that_names_the_smallest_size(
    service: ImageCompressionService, photo: np.ndarray
) -> None:
    with pytest.raises(ConfigurationError, match=r"needs \d+ bytes at least, got a budget of 200"):
        service.compress(photo, target_bytes=200)


def test_an_impossible_budget_gives_the_smallest_picture_to_who_asks_for_it(
    service: ImageCompressionService, photo: np.ndarray
) -> None:
    for _ in range(2):
        compressed = service.compress(photo, target_bytes=200, on_impossible="smallest")
        assert (compressed.width, compressed.quality, compressed.fits) == (80, 1, False)
        assert opened(compressed).size == (80, 45)


@pytest.mark.parametrize(
    "options",
    [
        {"quality": 0},
        {"quality": 96},
        {"target_bytes": 0},
        {"target_bytes": -1},
        {"max_side_px": 0},
        {"min_face_px": 0},
        {"format": "png"},
        {"on_impossible": "ignore"},
        {"options": {"quality": "best"}},
        {"options": {"speed": "high"}},
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        ImageCompressionService().compress(np.zeros((8, 8, 3), np.uint8), **options)


def test_what_is_no_picture_is_refused() -> None:
    with pytest.raises(InvalidFrameError):
        ImageCompressionService().compress(b"no picture")


def tagged(kind: str) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010F] = "CANARY maker"
    out = io.BytesIO()
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    options: dict[str, Any] = {"comment": b"CANARY comment"} if kind in {"JPEG", "GIF"} else {}
    Image.linear_gradient("L").convert("RGB").crop((0, 0, 256, 128)).save(
        out, kind, exif=exif, icc_profile=profile, xmp=b"<x>CANARY xmp</x>", **options
    )
    return out.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_output_is_baseline_jpeg_with_no_metadata_at_all(
    service: ImageCompressionService, kind: str
) -> None:
    data = tagged(kind)
    assert b"CANARY" in data
    for image in (data, Image.open(io.BytesIO(data))):
        compressed = service.compress(image)
        # APP0 (JFIF: a fixed 14 bytes), tables, baseline frame, scan; no other APPn, no comment.
        assert set(markers(compressed.data)) == {0xE0, 0xDB, 0xC0, 0xC4, 0xDA}
        assert b"CANARY" not in compressed.data
        assert opened(compressed).size == (128, 256)  # Upright.
        assert not dict(opened(compressed).getexif())


def test_colour_is_subsampled_and_grey_has_one_channel(
    service: ImageCompressionService, photo: np.ndarray
) -> None:
    from PIL.JpegImagePlugin import get_sampling

    colour = Image.open(io.BytesIO(service.compress(photo).data))
    assert get_sampling(colour) == 2  # 4:2:0
    grey = service.compress(Frame.of(photo[:, :, 0], pixel_format="gray"))
    assert opened(grey).mode == "L"


def test_camera_planes_are_encoded_from_their_own_samples(
    service: ImageCompressionService, photo: np.ndarray
) -> None:
    camera = nv21(photo, rotation=90)
    compressed = service.compress_camera_image(camera)
    assert compressed.file_size_kb <= 80
    assert compressed.original_width == 720
    assert compressed.height > compressed.width
    wanted = Image.fromarray(photo).rotate(-90, expand=True).resize(opened(compressed).size)
    got = np.asarray(opened(compressed), int)
    assert np.abs(got - np.asarray(wanted)).mean() < 8


def test_the_budget_in_kilobytes_counts_1024_bytes(
    service: ImageCompressionService, photo: np.ndarray
) -> None:
    compressed = service.compress_camera_image(photo, target_file_size_kb=12.5)
    assert 0.6 * 12.5 < compressed.file_size_kb <= 12.5


def test_the_scale_leads_back_to_the_originals_pixels(service: ImageCompressionService) -> None:
    compressed = service.compress(np.zeros((333, 1001, 3), np.uint8), max_side_px=100)
    assert (compressed.width, compressed.height) == (100, 33)
    assert compressed.width * compressed.scale_x == pytest.approx(1001)
    assert compressed.height * compressed.scale_y == pytest.approx(333)
    assert compressed.scale == compressed.scale_x


def test_a_picture_longer_than_jpeg_allows_is_shrunk(service: ImageCompressionService) -> None:
    compressed = service.compress(np.zeros((2, 70_000, 3), np.uint8), max_side_px=None)
    assert compressed.width == 65_500


def test_repr_shows_no_bytes() -> None:
    assert "data" not in repr(ImageCompressionService().compress(np.zeros((8, 8, 3), np.uint8)))


def test_threads_may_share_one_service(service: ImageCompressionService, photo: np.ndarray) -> None:
    pictures = [photo, photo[::-1], photo[:, ::-1], np.zeros_like(photo)]
    results: list[tuple[int, CompressedImage]] = []

    def work(number: int) -> None:
        for _ in range(4):
            done = service.compress(pictures[number], target_bytes=20_000)
            results.append((number, done))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(len(pictures))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 16
    for number, done in results:
        assert len(done.data) <= 20_000
        wanted = Image.fromarray(pictures[number]).resize((done.width, done.height))
        assert np.abs(np.asarray(opened(done), int) - np.asarray(wanted)).mean() < 12


def test_presets_name_what_a_link_is_good_for() -> None:
    assert (PRESETS["low"].quality, PRESETS["low"].fps) == (50, 5)
    assert (PRESETS["high"].quality, PRESETS["high"].fps) == (80, 15)
    assert 50 < PRESETS["medium"].quality < 80
    grey = np.zeros((64, 64, 3), np.uint8)
    for name, preset in PRESETS.items():
        compressed = ImageCompressionService().compress_camera_image(
            grey, options={"quality": name}
        )
        assert compressed.quality == preset.quality


# ---- streams ----


def moving(photo: np.ndarray, count: int) -> list[CameraImage]:
    """A handheld camera, with noise, looking at `photo`."""
    rng = np.random.default_rng(9)
    ycc = np.asarray(Image.fromarray(photo).convert("YCbCr"))
    cameras, x, y = [], 32, 32
    for _ in range(count):
        x, y = (int(min(max(at + 2 * rng.integers(-2, 3), 0), 64)) for at in (x, y))
        part = ycc[y : y + 336, x : x + 560]
        luma = np.clip(part[:, :, 0] + rng.normal(0, 2, part.shape[:2]), 0, 255).astype(np.uint8)
        pairs = np.ascontiguousarray(part[::2, ::2, :0:-1])
        data = np.concatenate([luma.ravel(), pairs.ravel()])
        cameras.append(CameraImage.from_buffer(data, format="nv21", width=560, height=336))
    return cameras


def test_a_steady_stream_takes_about_one_encode_a_frame(
    service: ImageCompressionService, photo: np.ndarray
) -> None:
    target = 22_000
    done = [
        service.compress(camera, target_bytes=target, quality=92)
        for camera in moving(photo[:400, :640], 60)
    ]
    assert all(len(one.data) <= target for one in done)
    assert sum(one.encodes for one in done) <= 1.05 * len(done) + 1
    fills = [len(one.data) / target for one in done]
    assert sum(fills) / len(fills) >= 0.95
    assert min(fills) >= 0.85


def test_each_size_of_picture_has_a_past_of_its_own(photo: np.ndarray) -> None:
    service = ImageCompressionService()
    small, large = photo[:300, :400], photo
    for _ in range(3):
        service.compress(small, target_bytes=20_000, quality=92)
        service.compress(large, target_bytes=80_000, quality=92)
    for picture, target in ((small, 20_000), (large, 80_000)):
        assert service.compress(picture, target_bytes=target, quality=92).encodes == 1
    for width in range(100, 140):
        service.compress(photo[:50, :width])
    assert len(service._streams) <= 8


# ---- codecs ----


def test_without_simplejpeg_pillow_does_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "is_installed", lambda module: module != "simplejpeg")
    assert isinstance(jpeg_codec(), PillowCodec)
    monkeypatch.undo()
    pytest.importorskip("simplejpeg", reason="the extra turbo brings it")
    assert isinstance(jpeg_codec(), TurboCodec)


@pytest.mark.parametrize("form", ["webp", "avif"])
def test_other_formats_come_only_when_asked_for(photo: np.ndarray, form: str) -> None:
    from PIL import features

    if not features.check(form):
        pytest.skip(f"this Pillow cannot write {form}")
    for picture in (photo[:240, :320], Frame.of(photo[:240, :320, 0], pixel_format="gray")):
        compressed = ImageCompressionService().compress(picture, target_bytes=9_000, format=form)
        assert compressed.format == form
        assert len(compressed.data) <= 9_000
        assert opened(compressed).format == form.upper()
        assert opened(compressed).size == (compressed.width, compressed.height)


@pytest.mark.parametrize("size", [(7680, 4320), (1, 5000), (5000, 1), (1, 1), (17, 15)])
def test_sizes_from_one_pixel_to_8k(
    service: ImageCompressionService, size: tuple[int, int]
) -> None:
    width, height = size
    gradient = np.broadcast_to(np.linspace(0, 255, width).astype(np.uint8), (height, width))
    camera = CameraImage.from_buffer(
        np.concatenate(
            [gradient.ravel(), np.full(2 * ((width + 1) // 2) * ((height + 1) // 2), 128, np.uint8)]
        ),
        format="nv12",
        width=width,
        height=height,
    )
    compressed = service.compress(camera, max_side_px=None, target_bytes=2_000_000)
    assert len(compressed.data) <= 2_000_000
    assert opened(compressed).size == (compressed.width, compressed.height) == size


# ---- passing through ----


def saved(picture: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


def test_a_jpeg_that_fits_is_passed_through(photo: np.ndarray) -> None:
    service = ImageCompressionService()
    for options in ({}, {"progressive": True}, {"subsampling": "4:4:4"}, {"optimize": True}):
        data = saved(Image.fromarray(photo), quality=30, **options)
        compressed = service.compress(data, target_bytes=200_000)
        assert compressed.data is data
        assert (compressed.encodes, compressed.quality) == (0, 30)
        assert (compressed.width, compressed.height, compressed.scale) == (1280, 720, 1.0)
    grey = saved(Image.fromarray(photo[:, :, 0]), quality=30)
    assert service.compress(grey, target_bytes=200_000).data is grey


def test_a_jpeg_that_does_not_fit_is_encoded_anew(photo: np.ndarray) -> None:
    service = ImageCompressionService()
    data = saved(Image.fromarray(photo), quality=95)
    assert len(data) > 80 * 1024
    assert service.compress(data).encodes >= 1
    small = saved(Image.fromarray(photo), quality=30)
    assert service.compress(small, max_side_px=640).width == 640
    assert service.compress(small, format="webp").format == "webp"


def test_metadata_is_cut_off_without_encoding_anew(photo: np.ndarray) -> None:
    exif = Image.Exif()
    exif[0x010F] = "CANARY maker"
    picture = Image.fromarray(photo)
    plain = saved(picture, quality=30)
    data = saved(picture, quality=30, exif=exif, comment=b"CANARY", xmp=b"<x>CANARY</x>")
    assert b"CANARY" in data
    compressed = ImageCompressionService().compress(data, target_bytes=200_000)
    assert compressed.encodes == 0
    assert compressed.data == plain


def test_a_jpeg_lying_on_its_side_is_encoded_anew(photo: np.ndarray) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = saved(Image.fromarray(photo), quality=30, exif=exif)
    compressed = ImageCompressionService().compress(data, target_bytes=200_000)
    assert compressed.encodes >= 1
    assert compressed.width < compressed.height
