"""Frames of turned images stand upright, at full size and scaled down."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps, features

from hybrid_detect.errors import ConfigurationError
from hybrid_detect.frames.frame import Frame

from .pictures import EXIF, check_bytes, encoded, smooth, with_orientation

FACES = Path(__file__).parents[3] / "shared" / "faces"


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    data = pytest.importorskip("skimage.data", reason="scikit-image brings the photo")
    return np.asarray(data.astronaut())


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_as_pillow_does(kind: str, orientation: int) -> None:
    if kind == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    data = with_orientation(smooth(48, 32), orientation, kind)
    with Image.open(io.BytesIO(data)) as opened:
        wanted = ImageOps.exif_transpose(opened).convert("RGB")
    loaded = Image.open(io.BytesIO(data))
    loaded.load()
    for image in (data, Image.open(io.BytesIO(data)), loaded):
        frame = Frame.of(image)
        assert (frame.width, frame.height) == wanted.size
        assert np.array_equal(frame.rgb(), np.asarray(wanted))
        small = frame.pil(max_side_px=24)
        assert max(small.size) == 24
        reference = np.asarray(wanted.resize(small.size), int)
        assert np.abs(np.asarray(small, int) - reference).mean() < 8


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize(
    ("enough_px", "longer_px"), [(None, 1600), (801, 1600), (800, 800), (230, 400), (101, 200)]
)
def test_a_jpeg_is_decoded_no_larger_than_needed(
    orientation: int, enough_px: int | None, longer_px: int
) -> None:
    upright = Image.fromarray(np.zeros((1200, 1600, 3), np.uint8))
    frame = Frame.of(with_orientation(upright, orientation, "JPEG"))
    pixels = frame.rgb(enough_px=enough_px)
    assert max(pixels.shape) == longer_px
    assert (pixels.shape[1] > pixels.shape[0]) == (frame.width > frame.height)
    assert pixels.flags.c_contiguous


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "GIF"])
@pytest.mark.parametrize(("enough_px", "longer_px"), [(None, 640), (321, 640), (320, 320), (9, 9)])
def test_other_formats_are_shrunk_once_they_are_twice_as_large_as_needed(
    kind: str, enough_px: int | None, longer_px: int
) -> None:
    frame = Frame.of(encoded(smooth(640, 480), kind))
    assert max(frame.rgb(enough_px=enough_px).shape) == longer_px


def test_pixels_keep_their_number() -> None:
    picture = smooth(640, 480)
    for image in (picture, np.asarray(picture)):
        assert Frame.of(image).rgb(enough_px=16).shape == (480, 640, 3)


@pytest.mark.parametrize("orientation", [0, 9, 77, 65535])
def test_an_orientation_that_is_none_is_ignored(orientation: int) -> None:
    frame = Frame.of(with_orientation(smooth(48, 32), orientation, "JPEG"))
    assert (frame.width, frame.height) == (48, 32)


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0", b"Exif\0\0junk", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0"]
)
def test_corrupt_exif_does_not_fail_the_frame(exif: bytes) -> None:
    for kind in ("JPEG", "PNG", "WEBP"):
        frame = Frame.of(encoded(smooth(48, 32), kind, exif=exif))
        assert frame.rgb().shape == (32, 48, 3)


def test_exif_with_a_tag_cut_off_gives_no_warning() -> None:
    exif = EXIF.tobytes()
    for end in range(8, len(exif)):
        check_bytes(encoded(smooth(16, 16), "JPEG", exif=exif[:end]))


def test_real_photos_stand_as_their_boxes_were_drawn() -> None:
    if not (FACES / "labels.json").exists():
        pytest.skip("the photos are not here")
    labels = json.loads((FACES / "labels.json").read_text())["images"]
    for name, label in labels.items():
        frame = Frame.of(FACES / name)
        assert (frame.width, frame.height) == (label["width"], label["height"])


@pytest.mark.parametrize("kind", ["array", "JPEG", "PNG", "pillow"])
@pytest.mark.parametrize("side", [1, 7, 100, 511, 512, 2000])
def test_the_longer_side_fits_and_nothing_is_enlarged(
    photo: np.ndarray, kind: str, side: int
) -> None:
    crop = photo[:300]
    picture = Image.fromarray(crop)
    image: Any = {"array": crop, "pillow": picture}.get(kind)
    frame = Frame.of(encoded(picture, kind) if image is None else image)
    small = frame.pil(max_side_px=side)
    width = min(side, 512)
    assert small.size == (width, max(1, round(300 * width / 512)))
    if side >= 7:
        wanted = np.asarray(picture.resize(small.size, Image.Resampling.BOX), int)
        assert np.abs(np.asarray(small, int) - wanted).mean() < 12


def test_a_thin_picture_keeps_one_pixel() -> None:
    assert Frame.of(np.zeros((1, 900, 3), np.uint8)).pil(max_side_px=9).size == (9, 1)


def test_a_side_below_one_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="max_side_px"):
        Frame.of(np.zeros((8, 8, 3), np.uint8)).pil(max_side_px=0)


def test_a_big_jpeg_is_decoded_at_a_reduced_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL.JpegImagePlugin import JpegImageFile

    decoded: list[tuple[int, int]] = []
    load = JpegImageFile.load

    def noting(self: JpegImageFile) -> Any:
        decoded.append(self.size)
        return load(self)

    frame = Frame.of(with_orientation(smooth(1600, 1200), 6, "JPEG"))
    monkeypatch.setattr(JpegImageFile, "load", noting)
    assert frame.pil(max_side_px=300).size == (225, 300)
    assert max(decoded) == (400, 300)


def test_pictures_carry_no_metadata() -> None:
    data = encoded(smooth(32, 32), "JPEG", exif=EXIF, comment=b"secret", icc_profile=b"icc")
    for image in (data, Image.open(io.BytesIO(data))):
        for picture in (Frame.of(image).pil(), Frame.of(image).pil(max_side_px=9)):
            assert picture.info == {}
            assert not dict(picture.getexif())
            assert b"secret" not in encoded(picture, "JPEG")
