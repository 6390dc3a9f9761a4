"""What every way of detecting promises, whoever looks: subclass, say how one is made, done."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hybrid_detect.backends.base import Backend
from hybrid_detect.errors import (
    BackendError,
    BackendTimeoutError,
    ClosedError,
    InvalidFrameError,
    SupersededError,
)
from hybrid_detect.frames.camera import CameraImage
from hybrid_detect.frames.frame import Frame
from hybrid_detect.types import (
    BackendKind,
    BoundingBox,
    DetectionResult,
    DetectionStatus,
    Plan,
)

__all__ = ["ASTRONAUT_FACE", "BackendContract"]

ASTRONAUT_FACE = BoundingBox(177, 82, 272, 177)
"""In the pixels of the `astronaut` fixture."""

DEADLINE_S = 20.0
"""Generous: what is tested is the answer, not its speed."""


def plan(backend: Backend, deadline_s: float = DEADLINE_S) -> Plan:
    return Plan(backend=backend.kind, reason="the contract asks", deadline_s=deadline_s)


def assert_is_the_astronaut(result: DetectionResult, box: BoundingBox = ASTRONAUT_FACE) -> None:
    assert result.status is DetectionStatus.OK
    assert result.faces
    assert result.faces[0].box.iou(box) >= 0.5


def assert_in_the_picture(result: DetectionResult) -> None:
    for face in result.faces:
        x_min, y_min, x_max, y_max = face.box.xyxy
        assert 0 <= x_min < x_max <= result.width
        assert 0 <= y_min < y_max <= result.height


def encoded(picture: Image.Image, format_: str, **options: Any) -> bytes:
    out = io.BytesIO()
    picture.save(out, format_, **options)
    return out.getvalue()


def as_jpeg(astronaut: np.ndarray, _: Path) -> tuple[Any, dict[str, Any]]:
    return encoded(Image.fromarray(astronaut), "JPEG", quality=90), {}


def as_png(astronaut: np.ndarray, _: Path) -> tuple[Any, dict[str, Any]]:
    return encoded(Image.fromarray(astronaut), "PNG"), {}


def as_path(astronaut: np.ndarray, folder: Path) -> tuple[Any, dict[str, Any]]:
    path = folder / "astronaut.jpg"
    Image.fromarray(astronaut).save(path, quality=90)
    return path, {}


def as_bgr(astronaut: np.ndarray, _: Path) -> tuple[Any, dict[str, Any]]:
    return astronaut[:, :, ::-1], {"pixel_format": "bgr"}


def as_pil(astronaut: np.ndarray, _: Path) -> tuple[Any, dict[str, Any]]:
    return Image.fromarray(astronaut), {}


def as_nv21(astronaut: np.ndarray, _: Path) -> tuple[Any, dict[str, Any]]:
    ycc = np.asarray(Image.fromarray(astronaut).convert("YCbCr"))
    height, width = ycc.shape[:2]
    chroma = np.empty((height // 2, width // 2, 2), dtype=np.uint8)
    chroma[:, :, 0] = ycc[::2, ::2, 2]
    chroma[:, :, 1] = ycc[::2, ::2, 1]
    planes = ycc[:, :, 0].tobytes() + chroma.tobytes()
    return CameraImage.from_buffer(planes, format="nv21", width=width, height=height), {}


def as_exif_rotated_jpeg(astronaut: np.ndarray, _: Path) -> tuple[Any, dict[str, Any]]:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees clockwise
    lying = Image.fromarray(astronaut).transpose(Image.Transpose.ROTATE_90)
    return encoded(lying, "JPEG", quality=90, exif=exif), {}


INPUTS = [as_jpeg, as_png, as_path, as_bgr, as_pil, as_nv21, as_exif_rotated_jpeg]


class BackendContract:
    """Subclasses give a fixture `options`, the keyword arguments of `make`, if they need any."""

    @pytest.fixture
    def options(self) -> dict[str, Any]:
        """Keyword arguments for `make`."""
        return {}

    def make(self, **options: Any) -> Backend:
        """A new backend."""
        raise NotImplementedError

    @pytest.fixture
    async def backend(self, options: dict[str, Any]) -> AsyncIterator[Backend]:
        """A backend that is ready."""
        async with self.make(**options) as backend:
            await backend.check(deadline_s=DEADLINE_S)
            yield backend

    # ---- answers

    async def test_finds_the_face(self, backend: Backend, astronaut: np.ndarray) -> None:
        result = await backend.detect(Frame.of(astronaut), plan(backend))
        assert_is_the_astronaut(result)
        assert_in_the_picture(result)

    async def test_says_who_looked_when_and_at_what(
        self, backend: Backend, astronaut: np.ndarray
    ) -> None:
        frame = Frame.of(astronaut[:400])
        result = await backend.detect(frame, plan(backend))
        assert result.answered
        assert result.backend is backend.kind
        assert (result.width, result.height) == (512, 400)
        assert result.frame_id == frame.frame_id
        assert result.model
        assert result.reason == "the contract asks"
        assert 0 < result.age_s < DEADLINE_S
        assert 0 <= result.timings.total_s <= result.age_s
        assert result.timings.detect_s is not None
        assert result.attempts == ()
        assert result.error is None
        assert (result.bytes_sent == 0) == (backend.kind is BackendKind.DEVICE)
        scores = [face.score for face in result.faces]
        assert all(score is not None and 0 <= score <= 1 for score in scores)
        result.to_json()

    async def test_the_age_counts_from_the_capture(
        self, backend: Backend, astronaut: np.ndarray
    ) -> None:
        fresh = Frame.of(astronaut)
        old = Frame.of(astronaut, captured_at_s=fresh.captured_at_s - 100)
        assert 100 <= (await backend.detect(old, plan(backend))).age_s < 100 + DEADLINE_S

    async def test_finds_the_face_in_a_large_picture_at_its_own_coordinates(
        self, backend: Backend, astronaut: np.ndarray
    ) -> None:
        large = np.asarray(Image.fromarray(astronaut).resize((2048, 1536)))
        result = await backend.detect(Frame.of(large), plan(backend))
        assert (result.width, result.height) == (2048, 1536)
        assert_is_the_astronaut(result, ASTRONAUT_FACE.scaled(4, 3))

    @pytest.mark.parametrize("as_input", INPUTS)
    async def test_finds_the_face_in_any_kind_of_input(
        self, backend: Backend, astronaut: np.ndarray, tmp_path: Path, as_input: Any
    ) -> None:
        image, options = as_input(astronaut, tmp_path)
        result = await backend.process_image(image, deadline_s=DEADLINE_S, **options)
        assert (result.width, result.height) == (512, 512)
        assert_is_the_astronaut(result)

    async def test_nobody_there_is_an_answer(self, backend: Backend) -> None:
        result = await backend.detect(
            Frame.of(np.zeros((240, 320, 3), dtype=np.uint8)), plan(backend)
        )
        assert result.status is DetectionStatus.OK
        assert result.answered
        assert result.faces == ()
        assert result.to_dict()["faces"] == []

    @pytest.mark.parametrize(
        ("width", "height"), [(1, 1), (17, 9), (3000, 200), (200, 3000), (2, 1000)]
    )
    async def test_answers_for_odd_sizes(self, backend: Backend, width: int, height: int) -> None:
        picture = np.random.default_rng(1).integers(0, 255, (height, width, 3), dtype=np.uint8)
        result = await backend.detect(Frame.of(picture), plan(backend))
        assert result.answered
        assert (result.width, result.height) == (width, height)
        assert_in_the_picture(result)

    # ---- failures

    @pytest.mark.parametrize("deadline_s", [0.0, 1e-6])
    async def test_a_missed_deadline_is_a_timeout_and_the_next_frame_is_answered(
        self, backend: Backend, astronaut: np.ndarray, deadline_s: float
    ) -> None:
        with pytest.raises(BackendTimeoutError) as caught:
            await backend.detect(Frame.of(astronaut), plan(backend, deadline_s))
        assert caught.value.backend == backend.kind.value
        assert caught.value.deadline_s == deadline_s
        assert isinstance(caught.value, TimeoutError)
        assert_is_the_astronaut(await backend.detect(Frame.of(astronaut), plan(backend)))

    async def test_what_is_no_image_is_refused_and_the_next_frame_is_answered(
        self, backend: Backend, astronaut: np.ndarray
    ) -> None:
        damaged = bytearray(encoded(Image.fromarray(astronaut), "PNG"))
        damaged[len(damaged) // 2] ^= 0xFF
        for bad in (b"no picture", bytes(damaged), np.zeros((0, 3, 3), dtype=np.uint8), None):
            with pytest.raises(InvalidFrameError):
                await backend.process_image(bad, deadline_s=DEADLINE_S)
        assert_is_the_astronaut(await backend.detect(Frame.of(astronaut), plan(backend)))

    async def test_frames_at_once_are_answered_or_superseded_and_the_newest_is_answered(
        self, backend: Backend, astronaut: np.ndarray
    ) -> None:
        frames = [Frame.of(astronaut) for _ in range(6)]
        answers = await asyncio.gather(
            *(backend.detect(frame, plan(backend)) for frame in frames), return_exceptions=True
        )
        for frame, answer in zip(frames, answers, strict=True):
            if isinstance(answer, SupersededError):
                assert not answer.retryable
                assert answer.backend == backend.kind.value
            else:
                assert isinstance(answer, DetectionResult), answer
                assert answer.frame_id == frame.frame_id
                assert_is_the_astronaut(answer)
        assert isinstance(answers[-1], DetectionResult)

    @pytest.mark.parametrize("pause_s", [0.0, 0.003])
    async def test_a_cancelled_call_ends_cancelled_and_the_next_frame_is_answered(
        self, backend: Backend, astronaut: np.ndarray, pause_s: float
    ) -> None:
        call = asyncio.create_task(backend.detect(Frame.of(astronaut), plan(backend)))
        await asyncio.sleep(pause_s)  # anywhere in the call will do: it may even have ended
        if call.cancel():
            with pytest.raises(asyncio.CancelledError):
                await call
        assert_is_the_astronaut(await backend.detect(Frame.of(astronaut), plan(backend)))

    # ---- opening and closing

    async def test_the_first_frame_needs_no_check(
        self, options: dict[str, Any], astronaut: np.ndarray
    ) -> None:
        async with self.make(**options) as backend:
            assert_is_the_astronaut(await backend.detect(Frame.of(astronaut), plan(backend)))

    async def test_starting_twice_is_starting_once(
        self, backend: Backend, astronaut: np.ndarray
    ) -> None:
        await backend.start()
        await backend.check(deadline_s=DEADLINE_S)
        assert backend.unavailable_reason == ""
        assert_is_the_astronaut(await backend.detect(Frame.of(astronaut), plan(backend)))

    async def test_closed_is_closed(self, backend: Backend, astronaut: np.ndarray) -> None:
        await backend.aclose()
        await backend.aclose()
        with pytest.raises(ClosedError):
            await backend.detect(Frame.of(astronaut), plan(backend))
        with pytest.raises(ClosedError):
            await backend.check(deadline_s=1)

    async def test_closing_without_having_started_is_fine(self, options: dict[str, Any]) -> None:
        backend = self.make(**options)
        await backend.aclose()
        await backend.aclose()

    async def test_closing_ends_the_calls_under_way(
        self, backend: Backend, astronaut: np.ndarray
    ) -> None:
        calls = [
            asyncio.create_task(backend.detect(Frame.of(astronaut), plan(backend)))
            for _ in range(3)
        ]
        await asyncio.sleep(0)
        async with asyncio.timeout(DEADLINE_S / 2):
            await backend.aclose()
            answers = await asyncio.gather(*calls, return_exceptions=True)
        for answer in answers:
            assert isinstance(answer, DetectionResult | ClosedError | BackendError), answer

    async def test_two_side_by_side_do_not_touch_each_other(
        self, backend: Backend, options: dict[str, Any], astronaut: np.ndarray
    ) -> None:
        async with self.make(**options) as other:
            await other.check(deadline_s=DEADLINE_S)
            for result in await asyncio.gather(
                backend.detect(Frame.of(astronaut), plan(backend)),
                other.detect(Frame.of(astronaut), plan(other)),
            ):
                assert_is_the_astronaut(result)
        assert_is_the_astronaut(await backend.detect(Frame.of(astronaut), plan(backend)))
