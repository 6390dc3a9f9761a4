import dataclasses
import io
import json
import math
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from hybrid_detect.errors import (
    AllBackendsFailedError,
    BackendTimeoutError,
    HybridDetectError,
    InvalidFrameError,
    StorageError,
)
from hybrid_detect.frames.frame import Frame
from hybrid_detect.selection.conditions import BackendConditions, Conditions
from hybrid_detect.types import (
    KEYPOINT_NAMES,
    Attempt,
    BackendKind,
    BoundingBox,
    DetectionResult,
    DetectionStatus,
    Face,
    Keypoint,
    Timings,
)

FACE = Face(
    BoundingBox(10, 20, 50, 80), 0.9, (Keypoint("right_eye", 20, 40), Keypoint("nose_tip", 30, 50))
)
UNANSWERED = [DetectionStatus.FAILED, DetectionStatus.SKIPPED]
ANSWERED = [status for status in DetectionStatus if status not in UNANSWERED]


def result(status: DetectionStatus = DetectionStatus.OK, *faces: Face) -> DetectionResult:
    return DetectionResult(
        status=status,
        width=100,
        height=200,
        faces=faces,
        backend=BackendKind.CLOUD,
        attempts=(Attempt.from_error(BackendTimeoutError("late", backend="streaming")),),
        session_id="s",
    )


# -- boxes -----------------------------------------------------------------------------------

hundredths = st.integers(-1_000_000, 1_000_000).map(lambda value: value / 100)
boxes = st.builds(
    lambda x, y, w, h: BoundingBox(x, y, x + w, y + h),
    hundredths,
    hundredths,
    st.integers(0, 100_000).map(lambda value: value / 100),
    st.integers(0, 100_000).map(lambda value: value / 100),
)


@given(boxes, boxes)
def test_iou_is_symmetric_and_between_0_and_1(a: BoundingBox, b: BoundingBox) -> None:
    assert a.iou(b) == pytest.approx(b.iou(a))
    assert 0 <= a.iou(b) <= 1 + 1e-9


@given(boxes)
def test_iou_with_itself_is_1_unless_it_is_empty(box: BoundingBox) -> None:
    assert box.iou(box) == pytest.approx(1.0 if box.area else 0.0)


@given(boxes, st.integers(1, 5000))
def test_iou_with_a_box_beside_it_is_0(box: BoundingBox, gap: int) -> None:
    beside = BoundingBox(box.x_max + gap, box.y_min, box.x_max + gap + max(box.width, 1), box.y_max)
    assert box.iou(beside) == 0


@given(boxes, boxes, st.sampled_from([0.5, 2.0, 4.0]))
def test_iou_does_not_depend_on_the_scale(a: BoundingBox, b: BoundingBox, scale: float) -> None:
    assert a.scaled(scale, scale).iou(b.scaled(scale, scale)) == pytest.approx(a.iou(b), abs=1e-9)


def test_iou_of_half_overlapping_boxes() -> None:
    assert BoundingBox(0, 0, 10, 10).iou(BoundingBox(5, 0, 15, 10)) == pytest.approx(1 / 3)


@given(boxes, st.integers(1, 5000), st.integers(1, 5000))
def test_a_clipped_box_lies_in_the_picture(box: BoundingBox, width: int, height: int) -> None:
    clipped = box.clipped(width, height)
    assert 0 <= clipped.x_min <= clipped.x_max <= width
    assert 0 <= clipped.y_min <= clipped.y_max <= height
    assert clipped.area <= box.area + 1e-6


def test_normalized_and_scaled_are_inverse() -> None:
    assert FACE.box.normalized(100, 200).scaled(100, 200).xyxy == pytest.approx(FACE.box.xyxy)


@pytest.mark.parametrize(
    "sides",
    [(1, 0, 0, 1), (0, 1, 1, 0), (math.nan, 0, 1, 1), (0, 0, math.inf, 1), (0, -math.inf, 1, 1)],
)
def test_an_impossible_box_is_refused(sides: tuple[float, float, float, float]) -> None:
    with pytest.raises(ValueError, match="expected"):
        BoundingBox(*sides)


def test_a_face_outside_the_picture_fits_nowhere() -> None:
    assert FACE.fitted(scale_x=1, scale_y=1, width=10, height=200) is None


def test_a_face_is_fitted_with_its_keypoints_and_clipped() -> None:
    fitted = FACE.fitted(scale_x=2, scale_y=0.5, width=90, height=100)
    assert fitted is not None
    assert fitted.box.xyxy == (20, 10, 90, 40)
    assert fitted.keypoints[0] == Keypoint("right_eye", 40, 20)
    assert fitted.score == FACE.score


# -- results ---------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ANSWERED)
def test_an_answer_has_a_list_of_faces_even_when_nobody_is_there(status: DetectionStatus) -> None:
    answer = result(status)
    assert answer.answered
    assert answer.raise_for_status() is answer
    assert answer.to_dict()["faces"] == []


@pytest.mark.parametrize("status", UNANSWERED)
def test_faces_are_null_when_nobody_looked(status: DetectionStatus) -> None:
    value = json.loads(result(status).to_json())
    assert value["faces"] is None
    assert value["answered"] is False


@pytest.mark.parametrize("status", UNANSWERED)
def test_raise_for_status_raises_the_reason(status: DetectionStatus) -> None:
    error = InvalidFrameError("no picture")
    with pytest.raises(InvalidFrameError) as caught:
        dataclasses.replace(result(status), error=error).raise_for_status()
    assert caught.value is error
    with pytest.raises(AllBackendsFailedError):
        result(status).raise_for_status()


def test_json_is_plain_and_whole() -> None:
    value = json.loads(result(DetectionStatus.DEGRADED, FACE).to_json(indent=2))
    assert value["status"] == "degraded"
    assert value["backend"] == "cloud"
    assert value["session_id"] == "s"
    assert value["attempts"] == [
        {
            "backend": "streaming",
            "error": "BackendTimeoutError",
            "message": "late",
            "elapsed_s": 0,
            "bytes_sent": 0,
        }
    ]
    (face,) = value["faces"]
    assert face["box"] == {"x_min": 10, "y_min": 20, "x_max": 50, "y_max": 80}
    assert face["box_normalized"] == {"x_min": 0.1, "y_min": 0.1, "x_max": 0.5, "y_max": 0.4}
    assert face["keypoints"]["nose_tip"] == [30, 50]
    assert face["keypoints_normalized"]["nose_tip"] == [0.3, 0.25]
    assert set(value["timings"]) == {field.name for field in dataclasses.fields(Timings)}


def test_the_error_is_named_in_json() -> None:
    failed = dataclasses.replace(result(DetectionStatus.FAILED), error=InvalidFrameError("bad"))
    assert failed.to_dict()["error"] == "InvalidFrameError: bad"


@pytest.mark.parametrize("status", DetectionStatus)
@pytest.mark.parametrize(
    "error", [None, InvalidFrameError("bad: it is"), StorageError("disk"), ValueError("theirs")]
)
def test_a_result_comes_back_from_its_record(
    status: DetectionStatus, error: Exception | None
) -> None:
    known = dataclasses.replace(
        result(status, *([FACE] if status in ANSWERED else [])),
        error=error,  # type: ignore[arg-type]
        min_face_px=20.5,
        timings=Timings(total_s=0.1, detect_s=0.05),
    )
    record = json.loads(known.to_json())
    back = DetectionResult.from_dict({**record, "of a later version": 1})
    assert back == known
    assert isinstance(back.error, HybridDetectError if error else type(None))
    if isinstance(error, HybridDetectError):
        assert (type(back.error), str(back.error)) == (type(error), str(error))
        assert back.to_dict() == record


@pytest.mark.parametrize(
    "broken",
    [
        {"status": "fine"},
        {"backend": "moon"},
        {"faces": [{}]},
        {"faces": [{"box": {"x_min": 1}, "score": 1, "keypoints": {}}]},
        {"faces": 3},
        {"timings": {"total_s": 1, "of a later version": 2}},
        {"attempts": [None]},
        {"error": 3},
    ],
)
def test_what_is_no_result_is_refused(broken: dict[str, object]) -> None:
    with pytest.raises(StorageError, match="not a result"):
        DetectionResult.from_dict({**result().to_dict(), **broken})
    with pytest.raises(StorageError, match="not a result"):
        DetectionResult.from_dict({})


def test_a_notebook_shows_who_looked_and_each_face() -> None:
    shown = dataclasses.replace(result(DetectionStatus.OK, FACE), reason="<b>fast & near</b>")
    page = shown._repr_html_()
    assert "ok, cloud" in page
    assert "&lt;b&gt;fast &amp; near&lt;/b&gt;" in page
    assert "<td>0.90</td><td>10</td><td>20</td><td>50</td><td>80</td>" in page
    assert shown._repr_png_() is None, "there is no picture to show"
    assert "<table>" not in result()._repr_html_()
    assert "ok, cloud fake, 1 face<" in dataclasses.replace(shown, model="fake")._repr_html_()
    assert "<td></td><td>10</td>" in result(DetectionStatus.OK, Face(FACE.box))._repr_html_()


def test_a_notebook_does_not_show_a_failure_as_no_faces() -> None:
    failed = dataclasses.replace(result(DetectionStatus.FAILED), backend=None, reason="too late")
    assert failed._repr_html_() == "<p>failed, no backend<br><small>too late</small></p>"


def test_a_notebook_shows_the_picture_that_was_kept() -> None:
    frame = Frame.of(np.zeros((200, 100, 3), np.uint8))
    shown = dataclasses.replace(result(DetectionStatus.OK, FACE), frame=frame)
    assert shown._repr_html_() is None, "Jupyter would show it instead"
    png = shown._repr_png_()
    assert png is not None
    picture = Image.open(io.BytesIO(png))
    assert picture.size == (100, 200)
    assert np.asarray(picture).any(), "the face's box is on it"


@pytest.mark.parametrize("count", [0, 1, 3])
def test_xyxy_has_a_row_per_face(count: int) -> None:
    boxes_of = result(DetectionStatus.OK, *[FACE] * count).xyxy
    assert boxes_of.shape == (count, 4)
    assert boxes_of.dtype == np.float32
    assert all(row.tolist() == [10, 20, 50, 80] for row in boxes_of)


def test_a_result_survives_pickling() -> None:
    answer = result(DetectionStatus.DEGRADED, FACE)
    assert pickle.loads(pickle.dumps(answer)) == answer  # noqa: S301 - made here


@pytest.mark.parametrize("value", [FACE, FACE.box, result(), Timings(), Keypoint("x", 0, 0)])
def test_values_are_frozen(value: object) -> None:
    name = next(iter(dataclasses.fields(value))).name  # type: ignore[arg-type]
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(value, name, None)


def test_conditions_find_a_way_by_kind() -> None:
    backend = BackendConditions(kind=BackendKind.CLOUD, usable=True)
    known = Conditions(now_s=0, backends=(backend,), deadline_s=1)
    assert known.backend(BackendKind.CLOUD) is backend
    assert known.backend(BackendKind.DEVICE) is None


# -- supervision -----------------------------------------------------------------------------


@pytest.mark.filterwarnings("default")
def test_to_supervision() -> None:
    sv = pytest.importorskip("supervision")
    unsure = Face(BoundingBox(0, 0, 5, 5))
    detections = result(DetectionStatus.OK, FACE, unsure).to_supervision()
    assert isinstance(detections, sv.Detections)
    assert detections.xyxy.tolist() == [[10, 20, 50, 80], [0, 0, 5, 5]]
    assert detections.confidence[0] == pytest.approx(0.9)
    assert np.isnan(detections.confidence[1])
    points = detections.data["keypoints"]
    assert points.shape == (2, len(KEYPOINT_NAMES), 2)
    assert points[0, KEYPOINT_NAMES.index("nose_tip")].tolist() == [30, 50]
    assert np.isnan(points[0, KEYPOINT_NAMES.index("left_eye")]).all()
    assert detections.metadata == {"status": "ok", "backend": "cloud", "age_s": 0.0}


@pytest.mark.filterwarnings("default")
def test_to_supervision_of_an_empty_picture_is_empty() -> None:
    pytest.importorskip("supervision")
    assert len(result().to_supervision()) == 0


@pytest.mark.parametrize("status", UNANSWERED)
def test_to_supervision_raises_when_nobody_looked(status: DetectionStatus) -> None:
    with pytest.raises(HybridDetectError):
        result(status).to_supervision()
