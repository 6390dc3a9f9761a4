"""LiteRT gives MediaPipe's answers; the steps around the network, each against an oracle."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeAlias

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from hybrid_detect.backends.device import runtimes
from hybrid_detect.backends.device.anchors import (
    MIN_SUPPRESSION_IOU,
    Candidates,
    decode,
    suppress,
)
from hybrid_detect.backends.device.face_detector import MediaPipeFaceDetector
from hybrid_detect.backends.device.letterbox import Letterbox
from hybrid_detect.backends.device.litert_detector import GRIDS, LiteRtFaceDetector, _face
from hybrid_detect.backends.device.litert_library import LibraryNetwork, library_reason
from hybrid_detect.backends.device.litert_network import BindingNetwork, Network, open_network
from hybrid_detect.backends.device.models import load_model
from hybrid_detect.backends.device.on_device import OnDeviceDetectionService
from hybrid_detect.backends.device.worker import DetectorWorker
from hybrid_detect.errors import ClosedError, ConfigurationError, InvalidFrameError, ModelError
from hybrid_detect.extras import is_installed
from hybrid_detect.frames.frame import Frame
from hybrid_detect.system.memory_probe import MemoryReading
from hybrid_detect.types import KEYPOINT_NAMES, BoundingBox, Face, Keypoint

FACES = Path(__file__).parents[4] / "shared" / "faces"

ASTRONAUT_FACE = BoundingBox(177, 82, 272, 177)

MODELS = ("short_range", "full_range")

Opened: TypeAlias = Callable[[bytes], Network]


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest) -> bytes:
    if not is_installed("ai_edge_litert"):
        pytest.skip("LiteRT is not installed: pip install 'hybrid-detect[device-lite]'")
    try:
        return load_model(request.param)
    except ModelError as error:
        pytest.skip(f"no model to be had: {error}")


def photos() -> list[np.ndarray]:
    """Every test photo, at most 1280 pixels wide or high, as a camera gives them."""
    if not FACES.is_dir():
        pytest.skip("the photos of ../shared/faces are not here")
    names = [Path(name).name for name in json.loads((FACES / "labels.json").read_text())["images"]]
    found = []
    for name in names:
        image = Frame.of(FACES / name).pil().convert("RGB")
        image.thumbnail((1280, 1280))
        found.append(np.ascontiguousarray(image))
    return found


@pytest.fixture(scope="module", params=["library", "binding"])
def opened(request: pytest.FixtureRequest) -> Opened:
    """Both ways into LiteRT have to give the same answers."""
    if not is_installed("ai_edge_litert"):
        pytest.skip("LiteRT is not installed: pip install 'hybrid-detect[device-lite]'")
    if request.param == "binding":
        return BindingNetwork
    if reason := library_reason():
        pytest.skip(reason)
    return LibraryNetwork


def is_cut_by_left_or_top(face: Face) -> bool:
    """MediaPipe moves such a box inside without shrinking it."""
    return face.box.x_min <= 0 or face.box.y_min <= 0


# -- parity with MediaPipe -------------------------------------------------------------------


@pytest.mark.device
def test_every_face_that_mediapipe_finds_in_the_photos_is_found_alike(
    model: bytes, opened: Opened
) -> None:
    """Goals: each detection above the threshold + 0.01 paired, box IoU >= 0.95 at the median,
    score difference <= 0.013."""
    if not is_installed("mediapipe"):
        pytest.skip("MediaPipe is not installed")
    overlaps, differences, unpaired = [], [], 0
    with MediaPipeFaceDetector(model) as reference, LiteRtFaceDetector(opened(model)) as tested:
        for image in photos():
            ours = tested.detect(image)
            for face in reference.detect(image):
                if face.score is None or face.score < 0.51:
                    continue
                best = max(ours, key=lambda mine: mine.box.iou(face.box), default=None)
                if best is None or best.box.iou(face.box) < 0.5 or best.score is None:
                    unpaired += 1
                    continue
                differences.append(abs(best.score - face.score))
                if not is_cut_by_left_or_top(face):
                    overlaps.append(best.box.iou(face.box))
    assert unpaired == 0
    assert len(differences) > 15
    assert max(differences) <= 0.013
    assert float(np.median(overlaps)) >= 0.95


@pytest.mark.device
def test_finds_the_astronaut_and_the_keypoints(
    model: bytes, astronaut: np.ndarray, opened: Opened
) -> None:
    with LiteRtFaceDetector(opened(model)) as detector:
        (face,) = detector.detect(astronaut)
        assert face.box.iou(ASTRONAUT_FACE) > 0.7
        points = {point.name: point for point in face.keypoints}
        assert points["right_eye"].x < points["nose_tip"].x < points["left_eye"].x
        assert points["right_eye"].y < points["nose_tip"].y < points["mouth_center"].y
        assert detector.detect(np.zeros((240, 320, 3), np.uint8)) == ()


@pytest.mark.device
def test_a_process_that_decodes_finds_the_same_to_the_last_bit(model: bytes) -> None:
    if not FACES.is_dir():
        pytest.skip("the photos of ../shared/faces are not here")
    detector = LiteRtFaceDetector(open_network(model))
    worker = DetectorWorker(lambda: model, runtime="litert", enough_px=640, decodes=True)
    seen = 0
    for path in sorted(FACES.glob("*.jpg")):
        frame = Frame.of(path)
        pixels = frame.rgb(enough_px=640)
        size = {"width": frame.width, "height": frame.height}
        scales = {
            "scale_x": frame.width / pixels.shape[1],
            "scale_y": frame.height / pixels.shape[0],
        }
        found = worker.detect_encoded(path.read_bytes(), max_pixels=10**8)
        assert (found.width, found.height) == (frame.width, frame.height)
        assert found.faces == tuple(
            face.fitted(**scales, **size) for face in detector.detect(pixels)
        )
        seen += len(found.faces)
    worker.close()
    assert seen > 15


@pytest.mark.device
def test_a_face_that_the_left_edge_cuts_has_the_part_inside(
    model: bytes, astronaut: np.ndarray, opened: Opened
) -> None:
    cut = np.ascontiguousarray(astronaut[:, 205:])
    with LiteRtFaceDetector(opened(model)) as detector:
        found = detector.detect(cut)
        whole = detector.detect(astronaut)
    assert found
    assert found[0].box.x_min == 0
    assert found[0].box.width < 0.8 * whole[0].box.width


@pytest.mark.device
@pytest.mark.parametrize("size", [(1, 1), (17, 9), (9, 3000), (3000, 9)])
def test_odd_sizes_are_answered(model: bytes, size: tuple[int, int], opened: Opened) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (*size, 3), dtype=np.uint8)
    with LiteRtFaceDetector(opened(model), min_confidence=0.01) as detector:
        for face in detector.detect(noise):
            assert face.box.clipped(size[1], size[0]) == face.box


@pytest.mark.device
def test_a_lower_threshold_finds_no_fewer_faces(
    model: bytes, astronaut: np.ndarray, opened: Opened
) -> None:
    with (
        LiteRtFaceDetector(opened(model)) as strict,
        LiteRtFaceDetector(opened(model), min_confidence=0.05) as lax,
    ):
        assert len(lax.detect(astronaut)) >= len(strict.detect(astronaut))


@pytest.mark.device
def test_what_is_no_picture_no_model_or_closed_is_told(model: bytes, opened: Opened) -> None:
    with pytest.raises(ModelError, match="LiteRT does not accept the model of 9 bytes"):
        LiteRtFaceDetector(opened(b"no model!"))
    detector = LiteRtFaceDetector(opened(model))
    with pytest.raises(InvalidFrameError):
        detector.detect(np.zeros((4, 4), np.uint8))
    detector.close()
    detector.close()
    with pytest.raises(ClosedError):
        detector.detect(np.zeros((4, 4, 3), np.uint8))


# -- the steps -------------------------------------------------------------------------------


@pytest.mark.parametrize("count", GRIDS)
def test_anchors_are_as_many_as_the_model_s_and_inside_the_square(count: int) -> None:
    centres = GRIDS[count].centres()
    assert centres.shape == (count, 2)
    assert centres.min() > 0
    assert centres.max() < 1


@pytest.mark.parametrize("size", [(1, 1), (2, 1), (1, 2), (9, 3000), (3000, 9), (129, 127)])
def test_every_image_has_its_square_however_thin(size: tuple[int, int]) -> None:
    """One column is no place of a sample at all; the last pixel has no neighbour."""
    width, height = size
    image = np.full((height, width, 3), 200, np.uint8)
    square = Letterbox(width, height, 128).sample(image)
    assert square.shape == (128, 128, 3)
    assert set(np.unique(square)) <= {0, 200}
    assert square.max() == 200 or min(size) * 128 < max(size)


@pytest.mark.parametrize("size", [(640, 480), (480, 640), (333, 77), (64, 64), (1280, 720)])
def test_the_square_is_what_opencv_s_warp_gives(size: tuple[int, int]) -> None:
    cv2 = pytest.importorskip("cv2")
    width, height = size
    noise = np.random.default_rng(2).integers(0, 256, (height, width, 3), dtype=np.uint8)
    image = np.asarray(
        Image.fromarray(noise).resize((width // 8 + 1, height // 8 + 1)).resize(size)
    )
    box = Letterbox(width, height, 128)
    left, top = (box.side - width) / 2, (box.side - height) / 2
    corners = np.array(
        [[-left, -top], [box.side - left, -top], [box.side - left, box.side - top]], np.float32
    )
    onto = np.array([[0, 0], [128, 0], [128, 128]], np.float32)
    expected = cv2.warpAffine(
        image, cv2.getAffineTransform(corners, onto), (128, 128), flags=cv2.INTER_LINEAR
    )
    ours = box.sample(image)
    # At the border OpenCV mixes the last row with black; here it ends.
    inner = np.abs(ours.astype(int) - expected)[8:-8, 8:-8]
    assert np.percentile(inner, 99) <= 2


@given(
    width=st.integers(1, 5000),
    height=st.integers(1, 5000),
    x=st.floats(0, 1, width=32),
    y=st.floats(0, 1, width=32),
)
def test_points_of_the_square_come_back_to_the_image(
    width: int, height: int, x: float, y: float
) -> None:
    box = Letterbox(width, height, 128)
    point = np.array([[x * width, y * height]], np.float32)
    margin = np.array(((box.side - width) / 2, (box.side - height) / 2), np.float32)
    square = (point + margin) / np.float32(box.side)
    assert box.restore(square) == pytest.approx(point, abs=0.01)


@given(
    st.tuples(*[st.floats(-50, 250, width=32)] * 4),
    st.lists(
        st.lists(st.floats(-50, 250, width=32), min_size=2, max_size=2), min_size=6, max_size=6
    ),
    st.sampled_from([(1, 1), (200, 100), (33, 150)]),
)
def test_a_face_is_fitted_as_all_faces_are(
    sides: tuple[float, ...], points: list[list[float]], size: tuple[int, int]
) -> None:
    x_min, x_max = sorted(sides[:2])
    y_min, y_max = sorted(sides[2:])
    named = zip(KEYPOINT_NAMES, points, strict=True)
    face = Face(
        BoundingBox(x_min, y_min, x_max, y_max), 0.75, tuple(Keypoint(n, *p) for n, p in named)
    )
    width, height = size
    expected = face.fitted(scale_x=1, scale_y=1, width=width, height=height)
    assert _face(0.75, [x_min, y_min, x_max, y_max], points, width, height) == expected


def candidates(boxes: Any, scores: Any) -> Candidates:
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    points = np.repeat((boxes[:, None, :2] + boxes[:, None, 2:]) / 2, 6, axis=1)
    return Candidates(np.array(scores, np.float32), boxes, points)


def test_overlapping_boxes_become_their_mean_weighted_by_the_scores() -> None:
    found = suppress(
        candidates([[0, 0, 10, 10], [1, 0, 11, 10], [50, 50, 60, 60]], [0.9, 0.6, 0.5])
    )
    assert found.scores == pytest.approx([0.9, 0.5])
    assert found.boxes[0] == pytest.approx([0.4, 0, 10.4, 10])
    assert found.boxes[1] == pytest.approx([50, 50, 60, 60])


@settings(max_examples=200)
@given(
    st.lists(
        st.tuples(
            st.floats(0, 90),
            st.floats(0, 90),
            st.floats(0, 30),
            st.floats(0, 30),
            st.floats(0.5, 1),
        ),
        max_size=12,
    )
)
def test_suppression_ends_and_keeps_a_best_face_for_every_candidate(rows: list[Any]) -> None:
    """Boxes without an area among them, which overlap nothing."""
    rows = sorted(rows, key=lambda row: -row[4])
    boxes = [(x, y, x + width, y + height) for x, y, width, height, _ in rows]
    given_ = candidates(boxes, [row[4] for row in rows])
    found = suppress(given_)
    assert len(found.scores) <= len(rows)
    assert bool(len(found.scores)) is bool(rows)
    assert np.all(np.diff(found.scores) <= 0)
    assert np.isfinite(found.boxes).all()
    if rows:
        assert found.scores[0] == given_.scores[0]
    assert 0 < MIN_SUPPRESSION_IOU < 1


def test_logits_of_any_size_become_scores_without_a_warning() -> None:
    centres = np.full((3, 2), 0.5, np.float32)
    logits = np.array([-1e9, 1e9, 0.0], np.float32)
    found = decode(np.zeros((3, 16), np.float32), logits, centres, input_px=128, min_score=0.5)
    assert found.scores == pytest.approx([1.0, 0.5])
    assert found.boxes[0] == pytest.approx([0.5] * 4)


# -- the runtime -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "installed", "lacks", "expected"),
    [
        ("auto", {"mediapipe", "ai_edge_litert"}, False, "litert"),
        ("auto", {"mediapipe", "ai_edge_litert"}, True, "litert"),
        ("auto", {"ai_edge_litert"}, True, "litert"),
        ("auto", {"mediapipe"}, False, "mediapipe"),
        ("litert", {"mediapipe", "ai_edge_litert"}, False, "litert"),
        ("mediapipe", {"mediapipe", "ai_edge_litert"}, False, "mediapipe"),
        ("auto", {"mediapipe"}, True, "does not run on this processor"),
        ("mediapipe", {"mediapipe", "ai_edge_litert"}, True, "does not run on this processor"),
        ("auto", set(), False, r"hybrid-detect\[device-lite\]"),
        ("mediapipe", {"ai_edge_litert"}, False, r"hybrid-detect\[device\]"),
        ("litert", {"mediapipe"}, False, r"hybrid-detect\[device-lite\]"),
        ("onnx", {"mediapipe"}, False, "runtime: expected one of auto, mediapipe, litert"),
    ],
)
def test_the_runtime_is_one_that_is_installed_and_runs_on_this_processor(
    name: str,
    installed: set[str],
    lacks: bool,
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def require_supported() -> None:
        if lacks:
            msg = "MediaPipe does not run on this processor"
            raise ConfigurationError(msg)

    monkeypatch.setattr(runtimes, "is_installed", installed.__contains__)
    monkeypatch.setattr(runtimes, "require_supported_processor", require_supported)
    if expected in runtimes.RUNTIMES_FOR_TFLITE:
        assert runtimes.choose_runtime(name).name == expected
    else:
        with pytest.raises(ConfigurationError, match=expected):
            runtimes.choose_runtime(name)


def test_a_32_bit_python_is_told_that_it_detects_remotely(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither runtime has a wheel for it, so that no pip line would help."""
    monkeypatch.setattr(runtimes, "sys", SimpleNamespace(maxsize=2**31 - 1))
    with pytest.raises(ConfigurationError, match=r"64-bit Python.*on another machine") as caught:
        runtimes.choose_runtime()
    assert "pip install" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "installed", "told"),
    [
        ("auto", {"mediapipe", "ai_edge_litert"}, "LiteRT, because it is installed and takes less"),
        ("auto", {"mediapipe"}, "MediaPipe, because LiteRT, which takes less memory than"),
        ("mediapipe", {"mediapipe"}, "MediaPipe, because runtime='mediapipe' asks for it"),
    ],
)
def test_the_choice_is_told_with_its_reason(
    name: str, installed: set[str], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtimes, "is_installed", installed.__contains__)
    assert runtimes.choose_runtime(name).told().startswith(told)


@pytest.mark.parametrize(
    ("runtime", "left_mib", "starts"),
    [("litert", 125, True), ("litert", 110, False), ("mediapipe", 125, False)],
)
def test_litert_starts_where_there_is_too_little_memory_for_mediapipe(
    runtime: str, left_mib: int, starts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """64 MiB are left to the app; the processes need 55 and 90."""
    monkeypatch.setattr(runtimes, "is_installed", lambda _: True)
    left = MemoryReading(available_bytes=left_mib * 2**20, bound_by="system")
    backend = OnDeviceDetectionService(runtime=runtime, read_memory=lambda: left)
    assert (backend._engine._guard.reason_not_to_start() == "") is starts


@pytest.mark.device
@pytest.mark.anyio
@pytest.mark.parametrize("isolation", ["process", "none"])
async def test_the_device_backend_detects_on_litert(
    model: bytes, astronaut: np.ndarray, isolation: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Pixels, and a JPEG that the process decodes itself."""
    out = io.BytesIO()
    Image.fromarray(astronaut).save(out, "JPEG", quality=90)
    caplog.set_level("INFO", "hybrid_detect.device")
    async with OnDeviceDetectionService(runtime="litert", isolation=isolation) as backend:
        for image in (astronaut, out.getvalue()):
            result = await backend.process_image(image, deadline_s=30)
            assert result.faces[0].box.iou(ASTRONAUT_FACE) > 0.7
        assert re.match("LiteRT.*, because runtime='litert' asks for it", backend.runtime)
    started = [line for line in caplog.messages if re.search("process .* started: LiteRT", line)]
    assert bool(started) is (isolation == "process")
