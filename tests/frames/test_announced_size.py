"""The size in an image's first bytes."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from hybrid_detect.frames.announced_size import MAX_SEGMENTS, announced_size

from .pictures import encoded, smooth


@pytest.mark.parametrize(
    ("kind", "how"),
    [
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("JPEG", {"exif": b"Exif\0\0" + bytes(60_000)}),
        ("PNG", {}),
        ("GIF", {}),
        ("WEBP", {}),
        ("WEBP", {"lossless": True}),
        ("WEBP", {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\0"}),
    ],
)
@pytest.mark.parametrize("size", [(1, 1), (31, 17), (300, 2)])
def test_it_is_the_picture_s(kind: str, how: dict[str, object], size: tuple[int, int]) -> None:
    out = io.BytesIO()
    smooth(*size).save(out, kind, **how)  # type: ignore[arg-type]
    assert announced_size(out.getvalue()) == size


@pytest.mark.parametrize("kind", ["BMP", "TIFF"])
def test_other_formats_tell_nothing(kind: str) -> None:
    assert announced_size(encoded(smooth(31, 17), kind)) is None


def test_countless_segments_are_not_walked_over() -> None:
    comment = b"\xff\xfe\0\2"
    whole = encoded(smooth(31, 17), "JPEG")
    assert announced_size(whole[:2] + comment * 20 + whole[2:]) == (31, 17)
    assert announced_size(whole[:2] + comment * MAX_SEGMENTS + whole[2:]) is None


@given(
    st.sampled_from(["JPEG", "PNG", "GIF", "WEBP"]),
    st.integers(0, 200),
    st.integers(0, 199),
    st.binary(max_size=8),
)
def test_no_bytes_are_too_strange(kind: str, length: int, place: int, change: bytes) -> None:
    data = bytearray(encoded(smooth(31, 17), kind)[:length])
    data[place : place + len(change)] = change
    size = announced_size(bytes(data))
    assert size is None or len(size) == 2


def test_a_bomb_tells_its_size() -> None:
    out = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(out, "PNG")
    assert announced_size(out.getvalue()) == (20_000, 20_000)
