"""Anonymising: what is destroyed, what is left, and that no detector finds it again."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid_detect.backends.device.face_detector import MediaPipeFaceDetector
from hybrid_detect.backends.device.models import load_model
from hybrid_detect.errors import (
    BackendUnavailableError,
    ConfigurationError,
    HybridDetectError,
    InvalidFrameError,
    MissingExtraError,
    ModelError,
)
from hybrid_detect.frames.frame import Frame
from hybrid_detect.privacy import face_regions
from hybrid_detect.privacy.face_regions import BLOCKS, NOISE, FaceRegion
from hybrid_detect.privacy.filter import ANONYMIZE_MARGIN, PrivacyFilter
from hybrid_detect.types import BoundingBox, DetectionResult, DetectionStatus, Face

from .laden_files import laden_jpeg

FACES = Path(__file__).parents[3] / "shared" / "faces"
FILTER = PrivacyFilter()
METHODS = ["fill", "pixelate"]
FACE = Face(BoundingBox(40, 30, 60, 50))


@pytest.fixture
def noise() -> np.ndarray:
    picture = np.random.default_rng(5).integers(1, 255, (90, 120, 3), dtype=np.uint8)
    picture.setflags(write=False)
    return picture


def result(*faces: Face, **changes: object) -> DetectionResult:
    fields = {"status": DetectionStatus.OK, "width": 120, "height": 90, "faces": faces}
    return DetectionResult(**(fields | changes))  # type: ignore[arg-type]


# ---- what is destroyed, and what is not


@pytest.mark.parametrize("method", METHODS)
def test_the_face_and_its_margin_are_destroyed_and_no_more(method: str, noise: np.ndarray) -> None:
    done = FILTER.anonymize(noise, [FACE], method=method, margin=0.25)  # type: ignore[arg-type]
    assert done.shape == noise.shape
    assert done.dtype == np.uint8
    assert done.flags.writeable
    inside = np.zeros(noise.shape[:2], bool)
    inside[25:55, 35:65] = True
    assert np.array_equal(done[~inside], noise[~inside])
    colours = np.unique(done[inside], axis=0)
    assert len(colours) <= (1 if method == "fill" else BLOCKS**2)


def test_fill_does_not_depend_on_what_was_there(noise: np.ndarray) -> None:
    other = np.array(noise)
    other[20:60, 30:70] = 255 - other[20:60, 30:70]
    one, two = (FILTER.anonymize(picture, [FACE]) for picture in (noise, other))
    assert np.array_equal(one, two)


def test_pixelation_keeps_colours_near_the_mean_and_no_places() -> None:
    picture = np.zeros((90, 120, 3), np.uint8)
    picture[:, :50] = 200
    seen = np.array(
        [
            FILTER.anonymize(picture, [FACE], method="pixelate", margin=0.5)[20:60, 30:70]
            for _ in range(60)
        ],
        dtype=np.int32,
    )
    assert len({one.tobytes() for one in seen}) > 50
    assert seen.max() <= 200 + NOISE
    # Left was bright and right was dark; over many pictures both come out the same.
    mean = seen.mean(axis=(0, 1, 3))
    assert abs(mean[:10].mean() - mean[-10:].mean()) < 45
    assert 70 < mean.mean() < 130


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "box",
    [
        (-15, -15, 5, 5),
        (110, 80, 140, 100),
        (-1000, -1000, 1000, 1000),
        (0, 0, 120, 90),
        (-1e300, 30, 1e300, 31),
        (50.2, 40.7, 50.4, 40.9),
    ],
)
def test_faces_at_and_over_the_edge_are_destroyed(
    method: str, box: tuple[float, float, float, float], noise: np.ndarray
) -> None:
    face = Face(BoundingBox(*box))
    done = FILTER.anonymize(noise, [face], method=method, margin=0)  # type: ignore[arg-type]
    left, top = (max(0, int(np.floor(low))) for low in box[:2])
    right, bottom = (
        min(size, int(np.ceil(high))) for size, high in zip((120, 90), box[2:], strict=True)
    )
    inside = np.zeros(noise.shape[:2], bool)
    inside[top:bottom, left:right] = True
    assert np.array_equal(done[~inside], noise[~inside])
    assert len(np.unique(done[inside], axis=0)) <= BLOCKS**2


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("box", [(-50, 10, -20, 40), (130, 10, 160, 40), (10, 200, 40, 230)])
def test_faces_outside_the_picture_change_nothing(
    method: str, box: tuple[float, float, float, float], noise: np.ndarray
) -> None:
    face = Face(BoundingBox(*box))
    done = FILTER.anonymize(noise, [face], method=method, margin=0.25)  # type: ignore[arg-type]
    assert np.array_equal(done, noise)


def test_what_an_edge_leaves_of_a_face_is_not_shown_in_finer_blocks(noise: np.ndarray) -> None:
    face = Face(BoundingBox(-87, 0, 3, 90))
    done = FILTER.anonymize(noise, [face], method="pixelate", margin=0)
    assert len(np.unique(done[:, :3].reshape(-1, 3), axis=0)) <= BLOCKS


boxes = st.tuples(
    st.floats(-200, 200), st.floats(-200, 200), st.floats(0, 300), st.floats(0, 300)
).map(lambda box: Face(BoundingBox(box[0], box[1], box[0] + box[2], box[1] + box[3])))


@settings(max_examples=60, deadline=None)
@given(st.lists(boxes, max_size=4), st.floats(0, 3), st.sampled_from(METHODS))
def test_redact_keeps_exactly_what_anonymize_destroys(
    faces: list[Face], margin: float, method: str
) -> None:
    picture = np.random.default_rng(9).integers(1, 255, (40, 60, 3), dtype=np.uint8)
    without = FILTER.anonymize(picture, faces, method=method, margin=margin)  # type: ignore[arg-type]
    alone = FILTER.redact(picture, faces, margin=margin)
    kept = alone.any(axis=-1)
    assert np.array_equal(alone[kept], picture[kept])
    assert np.array_equal(without[~kept], picture[~kept])
    for face in faces:
        region = FaceRegion.around(face.box, margin=margin)
        assert kept[region.area].all()


def test_redact_without_faces_is_blank(noise: np.ndarray) -> None:
    assert not FILTER.redact(noise, []).any()


def test_the_input_is_left_alone(noise: np.ndarray) -> None:
    picture = np.array(noise)
    for method in METHODS:
        done = FILTER.anonymize(picture, [FACE], method=method)  # type: ignore[arg-type]
        assert not np.shares_memory(done, picture)
    assert not np.shares_memory(FILTER.anonymize(picture, []), picture)
    assert not np.shares_memory(FILTER.redact(picture, [FACE]), picture)
    assert np.array_equal(picture, noise)


def test_boxes_are_in_the_upright_picture() -> None:
    data = laden_jpeg(6)
    upright = Frame.of(data).rgb()
    face = Face(BoundingBox(5, 40, 20, 50))
    done = FILTER.anonymize(data, [face], margin=0)
    assert done.shape == upright.shape == (53, 37, 3)
    assert not done[40:50, 5:20].any()
    changed = np.any(done != upright, axis=-1)
    assert changed.sum() <= 150


def test_bgr_comes_out_as_rgb(noise: np.ndarray) -> None:
    bgr = np.ascontiguousarray(noise[..., ::-1])
    for done in (
        FILTER.anonymize(bgr, [], pixel_format="bgr"),
        FILTER.redact(bgr, [Face(BoundingBox(0, 0, 120, 90))], pixel_format="bgr"),
    ):
        assert np.array_equal(done, noise)


# ---- whose faces


def test_a_result_of_another_size_is_scaled(noise: np.ndarray) -> None:
    half = result(Face(BoundingBox(20, 15, 30, 25)), width=60, height=45)
    assert np.array_equal(FILTER.anonymize(noise, half), FILTER.anonymize(noise, [FACE]))
    assert np.array_equal(FILTER.redact(noise, half), FILTER.redact(noise, [FACE]))


@pytest.mark.parametrize("status", [DetectionStatus.FAILED, DetectionStatus.SKIPPED])
def test_a_result_of_no_detection_is_refused(status: DetectionStatus, noise: np.ndarray) -> None:
    reason = BackendUnavailableError("the server could not be reached")
    for use in (FILTER.anonymize, FILTER.redact):
        with pytest.raises(BackendUnavailableError):
            use(noise, result(status=status, error=reason))
        with pytest.raises(HybridDetectError):
            use(noise, result(status=status))


def test_an_earlier_frame_s_faces_are_refused(noise: np.ndarray) -> None:
    for use in (FILTER.anonymize, FILTER.redact):
        with pytest.raises(ConfigurationError, match="stale"):
            use(noise, result(FACE, status=DetectionStatus.STALE))


def test_a_result_without_faces_is_an_answer(noise: np.ndarray) -> None:
    assert np.array_equal(FILTER.anonymize(noise, result()), noise)


@pytest.mark.parametrize("margin", [-0.1, float("nan"), float("inf")])
def test_a_margin_that_is_none_is_refused(margin: float, noise: np.ndarray) -> None:
    for use in (FILTER.anonymize, FILTER.redact):
        with pytest.raises(ConfigurationError, match="margin"):
            use(noise, [FACE], margin=margin)


def test_an_unknown_method_is_refused(noise: np.ndarray) -> None:
    with pytest.raises(ConfigurationError, match="fill, pixelate"):
        FILTER.anonymize(noise, [FACE], method="blur")  # type: ignore[arg-type]


def test_what_is_no_picture_is_refused() -> None:
    for use in (FILTER.anonymize, FILTER.redact):
        with pytest.raises(InvalidFrameError):
            use(b"no picture", [FACE])


# ---- with MediaPipe itself


def detector(name: str) -> MediaPipeFaceDetector:
    try:
        return MediaPipeFaceDetector(load_model(name))
    except (MissingExtraError, ModelError) as error:
        pytest.skip(f"no detector to be had: {error}")


def found_again(
    eyes: MediaPipeFaceDetector, picture: np.ndarray, faces: list[Face], method: str
) -> list[BoundingBox]:
    """Boxes that lie by more than half in a region that was destroyed."""
    done = FILTER.anonymize(picture, faces, method=method)  # type: ignore[arg-type]
    regions = [FaceRegion.around(face.box, margin=ANONYMIZE_MARGIN) for face in faces]
    return [
        face.box
        for face in eyes.detect(done)
        if any(shared(face.box, region) > 0.5 * face.box.area for region in regions)
    ]


def shared(box: BoundingBox, region: FaceRegion) -> float:
    width = min(box.x_max, region.right) - max(box.x_min, region.left)
    height = min(box.y_max, region.bottom) - max(box.y_min, region.top)
    return max(0.0, width) * max(0.0, height)


@pytest.mark.device
@pytest.mark.parametrize("model", ["short_range", "full_range"])
def test_the_astronaut_is_not_found_again(
    model: str, astronaut: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    # One in a hundred pixelated regions looks like a face to a detector: not this one.
    monkeypatch.setattr(face_regions, "_chance", random.Random(4))
    with detector(model) as eyes:
        faces = list(eyes.detect(astronaut))
        assert len(faces) == 1
        for method in METHODS:
            assert found_again(eyes, astronaut, faces, method) == []


@pytest.mark.device
def test_she_is_found_in_her_crop_at_the_same_place(astronaut: np.ndarray) -> None:
    with detector("short_range") as eyes:
        (face,) = eyes.detect(astronaut)
        (again,) = eyes.detect(FILTER.redact(astronaut, [face]))
    assert again.box.iou(face.box) > 0.8


@pytest.mark.device
@pytest.mark.skipif(not FACES.is_dir(), reason="the photos are not beside the repository")
@pytest.mark.parametrize("model", ["short_range", "full_range"])
def test_no_face_is_found_again_in_filled_photos(model: str) -> None:
    labels = json.loads((FACES / "labels.json").read_text())["images"]
    looked_at = 0
    with detector(model) as eyes:
        for name in sorted(labels):
            picture = np.ascontiguousarray(Frame.of(FACES / name).rgb())
            labelled = [
                Face(BoundingBox(x, y, x + width, y + height))
                for x, y, width, height in labels[name]["boxes"]
            ]
            for faces in (list(eyes.detect(picture)), labelled):
                if faces:
                    looked_at += len(faces)
                    assert found_again(eyes, picture, faces, "fill") == [], name
    assert looked_at > 250
