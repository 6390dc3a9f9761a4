"""CenterFace: accuracy on photos as they are sent, and its decoding of odd and hostile maps."""

from __future__ import annotations

import io
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from hybrid_detect.backends.device import runtimes
from hybrid_detect.backends.device.centerface import (
    MAX_CANDIDATES,
    MAX_SUPPRESSED_IOU,
    CenterFaceDetector,
    Maps,
    decode,
    suppressed,
)
from hybrid_detect.backends.device.models import MODELS, load_model
from hybrid_detect.backends.device.on_device import OnDeviceDetectionService
from hybrid_detect.backends.device.runtimes import (
    RUNTIMES,
    RUNTIMES_FOR_ONNX,
    FaceDetector,
    make_detector,
)
from hybrid_detect.backends.device.worker import DetectorWorker
from hybrid_detect.compression.compressor import ImageCompressionService
from hybrid_detect.errors import ClosedError, ConfigurationError, InvalidFrameError, ModelError
from hybrid_detect.extras import is_installed
from hybrid_detect.frames.decoding import EncodedPicture
from hybrid_detect.frames.frame import Frame
from hybrid_detect.system.memory_probe import process_private_bytes
from hybrid_detect.types import BoundingBox, Face

from ...benchmark_modules import benchmark_module

ASTRONAUT_FACE = BoundingBox(177, 82, 272, 177)
SPEC = MODELS["centerface"]


@cache
def model() -> bytes:
    try:
        return load_model("centerface")
    except ModelError as error:
        pytest.skip(f"no model to be had: {error}")


def detector(runtime: str = "onnxruntime", *, side_px: int = 640, **options: Any) -> FaceDetector:
    if not is_installed(RUNTIMES[runtime].module):
        pytest.skip(f"{runtime} is not installed")
    options.setdefault("min_confidence", SPEC.input(side_px).threshold)
    return make_detector(runtime, model(), side_px=side_px, **options)


@cache
def pictures(side_px: int, target_bytes: int) -> list[tuple[Any, bytes]]:
    """The labelled photos, compressed as the service compresses what it sends.

    The compressor is told the smallest face that the model finds, so that it gives up quality
    before pixels.
    """
    scores = benchmark_module("photo_scores")
    photos = scores.photos()
    if not photos:
        pytest.skip(f"the labelled photos are not in {scores.FOLDER}")
    compressor = ImageCompressionService()
    found = []
    for photo in photos:
        frame = Frame.of(photo.path)
        picture = compressor.compress(
            frame,
            target_bytes=target_bytes,
            max_side_px=side_px,
            min_face_px=SPEC.min_face_px(frame.width, frame.height),
        )
        assert len(picture.data) <= target_bytes
        found.append((photo, picture.data))
    return found


def looked_at(tested: FaceDetector, photo: Any, data: bytes) -> list[Face]:
    """The faces in a photo's picture, in the photo's pixels."""
    picture = EncodedPicture.of(data, max_pixels=64_000_000)
    pixels = picture.rgb(enough_px=640)
    faces = tested.detect(pixels)
    height, width = pixels.shape[:2]
    return benchmark_module("photo_scores").scaled(faces, photo, width, height)


# -- the photos ------------------------------------------------------------------------------


@pytest.mark.device
@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("side_px", "target_bytes", "least"),
    [(1280, 80_000, 0.93), (640, 40_000, 0.93), (640, 20_000, 0.92)],
    ids=["1280 px of 80 KB", "640 px of 40 KB", "640 px of 20 KB"],
)
def test_finds_the_faces_of_the_photos_as_they_are_sent(
    side_px: int, target_bytes: int, least: float
) -> None:
    tested = detector()
    score = benchmark_module("photo_scores").Score()
    for photo, data in pictures(side_px, target_bytes):
        faces = looked_at(tested, photo, data)
        assert photo.boxes or not faces, f"a face in {photo.path.name}, which shows none"
        score.add(photo, faces)
    assert score.wanted > 200
    assert score.f1 >= least, str(score)


@pytest.mark.device
@pytest.mark.timeout(240)
def test_both_runtimes_find_the_same() -> None:
    both = [detector(runtime) for runtime in RUNTIMES_FOR_ONNX]
    compared = 0
    for photo, data in pictures(640, 40_000)[1::3]:
        first, second = (looked_at(tested, photo, data) for tested in both)
        assert len(first) == len(second), photo.path.name
        for one, other in zip(first, second, strict=True):
            assert one.box.iou(other.box) > 0.99
            assert one.score == pytest.approx(other.score, abs=1e-3)
            compared += 1
    assert compared > 50


@pytest.mark.device
def test_more_pixels_find_smaller_faces(astronaut: np.ndarray) -> None:
    """One face of 20 pixels among 1280: 10 of the 640 that a side of 640 leaves."""
    crowd = np.full((720, 1280, 3), 90, np.uint8)
    small = np.asarray(Frame.of(astronaut).pil(max_side_px=110))
    crowd[300 : 300 + small.shape[0], 600 : 600 + small.shape[1]] = small
    (face,) = detector(side_px=1280).detect(crowd)
    scale = 110 / 512
    expected = ASTRONAUT_FACE.scaled(scale, scale)
    moved = BoundingBox(
        expected.x_min + 600, expected.y_min + 300, expected.x_max + 600, expected.y_max + 300
    )
    assert face.box.iou(moved) > 0.6


@pytest.mark.device
@pytest.mark.parametrize("runtime", RUNTIMES_FOR_ONNX)
def test_box_and_keypoints_are_mediapipe_s(runtime: str, astronaut: np.ndarray) -> None:
    (face,) = detector(runtime).detect(astronaut)
    assert face.box.iou(ASTRONAUT_FACE) > 0.7
    assert face.box.width == pytest.approx(face.box.height, rel=0.01)
    assert tuple(point.name for point in face.keypoints) == SPEC.keypoints
    points = {point.name: point for point in face.keypoints}
    assert points["right_eye"].x < points["nose_tip"].x < points["left_eye"].x
    assert points["right_eye"].y < points["nose_tip"].y < points["mouth_center"].y
    for point in face.keypoints:
        assert face.box.x_min < point.x < face.box.x_max
        assert face.box.y_min < point.y < face.box.y_max


@pytest.mark.device
@pytest.mark.timeout(240)
def test_keypoints_lie_where_mediapipe_has_them() -> None:
    """Over the faces that both find, in heights of the face: no bias, and a small distance."""
    other = MODELS["full_range"]
    found = [name for name in other.runtimes if is_installed(RUNTIMES[name].module)]
    if not found:
        pytest.skip("nothing that runs full_range is installed")
    try:
        reference = make_detector(found[0], load_model("full_range"), min_confidence=0.5)
    except ModelError as error:
        pytest.skip(f"no model to be had: {error}")
    tested = detector()
    offsets: dict[str, list[tuple[float, float]]] = {name: [] for name in SPEC.keypoints}
    for photo, data in pictures(1280, 80_000):
        ours = looked_at(tested, photo, data)
        for face in looked_at(reference, photo, data):
            mine = max(ours, key=lambda face, other=face: face.box.iou(other.box), default=None)
            if mine is None or mine.box.iou(face.box) < 0.5:
                continue
            theirs = {point.name: point for point in face.keypoints}
            for point in mine.keypoints:
                there = theirs[point.name]
                offset = (
                    (point.x - there.x) / face.box.height,
                    (point.y - there.y) / face.box.height,
                )
                offsets[point.name].append(offset)
    for name, found_offsets in offsets.items():
        values = np.array(found_offsets)
        assert len(values) > 40
        assert np.abs(np.median(values, axis=0)).max() <= 0.05, name
        assert np.median(np.hypot(*values.T)) <= 0.13, name


@pytest.mark.device
@pytest.mark.parametrize("side_px", [640, 1280])
def test_pictures_of_all_shapes_leave_the_process_inside_its_model_s_limits(
    side_px: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limits of MediaPipe's models would end it: it holds more than they allow."""
    content = model()
    monkeypatch.setattr("hybrid_detect.backends.device.worker.CHECK_MEMORY_EVERY", 1)
    size = SPEC.input(side_px)
    worker = DetectorWorker(
        lambda: content,
        runtime="onnxruntime",
        side_px=side_px,
        enough_px=size.enough_px,
        min_confidence=size.threshold,
        memory_cap_bytes=size.memory_cap_bytes,
        recycle_bytes=size.recycle_bytes,
    )
    held = []
    try:
        worker.start()
        first = worker.pid
        for shape in ((720, 1280), (1280, 720), (1280, 1280), (1280, 1280), (2160, 3840)):
            worker.detect(np.zeros((*shape, 3), np.uint8))
            held.append(process_private_bytes(worker.pid or 0) or 0)
        assert worker.pid == first
        assert worker.restarts == 0
    finally:
        worker.close()
    assert max(held) < size.recycle_bytes
    if side_px == 640:
        assert max(held) < 160 * 2**20


@pytest.mark.device
@pytest.mark.parametrize("runtime", RUNTIMES_FOR_ONNX)
@pytest.mark.parametrize("size", [(1, 1), (17, 9), (9, 3000), (3000, 9), (31, 33)])
def test_odd_sizes_are_answered(runtime: str, size: tuple[int, int]) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (*size, 3), dtype=np.uint8)
    for face in detector(runtime, min_confidence=0.01).detect(noise):
        assert face.box.clipped(size[1], size[0]) == face.box


@pytest.mark.device
def test_large_grey_and_cut_pictures_are_answered(astronaut: np.ndarray) -> None:
    tested = detector()
    grey = np.repeat(astronaut.mean(axis=2).astype(np.uint8)[:, :, None], 3, axis=2)
    assert len(tested.detect(np.ascontiguousarray(grey))) == 1
    huge = np.ascontiguousarray(np.repeat(np.repeat(astronaut, 8, axis=0), 8, axis=1))
    (face,) = tested.detect(huge)
    assert face.box.iou(ASTRONAUT_FACE.scaled(8, 8)) > 0.7
    assert tested.detect(np.zeros((480, 640, 3), np.uint8)) == ()


@pytest.mark.device
@pytest.mark.parametrize(
    ("rows", "columns"),
    [
        (slice(None), slice(205, None)),
        (slice(None), slice(None, 235)),
        (slice(110, None), slice(None)),
    ],
    ids=["left", "right", "top"],
)
def test_a_face_that_an_edge_cuts_has_the_part_inside(
    rows: slice, columns: slice, astronaut: np.ndarray
) -> None:
    cut = np.ascontiguousarray(astronaut[rows, columns])
    (face,) = detector(min_confidence=0.3).detect(cut)
    height, width = cut.shape[:2]
    assert face.box.clipped(width, height) == face.box
    left, top = columns.start or 0, rows.start or 0
    visible = BoundingBox(
        ASTRONAUT_FACE.x_min - left,
        ASTRONAUT_FACE.y_min - top,
        ASTRONAUT_FACE.x_max - left,
        ASTRONAUT_FACE.y_max - top,
    ).clipped(width, height)
    assert face.box.iou(visible) > 0.4


@pytest.mark.device
@pytest.mark.anyio
@pytest.mark.parametrize("isolation", ["process", "none"])
async def test_the_device_finds_faces_with_it_in_a_process_and_without(
    isolation: str, astronaut: np.ndarray
) -> None:
    if not any(is_installed(RUNTIMES[name].module) for name in RUNTIMES_FOR_ONNX):
        pytest.skip("no runtime for ONNX files is installed")
    model()
    service = OnDeviceDetectionService(model="centerface", isolation=isolation)
    async with service:
        result = await service.process_image(astronaut, deadline_s=30)
        large = np.ascontiguousarray(np.tile(astronaut, (3, 4, 1)))  # shrunk, unlike the first
        crowd = await service.process_image(large, deadline_s=30)
    assert result.model == "centerface"
    assert result.min_face_px == SPEC.min_face_px(512, 512)
    assert result.faces[0].box.iou(ASTRONAUT_FACE) > 0.7
    assert len(crowd.faces) == 12


@pytest.mark.device
def test_a_lower_threshold_needs_no_second_detector(astronaut: np.ndarray) -> None:
    """And leaves the faces above it as they are."""
    content = model()
    out = io.BytesIO()
    Image.fromarray(astronaut).save(out, "JPEG", quality=90)
    worker = DetectorWorker(
        lambda: content,
        runtime="onnxruntime",
        side_px=640,
        min_confidence=0.45,
        lowest_confidence=0.02,
    )
    try:
        options = {"max_pixels": 2**30}
        for _ in range(2):  # the first of a shape gives its memory back
            usual = worker.detect_encoded(out.getvalue(), **options)
        held = process_private_bytes(worker.pid or 0) or 0
        many = worker.detect_encoded(out.getvalue(), min_confidence=0.02, **options)
        few = worker.detect_encoded(out.getvalue(), min_confidence=0.999, **options)
        assert (process_private_bytes(worker.pid or 0) or 0) < held + 20 * 2**20
    finally:
        worker.close()
    assert len(usual.faces) == 1
    assert many.faces[0] == usual.faces[0]
    assert len(many.faces) > 1
    assert few.faces == ()


@pytest.mark.device
@pytest.mark.parametrize("runtime", RUNTIMES_FOR_ONNX)
def test_what_is_no_picture_no_model_or_closed_is_told(runtime: str) -> None:
    tested = detector(runtime)
    with pytest.raises(ModelError):
        make_detector(runtime, b"no model!", min_confidence=0.5, side_px=640)
    with pytest.raises(ModelError):
        make_detector(runtime, model()[:-1000], min_confidence=0.5, side_px=640)
    with pytest.raises(InvalidFrameError):
        tested.detect(np.zeros((4, 4), np.uint8))
    tested.close()
    tested.close()
    with pytest.raises(ClosedError):
        tested.detect(np.zeros((4, 4, 3), np.uint8))


# -- decoding --------------------------------------------------------------------------------


def blank(rows: int = 8, columns: int = 8) -> Maps:
    return Maps(
        np.zeros((rows, columns), np.float32),
        np.zeros((2, rows, columns), np.float32),
        np.zeros((2, rows, columns), np.float32),
        np.zeros((10, rows, columns), np.float32),
    )


class Given:
    """A network that gives the same maps for every picture."""

    runs_on = "nothing"

    def __init__(self, maps: Maps) -> None:
        self.maps = maps
        self.shape: tuple[int, ...] = ()

    def run(self, pixels: np.ndarray) -> Maps:
        self.shape = pixels.shape
        return self.maps


def test_a_cell_becomes_the_face_around_it() -> None:
    maps = blank()
    maps.heat[2, 5] = 0.9
    maps.log_size[:, 2, 5] = np.log((4, 3))  # 16 pixels high, 12 wide
    maps.offset[:, 2, 5] = (0.25, -0.5)  # centre at x (5 - 0.5 + 0.5) * 4, y (2 + 0.25 + 0.5) * 4
    maps.points[:, 2, 5] = (0.25, 0.25, 0.25, 0.75, 0.5, 0.5, 0.75, 0.25, 0.75, 0.75)
    found = decode(maps, min_score=0.5)
    assert found.scores == pytest.approx([0.9])
    assert found.boxes[0] == pytest.approx([20 - 6, 11 - 8, 20 + 6, 11 + 8])
    assert found.points[0] == pytest.approx(
        np.array([[17, 7], [23, 7], [20, 11], [17, 15], [23, 15]])
    )


def test_the_box_is_a_square_a_little_lower_and_the_mouth_is_one_point() -> None:
    maps = blank(16, 16)
    maps.heat[8, 8] = 0.9
    maps.log_size[:, 8, 8] = np.log((4, 1))
    maps.points[:, 8, 8] = (0.25, 0.25, 0.25, 0.75, 0.5, 0.5, 0.75, 0.25, 0.75, 0.75)
    tested = CenterFaceDetector(Given(maps), side_px=64, min_confidence=0.5)
    (face,) = tested.detect(np.zeros((64, 64, 3), np.uint8))
    middle = 8.5 * 4
    down = 0.04 * 16
    assert face.box.xyxy == pytest.approx(
        (middle - 4, middle - 4 + down, middle + 4, middle + 4 + down)
    )
    assert (face.keypoints[3].x, face.keypoints[3].y) == pytest.approx((middle, middle + 4))


@pytest.mark.parametrize(
    ("size", "shape"),
    [((64, 64), (64, 64)), ((100, 30), (64, 32)), ((30, 100), (32, 64)), ((5, 3), (64, 64))],
)
def test_a_picture_is_scaled_to_the_side_and_filled_up_to_whole_cells(
    size: tuple[int, int], shape: tuple[int, int]
) -> None:
    width, height = size
    network = Given(blank())
    tested = CenterFaceDetector(network, side_px=64, min_confidence=0.5)
    tested.detect(np.zeros((height, width, 3), np.uint8))
    assert network.shape == (1, 3, shape[1], shape[0])


numbers = st.one_of(
    st.floats(-3, 3, width=32), st.floats(width=32, allow_nan=True, allow_infinity=True)
)


@given(
    heat=arrays(np.float32, (4, 6), elements=numbers),
    rest=arrays(np.float32, (14, 4, 6), elements=numbers),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    min_score=st.floats(0.0, 1.0, width=32),
)
def test_whatever_the_network_gives_the_faces_are_in_the_picture(
    heat: np.ndarray, rest: np.ndarray, size: tuple[int, int], min_score: float
) -> None:
    maps = Maps(heat, rest[:2], rest[2:4], rest[4:])
    tested = CenterFaceDetector(Given(maps), side_px=32, min_confidence=min_score)
    width, height = size
    faces = tested.detect(np.zeros((height, width, 3), np.uint8))
    scores = [face.score for face in faces]
    assert scores == sorted(scores, reverse=True)  # type: ignore[type-var]
    for face in faces:
        assert face.box.clipped(width, height) == face.box
        assert face.box.area > 0
        assert min_score <= (face.score or 0.0) <= 1
        assert all(np.isfinite((point.x, point.y)).all() for point in face.keypoints)


def test_places_beyond_any_picture_are_left_out_without_a_warning() -> None:
    """Scaled to the picture they would overflow."""
    maps = blank(4, 6)
    maps.heat[:] = 0.9
    maps.points[:] = 1e37
    maps.points[:, 0, 0] = 0.5
    tested = CenterFaceDetector(Given(maps), side_px=32, min_confidence=0.5)
    assert len(tested.detect(np.zeros((720, 1280, 3), np.uint8))) == 1


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5)), min_size=1, max_size=8))
def test_no_two_faces_overlap_by_more_than_the_limit(cells: list[tuple[int, int]]) -> None:
    maps = blank(4, 6)
    maps.log_size[:] = np.log(2)
    for rank, (row, column) in enumerate(cells):
        maps.heat[row, column] = 0.5 + rank / 100
    every = decode(maps, min_score=0.5)
    kept = suppressed(every)
    boxes = [BoundingBox(*map(float, box)) for box in kept.boxes]
    for number, box in enumerate(boxes):
        assert all(box.iou(other) <= MAX_SUPPRESSED_IOU + 1e-6 for other in boxes[:number])
    dropped = [BoundingBox(*map(float, box)) for box in every.boxes]
    for box in dropped:
        assert any(box.iou(other) > MAX_SUPPRESSED_IOU for other in boxes)


def test_a_map_of_nothing_but_faces_is_bounded() -> None:
    maps = blank(320, 320)
    maps.heat[:] = 0.9
    assert len(decode(maps, min_score=0.0).scores) == MAX_CANDIDATES


# -- the runtime -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "installed", "expected"),
    [
        ("auto", {"onnxruntime", "cv2"}, "onnxruntime"),
        ("auto", {"cv2"}, "opencv"),
        ("opencv", {"onnxruntime", "cv2"}, "opencv"),
        ("auto", {"ai_edge_litert"}, r"hybrid-detect\[centerface\]"),
        ("opencv", {"onnxruntime"}, r"hybrid-detect\[opencv\]"),
        ("litert", {"ai_edge_litert"}, "this model runs on onnxruntime or opencv, not on 'litert'"),
    ],
)
def test_the_runtime_is_one_of_the_model_s(
    name: str, installed: set[str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtimes, "is_installed", installed.__contains__)
    if expected in RUNTIMES_FOR_ONNX:
        assert runtimes.choose_runtime(name, runtimes=SPEC.runtimes).name == expected
    else:
        with pytest.raises(ConfigurationError, match=expected):
            runtimes.choose_runtime(name, runtimes=SPEC.runtimes)


@pytest.mark.parametrize("name", ["auto", "litert"])
def test_a_runtime_of_your_own_takes_no_other_s_name(name: str) -> None:
    mine = runtimes.ModelRuntime(name=name, title="Mine", module="numpy", factory="mine:make")
    with pytest.raises(ConfigurationError, match="another runtime of that name"):
        runtimes.register_runtime(mine)
    assert RUNTIMES["litert"].title == "LiteRT"
