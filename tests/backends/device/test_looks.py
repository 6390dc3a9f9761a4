"""Looking again at one picture: turned, in tiles, and only where its deadline leaves the time."""

from __future__ import annotations

import io
import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from hybrid_detect.backends.device import engine as engine_module
from hybrid_detect.backends.device.engine import Engine
from hybrid_detect.backends.device.looks import (
    FURTHER_CONFIDENCE,
    OVERLAP,
    affordable,
    count,
    faces_at,
    longest_tile_px,
    tiles,
)
from hybrid_detect.backends.device.memory_guard import MemoryGuard
from hybrid_detect.backends.device.models import MODELS, load_model
from hybrid_detect.backends.device.on_device import OnDeviceDetectionService
from hybrid_detect.backends.device.runtimes import RUNTIMES, make_detector
from hybrid_detect.config import ServiceConfig
from hybrid_detect.errors import ConfigurationError, ModelError
from hybrid_detect.extras import is_installed
from hybrid_detect.frames.frame import Frame
from hybrid_detect.system.memory_probe import MemoryReading
from hybrid_detect.types import BoundingBox, Face, Keypoint, QualityLevel

from ...benchmark_modules import benchmark_module
from .service_support import ASTRONAUT_FACE

FAST, HIGH, MAX = QualityLevel
PLENTY = MemoryReading(process_bytes=2**20, available_bytes=2**33, bound_by="system")

FACE, CHIN = 200, 90


class Eye:
    """Sees a marker of value `FACE` above a part of value `CHIN`: upright, whole and large enough.

    Args:
        smallest: The least height of a marker, as a share of the picture's longer side.
        score: Of what it sees.
    """

    def __init__(self, smallest: float = 0.0, score: float = 0.9) -> None:
        self.smallest = smallest
        self.score = score
        self.looks = 0

    def __call__(self, image: np.ndarray) -> tuple[Face, ...]:
        assert image.flags.c_contiguous
        self.looks += 1
        plane = image[:, :, 0]
        rows, columns = np.nonzero(plane == FACE)
        low_rows, _ = np.nonzero(plane == CHIN)
        if not rows.size or not low_rows.size or rows.max() >= low_rows.min():
            return ()
        top, bottom = int(rows.min()), int(low_rows.max()) + 1
        left, right = int(columns.min()), int(columns.max()) + 1
        if bottom - top < self.smallest * max(plane.shape):
            return ()
        box = BoundingBox(left, top, right, bottom)
        return (Face(box, self.score, (Keypoint("right_eye", left, top),)),)


def picture(width: int, height: int, box: BoundingBox) -> np.ndarray:
    """A black picture with one marker whose lower half is its chin."""
    left, top, right, bottom = map(int, box.xyxy)
    image = np.zeros((height, width, 3), np.uint8)
    image[top:bottom, left:right] = FACE
    image[(top + bottom) // 2 : bottom, left:right] = CHIN
    return image


# -- turned ----------------------------------------------------------------------------------


@given(
    quarters=st.integers(1, 3),
    left=st.integers(0, 20),
    top=st.integers(0, 30),
    size=st.tuples(st.integers(1, 9), st.integers(2, 9)),
)
def test_a_turned_face_is_told_where_it_is(
    quarters: int, left: int, top: int, size: tuple[int, int]
) -> None:
    upright = picture(30, 40, BoundingBox(left, top, left + size[0], top + size[1]))
    turned = np.ascontiguousarray(np.rot90(upright, -quarters))
    rows, columns = np.nonzero(turned[:, :, 0])
    place = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    eye = Eye()
    assert faces_at(FAST, eye, turned) == ()
    (face,) = faces_at(HIGH, eye, turned)
    assert face.box.xyxy == pytest.approx(place)
    point = face.keypoints[0]
    corners = itertools.product((place[0], place[2]), (place[1], place[3]))
    assert (point.x, point.y) in [tuple(map(float, corner)) for corner in corners]
    assert eye.looks == 1 + 4


def test_a_picture_that_shows_a_face_is_not_turned() -> None:
    eye = Eye()
    assert len(faces_at(HIGH, eye, picture(30, 40, BoundingBox(3, 3, 9, 9)))) == 1
    assert eye.looks == 1


@pytest.mark.parametrize("level", [HIGH, MAX])
def test_a_face_that_a_further_look_is_not_sure_of_is_left_out(level: QualityLevel) -> None:
    sideways = np.ascontiguousarray(np.rot90(picture(30, 40, BoundingBox(3, 3, 9, 9))))
    assert faces_at(level, Eye(score=FURTHER_CONFIDENCE - 0.01), sideways) == ()
    assert faces_at(level, Eye(score=FURTHER_CONFIDENCE), sideways) != ()


# -- in tiles --------------------------------------------------------------------------------


@given(width=st.integers(1, 3000), height=st.integers(1, 3000))
def test_tiles_cover_the_picture_and_show_what_is_small_whole(width: int, height: int) -> None:
    if max(width, height) > 30 * min(width, height):
        return
    found = tiles(width, height)
    side = longest_tile_px(width, height)
    covered = np.zeros((height // 8 + 1, width // 8 + 1), bool)
    for left, top, right, bottom in found:
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height
        covered[top // 8 : bottom // 8 + 1, left // 8 : right // 8 + 1] = True
    assert covered.all()
    small = max(1, int(OVERLAP * side) - 2)
    for starts, length in (
        ({(left, right) for left, _, right, _ in found}, width),
        ({(top, bottom) for _, top, _, bottom in found}, height),
    ):
        for at in range(0, max(length - small, 1), max(length // 50, 1)):
            assert any(start <= at and at + small <= end for start, end in starts)


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (3, 2), (1280, 720), (640, 640)])
def test_looks_are_counted_as_they_are_taken(size: tuple[int, int]) -> None:
    assert count(QualityLevel.MAX, *size) == 4 + len(tiles(*size))


def test_a_line_of_pixels_is_counted_without_listing_its_tiles() -> None:
    """Which took half a minute and 0.6 GB of the app's memory."""
    width = 10**15  # no list has so many
    assert count(QualityLevel.MAX, width, 1) > width
    assert affordable(QualityLevel.MAX, width, 1, look_s=0.006, left_s=5.0) is QualityLevel.HIGH


def test_a_720p_frame_has_eight_tiles() -> None:
    assert len(tiles(1280, 720)) == len(tiles(720, 1280)) == 8
    assert [count(level, 1280, 720) for level in QualityLevel] == [1, 4, 12]


@given(left=st.integers(0, 1240), top=st.integers(0, 680))
def test_a_small_face_is_found_in_a_tile_where_it_is(left: int, top: int) -> None:
    box = BoundingBox(left, top, left + 40, top + 40)
    image = picture(1280, 720, box)
    eye = Eye(smallest=0.05)  # 64 pixels of the whole picture, 21 of a tile
    assert faces_at(HIGH, eye, image) == ()
    (face,) = faces_at(MAX, eye, image)
    assert face.box == box
    assert (face.keypoints[0].x, face.keypoints[0].y) == (left, top)


def test_a_face_that_several_looks_see_is_told_once_and_a_part_of_one_never() -> None:
    image = picture(1280, 720, BoundingBox(300, 100, 640, 400))
    (face,) = faces_at(MAX, Eye(), image)
    assert face.box == BoundingBox(300, 100, 640, 400)


# -- the time --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "look_s", "left_s", "level"),
    [
        (FAST, 0.001, 10.0, FAST),
        (MAX, 0.005, 1.0, MAX),  # 12 looks of 5 ms are within half of a second
        (MAX, 0.05, 1.0, HIGH),  # 12 of 50 ms are not, 4 are
        (MAX, 0.2, 1.0, FAST),
        (HIGH, 0.05, 1.0, HIGH),
        (HIGH, 0.001, 10.0, HIGH),
        (MAX, 0.005, 0.01, FAST),
        (MAX, 0.005, -1.0, FAST),
    ],
)
def test_further_looks_are_taken_where_they_end_in_time(
    asked: QualityLevel, look_s: float, left_s: float, level: QualityLevel
) -> None:
    assert affordable(asked, 1280, 720, look_s=look_s, left_s=left_s) is level


class Timed:
    """A detector that tells how thoroughly it was asked to look."""

    has_process = False
    asked_since_s = None
    runs_on = "nothing"
    look_s = 0.01

    def __init__(self) -> None:
        self.levels: list[QualityLevel] = []

    def start(self) -> None:
        """It needs no start."""

    def detect_frame(self, _frame: Frame, level: QualityLevel) -> tuple[()]:
        self.levels.append(level)
        return ()

    def kill(self) -> None:
        """It cannot be killed."""

    close = kill


@pytest.mark.anyio
async def test_the_deadline_decides_how_thoroughly_a_frame_is_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(engine_module.time, "monotonic", lambda: 100.0)
    detector: Any = Timed()
    engine = Engine(
        "short_range",
        lambda *_: detector,
        idle_s=None,
        guard=MemoryGuard(read=lambda: PLENTY),
        quality=MAX,
    )
    frame = Frame.of(np.zeros((720, 1280, 3), np.uint8))
    for left_s in (1.0, 0.1, 0.05):  # the measured look of 10 ms decides until there is another
        detection = await engine.detect(frame, 100.0 + left_s, when_done=lambda: None)
        assert detection.level is detector.levels[-1]
    await engine.aclose()
    assert detector.levels == [MAX, HIGH, FAST]


# -- with the models -------------------------------------------------------------------------


def runtime_of(model: str) -> str:
    for name in MODELS[model].runtimes:
        if is_installed(RUNTIMES[name].module):
            return name
    pytest.skip(f"nothing that runs {model} is installed")


def content(model: str) -> bytes:
    try:
        return load_model(model)
    except ModelError as error:
        pytest.skip(f"no model to be had: {error}")


@pytest.mark.device
@pytest.mark.anyio
@pytest.mark.parametrize("runtime", MODELS["full_range"].runtimes)
@pytest.mark.parametrize("isolation", ["process", "none"])
@pytest.mark.parametrize("is_encoded", [False, True], ids=["pixels", "JPEG"])
async def test_the_device_finds_a_small_face_in_tiles(
    runtime: str, isolation: str, is_encoded: bool, astronaut: np.ndarray
) -> None:
    content("full_range")
    if not is_installed(RUNTIMES[runtime].module):
        pytest.skip(f"{runtime} is not installed")
    wide = np.full((720, 1280, 3), 90, np.uint8)
    small = np.asarray(Image.fromarray(astronaut).resize((200, 200)))
    wide[300:500, 250:450] = small  # its face has 45 pixels
    scale = 200 / 512
    there = ASTRONAUT_FACE.scaled(scale, scale)
    place = BoundingBox(there.x_min + 250, there.y_min + 300, there.x_max + 250, there.y_max + 300)
    image: Any = wide
    if is_encoded:
        out = io.BytesIO()
        Image.fromarray(wide).save(out, "JPEG", quality=92)
        image = out.getvalue()
    options = {"model": "full_range", "runtime": runtime, "isolation": isolation}
    async with OnDeviceDetectionService(**options, quality="max") as device:
        result = await device.process_image(image, deadline_s=30)
    assert (result.quality, result.min_face_px) == ("max", pytest.approx(30))
    assert any(face.box.iou(place) > 0.5 for face in result.faces)


@pytest.mark.device
@pytest.mark.timeout(240)
def test_tiles_double_what_full_range_finds_in_the_photos() -> None:
    scores = benchmark_module("photo_scores")
    photos = scores.photos()[1::2]
    if not photos:
        pytest.skip(f"the labelled photos are not in {scores.FOLDER}")
    detector = make_detector(runtime_of("full_range"), content("full_range"), min_confidence=0.5)
    once, tiled = scores.Score(), scores.Score()
    for photo in photos:
        frame = Frame.of(photo.path)
        pixels = np.ascontiguousarray(frame.pil(max_side_px=1280).convert("RGB"))
        height, width = pixels.shape[:2]
        for score, level in ((once, FAST), (tiled, MAX)):
            faces = scores.scaled(faces_at(level, detector.detect, pixels), photo, width, height)
            score.add(photo, faces)
            assert photo.boxes or not faces, f"a face in {photo.path.name}, which shows none"
    assert once.wanted > 50
    assert tiled.recall >= 1.8 * once.recall, f"{once}; {tiled}"
    assert tiled.precision >= 0.9


@pytest.mark.device
@pytest.mark.timeout(240)
def test_photos_that_lie_on_their_side_show_faces_at_a_second_look() -> None:
    """A whole photo turned, as by a camera that tells no orientation: recall before and after."""
    scores = benchmark_module("photo_scores")
    photos = [photo for photo in scores.photos() if 0 < len(photo.boxes) <= 3]
    if not photos:
        pytest.skip(f"the labelled photos are not in {scores.FOLDER}")
    detector = make_detector(
        runtime_of("centerface"), content("centerface"), min_confidence=0.45, side_px=640
    )
    found = {FAST: 0, HIGH: 0}
    for photo, quarters in zip(photos, itertools.cycle((1, 2, 3)), strict=False):
        upright = np.asarray(Frame.of(photo.path).pil(max_side_px=640).convert("RGB"))
        turned = np.ascontiguousarray(np.rot90(upright, quarters))
        for level in found:
            found[level] += len(faces_at(level, detector.detect, turned))
    faces = sum(len(photo.boxes) for photo in photos)
    assert found[HIGH] >= 0.6 * faces
    assert found[HIGH] >= 1.3 * found[FAST]


def test_a_level_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="fast, high, max, got 'ultra'"):
        ServiceConfig(device_quality="ultra")
