"""The behaviour that every backend has, as tests to run against your own.

Derive a test class from `BackendContract`, say how a backend is made and on which picture it finds
a face, and let pytest collect it::

    import pytest
    from hybrid_detect.testing import BackendContract

    pytestmark = pytest.mark.anyio  # the tests are coroutines; anyio comes with httpx

    class TestMyBackend(BackendContract):
        def make(self, **options):
            return MyBackend(**options)

        def face_picture(self):
            return picture, BoundingBox(177, 82, 272, 177)

Each test opens backends of its own. None of them judges how fast a backend is.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, TypeAlias, cast

import numpy as np
import pytest
from numpy.typing import NDArray
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

__all__ = ["BackendContract"]

Picture: TypeAlias = NDArray[np.uint8]
"""RGB, shape (height, width, 3)."""

DEADLINE_S = 20.0
"""Generous, because the answer is tested and not its speed."""

MIN_IOU = 0.5
"""Overlap from which a box counts as the face's: detectors draw boxes of different tightness."""


def _plan(backend: Backend, deadline_s: float = DEADLINE_S) -> Plan:
    return Plan(backend=backend.kind, reason="the contract asks", deadline_s=deadline_s)


def _assert_finds(result: DetectionResult, box: BoundingBox) -> None:
    assert result.status is DetectionStatus.OK
    assert result.faces
    assert result.faces[0].box.iou(box) >= MIN_IOU


def _assert_in_the_picture(result: DetectionResult) -> None:
    for face in result.faces:
        x_min, y_min, x_max, y_max = face.box.xyxy
        assert 0 <= x_min < x_max <= result.width
        assert 0 <= y_min < y_max <= result.height


def _encoded(picture: Image.Image, format_: str, **options: Any) -> bytes:
    out = io.BytesIO()
    picture.save(out, format_, **options)
    return out.getvalue()


def _as_jpeg(picture: Picture, _: Path) -> tuple[Any, dict[str, Any]]:
    return _encoded(Image.fromarray(picture), "JPEG", quality=90), {}


def _as_png(picture: Picture, _: Path) -> tuple[Any, dict[str, Any]]:
    return _encoded(Image.fromarray(picture), "PNG"), {}


def _as_path(picture: Picture, folder: Path) -> tuple[Any, dict[str, Any]]:
    path = folder / "picture.jpg"
    Image.fromarray(picture).save(path, quality=90)
    return path, {}


def _as_bgr(picture: Picture, _: Path) -> tuple[Any, dict[str, Any]]:
    return picture[:, :, ::-1], {"pixel_format": "bgr"}


def _as_pil(picture: Picture, _: Path) -> tuple[Any, dict[str, Any]]:
    return Image.fromarray(picture), {}


def _as_nv21(picture: Picture, _: Path) -> tuple[Any, dict[str, Any]]:
    ycc = np.asarray(Image.fromarray(picture).convert("YCbCr"))
    height, width = ycc.shape[:2]
    chroma = np.empty((height // 2, width // 2, 2), dtype=np.uint8)
    chroma[:, :, 0] = ycc[::2, ::2, 2]
    chroma[:, :, 1] = ycc[::2, ::2, 1]
    planes = ycc[:, :, 0].tobytes() + chroma.tobytes()
    return CameraImage.from_buffer(planes, format="nv21", width=width, height=height), {}


def _as_exif_rotated_jpeg(picture: Picture, _: Path) -> tuple[Any, dict[str, Any]]:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees clockwise
    lying = Image.fromarray(picture).transpose(Image.Transpose.ROTATE_90)
    return _encoded(lying, "JPEG", quality=90, exif=exif), {}


_INPUTS = [_as_jpeg, _as_png, _as_path, _as_bgr, _as_pil, _as_nv21, _as_exif_rotated_jpeg]


class BackendContract:
    """Tests for one kind of backend; see the module's text.

    A subclass may define a fixture `options`: keyword arguments for `make` that are known only when
    the test runs, such as the address of a server.
    """

    @pytest.fixture
    def options(self) -> dict[str, Any]:
        """Keyword arguments for `make`."""
        return {}

    def make(self, **options: Any) -> Backend:
        """A new backend."""
        raise NotImplementedError

    def face_picture(self) -> tuple[Picture, BoundingBox]:
        """A picture with one face that the backend finds, and the face's box in its pixels."""
        raise NotImplementedError

    @pytest.fixture
    def picture(self) -> Picture:
        """The picture with the face."""
        return self.face_picture()[0]

    @pytest.fixture
    def face(self) -> BoundingBox:
        """Where the face is."""
        return self.face_picture()[1]

    @pytest.fixture
    async def backend(self, options: dict[str, Any]) -> AsyncIterator[Backend]:
        """A backend that is ready."""
        async with self.make(**options) as backend:
            await backend.check(deadline_s=DEADLINE_S)
            yield backend

    # ---- answers

    async def test_finds_the_face(
        self, backend: Backend, picture: Picture, face: BoundingBox
    ) -> None:
        result = await backend.detect(Frame.of(picture), _plan(backend))
        _assert_finds(result, face)
        _assert_in_the_picture(result)

    async def test_says_who_looked_when_and_at_what(
        self, backend: Backend, picture: Picture
    ) -> None:
        height, width, _ = picture.shape
        frame = Frame.of(picture[: height - 9])
        result = await backend.detect(frame, _plan(backend))
        assert result.answered
        assert result.backend is backend.kind
        assert (result.width, result.height) == (width, height - 9)
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
        # Not every provider gives one.
        assert all(score is None or 0 <= score <= 1 for score in scores)
        result.to_json()

    async def test_the_age_counts_from_the_capture(
        self, backend: Backend, picture: Picture
    ) -> None:
        fresh = Frame.of(picture)
        old = Frame.of(picture, captured_at_s=fresh.captured_at_s - 100)
        assert 100 <= (await backend.detect(old, _plan(backend))).age_s < 100 + DEADLINE_S

    async def test_finds_the_face_in_a_large_picture_at_its_own_coordinates(
        self, backend: Backend, picture: Picture, face: BoundingBox
    ) -> None:
        height, width, _ = picture.shape
        large = np.asarray(Image.fromarray(picture).resize((4 * width, 3 * height)))
        result = await backend.detect(Frame.of(large), _plan(backend))
        assert (result.width, result.height) == (4 * width, 3 * height)
        _assert_finds(result, face.scaled(4, 3))

    @pytest.mark.parametrize("as_input", _INPUTS)
    async def test_finds_the_face_in_any_kind_of_input(
        self, backend: Backend, picture: Picture, tmp_path: Path, as_input: Any, face: BoundingBox
    ) -> None:
        image, options = as_input(picture, tmp_path)
        result = await backend.process_image(image, deadline_s=DEADLINE_S, **options)
        assert (result.height, result.width) == picture.shape[:2]
        _assert_finds(result, face)

    async def test_no_face_is_an_answer(self, backend: Backend) -> None:
        result = await backend.detect(
            Frame.of(np.zeros((240, 320, 3), dtype=np.uint8)), _plan(backend)
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
        result = await backend.detect(Frame.of(picture), _plan(backend))
        assert result.answered
        assert (result.width, result.height) == (width, height)
        _assert_in_the_picture(result)

    # ---- failures

    @pytest.mark.parametrize("deadline_s", [0.0, 1e-6])
    async def test_a_missed_deadline_is_a_timeout_and_the_next_frame_is_answered(
        self, backend: Backend, picture: Picture, deadline_s: float, face: BoundingBox
    ) -> None:
        with pytest.raises(BackendTimeoutError) as caught:
            await backend.detect(Frame.of(picture), _plan(backend, deadline_s))
        assert caught.value.backend == backend.kind.value
        assert caught.value.deadline_s == deadline_s
        assert isinstance(caught.value, TimeoutError)
        _assert_finds(await backend.detect(Frame.of(picture), _plan(backend)), face)

    async def test_what_is_no_image_is_refused_and_the_next_frame_is_answered(
        self, backend: Backend, picture: Picture, face: BoundingBox
    ) -> None:
        damaged = bytearray(_encoded(Image.fromarray(picture), "PNG"))
        damaged[len(damaged) // 2] ^= 0xFF
        for bad in (b"no picture", bytes(damaged), np.zeros((0, 3, 3), dtype=np.uint8), None):
            with pytest.raises(InvalidFrameError):
                await backend.process_image(cast("Any", bad), deadline_s=DEADLINE_S)
        _assert_finds(await backend.detect(Frame.of(picture), _plan(backend)), face)

    async def test_frames_at_once_are_answered_or_superseded_and_the_newest_is_answered(
        self, backend: Backend, picture: Picture, face: BoundingBox
    ) -> None:
        frames = [Frame.of(picture) for _ in range(6)]
        answers = await asyncio.gather(
            *(backend.detect(frame, _plan(backend)) for frame in frames), return_exceptions=True
        )
        for frame, answer in zip(frames, answers, strict=True):
            if isinstance(answer, SupersededError):
                assert not answer.retryable
                assert answer.backend == backend.kind.value
            else:
                assert isinstance(answer, DetectionResult), answer
                assert answer.frame_id == frame.frame_id
                _assert_finds(answer, face)
        assert isinstance(answers[-1], DetectionResult)

    @pytest.mark.parametrize("pause_s", [0.0, 0.003])
    async def test_a_cancelled_call_ends_cancelled_and_the_next_frame_is_answered(
        self, backend: Backend, picture: Picture, pause_s: float, face: BoundingBox
    ) -> None:
        call = asyncio.create_task(backend.detect(Frame.of(picture), _plan(backend)))
        await asyncio.sleep(pause_s)  # anywhere in the call will do: it may even have ended
        if call.cancel():
            with pytest.raises(asyncio.CancelledError):
                await call
        _assert_finds(await backend.detect(Frame.of(picture), _plan(backend)), face)

    # ---- opening and closing

    async def test_the_first_frame_needs_no_check(
        self, options: dict[str, Any], picture: Picture, face: BoundingBox
    ) -> None:
        async with self.make(**options) as backend:
            _assert_finds(await backend.detect(Frame.of(picture), _plan(backend)), face)

    async def test_starting_twice_is_starting_once(
        self, backend: Backend, picture: Picture, face: BoundingBox
    ) -> None:
        await backend.start()
        await backend.check(deadline_s=DEADLINE_S)
        assert backend.unavailable_reason == ""
        _assert_finds(await backend.detect(Frame.of(picture), _plan(backend)), face)

    async def test_closed_is_closed(self, backend: Backend, picture: Picture) -> None:
        await backend.aclose()
        await backend.aclose()
        with pytest.raises(ClosedError):
            await backend.detect(Frame.of(picture), _plan(backend))
        with pytest.raises(ClosedError):
            await backend.check(deadline_s=1)
        with pytest.raises(ClosedError):
            await backend.start()

    async def test_closing_without_having_started_is_fine(self, options: dict[str, Any]) -> None:
        backend = self.make(**options)
        await backend.aclose()
        await backend.aclose()

    async def test_closing_ends_the_calls_under_way(
        self, backend: Backend, picture: Picture
    ) -> None:
        calls = [
            asyncio.create_task(backend.detect(Frame.of(picture), _plan(backend))) for _ in range(3)
        ]
        await asyncio.sleep(0)
        async with asyncio.timeout(DEADLINE_S / 2):
            await backend.aclose()
            answers = await asyncio.gather(*calls, return_exceptions=True)
        for answer in answers:
            assert isinstance(answer, DetectionResult | ClosedError | BackendError), answer

    async def test_two_side_by_side_do_not_touch_each_other(
        self, backend: Backend, options: dict[str, Any], picture: Picture, face: BoundingBox
    ) -> None:
        async with self.make(**options) as other:
            await other.check(deadline_s=DEADLINE_S)
            for result in await asyncio.gather(
                backend.detect(Frame.of(picture), _plan(backend)),
                other.detect(Frame.of(picture), _plan(other)),
            ):
                _assert_finds(result, face)
        _assert_finds(await backend.detect(Frame.of(picture), _plan(backend)), face)
