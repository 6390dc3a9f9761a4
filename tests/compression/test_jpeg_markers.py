"""JPEG markers: what is only a picture, and what is not."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from hybrid_detect.compression.compressor import ImageCompressionService
from hybrid_detect.compression.jpeg_markers import quality_of, without_metadata
from hybrid_detect.errors import InvalidFrameError
from hybrid_detect.frames.jpeg_segments import jpeg_segments

from ..fuzzing import examples


def jpeg(mode: str = "RGB", **options: Any) -> bytes:
    noise = np.random.default_rng(7).integers(0, 256, (40, 56, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(noise).convert(mode).save(out, "JPEG", **options)
    return out.getvalue()


PLAIN = jpeg(quality=60)


def with_segment(marker: int, payload: bytes, data: bytes = PLAIN) -> bytes:
    """`data` with a segment more, right after the first one."""
    length = (len(payload) + 2).to_bytes(2, "big")
    return data[:20] + bytes((0xFF, marker)) + length + payload + data[20:]


@pytest.mark.parametrize("marker", [*range(0xE1, 0xEE), 0xEF, 0xFE])
def test_every_metadata_segment_is_cut_out(marker: int) -> None:
    assert without_metadata(with_segment(marker, b"CANARY")) == PLAIN


def test_a_thumbnail_in_the_header_is_cut_out() -> None:
    header = (
        b"\xff\xe0" + (16 + 12).to_bytes(2, "big") + b"JFIF\0\1\1\0\0\1\0\1\2\2" + b"CANARY" * 2
    )
    cleaned = without_metadata(PLAIN[:2] + header + PLAIN[20:])
    assert cleaned is not None
    assert b"CANARY" not in cleaned
    assert cleaned[20:] == PLAIN[20:]


def test_a_picture_without_a_header_gets_one() -> None:
    cleaned = without_metadata(PLAIN[:2] + PLAIN[20:])
    assert cleaned is not None
    with Image.open(io.BytesIO(cleaned)) as ours, Image.open(io.BytesIO(PLAIN)) as theirs:
        assert ours.info["jfif"]
        assert np.array_equal(np.asarray(ours), np.asarray(theirs))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xd8\xff",
        b"\xff\xd8\xff\xd9",
        PLAIN[:-1],
        PLAIN[:-2],
        PLAIN[:300],
        PLAIN + b"\0",
        PLAIN + PLAIN,
        PLAIN[:20] + b"\0" + PLAIN[20:],
        PLAIN[:20] + b"\xff" + PLAIN[20:],
        with_segment(0xEE, b"Adobe\0\x64\0\0\0\0\0"),
        with_segment(0xEE, b"CANARY"),
        with_segment(0xDC, b"\0\x10"),
        with_segment(0xC8, b"CANARY"),
        with_segment(0xC0, PLAIN[PLAIN.index(b"\xff\xc0") + 4 :][:15]),
        PLAIN.replace(b"\xff\xc0", b"\xff\xc1", 1),
        PLAIN.replace(b"\xff\xc0", b"\xff\xc9", 1),
        PLAIN.replace(b"\xff\xc0\0\x11\x08\0\x28", b"\xff\xc0\0\x11\x08\0\0", 1),
        PLAIN.replace(b"\x03\x01\x22\0\x02\x11\1\x03\x11\1", b"\x03R\x22\0G\x11\1B\x11\1", 1),
        jpeg("CMYK"),
    ],
    ids=range(20),
)
def test_what_is_not_plainly_a_picture_is_not_touched(data: bytes) -> None:
    assert without_metadata(data) is None


def test_adobe_segment_that_says_nothing_new_is_cut_out() -> None:
    assert without_metadata(with_segment(0xEE, b"Adobe\0\x64\0\0\0\0\1")) == PLAIN


@pytest.mark.parametrize("quality", [1, 5, 25, 50, 75, 90, 95, 100])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_the_quality_is_read_from_the_tables(quality: int, mode: str) -> None:
    read = quality_of(jpeg(mode, quality=quality))
    # At low qualities entries would be above 255 and are not: the table looks better than asked.
    assert -1 <= read - quality <= (1 if quality >= 20 else 12)


def test_tables_of_16_bits_are_read() -> None:
    wide = b"\xff\xdb\0\x83\x10" + b"".join(
        int(value).to_bytes(2, "big") for value in np.full(64, 3688 / 64 * 2)
    )
    assert quality_of(wide) == 25


def without_tables(data: bytes, slots: frozenset[int] = frozenset((0, 1, 0x10, 0x11))) -> bytes:
    """`data` without its Huffman tables, as a USB camera sends it (MJPEG)."""
    kept = b""
    position = 0
    for segment in jpeg_segments(data):
        if segment.marker == 0xC4 and data[segment.payload] in slots:
            kept += data[position : segment.start]
            position = segment.end
    return kept + data[position:]


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("slots", [(0, 1, 0x10, 0x11), (0x10,), (0x11,), (0, 1)], ids=str)
def test_a_picture_without_huffman_tables_gets_the_standard_ones(
    mode: str, slots: tuple[int, ...]
) -> None:
    whole = jpeg(mode, quality=60)
    bare = without_tables(whole, frozenset(slots))
    cleaned = without_metadata(bare)
    assert cleaned is not None
    assert without_metadata(cleaned) is cleaned
    tables = {cleaned[s.payload] for s in jpeg_segments(cleaned) if s.marker == 0xC4}
    assert tables == ({0, 0x10} if mode == "L" else {0, 1, 0x10, 0x11})
    with Image.open(io.BytesIO(cleaned)) as ours, Image.open(io.BytesIO(whole)) as theirs:
        assert np.array_equal(np.asarray(ours), np.asarray(theirs))


def test_a_passed_through_picture_has_huffman_tables() -> None:
    sent = ImageCompressionService().compress(without_tables(PLAIN))
    assert sent.encodes == 0
    assert sum(segment.marker == 0xC4 for segment in jpeg_segments(sent.data)) == 4


@pytest.mark.parametrize(
    "data",
    [
        PLAIN.replace(b"\xff\xda\0\x0c\3\1\0", b"\xff\xda\0\x0c\3\1\x22", 1),
        PLAIN.replace(b"\xff\xda\0\x0c\3", b"\xff\xda\0\x0c\2", 1),
        PLAIN.replace(b"\xff\xc4\0\x1f\0\0", b"\xff\xc4\0\x1f\0\x09", 1),
    ],
    ids=["a table that is none", "wrong count", "wrong length"],
)
def test_tables_that_do_not_fit_lead_to_a_new_encode(data: bytes) -> None:
    assert data != PLAIN
    assert without_metadata(data) is None


@settings(max_examples=examples(150), deadline=None)
@given(st.data())
def test_damaged_jpegs_are_refused_or_compressed_and_never_crash(data: st.DataObject) -> None:
    damaged = bytearray(data.draw(st.sampled_from([PLAIN, jpeg(progressive=True), jpeg("L")])))
    for _ in range(data.draw(st.integers(1, 4))):
        if not damaged:
            break
        at = data.draw(st.integers(0, len(damaged) - 1))
        kind = data.draw(st.sampled_from(["flip", "cut", "insert", "drop"]))
        if kind == "flip":
            damaged[at] ^= data.draw(st.integers(1, 255))
        elif kind == "cut":
            del damaged[max(at, 4) :]
        elif kind == "insert":
            damaged[at:at] = data.draw(st.binary(min_size=1, max_size=9))
        else:
            del damaged[at : at + 3]
    cleaned = without_metadata(bytes(damaged))
    if cleaned is not None:
        assert without_metadata(cleaned) is cleaned
        assert 1 <= quality_of(cleaned) <= 100
    for target in (80_000, 1_500):
        try:
            compressed = ImageCompressionService().compress(
                bytes(damaged), target_bytes=target, on_impossible="smallest"
            )
        except InvalidFrameError:
            continue
        assert len(compressed.data) <= target or not compressed.fits
