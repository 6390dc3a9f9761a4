"""Frames of bad input: one kind of error, a message that helps, and nothing of the content."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import features

from hybrid_detect.errors import InvalidFrameError
from hybrid_detect.frames import reading
from hybrid_detect.frames.frame import Frame

from ..fuzzing import examples
from .bad_inputs import BAD_INPUTS, BadInput
from .pictures import EXIF, check_bytes, encoded, smooth


def test_there_are_many_kinds_of_bad_input() -> None:
    assert len(BAD_INPUTS) >= 50
    assert len({bad.name for bad in BAD_INPUTS}) == len(BAD_INPUTS)


@pytest.mark.parametrize("bad", BAD_INPUTS, ids=repr)
def test_refuses_bad_input_and_still_takes_a_good_one(
    bad: BadInput, tmp_path: Path, rgb: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "without end" in bad.name:
        monkeypatch.setattr(reading, "MAX_ENCODED_BYTES", 1 << 20)
    with pytest.raises(InvalidFrameError) as caught:  # noqa: PT012 -- making it may raise too
        image, options = bad.make(tmp_path)
        Frame.of(image, **options).rgb()
    assert caught.value.expected
    assert caught.value.actual
    assert caught.value.expected in str(caught.value)
    assert np.array_equal(Frame.of(rgb).rgb(), rgb)


@pytest.mark.parametrize("bad", BAD_INPUTS, ids=repr)
def test_a_picture_of_bad_input_is_refused_as_well(
    bad: BadInput, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "without end" in bad.name:
        monkeypatch.setattr(reading, "MAX_ENCODED_BYTES", 1 << 20)
    with pytest.raises(InvalidFrameError):  # noqa: PT012 -- making it may raise too
        image, options = bad.make(tmp_path)
        Frame.of(image, **options).pil(max_side_px=8)


def test_messages_say_what_to_pass() -> None:
    def message(array: np.ndarray, **options: Any) -> str:
        with pytest.raises(InvalidFrameError) as caught:
            Frame.of(array, **options)
        return str(caught.value)

    assert "pixel_format='gray'" in message(np.zeros((4, 4), np.uint8))
    assert "'rgba' or 'bgra'" in message(np.zeros((4, 4, 4), np.uint8))
    assert "transpose(1, 2, 0)" in message(np.zeros((3, 8, 9), np.uint8))
    assert "multiply by 255 and cast" in message(np.zeros((4, 4, 3)))
    assert "seek(0)" in message(io.BytesIO())  # type: ignore[arg-type]


def test_messages_tell_no_secrets_and_no_content() -> None:
    for bad in ("https://example.com/face.jpg?token=secret", b"secret text that is no picture"):
        with pytest.raises(InvalidFrameError) as caught:
            Frame.of(bad)
        assert "secret" not in str(caught.value)


def test_a_bomb_is_refused_by_its_header() -> None:
    bomb = next(bad for bad in BAD_INPUTS if bad.name == "png: decompression bomb")
    image, _ = bomb.make(Path())
    with pytest.raises(InvalidFrameError, match="60000x60000"):
        Frame.of(image)


def test_a_file_over_the_limit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(smooth(64, 64), "BMP")
    (tmp_path / "big.bmp").write_bytes(data)
    monkeypatch.setattr(reading, "MAX_ENCODED_BYTES", len(data) - 1)
    for image in (tmp_path / "big.bmp", io.BytesIO(data), data, bytearray(data)):
        with pytest.raises(InvalidFrameError, match="at most"):
            Frame.of(image)
    monkeypatch.setattr(reading, "MAX_ENCODED_BYTES", len(data))
    for image in (tmp_path / "big.bmp", io.BytesIO(data), data, bytearray(data)):
        assert Frame.of(image).width == 64


@given(st.binary(max_size=400))
def test_arbitrary_bytes_raise_nothing_else(data: bytes) -> None:
    check_bytes(data)


SIGNATURES = [
    b"\xff\xd8\xff",
    b"\x89PNG\r\n\x1a\n",
    b"GIF89a",
    b"BM",
    b"II*\0",
    b"MM\0*",
    b"II+\0",
    b"RIFF\x40\0\0\0WEBPVP8X",
    b"RIFF\x40\0\0\0WEBPVP8L",
    b"\0\0\0\x1cftypavif",
]


@given(st.sampled_from(SIGNATURES), st.binary(max_size=300))
def test_arbitrary_bytes_behind_a_known_signature_raise_nothing_else(
    start: bytes, rest: bytes
) -> None:
    check_bytes(start + rest)


SAMPLES = {
    kind: encoded(smooth(80, 50), kind, exif=EXIF)
    for kind in ("JPEG", "PNG", "WEBP", "TIFF", *(["AVIF"] if features.check("avif") else []))
}
SAMPLES |= {kind: encoded(smooth(80, 50), kind) for kind in ("BMP", "GIF")}
SAMPLES["progressive"] = encoded(smooth(80, 50), "JPEG", progressive=True, comment=b"c", exif=EXIF)
SAMPLES["lzw"] = encoded(smooth(80, 50), "TIFF", compression="tiff_lzw")


@settings(max_examples=examples(400))
@given(st.sampled_from(sorted(SAMPLES)), st.data())
def test_damaged_images_raise_nothing_else(kind: str, data: st.DataObject) -> None:
    sample = bytearray(SAMPLES[kind])
    edits = st.tuples(st.integers(0, len(sample) - 1), st.integers(0, 255))
    # Headers hold what plugins trust most, so most edits go there.
    near = st.tuples(st.integers(0, 250), st.integers(0, 255))
    for position, value in data.draw(st.lists(near | edits, max_size=6)):
        sample[position] = value
    check_bytes(bytes(sample[: data.draw(st.integers(0, len(sample)) | st.just(len(sample)))]))
