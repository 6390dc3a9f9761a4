"""Drawn faces are where they are said to be, and real models find them."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_detect.backends.device.models import load_model, model_spec
from hybrid_detect.backends.device.runtimes import choose_runtime, make_detector
from hybrid_detect.errors import ConfigurationError, ModelError
from hybrid_detect.testing import DrawnFrame, drawn_frame, drawn_frames
from hybrid_detect.types import BoundingBox


def frames(**options: int) -> list[DrawnFrame]:
    return list(drawn_frames(6, **options))


def test_every_run_draws_the_same() -> None:
    one, other = frames(faces=2, seed=3), frames(faces=2, seed=3)
    assert [frame.boxes for frame in one] == [frame.boxes for frame in other]
    assert all(np.array_equal(a.image, b.image) for a, b in zip(one, other, strict=True))
    assert not np.array_equal(one[0].image, frames(faces=2, seed=4)[0].image)


def test_heads_move_a_little_from_frame_to_frame() -> None:
    lefts = [frame.boxes[0].x_min for frame in drawn_frames(40)]
    steps = np.abs(np.diff(lefts))
    assert 0 < steps.max() <= 0.03 * 1280
    assert max(lefts) - min(lefts) > 100


@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 4), st.integers(0, 3))
def test_any_frame_can_be_drawn(width: int, height: int, faces: int, seed: int) -> None:
    (frame,) = drawn_frames(1, width, height, faces=faces, seed=seed)
    assert (frame.image.shape, frame.image.dtype) == ((height, width, 3), np.uint8)
    assert len(frame.boxes) == faces
    assert all(box.height == pytest.approx(box.width) for box in frame.boxes)


def test_a_face_may_lie_outside_and_there_may_be_none() -> None:
    empty = drawn_frame(60, 40, boxes=[])
    assert len(np.unique(empty.image.reshape(-1, 3), axis=0)) == 1
    outside = drawn_frame(60, 40, boxes=[BoundingBox(500, 500, 520, 520)])
    assert np.array_equal(outside.image, empty.image)


@pytest.mark.parametrize(
    "options",
    [
        {"count": -1},
        {"count": 1, "faces": -1},
        *({"count": 1, "face_px": face_px} for face_px in (0.0, math.nan, math.inf)),
    ],
)
def test_negative_numbers_are_refused_before_the_first_frame(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="0 or more"):
        drawn_frames(**options)
    with pytest.raises(ConfigurationError, match="1 or more"):
        drawn_frames(1, -5, 5)
    with pytest.raises(ConfigurationError, match="1 or more"):
        drawn_frame(0, 5, boxes=[])


@pytest.mark.device
@pytest.mark.parametrize(
    ("model", "faces"),
    [
        ("short_range", 1),
        ("full_range", 3),
        ("full_range", 5),
        ("centerface", 3),
        ("centerface", 5),
    ],
)
def test_a_real_model_finds_them(model: str, faces: int) -> None:
    spec = model_spec(model)
    try:
        runtime = choose_runtime(runtimes=spec.runtimes)
        size = spec.input()
        detector = make_detector(
            runtime.name,
            load_model(model),
            min_confidence=size.threshold,
            side_px=size.side_px,
        )
    except (ConfigurationError, ModelError) as error:
        pytest.skip(str(error))
    for frame in frames(faces=faces)[::5]:
        found = detector.detect(frame.image)
        assert len(found) == faces
        for box in frame.boxes:
            assert max(face.box.iou(box) for face in found) > 0.6
    detector.close()
