"""Which levels a server has, with which model and limits, and what becomes of them."""

from __future__ import annotations

import asyncio
import io
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hybrid_detect.backends.device import onnx_gpu
from hybrid_detect.backends.device.model_registry import model_spec
from hybrid_detect.backends.device.models import find_model
from hybrid_detect.backends.device.picture_faces import PictureFaces
from hybrid_detect.backends.device.runtimes import RuntimeChoice
from hybrid_detect.errors import (
    BackendUnavailableError,
    ConfigurationError,
    MissingExtraError,
    ModelError,
    ModelIntegrityError,
)
from hybrid_detect.exchange.wire import DetectRequest
from hybrid_detect.extras import is_installed
from hybrid_detect.server import detectors, extra_levels, levels
from hybrid_detect.server.config import ServerConfig
from hybrid_detect.server.detectors import DetectorPool
from hybrid_detect.server.levels import LEVELS, model_info, served_levels, usual_level
from hybrid_detect.types import QualityLevel

from ..waiting import LIMIT_S, until
from .loopback import jpeg

FAST, HIGH, MAX = QualityLevel

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def absent(monkeypatch: pytest.MonkeyPatch) -> dict[str, Exception]:
    """Models that cannot be had, with the reason; a test adds to it."""
    reasons: dict[str, Exception] = {}

    def load(name: str, *, path: Path | None = None, **_: Any) -> bytes:
        if name in reasons:
            raise reasons[name]
        return model_spec(name).verify(path.read_bytes(), str(path)) if path else b"model"

    def choose(*_: Any, runtimes: tuple[str, ...]) -> RuntimeChoice:
        if runtimes[0] in reasons:
            raise reasons[runtimes[0]]
        return RuntimeChoice(runtimes[0], "a test says so")

    monkeypatch.setattr(levels, "load_model", load)
    monkeypatch.setattr(levels, "choose_runtime", choose)
    return reasons


def qualities(config: ServerConfig) -> list[str]:
    return [level.quality.value for level in served_levels(config)]


NO_MODEL = ModelError("no source had it", name="centerface")
NO_RUNTIME = MissingExtraError(
    "it needs onnxruntime: pip install 'hybrid-detect[centerface]'", extra="centerface"
)


# -- which levels there are ------------------------------------------------------------------


def test_with_both_models_there_are_all_levels(absent: dict[str, Exception]) -> None:
    found = served_levels(ServerConfig())
    assert [(each.quality, each.spec.name, each.size.side_px) for each in found] == [
        ("fast", "full_range", 192),
        ("high", "centerface", 640),
        ("max", "centerface", 1280),
    ]


@pytest.mark.parametrize(
    ("missing", "error"), [("centerface", NO_MODEL), ("onnxruntime", NO_RUNTIME)]
)
def test_without_centerface_the_full_range_model_looks_and_the_log_says_so(
    absent: dict[str, Exception],
    missing: str,
    error: Exception,
    caplog: pytest.LogCaptureFixture,
) -> None:
    absent[missing] = error
    served_levels(ServerConfig(), warns=False)
    assert not caplog.text  # the command has looked; the server that it starts will say so
    assert qualities(ServerConfig()) == ["fast"]
    assert "full-range model alone, which misses most small faces: " + str(error) in caplog.text


def test_without_the_full_range_model_there_is_no_fast_level(
    absent: dict[str, Exception], caplog: pytest.LogCaptureFixture
) -> None:
    absent["full_range"] = ModelError("no source had it", name="full_range")
    assert qualities(ServerConfig()) == ["high", "max"]
    assert "no level 'fast'" in caplog.text


def test_without_any_model_the_server_does_not_start(absent: dict[str, Exception]) -> None:
    absent["centerface"] = NO_MODEL
    absent["full_range"] = ModelError("the full range is not here", name="full_range")
    with pytest.raises(ModelError, match="the full range is not here"):
        served_levels(ServerConfig())


def test_a_model_that_is_named_is_looked_with_alone(absent: dict[str, Exception]) -> None:
    assert qualities(ServerConfig(model="full_range")) == ["fast"]
    assert qualities(ServerConfig(model="short_range")) == ["fast"]
    assert qualities(ServerConfig(model="centerface")) == ["high", "max"]
    absent["centerface"] = NO_MODEL
    with pytest.raises(ModelError):
        served_levels(ServerConfig(model="centerface"))
    with pytest.raises(ConfigurationError, match="no_such_model"):
        served_levels(ServerConfig(model="no_such_model"))


def test_a_wrong_file_that_the_operator_named_is_an_error(
    absent: dict[str, Exception], tmp_path: Path
) -> None:
    """Another model in its place would hide that."""
    file = tmp_path / "a.onnx"
    with pytest.raises(OSError, match=r"a\.onnx"):
        served_levels(ServerConfig(model_path=file))
    file.write_bytes(b"another file")
    with pytest.raises(ModelIntegrityError, match="centerface"):
        served_levels(ServerConfig(model_path=file))
    file.write_bytes(bytes(model_spec("full_range").size_bytes))
    with pytest.raises(ModelIntegrityError, match="full_range"):
        served_levels(ServerConfig(model_path=file))


def test_a_damaged_file_in_the_operator_s_folder_is_an_error(absent: dict[str, Exception]) -> None:
    absent["centerface"] = ModelIntegrityError("is not the published model", name="centerface")
    with pytest.raises(ModelIntegrityError):
        served_levels(ServerConfig())


@pytest.mark.parametrize(
    ("wished", "model", "usual"),
    [
        (HIGH, "auto", HIGH),
        (FAST, "auto", FAST),
        (MAX, "auto", MAX),
        (MAX, "full_range", FAST),
        (FAST, "centerface", HIGH),
    ],
)
def test_the_usual_level_is_the_one_wished_or_the_nearest(
    absent: dict[str, Exception], wished: QualityLevel, model: str, usual: QualityLevel
) -> None:
    assert usual_level(served_levels(ServerConfig(model=model)), wished).quality is usual


def test_clients_are_told_of_the_usual_level_s_model(absent: dict[str, Exception]) -> None:
    found = served_levels(ServerConfig())
    info = model_info(found, found[1])
    assert (info.name, info.quality, info.qualities) == (
        "centerface",
        "high",
        ("fast", "high", "max"),
    )
    assert (info.side_px, info.picture_bytes) == (640, 40 * 1024)
    assert info.recall == model_spec("centerface").input(640).recall_by_height
    assert type(info).from_header(info.to_header()) == info


def test_each_level_s_process_has_its_own_model_s_limits(
    absent: dict[str, Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[dict[str, Any]] = []
    monkeypatch.setattr(levels, "EventLoopWorker", lambda _, **options: made.append(options))
    for level in served_levels(ServerConfig(min_confidence=0.1)):
        level.worker(ServerConfig(min_confidence=0.1))
    caps = [options["memory_cap_bytes"] for options in made]
    assert caps == sorted(set(caps)), "the larger the input, the larger the limit"
    for options, level in zip(made, LEVELS, strict=True):
        size = model_spec(level.model).input(level.side_px)
        assert options["recycle_bytes"] == size.recycle_bytes
        assert options["enough_px"] == size.enough_px
        assert (options["min_confidence"], options["lowest_confidence"]) == (size.threshold, 0.1)


def test_no_level_s_process_reports_less_than_the_operator_allows(
    absent: dict[str, Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[dict[str, Any]] = []
    monkeypatch.setattr(levels, "EventLoopWorker", lambda _, **options: made.append(options))
    for level in served_levels(ServerConfig()):
        level.worker(ServerConfig(min_confidence=0.7))
    scores = {(each["min_confidence"], each["lowest_confidence"]) for each in made}
    assert scores == {(0.7, 0.7)}


def test_a_level_that_does_not_exist_is_no_configuration() -> None:
    with pytest.raises(ConfigurationError, match="fast, high, max"):
        ServerConfig(quality="best")
    assert ServerConfig(quality="max").quality is MAX


# -- what becomes of them --------------------------------------------------------------------


class Worker:
    """A detector that finds nothing at once, and tells when it starts and stops."""

    has_process = True
    asked_since_s: float | None = None

    def __init__(self, side_px: int) -> None:
        self.side_px = side_px
        self.starts = self.stops = self.looked = 0
        self.start_error: Exception | None = None
        self.levels: list[QualityLevel] = []
        self.scores: list[float] = []

    def start(self) -> None:
        self.starts += 1
        if self.start_error is not None:
            raise self.start_error

    def stop(self) -> None:
        self.stops += 1

    def detect_encoded(
        self, data: bytes, *, level: QualityLevel, min_confidence: float, **_: Any
    ) -> PictureFaces:
        self.looked += 1
        self.levels.append(level)
        self.scores.append(min_confidence)
        return PictureFaces(64, 48, ())

    def begin_encoded(self, *_: object, **__: object) -> None:
        """It has to be waited for."""

    def kill(self) -> None: ...

    def drop(self) -> None: ...

    def close(self) -> None: ...


@pytest.fixture
def made(absent: dict[str, Exception], monkeypatch: pytest.MonkeyPatch) -> list[Worker]:
    """The workers of the next pools."""
    workers: list[Worker] = []

    def make(_: Callable[[], bytes], *, side_px: int, **__: Any) -> Worker:
        workers.append(Worker(side_px))
        return workers[-1]

    class Probe:
        def __init__(self, **_: Any) -> None: ...

        def read(self) -> Any:
            return type("Reading", (), {"available_bytes": None})

    monkeypatch.setattr(levels, "EventLoopWorker", make)
    monkeypatch.setattr(detectors, "MemoryProbe", Probe)
    return workers


@asynccontextmanager
async def pool_of(count: int, **config: Any) -> AsyncIterator[DetectorPool]:
    pool = DetectorPool(ServerConfig(detectors=count, **config))
    async with asyncio.timeout(LIMIT_S):
        try:
            await pool.start()
            yield pool
        finally:
            await pool.aclose()


def asking(quality: QualityLevel | None = None, deadline_s: float | None = None) -> DetectRequest:
    return DetectRequest(request_id=1, image=jpeg(), quality=quality, deadline_s=deadline_s)


def started(made: list[Worker]) -> list[int]:
    return [worker.side_px for worker in made if worker.starts > worker.stops]


async def test_the_usual_level_and_the_quicker_ones_start_and_the_others_when_asked_for(
    made: list[Worker],
) -> None:
    async with pool_of(2) as pool:
        assert started(made) == [192, 640, 192, 640]
        assert (pool.model, pool.info and pool.info.quality) == ("centerface", "high")
        found = await pool.detect(asking())
        assert (found.quality, found.model) == (HIGH, "centerface")
        found = await pool.detect(asking(MAX))
        assert (found.quality, found.model) == (MAX, "centerface")
        assert started(made) == [192, 640, 1280] * 2
        found = await pool.detect(asking(FAST))
        assert (found.quality, found.model) == (FAST, "full_range")


async def test_the_answer_tells_the_smallest_face_of_the_level_that_was_used(
    made: list[Worker],
) -> None:
    async with pool_of(1) as pool:
        for quality, level in ((FAST, LEVELS[0]), (HIGH, LEVELS[1])):
            expected = model_spec(level.model).min_face_px(64, 48, side_px=level.side_px)
            assert (await pool.detect(asking(quality))).min_face_px == expected


@pytest.mark.parametrize("lowest", [0.1, 0.47])
async def test_a_request_without_a_score_gets_the_threshold_of_the_level_that_looks(
    made: list[Worker], lowest: float
) -> None:
    async with pool_of(1, min_confidence=lowest) as pool:
        hurried = await pool.detect(asking(HIGH, deadline_s=0.02))
        assert (hurried.quality, hurried.min_confidence) == (FAST, 0.5), "of the level it got"
        for quality, own in ((FAST, 0.5), (HIGH, 0.45), (MAX, 0.45)):
            assert (await pool.detect(asking(quality))).min_confidence == max(own, lowest)
            asked = replace(asking(quality), min_confidence=0.6)
            assert (await pool.detect(asked)).min_confidence == 0.6
    assert made[1].scores == [max(0.45, lowest), 0.6], "and it is what the process is told"


async def test_a_short_deadline_gets_a_quicker_look_and_is_told(made: list[Worker]) -> None:
    async with pool_of(1) as pool:
        assert (await pool.detect(asking(HIGH, deadline_s=0.02))).quality is FAST
        assert (await pool.detect(asking(HIGH, deadline_s=LIMIT_S))).quality is HIGH


async def test_the_time_that_a_level_takes_to_start_is_the_picture_s(
    made: list[Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[float | None] = []
    async with pool_of(1, quality="fast") as pool:
        place = pool._admission.place
        monkeypatch.setattr(
            pool._admission, "place", lambda s, **how: given.append(s) or place(s, **how)
        )

        async def slow(*_: object) -> None:
            began_s = time.monotonic()
            while time.monotonic() - began_s < 0.01:
                await asyncio.sleep(0)

        monkeypatch.setattr(pool._extra, "want", slow)
        await pool.detect(asking(QualityLevel.FAST, deadline_s=3.0))
        await pool.detect(asking(QualityLevel.MAX, deadline_s=3.0))
    usual_s, left_s = given
    assert usual_s == 3.0
    assert left_s is not None
    assert left_s <= 2.99


async def test_a_level_without_its_model_is_answered_at_the_nearest(
    made: list[Worker], absent: dict[str, Exception]
) -> None:
    absent["centerface"] = NO_MODEL
    async with pool_of(1) as pool:
        for quality in QualityLevel:
            found = await pool.detect(asking(quality))
            assert (found.quality, found.model) == (FAST, "full_range")
        assert pool.info is not None
        assert pool.info.qualities == ("fast",)


async def test_an_idle_extra_level_ends_and_gives_its_memory_back(
    made: list[Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extra_levels, "IDLE_S", 0.01)
    async with pool_of(1) as pool:
        await pool.detect(asking(MAX))
        await until(lambda: started(made) == [192, 640])
        # On a busy machine it might end again before it is looked with.
        monkeypatch.setattr(extra_levels, "IDLE_S", LIMIT_S)
        assert (await pool.detect(asking(MAX))).quality is MAX, "and starts again"


@pytest.mark.parametrize("cause", ["memory", "start", "file"])
async def test_an_extra_level_that_cannot_start_leaves_the_others_alone(
    made: list[Worker],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    cause: str,
) -> None:
    async with pool_of(2) as pool:
        if cause == "start":
            made[-1].start_error = BackendUnavailableError("no process to be had")
        elif cause == "file":
            made[-1].start_error = ModelError("its file has gone", name="centerface")
        else:
            monkeypatch.setattr(detectors, "_affordable", lambda *_, **__: 1)
        with caplog.at_level(logging.WARNING):
            assert (await pool.detect(asking(MAX))).quality is HIGH
            assert (await pool.detect(asking(MAX))).quality is HIGH, "without another start"
        assert caplog.text.count("level 'max' cannot be had now") == 1
        assert started(made) == [192, 640, 192, 640], "what had started is ended"


@pytest.mark.parametrize(
    ("second_look", "deadline_s", "turns"),
    [
        (False, None, False),
        (True, None, True),
        (True, 4.5 * 0.052, True),
        (True, 3.5 * 0.052, False),
    ],
)
async def test_a_second_look_is_taken_if_asked_for_and_if_there_is_time(
    made: list[Worker], second_look: bool, deadline_s: float | None, turns: bool
) -> None:
    async with pool_of(1) as pool:
        await pool.detect(replace(asking(HIGH, deadline_s), second_look=second_look))
    assert made[1].levels == [HIGH if turns else FAST], "to a worker, that is another level"


# -- a graphics processor --------------------------------------------------------------------


class BatchProcess(Worker):
    """A detector of batches, that may find no graphics processor when it starts."""

    def __init__(self, side_px: int) -> None:
        super().__init__(side_px)
        self.batches: list[int] = []
        self.scores: list[float] = []

    def detect_batch(self, pictures: list[tuple[bytes, float]], **_: Any) -> list[Any]:
        self.batches.append(len(pictures))
        self.scores += [score for _, score in pictures]
        if b"dear" in (data for data, _ in pictures):
            msg = "the process died"
            raise BackendUnavailableError(msg)
        return [PictureFaces(64, 48, ()) for _ in pictures]


@pytest.fixture
def gpu(made: list[Worker], monkeypatch: pytest.MonkeyPatch) -> list[BatchProcess]:
    """The processes of the next pools that look at batches; the first may be told to fail."""
    processes = [BatchProcess(640), BatchProcess(1280)]
    waiting = iter(processes)
    runtimes: list[str] = []

    def make(_: Callable[[], bytes], *, runtime: str, **__: Any) -> BatchProcess:
        runtimes.append(runtime)
        return next(waiting)

    monkeypatch.setattr(levels, "BatchWorker", make)
    monkeypatch.setattr(levels, "is_installed", lambda _: True)
    return processes


NO_GPU = BackendUnavailableError("could not load CUDAExecutionProvider and fell back to CPU")


async def test_a_graphics_processor_looks_at_what_comes_together(
    gpu: list[BatchProcess], made: list[Worker]
) -> None:
    async with pool_of(2, provider="cuda") as pool:
        found = await asyncio.gather(*(pool.detect(asking()) for _ in range(10)))
        assert {(each.quality, each.model) for each in found} == {(HIGH, "centerface")}
        assert sum(gpu[0].batches) == 10
        assert max(gpu[0].batches) > 1
        assert (await pool.detect(asking(MAX))).quality is MAX
        assert gpu[1].batches == [1]
        assert (await pool.detect(asking(FAST))).quality is HIGH, "the quickest there is"
    assert not made, "no process of the processor's"


async def test_each_picture_of_a_batch_has_its_own_threshold(gpu: list[BatchProcess]) -> None:
    requests = [asking(), replace(asking(), min_confidence=0.8), asking()]
    async with pool_of(1, provider="cuda") as pool:
        found = await asyncio.gather(*map(pool.detect, requests))
    assert [each.min_confidence for each in found] == [0.45, 0.8, 0.45]
    assert sorted(gpu[0].scores) == [0.45, 0.45, 0.8]


async def test_a_picture_that_ends_the_process_costs_no_other_its_answer(
    gpu: list[BatchProcess],
) -> None:
    dear = DetectRequest(request_id=1, image=b"dear")
    async with pool_of(1, provider="cuda") as pool:
        requests = [asking(), asking(), dear, asking()]
        found = await asyncio.gather(*map(pool.detect, requests), return_exceptions=True)
    assert [isinstance(each, BackendUnavailableError) for each in found] == [
        False,
        False,
        True,
        False,
    ]


async def test_a_provider_that_falls_back_is_refused(gpu: list[BatchProcess]) -> None:
    gpu[0].start_error = NO_GPU
    with pytest.raises(BackendUnavailableError, match="fell back to CPU"):
        async with pool_of(1, provider="cuda"):
            pytest.fail("it came up")


async def test_the_processor_takes_its_place_if_the_operator_allows_that_and_the_log_tells(
    gpu: list[BatchProcess], made: list[Worker], caplog: pytest.LogCaptureFixture
) -> None:
    gpu[0].start_error = NO_GPU
    async with pool_of(1, provider="cuda", provider_fallback=True) as pool:
        assert started(made) == [192, 640]
        assert (await pool.detect(asking())).quality is HIGH
    assert "looking on the processor: could not load CUDAExecutionProvider" in caplog.text


def test_a_provider_needs_its_extra_and_its_model(
    absent: dict[str, Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigurationError, match="expected one of cpu, cuda, tensorrt"):
        ServerConfig(provider="rocm")
    with pytest.raises(ConfigurationError, match="expected centerface on provider 'cuda'"):
        served_levels(ServerConfig(provider="cuda", model="full_range"))
    monkeypatch.setattr(levels, "is_installed", lambda _: False)
    with pytest.raises(MissingExtraError, match="server-gpu"):
        served_levels(ServerConfig(provider="cuda"))
    assert levels.MOST == onnx_gpu.MOST


# -- the real thing --------------------------------------------------------------------------


@pytest.mark.device
async def test_real_models_look_at_their_levels(astronaut: np.ndarray) -> None:
    if not is_installed("onnxruntime") or find_model("centerface") is None:
        pytest.skip("CenterFace is not here")
    out = io.BytesIO()
    Image.fromarray(astronaut).save(out, "JPEG")
    async with pool_of(1) as pool:
        for quality, model, own in ((FAST, "full_range", 0.5), (HIGH, "centerface", 0.45)):
            request = DetectRequest(request_id=1, image=out.getvalue(), quality=quality)
            found = await pool.detect(request)
            assert (found.model, found.quality, found.min_confidence) == (model, quality, own)
            assert len(found.faces) == 1
