"""MediaPipe's FaceDetector, held safely. The tests marked `device` drive the genuine one."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from hybrid_detect.backends.device import face_detector, mediapipe_loading
from hybrid_detect.backends.device.face_detector import MediaPipeFaceDetector
from hybrid_detect.backends.device.models import load_model
from hybrid_detect.errors import (
    BackendUnavailableError,
    ClosedError,
    InvalidFrameError,
    MissingExtraError,
    ModelError,
)
from hybrid_detect.extras import is_installed
from hybrid_detect.testing.synthetic_model import synthetic_face_model
from hybrid_detect.types import KEYPOINT_NAMES, BoundingBox

# The face in skimage.data.astronaut(), 512 x 512; agreed by several detectors and seen by eye.
ASTRONAUT_FACE = BoundingBox(169, 64, 283, 178)


@pytest.fixture(scope="module")
def model() -> bytes:
    if not is_installed("mediapipe"):
        pytest.skip("MediaPipe is not installed")
    try:
        return load_model("short_range")
    except ModelError as exc:
        pytest.skip(f"no model to be had: {exc}")


@pytest.fixture(scope="module")
def astronaut() -> np.ndarray:
    data = pytest.importorskip("skimage.data")
    return np.ascontiguousarray(data.astronaut())


@pytest.fixture(scope="module")
def synthetic() -> bytes:
    if not is_installed("mediapipe"):
        pytest.skip("MediaPipe is not installed")
    return synthetic_face_model()


BRIGHT = np.full((128, 256, 3), 255, np.uint8)
DARK = np.zeros((128, 256, 3), np.uint8)


@pytest.fixture
def detector(model: bytes) -> Iterator[MediaPipeFaceDetector]:
    with MediaPipeFaceDetector(model) as detector:
        yield detector


# ---- with a stand-in for MediaPipe


class FakeNative:
    """What `create_from_options` gives: fails on the pictures it is told to."""

    made = 0

    def __init__(self, failures: list[Exception]) -> None:
        self.failures = failures
        self.closed_by_mediapipe = False

    def detect(self, image: Any) -> Any:
        if self.failures:
            raise self.failures.pop(0)
        box = SimpleNamespace(origin_x=-10, origin_y=5, width=30, height=20)
        outside = SimpleNamespace(origin_x=-50, origin_y=5, width=30, height=20)
        points = [SimpleNamespace(x=0.25, y=0.5)]
        score = [SimpleNamespace(score=0.75)]
        return SimpleNamespace(
            detections=[
                SimpleNamespace(bounding_box=box, keypoints=points, categories=score),
                SimpleNamespace(bounding_box=outside, keypoints=points, categories=score),
            ]
        )

    def close(self) -> None:
        self.closed_by_mediapipe = True


class FakeMediaPipe:
    def __init__(self) -> None:
        self.failures: list[Exception] = []
        self.natives: list[FakeNative] = []
        self.build_error: Exception | None = None
        vision = SimpleNamespace(FaceDetectorOptions=SimpleNamespace, FaceDetector=self)
        self.tasks = SimpleNamespace(vision=vision, BaseOptions=SimpleNamespace)
        self.Image = SimpleNamespace
        self.ImageFormat = SimpleNamespace(SRGB=1)

    def create_from_options(self, options: Any) -> FakeNative:
        if self.build_error:
            raise self.build_error
        self.natives.append(FakeNative(self.failures))
        return self.natives[-1]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeMediaPipe:
    gc.collect()  # a detector that an earlier test's traceback held would be parked in this test
    fake = FakeMediaPipe()
    monkeypatch.setattr(mediapipe_loading, "require", lambda *_, **__: fake)
    monkeypatch.setattr(face_detector, "_parked", {})
    monkeypatch.setattr(face_detector, "_discarded", 0)
    return fake


BLACK = np.zeros((40, 80, 3), np.uint8)


def test_boxes_are_clipped_and_keypoints_become_pixels(fake: FakeMediaPipe) -> None:
    faces = MediaPipeFaceDetector(b"model").detect(BLACK)
    assert len(faces) == 1, "a face wholly outside the picture is none"
    assert faces[0].box == BoundingBox(0, 5, 20, 25)
    assert faces[0].score == 0.75
    assert [(p.name, p.x, p.y) for p in faces[0].keypoints] == [("right_eye", 20.0, 20.0)]


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((0, 80, 3), np.uint8),
        np.zeros((40, 0, 3), np.uint8),
        np.zeros((40, 80), np.uint8),
        np.zeros((40, 80, 4), np.uint8),
        np.zeros((40, 80, 3), np.float32),
        np.zeros((40, 80, 3), np.int8),
        BLACK[:, :, ::-1],
        BLACK[:, 1:],
        np.asfortranarray(BLACK),
        "picture.jpg",
        None,
    ],
)
def test_pixels_of_another_layout_never_reach_mediapipe(fake: FakeMediaPipe, pixels: Any) -> None:
    detector = MediaPipeFaceDetector(b"model")
    fake.failures.append(AssertionError("it did"))
    with pytest.raises(InvalidFrameError, match="expected a C-contiguous uint8 array of shape"):
        detector.detect(pixels)


def test_broken_detector_is_rebuilt_and_the_picture_tried_again(fake: FakeMediaPipe) -> None:
    detector = MediaPipeFaceDetector(b"model")
    fake.failures.append(RuntimeError("Graph has errors"))
    assert len(detector.detect(BLACK)) == 1
    assert len(fake.natives) == 2
    detector.close()
    assert not any(native.closed_by_mediapipe for native in fake.natives)
    assert face_detector._parked == {detector._key: [fake.natives[1]]}, "the broken one is gone"


def test_second_failure_is_told_without_the_source_trace(fake: FakeMediaPipe) -> None:
    detector = MediaPipeFaceDetector(b"model")
    fake.failures += [RuntimeError("first"), RuntimeError("second\nSource Location Trace\n")]
    with pytest.raises(BackendUnavailableError) as caught:
        detector.detect(BLACK)
    assert str(caught.value) == "MediaPipe failed twice on a picture of 80x40 pixels: second"
    assert caught.value.retryable
    assert caught.value.backend == "device"
    assert len(detector.detect(BLACK)) == 1, "the next picture gets a fresh one"


def test_broken_detectors_cannot_eat_the_memory(fake: FakeMediaPipe) -> None:
    detector = MediaPipeFaceDetector(b"model")
    fake.failures += [RuntimeError("Graph has errors")] * 100
    for _ in range(20):
        with pytest.raises(BackendUnavailableError) as caught:
            detector.detect(BLACK)
    assert "restart of the process" in str(caught.value)
    assert not caught.value.retryable
    assert len(fake.natives) == face_detector.MAX_DISCARDED


def test_closed_detectors_are_used_again(fake: FakeMediaPipe) -> None:
    for _ in range(5):
        with MediaPipeFaceDetector(b"model") as detector:
            detector.detect(BLACK)
    MediaPipeFaceDetector(b"model")  # dropped without close
    MediaPipeFaceDetector(b"model").close()
    assert len(fake.natives) == 1
    MediaPipeFaceDetector(b"model", min_confidence=0.6)
    MediaPipeFaceDetector(b"other model")
    assert len(fake.natives) == 3


def test_closed_detector_raises_instead_of_seeing_nobody(fake: FakeMediaPipe) -> None:
    detector = MediaPipeFaceDetector(b"model")
    detector.close()
    detector.close()
    with pytest.raises(ClosedError):
        detector.detect(BLACK)
    assert len(face_detector._parked[detector._key]) == 1


def test_unusable_model_and_old_mediapipe_are_told(
    fake: FakeMediaPipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.build_error = ValueError("not a valid Flatbuffer buffer\ntrace")
    with pytest.raises(ModelError, match=r"model of 5 bytes: not a valid Flatbuffer buffer$"):
        MediaPipeFaceDetector(b"model")

    old = SimpleNamespace(__version__="0.8.1")
    monkeypatch.setattr(mediapipe_loading, "require", lambda *_, **__: old)
    with pytest.raises(MissingExtraError, match=r"0\.8\.1 has none.*hybrid-detect\[device\]"):
        MediaPipeFaceDetector(b"model")

    def no_library(*_: object, **__: object) -> None:
        msg = "libEGL.so.1: cannot open shared object file"
        raise OSError(msg)

    monkeypatch.setattr(mediapipe_loading, "require", no_library)
    with pytest.raises(BackendUnavailableError, match=r"libEGL\.so\.1"):
        MediaPipeFaceDetector(b"model")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
def test_forked_child_is_refused_instead_of_hanging(
    fake: FakeMediaPipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    detector = MediaPipeFaceDetector(b"model")
    detector._lock.acquire()  # as if another thread were detecting at the moment of the fork
    pid = os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: pid + 1)
    with pytest.raises(BackendUnavailableError, match="spawn"):
        detector.detect(BLACK)
    detector.close()
    monkeypatch.undo()
    detector._lock.release()


# ---- with MediaPipe itself


@pytest.mark.device
def test_finds_the_astronaut(detector: MediaPipeFaceDetector, astronaut: np.ndarray) -> None:
    (face,) = detector.detect(astronaut)
    assert face.box.iou(ASTRONAUT_FACE) >= 0.5
    assert face.score is not None
    assert 0.5 <= face.score <= 1.0
    points = {point.name: point for point in face.keypoints}
    assert tuple(points) == KEYPOINT_NAMES
    # Her own right is on the left of the picture.
    assert points["right_eye"].x < points["nose_tip"].x < points["left_eye"].x
    assert points["right_ear_tragion"].x < points["left_ear_tragion"].x
    assert points["right_eye"].y < points["nose_tip"].y < points["mouth_center"].y
    assert face.box.x_min < points["nose_tip"].x < face.box.x_max


@pytest.mark.device
def test_full_range_model_finds_her_too(model: bytes, astronaut: np.ndarray) -> None:
    try:
        content = load_model("full_range")
    except ModelError as exc:
        pytest.skip(f"no full-range model to be had: {exc}")
    with MediaPipeFaceDetector(content) as detector:
        (face,) = detector.detect(astronaut)
    assert face.box.iou(ASTRONAUT_FACE) >= 0.5


@pytest.mark.device
def test_read_only_pixels_are_read(detector: MediaPipeFaceDetector, astronaut: np.ndarray) -> None:
    pixels = astronaut.copy()
    pixels.flags.writeable = False
    assert detector.detect(pixels) == detector.detect(astronaut)


@pytest.mark.device
@pytest.mark.parametrize("size_hw", [(1, 1), (1, 3000), (3000, 1), (7, 5)])
def test_odd_sizes_are_answered(detector: MediaPipeFaceDetector, size_hw: tuple[int, int]) -> None:
    assert detector.detect(np.zeros((*size_hw, 3), np.uint8)) == ()


@pytest.mark.device
def test_synthetic_model_sees_one_face_in_a_bright_picture(synthetic: bytes) -> None:
    assert len(synthetic) < 2048
    with MediaPipeFaceDetector(synthetic) as detector:
        assert detector.detect(DARK) == ()
        (face,) = detector.detect(np.full((256, 256, 3), 255, np.uint8))
    # The anchor's centre is at 8.5 / 16 of the picture, the box is half as large as it.
    assert face.box.xyxy == pytest.approx((72, 72, 200, 200), abs=1)
    assert face.score == pytest.approx(1.0, abs=0.01)
    assert [(p.x, p.y) for p in face.keypoints[:2]] == [
        pytest.approx((112, 112), abs=1),
        pytest.approx((160, 112), abs=1),
    ]


@pytest.mark.device
def test_poisoned_graph_is_recovered(synthetic: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(face_detector, "_discarded", 0)
    detector = MediaPipeFaceDetector(synthetic)
    mp = detector._mediapipe
    empty = mp.Image(image_format=mp.ImageFormat.SRGB, data=np.zeros((0, 640, 3), np.uint8))
    with pytest.raises(RuntimeError):
        detector._detector.detect(empty)
    poisoned = detector._detector
    with pytest.raises(RuntimeError, match="Graph has errors"):
        poisoned.detect(mp.Image(image_format=mp.ImageFormat.SRGB, data=BRIGHT))
    assert len(detector.detect(BRIGHT)) == 1
    assert detector._detector is not poisoned
    detector.close()


@pytest.mark.device
def test_eight_threads_get_the_same_answer(
    detector: MediaPipeFaceDetector, astronaut: np.ndarray
) -> None:
    mirrored = np.ascontiguousarray(astronaut[:, ::-1])
    expected = [detector.detect(astronaut), detector.detect(mirrored), ()]
    assert expected[0] != expected[1]
    with ThreadPoolExecutor(8) as pool:
        pictures = [astronaut, mirrored, DARK] * 20
        assert list(pool.map(detector.detect, pictures)) == expected * 20


@pytest.mark.device
def test_close_while_detecting_is_safe(synthetic: bytes) -> None:
    for _ in range(5):
        detector = MediaPipeFaceDetector(synthetic)
        begun = threading.Barrier(5)
        outcomes: list[str] = []

        def detect_until_closed(
            detector: MediaPipeFaceDetector = detector,
            begun: threading.Barrier = begun,
            outcomes: list[str] = outcomes,
        ) -> None:
            assert len(detector.detect(BRIGHT)) == 1
            begun.wait(10)
            try:
                while True:
                    assert len(detector.detect(BRIGHT)) == 1
            except ClosedError:
                outcomes.append("closed")

        threads = [threading.Thread(target=detect_until_closed) for _ in range(4)]
        for thread in threads:
            thread.start()
        begun.wait(10)
        detector.close()
        for thread in threads:
            thread.join(10)
        assert outcomes == ["closed"] * 4


@pytest.mark.device
def test_opening_and_closing_adds_no_threads(synthetic: bytes) -> None:
    psutil = pytest.importorskip("psutil")
    with MediaPipeFaceDetector(synthetic) as detector:
        detector.detect(BRIGHT)
    before = (psutil.Process().num_threads(), threading.active_count())
    for _ in range(10):
        with MediaPipeFaceDetector(synthetic) as detector:
            detector.detect(BRIGHT)
    assert (psutil.Process().num_threads(), threading.active_count()) == before


LEFT_OPEN = """
import sys, numpy as np
from hybrid_detect.backends.device.face_detector import MediaPipeFaceDetector
from hybrid_detect.testing.synthetic_model import synthetic_face_model
detectors = [MediaPipeFaceDetector(synthetic_face_model()) for _ in range(2)]
detectors[0].detect(np.zeros((64, 64, 3), np.uint8))
detectors[0].close()
print("ready")
"""


@pytest.mark.device
def test_interpreter_exits_cleanly_with_a_detector_left_open(synthetic: bytes) -> None:
    """One parked, one never closed: neither calls MediaPipe's close on the way out."""
    done = subprocess.run(
        [sys.executable, "-c", LEFT_OPEN], capture_output=True, text=True, timeout=50, check=False
    )
    assert (done.returncode, done.stdout) == (0, "ready\n"), done.stderr
    assert "Exception ignored" not in done.stderr
    assert "DestroyAccelerator" not in done.stderr, "that is what MediaPipe's own close writes"
