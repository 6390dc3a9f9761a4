"""JPEG pixels by simplejpeg: Pillow's own, whatever the size, the colours and the orientation."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from hybrid_detect.errors import InvalidFrameError
from hybrid_detect.frames import decoding
from hybrid_detect.frames.decoding import EncodedPicture

from .pictures import encoded, smooth

pytest.importorskip("simplejpeg")


def decoded(
    data: bytes, monkeypatch: pytest.MonkeyPatch, *, enough_px: int | None, turbo: bool
) -> np.ndarray:
    picture = EncodedPicture.of(data, max_pixels=16_000_000)
    with monkeypatch.context() as patch:
        if not turbo:
            patch.setattr(decoding, "turbo_pixels", lambda *_, **__: None)
        return picture.rgb(enough_px=enough_px)


def jpeg(
    width: int, height: int, *, mode: str = "RGB", orientation: int = 1, **how: object
) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    out = io.BytesIO()
    smooth(width, height).convert(mode).save(out, "JPEG", exif=exif, **how)
    return out.getvalue()


@settings(max_examples=40, deadline=None)
@given(
    width=st.integers(1, 200),
    height=st.integers(1, 200),
    enough_px=st.none() | st.integers(1, 220),
    orientation=st.integers(1, 8),
    mode=st.sampled_from(["RGB", "L", "CMYK"]),
    subsampling=st.sampled_from([0, 1, 2]),
    progressive=st.booleans(),
)
def test_the_pixels_are_pillow_s(
    width: int,
    height: int,
    enough_px: int | None,
    orientation: int,
    mode: str,
    subsampling: int,
    progressive: bool,
) -> None:
    options: dict[str, object] = {} if mode == "L" else {"subsampling": subsampling}
    data = jpeg(
        width, height, mode=mode, orientation=orientation, progressive=progressive, **options
    )
    with pytest.MonkeyPatch.context() as monkeypatch:
        ours = decoded(data, monkeypatch, enough_px=enough_px, turbo=True)
        theirs = decoded(data, monkeypatch, enough_px=enough_px, turbo=False)
    assert np.array_equal(ours, theirs)
    assert ours.flags.c_contiguous


def test_the_colours_of_print_are_pillow_s_to_the_last_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (48, 64, 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(noise).convert("CMYK").save(out, "JPEG")
    ours = decoded(out.getvalue(), monkeypatch, enough_px=None, turbo=True)
    theirs = decoded(out.getvalue(), monkeypatch, enough_px=None, turbo=False)
    assert np.array_equal(ours, theirs)


def photos() -> list[Path]:
    return sorted((Path(__file__).parents[3] / "shared" / "faces").glob("*.jpg"))


@pytest.mark.skipif(not photos(), reason="the photos are not here")
def test_photos_have_pillow_s_pixels_at_the_sizes_that_models_ask_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Equal pixels, so the boxes in them are equal, whichever model looks."""
    for photo in photos()[::5]:
        for enough_px in (192, 640):
            ours = decoded(photo.read_bytes(), monkeypatch, enough_px=enough_px, turbo=True)
            theirs = decoded(photo.read_bytes(), monkeypatch, enough_px=enough_px, turbo=False)
            assert np.array_equal(ours, theirs), (photo.name, enough_px)


def test_a_jpeg_is_decoded_without_pillow_s_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    picture = EncodedPicture.of(jpeg(64, 48), max_pixels=16_000_000)
    monkeypatch.setattr(EncodedPicture, "_opened", lambda _: pytest.fail("Pillow was asked"))
    assert picture.rgb().shape == (48, 64, 3)
    assert picture.rgb(enough_px=20).shape == (24, 32, 3)


@pytest.mark.parametrize("at", [0.4, 0.7, 0.95])
def test_damage_is_judged_as_pillow_judges_it(at: float, monkeypatch: pytest.MonkeyPatch) -> None:
    data = bytearray(jpeg(160, 120, quality=90))
    place = int(len(data) * at)
    data[place : place + 40] = bytes(40)
    try:
        theirs = decoded(bytes(data), monkeypatch, enough_px=None, turbo=False)
    except InvalidFrameError:
        with pytest.raises(InvalidFrameError):
            decoded(bytes(data), monkeypatch, enough_px=None, turbo=True)
    else:
        ours = decoded(bytes(data), monkeypatch, enough_px=None, turbo=True)
        assert np.array_equal(ours, theirs)


def test_other_formats_are_pillow_s() -> None:
    picture = smooth(31, 17)
    got = EncodedPicture.of(encoded(picture, "PNG"), max_pixels=16_000_000).rgb()
    assert np.array_equal(got, np.asarray(picture))
