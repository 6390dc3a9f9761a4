"""Overlays: the newest boxes on each frame, in place, held for a while and then fading away."""

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFont

from hybrid_detect.errors import ConfigurationError, InvalidFrameError, SourceError
from hybrid_detect.frames import brush
from hybrid_detect.frames.drawing import Show
from hybrid_detect.frames.overlay import Overlay
from hybrid_detect.testing import FakeClock
from hybrid_detect.types import (
    BackendKind,
    BoundingBox,
    DetectionResult,
    DetectionStatus,
    Face,
    Keypoint,
)

FACE = Face(BoundingBox(100, 80, 220, 200), 0.93, (Keypoint("nose_tip", 160, 140),))


def result(**changes: Any) -> DetectionResult:
    fields: dict[str, Any] = {
        "status": DetectionStatus.OK,
        "width": 400,
        "height": 300,
        "faces": (FACE,),
        "backend": BackendKind.DEVICE,
        "age_s": 0.08,
    }
    return DetectionResult(**(fields | changes))


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def overlay(clock: FakeClock) -> Overlay:
    return Overlay(hold_last_s=0.5, fade_s=0.2, label=False, clock=clock)


def grey(value: int = 99, *shape: int) -> np.ndarray:
    return np.full(shape or (300, 400, 3), value, np.uint8)


def strength(overlay: Overlay) -> float:
    """How far the upper edge of the box differs from the picture."""
    drawn = overlay.draw(grey())
    return float(np.abs(drawn[80, 110:210].astype(int) - 99).max())


def test_an_array_is_drawn_on_in_place(overlay: Overlay) -> None:
    array = grey()
    assert overlay.draw(array, result()) is array
    assert (array[80, 160] == (64, 255, 96)).all()
    assert (array[100:130, 110:140] == 99).all()


def test_without_a_result_nothing_is_drawn(overlay: Overlay) -> None:
    assert (overlay.draw(grey()) == 99).all()
    assert (Overlay().draw(grey()) == 99).all()


def test_boxes_are_held_then_fade_and_are_gone(overlay: Overlay, clock: FakeClock) -> None:
    overlay.draw(grey(), result())
    seen = []
    for _ in range(8):
        seen.append(round(overlay.opacity, 3))
        clock.advance(0.1)
    assert seen == [1, 1, 1, 1, 1, 1, 0.5, 0]
    assert overlay.faces(400, 300) == ()


def test_a_box_that_fades_is_fainter_and_no_other(overlay: Overlay, clock: FakeClock) -> None:
    overlay.update(result())
    full = strength(overlay)
    clock.advance(0.6)
    half = strength(overlay)
    assert half == pytest.approx(full / 2, abs=2)


def test_a_new_result_replaces_the_boxes_at_once(overlay: Overlay, clock: FakeClock) -> None:
    overlay.update(result())
    clock.advance(0.6)
    moved = Face(BoundingBox(10, 10, 50, 60))
    drawn = overlay.draw(grey(), result(faces=(moved,)))
    assert (drawn[80, 110:210] == 99).all()
    assert (drawn[10, 30] == (64, 255, 96)).all()
    assert (overlay.draw(grey(), result(faces=())) == 99).all()


@pytest.mark.parametrize("status", [DetectionStatus.FAILED, DetectionStatus.SKIPPED])
def test_what_could_not_be_looked_at_leaves_the_boxes_to_fade(
    overlay: Overlay, clock: FakeClock, status: DetectionStatus
) -> None:
    overlay.update(result())
    clock.advance(0.45)
    overlay.update(result(status=status, faces=()))
    assert overlay.opacity == 1
    clock.advance(0.2)
    assert 0 < overlay.opacity < 1


def test_the_label_tells_backend_status_and_age_or_the_trouble(clock: FakeClock) -> None:
    overlay = Overlay(clock=clock)
    assert overlay.label == ""
    overlay.update(result())
    clock.advance(0.1)
    assert overlay.label == "device | ok | 180 ms old"
    error = SourceError("the camera was lost")
    overlay.update(result(status=DetectionStatus.FAILED, faces=(), error=error))
    assert overlay.label == "could not look: the camera was lost"
    clock.advance(10)
    assert not (overlay.draw(grey())[280:] == 99).all(), "trouble does not fade away"
    overlay.update(result())
    assert overlay.label == "device | ok | 80 ms old"
    overlay.clear()
    assert overlay.label == ""


@pytest.mark.parametrize(
    ("pixel_format", "shape", "expected"),
    [
        ("rgb", (300, 400, 3), (64, 255, 96)),
        ("bgr", (300, 400, 3), (96, 255, 64)),
        ("rgba", (300, 400, 4), (64, 255, 96, 255)),
        ("bgra", (300, 400, 4), (96, 255, 64, 255)),
        ("gray", (300, 400), (180,)),
        ("gray", (300, 400, 1), (180,)),
    ],
)
def test_every_order_of_channels(
    overlay: Overlay, pixel_format: str, shape: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    array = grey(99, *shape)
    overlay.draw(array, result(), pixel_format=pixel_format)
    assert tuple(np.atleast_1d(array[80, 160])) == expected


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
def test_a_pillow_image_is_drawn_on(overlay: Overlay, mode: str) -> None:
    picture = Image.new(mode, (400, 300))
    assert overlay.draw(picture, result()) is picture
    assert picture.mode == mode
    assert np.asarray(picture.convert("L"))[80, 160] > 100


def test_a_view_with_gaps_is_drawn_on(overlay: Overlay) -> None:
    whole = np.full((600, 800, 3), 99, np.uint8)
    overlay.draw(whole[::2, ::2], result())
    assert (whole[160, 320] == (64, 255, 96)).all()
    assert (whole[1::2] == 99).all()


def test_faces_are_scaled_to_frames_of_another_size_and_mirrored(clock: FakeClock) -> None:
    overlay = Overlay(mirror=True, clock=clock)
    overlay.update(result())
    (face,) = overlay.faces(800, 600)
    assert face.box.xyxy == (360, 160, 600, 400)
    assert (face.keypoints[0].x, face.keypoints[0].y) == (480, 280)


def test_scores_and_points_can_be_left_out(clock: FakeClock) -> None:
    plain = Overlay(score=False, keypoints=False, label=False, clock=clock).draw(grey(), result())
    assert (plain[90:190, 110:210] == 99).all()
    assert (plain[:70] == 99).all()
    pointed = Overlay(score=False, label=False, clock=clock).draw(grey(), result())
    assert not (pointed[130:150, 150:170] == 99).all()


def test_what_cannot_be_drawn_on_is_refused(overlay: Overlay) -> None:
    constant = grey()
    constant.flags.writeable = False
    for picture in (constant, grey().astype(float), np.zeros((3, 3), np.uint8)):
        with pytest.raises(InvalidFrameError):
            overlay.draw(picture, result())
    with pytest.raises(InvalidFrameError, match="got P"):
        overlay.draw(Image.new("P", (9, 9)), result())
    with pytest.raises(InvalidFrameError, match="multiply by 255"):
        overlay.draw(np.zeros((9, 9, 3), np.float32), result())
    closed = Image.new("RGB", (9, 9))
    closed.close()
    written = io.BytesIO()
    Image.effect_noise((90, 90), 50).save(written, "JPEG")
    for picture in (
        closed,
        Image.open(io.BytesIO(written.getvalue()[:500])),
        np.zeros((0, 9, 3), np.uint8),
        [[1, 2, 3]],
    ):
        with pytest.raises(InvalidFrameError):
            overlay.draw(picture, result())
    for bad in ({"hold_last_s": -1}, {"fade_s": float("nan")}):
        with pytest.raises(ConfigurationError):
            Overlay(**bad)


@pytest.mark.parametrize(
    "frame",
    [
        np.zeros((9, 9, 3), np.float32),
        np.zeros(9, np.uint8),
        np.zeros((9, 0, 3), np.uint8),
        np.zeros((2, 9, 9, 3), np.uint8),
        Image.new("RGB", (9, 9)),
    ],
)
def test_what_cannot_be_seen_is_refused_with_and_without_following(frame: Any) -> None:
    for overlay in (Overlay(), Overlay(follow=False)):
        with pytest.raises(InvalidFrameError):
            overlay.see(frame)


def test_a_pillow_without_freetype_has_letters_too(
    overlay: Overlay, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_default = ImageFont.load_default

    def of_one_size(size: float | None = None) -> Any:
        if size is not None:
            raise ImportError("The _imagingft C module is not installed")
        monkeypatch.setattr(ImageFont, "load_default", load_default)
        return ImageFont.load_default_imagefont()

    monkeypatch.setattr(ImageFont, "load_default", of_one_size)
    brush._font.cache_clear()
    try:
        overlay.show = Show(label=True)
        failed = result(status=DetectionStatus.FAILED, faces=(), reason="caf\u00e9 \u65e5\u672c")
        drawn = overlay.draw(grey(), failed)
        assert not (drawn[280:] == 99).all()
    finally:
        brush._font.cache_clear()
        brush.text_size.cache_clear()
        brush._text_mask.cache_clear()


# -- faces that move between two answers ---------------------------------------------------------


@pytest.fixture(scope="module")
def scene() -> np.ndarray:
    """Smooth shades with edges, and sensor noise to come."""
    y, x = np.mgrid[0:480, 0:1280]
    shades = 110 + 50 * np.sin(x / 23) * np.cos(y / 19) + 30 * ((x // 37 + y // 29) % 2)
    return np.repeat(shades.astype(np.uint8)[:, :, None], 3, axis=2)


def view(scene: np.ndarray, left: int, top: int = 0) -> np.ndarray:
    noise = np.random.default_rng(left).normal(0, 3, (360, 640, 1))
    return (scene[top : top + 360, left : left + 640] + noise).clip(0, 255).astype(np.uint8)


def at(box: tuple[float, float, float, float], captured_at_s: float) -> DetectionResult:
    return result(
        width=640, height=360, faces=(Face(BoundingBox(*box)),), captured_at_s=captured_at_s
    )


@pytest.mark.parametrize("speed", [0, 3, 8, -8])
def test_boxes_follow_their_faces(scene: np.ndarray, clock: FakeClock, speed: int) -> None:
    """The camera pans; the answer is about the third of nine frames."""
    overlay = Overlay(label=False, score=False, hold_last_s=9, clock=clock)
    for number in range(9):
        answer = at((300, 120, 390, 230), 0.1 * 2) if number == 5 else None
        frame = view(scene, 300 + speed * number)
        overlay.draw(frame, answer, captured_at_s=0.1 * number)
    (face,) = overlay.faces(640, 360)
    assert face.box.x_min == pytest.approx(300 - 6 * speed, abs=2)
    assert face.box.y_min == pytest.approx(120, abs=2)
    assert (face.box.width, face.box.height) == pytest.approx((90, 110))


def test_a_frame_of_another_time_than_the_answer_s_is_not_searched(
    scene: np.ndarray, clock: FakeClock
) -> None:
    overlay = Overlay(hold_last_s=9, clock=clock)
    overlay.draw(view(scene, 300), at((300, 120, 390, 230), 500.0), captured_at_s=1.0)
    overlay.draw(view(scene, 320), captured_at_s=1.1)
    (face,) = overlay.faces(640, 360)
    assert face.box.xyxy == (300, 120, 390, 230)


def test_what_shows_something_else_leaves_boxes_where_they_were(
    scene: np.ndarray, clock: FakeClock
) -> None:
    overlay = Overlay(label=False, hold_last_s=9, clock=clock)
    overlay.draw(view(scene, 300), at((300, 120, 390, 230), 1.0), captured_at_s=1.0)
    other = np.random.default_rng(5).integers(0, 255, (360, 640, 3), np.uint8)
    overlay.draw(other, captured_at_s=1.1)
    (face,) = overlay.faces(640, 360)
    assert face.box.xyxy == (300, 120, 390, 230)


def test_another_camera_is_not_searched_for_the_last_one_s_faces(
    scene: np.ndarray, clock: FakeClock
) -> None:
    overlay = Overlay(label=False, hold_last_s=9, clock=clock)
    overlay.draw(view(scene, 300), captured_at_s=1.0)
    overlay.clear()
    overlay.draw(view(scene, 308), at((300, 120, 390, 230), 1.0), captured_at_s=1.1)
    (face,) = overlay.faces(640, 360)
    assert face.box.xyxy == (300, 120, 390, 230)


def test_a_crowd_goes_with_its_largest_faces(scene: np.ndarray, clock: FakeClock) -> None:
    overlay = Overlay(label=False, score=False, hold_last_s=9, clock=clock)
    faces = tuple(Face(BoundingBox(60 + 45 * n, 100, 96 + 45 * n, 140)) for n in range(12))
    crowd = result(width=640, height=360, faces=faces, captured_at_s=0.0)
    overlay.draw(view(scene, 300), crowd, captured_at_s=0.0)
    overlay.draw(view(scene, 308), captured_at_s=0.03)
    left = sorted(face.box.x_min for face in overlay.faces(640, 360))
    assert left == pytest.approx([52 + 45 * n for n in range(12)], abs=2)


def test_a_view_of_another_size_starts_anew(scene: np.ndarray, clock: FakeClock) -> None:
    overlay = Overlay(label=False, hold_last_s=9, clock=clock)
    overlay.draw(view(scene, 300), at((300, 120, 390, 230), 1.0), captured_at_s=1.0)
    overlay.draw(np.ascontiguousarray(view(scene, 300)[::2, ::2]), captured_at_s=1.1)
    assert [face.box.xyxy for face in overlay.faces(640, 360)] == [(300, 120, 390, 230)]


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (200, 3), (40, 30)])
def test_any_size_can_be_drawn_on(size: tuple[int, int], clock: FakeClock) -> None:
    overlay = Overlay(clock=clock)
    overlay.draw(np.zeros((size[1], size[0], 3), np.uint8), result())
    clock.advance(0.7)
    overlay.draw(np.zeros((size[1], size[0], 3), np.uint8))
