"""What may lack at the end of a plane, to the byte, and what is read instead."""

from __future__ import annotations

import numpy as np
import pytest

from hybrid_detect.errors import InvalidFrameError
from hybrid_detect.frames.plane import Extent, Plane, as_length, check_plane, flat_bytes, rows_of

STRIDE, ROWS, USED = 10, 3, 6
WHOLE = (ROWS - 1) * STRIDE + USED
"""Bytes from the first sample to the last one used; the last row's padding may lack."""


def plane(length: int, *, pixel_stride: int = 2) -> Plane:
    return Plane(bytes(range(length)), STRIDE, pixel_stride)


def extent(*, slack: int = 0, rows: int = ROWS, used: int = USED) -> Extent:
    return Extent("chroma", rows=rows, used=used, slack=slack)


@pytest.mark.parametrize("slack", [0, 1])
def test_a_buffer_may_lack_its_slack_and_not_a_byte_more(slack: int) -> None:
    shortest = WHOLE - slack
    check_plane(plane(shortest), extent(slack=slack), pixel_strides=(1, 2))
    assert rows_of(plane(shortest), extent(slack=slack)).shape == (ROWS, USED)
    expected = (
        rf"at least {shortest} bytes in the chroma plane \(3 rows of 10\), got {shortest - 1}$"
    )
    for read in (rows_of, lambda p, e: check_plane(p, e, pixel_strides=(1, 2))):
        with pytest.raises(InvalidFrameError, match=expected):
            read(plane(shortest - 1), extent(slack=slack))


def test_rows_are_a_view_where_nothing_lacks() -> None:
    data = np.arange(WHOLE, dtype=np.uint8)
    rows = rows_of(Plane(data, STRIDE, 2), extent(slack=1))
    assert np.shares_memory(rows, data)
    assert rows.tolist() == [list(range(start, start + USED)) for start in (0, 10, 20)]


@pytest.mark.parametrize(
    ("rows", "used", "lacking"),
    [
        (3, 6, 23),  # the same kind of sample to its left: two bytes before
        (3, 2, 11),  # the row has no other: the one above
        (2, 2, 1),
        (1, 2, 128),  # nor is there a row above: grey
        (1, 4, 1),
    ],
)
def test_the_one_sample_that_lacks_is_taken_from_its_neighbour(
    rows: int, used: int, lacking: int
) -> None:
    whole = (rows - 1) * STRIDE + used
    read = rows_of(plane(whole - 1), extent(slack=1, rows=rows, used=used))
    expected = [list(range(10 * row, 10 * row + used)) for row in range(rows)]
    expected[-1][-1] = lacking
    assert read.tolist() == expected


@pytest.mark.parametrize(("stride", "is_enough"), [(USED, True), (USED - 1, False)])
def test_a_row_must_hold_what_is_used_of_it(stride: int, is_enough: bool) -> None:
    narrow = Plane(bytes(99), stride, 1)
    if is_enough:
        check_plane(narrow, extent(), pixel_strides=(1,))
        return
    with pytest.raises(InvalidFrameError, match="row_stride of at least 6 bytes"):
        check_plane(narrow, extent(), pixel_strides=(1,))


def test_a_pixel_stride_that_the_format_does_not_have_is_refused() -> None:
    with pytest.raises(InvalidFrameError, match="pixel_stride 1 or 2 for the chroma plane, got 3"):
        check_plane(plane(WHOLE, pixel_stride=3), extent(), pixel_strides=(1, 2))


@pytest.mark.parametrize(
    "data", [np.zeros(9, np.uint16), np.zeros(9, np.uint8)[::2], "text", None, [1, 2]], ids=repr
)
def test_what_is_no_contiguous_buffer_of_bytes_is_refused(data: object) -> None:
    with pytest.raises(InvalidFrameError, match="a contiguous buffer of bytes"):
        flat_bytes(data)


def test_a_buffer_is_seen_flat_and_an_empty_one_too() -> None:
    square = np.arange(6, dtype=np.uint8).reshape(2, 3)
    assert flat_bytes(square).tolist() == [0, 1, 2, 3, 4, 5]
    assert flat_bytes(b"").size == 0


@pytest.mark.parametrize("value", [0, -1, 1.5, "1", None])
def test_a_length_is_an_integer_of_at_least_1(value: object) -> None:
    assert as_length("width", np.int64(1)) == 1
    with pytest.raises(InvalidFrameError, match="width of at least 1"):
        as_length("width", value)
