"""Several pictures at once: what crosses to the process, the provider that runs them, the faces."""

from __future__ import annotations

import io
import mmap
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from hybrid_detect.backends.device import batch_worker, onnx_gpu
from hybrid_detect.backends.device.batch_looks import BatchLooks
from hybrid_detect.backends.device.batch_worker import BatchWorker
from hybrid_detect.backends.device.batches import (
    Answer,
    pack_answers,
    packed,
    unpack_answers,
    unpacked,
)
from hybrid_detect.backends.device.models import find_model, load_model
from hybrid_detect.backends.device.onnx_gpu import (
    BATCHES,
    MOST,
    BatchedCenterFace,
    open_session,
    require_provider,
)
from hybrid_detect.backends.device.picture_faces import PictureFaces
from hybrid_detect.backends.device.worker_messages import REPLY
from hybrid_detect.errors import (
    BackendUnavailableError,
    ClosedError,
    ConfigurationError,
    InvalidFrameError,
    ModelError,
)
from hybrid_detect.extras import is_installed
from hybrid_detect.types import BoundingBox, Face

from ...fuzzing import examples

FACE = Face(BoundingBox(1, 2, 30, 40), 0.9)
REFUSAL = InvalidFrameError(expected="a picture", actual="none")


def slot_of(data: bytes) -> mmap.mmap:
    slot = mmap.mmap(-1, max(len(data), 1))
    slot[: len(data)] = data
    return slot


def body_of(reply: bytes) -> bytes:
    _, length = REPLY.unpack_from(reply)
    assert len(reply) == REPLY.size + length
    return reply[REPLY.size :]


# -- the messages ----------------------------------------------------------------------------


@settings(max_examples=examples(100))
@given(st.lists(st.tuples(st.binary(max_size=50), st.floats(0, 1)), min_size=1, max_size=8))
def test_pictures_survive_the_slot(pictures: list[tuple[bytes, float]]) -> None:
    assert list(unpacked(slot_of(packed(pictures)), len(pictures))) == pictures


def test_answers_survive_the_reply() -> None:
    answers: list[Answer] = [PictureFaces(64, 48, (FACE,)), REFUSAL, PictureFaces(9, 9, ())]
    found = unpack_answers(body_of(pack_answers(answers)), 3)
    assert found[0::2] == answers[0::2]
    assert str(found[1]) == str(REFUSAL)


@settings(max_examples=examples(200))
@given(st.binary(max_size=200), st.integers(0, 4))
def test_a_damaged_reply_is_refused_or_read(data: bytes, count: int) -> None:
    whole = body_of(pack_answers([PictureFaces(64, 48, (FACE,))] * 2))
    for body in (data, whole + data, whole[: len(data)]):
        try:
            assert len(unpack_answers(body, count)) == count
        except (ValueError, batch_worker.struct.error):
            continue


# -- the process's side ----------------------------------------------------------------------


class Detector:
    """Finds one face in each picture, the surer the brighter it is."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def detect_batch(self, images_rgb: Sequence[np.ndarray]) -> list[tuple[Face, ...]]:
        self.batches.append(len(images_rgb))
        return [
            (Face(BoundingBox(0, 0, 10, 10), float(image.mean()) / 255),) for image in images_rgb
        ]


def jpeg(brightness: int, width: int = 64) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (width, 48), (brightness,) * 3).save(out, "JPEG")
    return out.getvalue()


def test_each_picture_gets_its_own_answer() -> None:
    detector = Detector()
    looks = BatchLooks(detector, enough_px=None)
    pictures = [(jpeg(204), 0.5), (b"garbage", 0.5), (jpeg(51), 0.5), (jpeg(51), 0.1)]
    reply = looks.answer(slot_of(packed(pictures)), 4, 1_000_000)
    first, refused, dark, low = unpack_answers(body_of(reply), 4)
    assert detector.batches == [3]
    assert isinstance(refused, InvalidFrameError)
    assert isinstance(first, PictureFaces)
    assert isinstance(dark, PictureFaces)
    assert isinstance(low, PictureFaces)
    assert (first.width, len(first.faces), len(dark.faces), len(low.faces)) == (64, 1, 0, 1)


def test_a_batch_of_refused_pictures_is_not_looked_at() -> None:
    detector = Detector()
    pictures = [(b"garbage", 0.5), (jpeg(9, width=2000), 0.5)]
    reply = BatchLooks(detector, enough_px=None).answer(slot_of(packed(pictures)), 2, 9_000)
    assert all(isinstance(each, InvalidFrameError) for each in unpack_answers(body_of(reply), 2))
    assert not detector.batches


# -- the provider ----------------------------------------------------------------------------

CPU, CUDA, TENSORRT = onnx_gpu.PROVIDERS.values()


class Session:
    """Gives empty maps, and remembers the shapes."""

    def __init__(self, used: Sequence[str]) -> None:
        self.used = list(used)
        self.shapes: list[tuple[int, ...]] = []
        self.error: Exception | None = None

    def get_providers(self) -> list[str]:
        return self.used

    def get_inputs(self) -> list[Any]:
        return [type("Input", (), {"name": "input.1"})]

    def run(self, _: None, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        (pixels,) = feeds.values()
        self.shapes.append(pixels.shape)
        if self.error is not None:
            raise self.error
        count, _, height, width = pixels.shape
        return [
            np.zeros((count, channels, height // 4, width // 4), np.float32)
            for channels in (1, 2, 2, 10)
        ]


class Ort:
    """ONNX Runtime, of a build with `available`, whose sessions really use `used`."""

    def __init__(self, available: Sequence[str], used: Sequence[str]) -> None:
        self._available, self._used = list(available), used
        self.asked: list[Any] = []

    def get_available_providers(self) -> list[str]:
        return self._available

    def SessionOptions(self) -> Any:  # noqa: N802 - ONNX Runtime's own name
        entries: dict[str, str] = {}
        return type("Options", (), {"add_session_config_entry": entries.__setitem__})

    def InferenceSession(self, _: bytes, __: Any, *, providers: list[Any]) -> Session:  # noqa: N802
        self.asked = providers
        return Session(self._used)


@pytest.fixture(autouse=True)
def any_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setattr(onnx_gpu, "with_free_sizes", lambda model: model)
    monkeypatch.setattr(onnx_gpu, "cache_dir", lambda: tmp_path / "models")


@pytest.mark.parametrize(
    ("provider", "used"), [("cuda", [CUDA, CPU]), ("tensorrt", [TENSORRT, CPU]), ("cpu", [CPU])]
)
def test_the_provider_that_is_asked_for_is_used(provider: str, used: list[str]) -> None:
    ort = Ort((TENSORRT, CUDA, CPU), used)
    assert open_session(b"model", provider, ort=ort).get_providers() == used
    ((name, options),) = ort.asked
    assert name == used[0], "one alone, so that there is nothing to fall back to unseen"
    assert bool(options) is (provider == "tensorrt")


@pytest.mark.parametrize(
    ("provider", "used", "told"),
    [
        ("cuda", [CPU], "fell back to CPUExecutionProvider"),
        ("tensorrt", [CUDA, CPU], "fell back to CUDAExecutionProvider"),
        ("cuda", [], "fell back to none"),
    ],
)
def test_a_silent_fall_back_is_refused(provider: str, used: list[str], told: str) -> None:
    with pytest.raises(BackendUnavailableError, match=told):
        open_session(b"model", provider, ort=Ort((TENSORRT, CUDA, CPU), used))


def test_a_build_without_the_provider_names_the_extra() -> None:
    with pytest.raises(ConfigurationError, match=r"hybrid-detect\[server-gpu\]"):
        open_session(b"model", "cuda", ort=Ort((CPU,), (CPU,)))
    with pytest.raises(ConfigurationError, match="expected one of cpu, cuda, tensorrt"):
        require_provider("rocm", available=(CPU,))


def test_a_model_that_is_not_accepted_is_a_model_error() -> None:
    class Refusing(Ort):
        def InferenceSession(self, *_: Any, **__: Any) -> Session:  # noqa: N802
            msg = "no graph"
            raise RuntimeError(msg)

    with pytest.raises(ModelError, match="no graph"):
        open_session(b"model", "cuda", ort=Refusing((CUDA,), (CUDA,)))


@pytest.fixture
def session() -> Session:
    return Session([CUDA])


@pytest.fixture
def detector(session: Session) -> BatchedCenterFace:
    return BatchedCenterFace(session, runs_on="a test", side_px=64, min_confidence=0.5)


def image(width: int, height: int) -> np.ndarray:
    return np.zeros((height, width, 3), np.uint8)


def test_the_network_sees_fixed_shapes_alone(detector: BatchedCenterFace, session: Session) -> None:
    warm = [(count, 3, 64, 64) for count in BATCHES]
    assert session.shapes == warm, "each is met before the first picture"
    detector.detect(image(128, 72))
    detector.detect_batch([image(128, 72), image(30, 100)])
    detector.detect_batch([image(16, 16)] * MOST)
    assert session.shapes[len(warm) :] == [(1, 3, 64, 64), (MOST, 3, 64, 64), (MOST, 3, 64, 64)]


def test_bad_pixels_a_failing_runtime_and_a_closed_detector_are_typed_errors(
    detector: BatchedCenterFace, session: Session
) -> None:
    with pytest.raises(InvalidFrameError):
        detector.detect(np.zeros((4, 4), np.uint8))
    session.error = RuntimeError("CUDA error 700: an illegal memory access\nwith a trace")
    with pytest.raises(BackendUnavailableError, match="CUDA error 700") as caught:
        detector.detect(image(8, 8))
    assert "trace" not in str(caught.value)
    detector.close()
    detector.close()
    with pytest.raises(ClosedError):
        detector.detect(image(8, 8))


# -- the real network, on the processor ------------------------------------------------------


@pytest.fixture
def worker() -> Iterator[BatchWorker]:
    if not is_installed("onnxruntime") or find_model("centerface") is None:
        pytest.skip("CenterFace is not here")
    made = BatchWorker(
        partial(load_model, "centerface"),
        min_confidence=0.1,
        enough_px=640,
        decodes=True,
        runtime="onnxruntime-cpu",
        side_px=640,
        memory_cap_bytes=0,
        recycle_bytes=2**40,
    )
    yield made
    made.close()


@pytest.mark.device
def test_a_real_process_answers_a_batch(
    worker: BatchWorker, astronaut: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = io.BytesIO()
    Image.fromarray(astronaut).save(out, "JPEG")
    photo = (out.getvalue(), 0.5)
    answers = worker.detect_batch([photo, (b"garbage", 0.5), photo], max_pixels=10**6)
    assert isinstance(answers[1], InvalidFrameError)
    for answer in answers[0::2]:
        assert isinstance(answer, PictureFaces)
        (face,) = answer.faces
        assert face.box.iou(BoundingBox(177, 82, 272, 177)) > 0.4
    assert "CPUExecutionProvider" in worker.runs_on
    monkeypatch.setattr(batch_worker, "CAPACITY", len(packed([photo])))
    assert len(worker.detect_batch([photo] * 3, max_pixels=10**6)) == 3, "in several parts"
    (refused,) = worker.detect_batch([(photo[0] + b"more", 0.5)], max_pixels=10**6)
    assert isinstance(refused, InvalidFrameError)
