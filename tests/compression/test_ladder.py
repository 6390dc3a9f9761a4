"""Ladders: sizes that fall, in proportion, and stop where nothing could be seen."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid_detect.compression.ladder import FACE_SIDE_PX, MIN_SIDE_PX, ladder_of


def test_planes_have_three_quarters_where_they_are_whole() -> None:
    widths = [width for width, _ in ladder_of((1280, 720), 1280, None, fine=True).sizes]
    assert widths == [1280, 960, 640, 480, 320, 160, 80]
    halves = [width for width, _ in ladder_of((1280, 720), 1280, None, fine=False).sizes]
    assert halves == [1280, 640, 320, 160, 80]
    odd = ladder_of((333, 111), 333, None, fine=True)
    assert odd.sizes == ((333, 111), (166, 56), (83, 28))


@settings(max_examples=150, deadline=None)
@given(
    st.integers(1, 4000),
    st.integers(1, 4000),
    st.floats(1, 4),
    st.none() | st.floats(1, 500),
    st.booleans(),
)
def test_sizes_fall_and_keep_what_is_wanted(
    width: int, height: int, larger: float, min_face_px: float | None, fine: bool
) -> None:
    longer = round(larger * max(width, height))
    ladder = ladder_of((width, height), longer, min_face_px, fine=fine)
    assert ladder.sizes[0] == (width, height)
    assert len(ladder.sizes) == len(ladder.floors) == len(ladder.scales)
    for one, other in itertools.pairwise(ladder.sizes):
        assert max(other) < max(one)
        assert min(other) <= min(one)
    for (wide, high), scale in zip(ladder.sizes[1:], ladder.scales[1:], strict=True):
        assert max(wide, high) >= MIN_SIDE_PX
        assert wide == pytest.approx(scale * width, abs=1)
        assert high == pytest.approx(scale * height, abs=1)
        if min_face_px is not None:
            assert min_face_px * max(wide, high) / longer >= FACE_SIDE_PX * 0.999
