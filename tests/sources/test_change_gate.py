import io
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from hybrid_detect.errors import ConfigurationError
from hybrid_detect.frames.camera import CameraImage
from hybrid_detect.frames.frame import Frame
from hybrid_detect.sources.change_gate import ChangeGate

FACES = Path(__file__).parents[3] / "shared" / "faces"
FACE_PX = 40


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20)


@pytest.fixture(scope="module")
def scene() -> np.ndarray:
    """1280x720 of smooth shades with some edges; RGB."""
    y, x = np.mgrid[0:720, 0:1280]
    shades = 110 + 60 * np.sin(x / 170) * np.cos(y / 110) + 40 * ((x // 160 + y // 120) % 2)
    return np.repeat(shades.astype(np.uint8)[:, :, None], 3, axis=2)


def noisy(picture: np.ndarray, rng: np.random.Generator, sigma: float = 3.0) -> np.ndarray:
    noise = rng.standard_normal(picture.shape, dtype=np.float32) * np.float32(sigma)
    return np.clip(picture + noise + 0.5, 0, 255).astype(np.uint8)


def with_face(
    picture: np.ndarray, left: int, top: int, face: np.ndarray | None = None
) -> np.ndarray:
    """A copy with a face of 40 pixels, a drawn one unless there is a photo of one."""
    if face is None:
        y, x = np.mgrid[-1 : 1 : FACE_PX * 1j, -1 : 1 : FACE_PX * 1j]
        shades = np.where(x**2 + y**2 < 1, 190 - 40 * x, 120)
        shades[(abs(abs(x) - 0.4) < 0.15) & (abs(y + 0.2) < 0.12)] = 60
        face = np.repeat(shades.astype(np.uint8)[:, :, None], 3, axis=2)
    picture = picture.copy()
    picture[top : top + FACE_PX, left : left + FACE_PX] = face
    return picture


def is_unchanged(seen: object, new: object) -> bool:
    gate = ChangeGate()
    gate.looked_at(Frame.of(seen), now_s=0.0)
    return gate.is_unchanged(Frame.of(new), now_s=0.1)


# -- when to look --------------------------------------------------------------------------------


def test_the_first_frame_is_looked_at(scene: np.ndarray) -> None:
    assert not ChangeGate().is_unchanged(Frame.of(scene), now_s=0.0)


def test_the_same_frame_again_is_unchanged(scene: np.ndarray) -> None:
    assert is_unchanged(scene, scene)


def test_a_frame_is_looked_at_in_any_case_after_a_while(scene: np.ndarray) -> None:
    gate = ChangeGate(max_age_s=2.0)
    gate.looked_at(Frame.of(scene), now_s=10.0)
    assert gate.is_unchanged(Frame.of(scene), now_s=11.9)
    assert not gate.is_unchanged(Frame.of(scene), now_s=12.0)
    gate.looked_at(Frame.of(scene), now_s=12.0)
    assert gate.is_unchanged(Frame.of(scene), now_s=13.9)


def test_a_frame_of_another_size_is_changed(scene: np.ndarray) -> None:
    assert not is_unchanged(scene, scene[:, :-1])


def test_a_change_that_creeps_in_is_seen(scene: np.ndarray) -> None:
    gate = ChangeGate(max_age_s=100.0)
    gate.looked_at(Frame.of(scene), now_s=0.0)
    answers = []
    for number in range(1, 21):
        darker = scene.copy()
        darker[200:300, 200:300] -= np.uint8(number)
        answers.append(gate.is_unchanged(Frame.of(darker), now_s=0.1 * number))
    assert answers[0] is True
    assert answers[-1] is False
    assert answers == sorted(answers, reverse=True), "once it is seen, it stays"


def test_what_was_asked_about_is_no_reference(scene: np.ndarray) -> None:
    gate = ChangeGate()
    gate.looked_at(Frame.of(scene), now_s=0.0)
    changed = Frame.of(with_face(scene, 300, 300))
    assert [gate.is_unchanged(changed, now_s=0.1) for _ in range(2)] == [False, False]
    gate.looked_at(changed, now_s=0.1)
    assert gate.is_unchanged(changed, now_s=0.2)


def test_a_reused_buffer_is_no_trap(scene: np.ndarray) -> None:
    """Cameras write the next picture into the array of the last one."""
    buffer = scene.copy()
    gate = ChangeGate()
    gate.looked_at(Frame.of(buffer), now_s=0.0)
    buffer[:] = with_face(scene, 300, 300)
    assert not gate.is_unchanged(Frame.of(buffer), now_s=0.1)


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan")])
def test_an_age_that_makes_no_sense_is_refused(bad: float) -> None:
    with pytest.raises(ConfigurationError, match="max_age_s"):
        ChangeGate(max_age_s=bad)


# -- what counts as a change ---------------------------------------------------------------------


@pytest.mark.parametrize("sigma", [1.0, 3.0, 6.0])
def test_noise_is_no_change(scene: np.ndarray, rng: np.random.Generator, sigma: float) -> None:
    for _ in range(5):
        assert is_unchanged(noisy(scene, rng, sigma), noisy(scene, rng, sigma))


@pytest.mark.parametrize("gain", [0.99, 1.01])
def test_flicker_is_no_change(scene: np.ndarray, rng: np.random.Generator, gain: float) -> None:
    assert is_unchanged(scene, (scene * gain).astype(np.uint8))
    assert is_unchanged(noisy(scene, rng), noisy(scene * gain, rng))


def test_a_change_of_everything_is_a_change(scene: np.ndarray, rng: np.random.Generator) -> None:
    """Its own median would pass for noise."""
    assert not is_unchanged(scene, np.roll(scene, 60, axis=1))
    assert not is_unchanged(scene, scene // 2)
    assert not is_unchanged(scene, rng.integers(0, 255, scene.shape, dtype=np.uint8))


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1280 - FACE_PX), st.integers(0, 720 - FACE_PX), st.integers(0, 2**32))
def test_a_small_face_is_seen_wherever_it_appears(
    scene: np.ndarray, left: int, top: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    assert not is_unchanged(noisy(scene, rng), noisy(with_face(scene, left, top), rng))


# -- every kind of frame -------------------------------------------------------------------------


def jpeg(picture: np.ndarray, form: str = "JPEG") -> bytes:
    out = io.BytesIO()
    Image.fromarray(picture).save(out, form, quality=80)
    return out.getvalue()


def camera(picture: np.ndarray, **how: object) -> CameraImage:
    chroma = np.full(picture[:, :, 0].size // 2, 128, np.uint8)
    data = np.concatenate([picture[:, :, 1].ravel(), chroma])
    height, width = picture.shape[:2]
    return CameraImage.from_buffer(data, format="nv12", width=width, height=height, **how)


KINDS = {
    "rgb": lambda picture: picture,
    "a view": lambda picture: np.flip(picture, axis=(0, 2)),
    "grey": lambda picture: Frame.of(picture[:, :, 1], pixel_format="gray"),
    "bgra": lambda picture: Frame.of(np.insert(picture, 3, 255, axis=2), pixel_format="bgra"),
    "pillow": Image.fromarray,
    "jpeg": jpeg,
    "planes": camera,
    "turned planes": lambda picture: camera(picture, rotation=90, full_range=False),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_frame(kind: str, scene: np.ndarray, rng: np.random.Generator) -> None:
    made = KINDS[kind]
    same, other = made(noisy(scene, rng)), made(noisy(with_face(scene, 631, 347), rng))
    assert is_unchanged(made(noisy(scene, rng)), same)
    assert not is_unchanged(made(noisy(scene, rng)), other)


def test_what_would_have_to_be_decoded_whole_counts_as_changed(scene: np.ndarray) -> None:
    assert not is_unchanged(jpeg(scene, "PNG"), jpeg(scene, "PNG"))


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 2), (7, 3), (319, 321), (1081, 1923)])
def test_every_size(size: tuple[int, int]) -> None:
    grey = np.full((*size, 3), 90, np.uint8)
    assert is_unchanged(grey, grey)
    assert not is_unchanged(grey, grey + np.uint8(20))


# -- photos --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def photos() -> list[np.ndarray]:
    """Every sixth photo, at 1280x720."""
    paths = sorted([*FACES.glob("*.jpg"), *FACES.glob("*.png")])[::6]
    if not paths:
        pytest.skip("the photos of shared/faces are not there")
    return [np.asarray(Image.open(path).convert("RGB").resize((1280, 720))) for path in paths]


@pytest.fixture(scope="module")
def faces(photos: list[np.ndarray]) -> list[np.ndarray]:
    """Faces of the photos that are upright as stored, of 40 pixels."""
    found = []
    for name, label in json.loads((FACES / "labels.json").read_text())["images"].items():
        if label.get("exif_orientation", 1) == 1 and label["boxes"]:
            left, top, width, height = label["boxes"][0]
            face = (
                Image.open(FACES / name)
                .convert("RGB")
                .crop((left, top, left + width, top + height))
            )
            found.append(np.asarray(face.resize((FACE_PX, FACE_PX))))
    return found


def test_photos_with_noise_and_flicker_are_unchanged(
    photos: list[np.ndarray], rng: np.random.Generator
) -> None:
    for photo in photos:
        assert is_unchanged(noisy(photo, rng), noisy(photo, rng))
        assert is_unchanged(noisy(photo, rng), noisy(photo * 1.01, rng))


def test_a_face_that_appears_or_moves_in_a_photo_is_seen(
    photos: list[np.ndarray], faces: list[np.ndarray], rng: np.random.Generator
) -> None:
    for number, face in enumerate(faces[::2]):
        photo = photos[number % len(photos)]
        left, top = rng.integers(0, 1280 - 2 * FACE_PX), rng.integers(0, 720 - FACE_PX)
        before = noisy(with_face(photo, left, top, face), rng)
        assert not is_unchanged(noisy(photo, rng), before)
        assert not is_unchanged(before, noisy(with_face(photo, left + 12, top, face), rng))
