"""``model="auto"``: full range where a look is quick enough here and it can be had."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hybrid_detect import ServiceConfig
from hybrid_detect.backends.device import engine as engine_module
from hybrid_detect.backends.device import model_choice, runtimes
from hybrid_detect.backends.device.engine import Engine
from hybrid_detect.backends.device.memory_guard import MemoryGuard
from hybrid_detect.backends.device.model_choice import (
    MOST_CENTERFACE_S,
    MOST_LOOK_S,
    candidates,
    has_time_to_spare,
    is_quick_enough,
    load_candidate,
)
from hybrid_detect.backends.device.models import MODELS, load_model
from hybrid_detect.backends.device.on_device import OnDeviceDetectionService
from hybrid_detect.errors import (
    BackendUnavailableError,
    ConfigurationError,
    ModelError,
    ModelIntegrityError,
)
from hybrid_detect.extras import is_installed
from hybrid_detect.frames.frame import Frame
from hybrid_detect.system.memory_probe import MemoryReading
from hybrid_detect.types import QualityLevel

PLENTY = MemoryReading(process_bytes=2**20, available_bytes=2**33, bound_by="system")
FRAME = Frame.of(np.zeros((8, 8, 3), np.uint8))
FULL, SHORT = MODELS["full_range"], MODELS["short_range"]


# -- deciding --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "most_s"), [("full_range", MOST_LOOK_S), ("centerface", MOST_CENTERFACE_S)]
)
def test_a_look_may_take_a_share_of_a_frame_s_time(model: str, most_s: float) -> None:
    assert is_quick_enough(model, 0.0)
    assert is_quick_enough(model, most_s)
    assert not is_quick_enough(model, most_s * 1.01)
    assert most_s < 0.1, "at ten frames a second"


READING = MemoryReading(available_bytes=4 * 2**30)


@pytest.mark.parametrize(
    ("cores", "reading", "battery", "is_desktop"),
    [
        (4, READING, None, True),
        (3, READING, None, False),
        (8, READING, (1.0, True), False),  # a laptop, even plugged in
        (8, MemoryReading(available_bytes=2**30), None, False),
        (8, MemoryReading(), None, False),  # a platform that does not tell
    ],
)
def test_a_desktop_has_cores_and_memory_and_no_battery(
    cores: int,
    reading: MemoryReading,
    battery: tuple[float, bool] | None,
    is_desktop: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(model_choice, "usable_cores", lambda: cores)
    monkeypatch.setattr(model_choice.MemoryProbe, "read", lambda _: reading)
    monkeypatch.setattr(model_choice, "system_battery", lambda: battery)
    assert has_time_to_spare() is is_desktop


@pytest.mark.parametrize(
    ("options", "spare", "installed", "is_taken"),
    [
        ({}, True, True, True),
        ({"runtime": "onnxruntime"}, True, True, True),
        ({}, False, True, False),
        ({}, True, False, False),
        ({"runtime": "litert"}, True, True, False),
        ({"memory_budget_bytes": 2**40}, True, True, False),
    ],
)
def test_auto_stands_for_centerface_as_well_on_a_desktop(
    options: dict[str, Any],
    spare: bool,
    installed: bool,
    is_taken: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(model_choice, "has_time_to_spare", lambda: spare)
    monkeypatch.setattr(
        runtimes, "is_installed", lambda module: installed or module != "onnxruntime"
    )
    expected = (MODELS["centerface"], FULL, SHORT) if is_taken else (FULL, SHORT)
    assert candidates("auto", **options) == expected
    assert candidates("full_range", **options) == (FULL,)


def test_a_name_stands_for_itself_and_auto_for_two() -> None:
    assert candidates("auto") == (FULL, SHORT)
    assert candidates("centerface") == (MODELS["centerface"],)
    with pytest.raises(ConfigurationError, match="'huge'"):
        candidates("huge")
    assert ServiceConfig().model == "auto"


def test_a_file_tells_by_its_size_which_model_it_is(tmp_path: Path) -> None:
    file = tmp_path / "a.tflite"
    for spec in (FULL, SHORT):
        file.write_bytes(bytes(spec.size_bytes))
        assert candidates("auto", file) == (spec,)
    file.write_bytes(b"neither")
    assert candidates("auto", file) == (SHORT,), "loading it says what is wrong"
    assert candidates("auto", tmp_path / "none") == (SHORT,)


@pytest.mark.parametrize(
    ("here", "loads"),
    [
        ({"full_range"}, "full_range"),
        ({"full_range", "short_range"}, "full_range"),
        (set(), "full_range"),
        ({"short_range"}, None),
    ],
    ids=["full range", "both", "none", "short range"],
)
def test_nothing_is_fetched_where_the_other_model_is_here(
    here: set[str], loads: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_choice, "find_model", lambda name: name if name in here else None)
    loaded: list[str] = []

    def load(name: str, **_: Any) -> bytes:
        loaded.append(name)
        return b"model"

    options: dict[str, Any] = {"path": None, "fetch": True, "progress": None, "load": load}
    if loads is None:
        with pytest.raises(ModelError, match="short_range is"):
            load_candidate(FULL, [SHORT], **options)
    else:
        assert load_candidate(FULL, [SHORT], **options) == b"model"
    assert loaded == ([] if loads is None else [loads])


# -- in the engine ---------------------------------------------------------------------------


class Timed:
    """A detector whose look takes as long as told."""

    has_process = False
    asked_since_s = None
    pid = None
    runs_on = "nothing"

    def __init__(self, look_s: float, error: Exception | None) -> None:
        self.look_s = look_s
        self.error = error
        self.is_closed = False
        self.looks = 0

    def start(self) -> None:
        if self.error is not None:
            raise self.error

    def detect_frame(self, _frame: Frame, _level: QualityLevel) -> tuple[()]:
        self.looks += 1
        return ()

    def kill(self) -> None:
        """It cannot be killed."""

    stop = ping = kill

    def close(self) -> None:
        self.is_closed = True


def engine_of(**made: Timed) -> Engine:
    return engine_from(lambda name, *_: made[name])


def engine_from(make: Callable[..., Any], expendable: Sequence[str] = ()) -> Engine:
    return Engine(
        "full_range",
        make,
        idle_s=None,
        guard=MemoryGuard(read=lambda: PLENTY),
        instead=["short_range"],
        is_quick_enough=is_quick_enough,
        expendable=expendable,
    )


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("look_s", "error", "model"),
    [
        (0.005, None, "full_range"),
        (0.03, None, "short_range"),
        (0.005, ModelError("none to be had", name="full_range"), "short_range"),
    ],
    ids=["quick", "slow", "not to be had"],
)
async def test_the_first_start_decides_and_the_choice_is_kept(
    look_s: float, error: Exception | None, model: str
) -> None:
    full, short = Timed(look_s, error), Timed(0.1, None)
    engine = engine_of(full_range=full, short_range=short)
    for _ in range(2):
        await engine.detect(FRAME, 0.0, when_done=lambda: None)
        full.look_s = 1.0  # slower now, which changes nothing any more
        await engine.unload()
    assert engine.model == model
    assert full.is_closed is (model == "short_range"), "one that is not used holds no memory"
    assert (full.looks, short.looks) == ((2, 0) if model == "full_range" else (0, 2))
    await engine.aclose()


@pytest.mark.anyio
async def test_a_wrong_file_is_told_and_not_hidden_behind_another_model() -> None:
    forged = ModelIntegrityError("forged", name="full_range")
    engine = engine_of(full_range=Timed(0.0, forged), short_range=Timed(0.0, None))
    with pytest.raises(ModelIntegrityError, match="forged"):
        await engine.detect(FRAME, 0.0, when_done=lambda: None)
    await engine.aclose()


@pytest.mark.anyio
async def test_a_model_whose_runtime_is_broken_gives_way() -> None:
    broken = BackendUnavailableError("ONNX Runtime does not load")
    models = {"full_range": Timed(0.0, broken), "short_range": Timed(0.005, None)}
    engine = engine_from(lambda name, *_: models[name], expendable=["full_range"])
    await engine.ready()
    assert engine.model == "short_range"
    await engine.aclose()


@pytest.mark.anyio
async def test_what_the_others_run_on_as_well_is_no_reason_to_take_another() -> None:
    broken = BackendUnavailableError("LiteRT does not load")
    engine = engine_of(full_range=Timed(0.0, broken), short_range=Timed(0.005, None))
    with pytest.raises(BackendUnavailableError, match="LiteRT"):
        await engine.ready()
    assert engine.model == "full_range"
    await engine.aclose()


@pytest.mark.anyio
async def test_a_slow_model_is_used_where_no_quicker_one_is_to_be_had() -> None:
    made: list[str] = []
    gone = ModelError("none to be had", name="short_range")

    def make(name: str, *_: Any) -> Any:
        made.append(name)
        return Timed(0.03, None if name == "full_range" else gone)

    engine = engine_from(make)
    for _ in range(2):
        await engine.detect(FRAME, 0.0, when_done=lambda: None)
    assert engine.model == "full_range"
    assert made == ["full_range", "short_range", "full_range"]
    await engine.aclose()


@pytest.mark.anyio
async def test_a_model_that_was_too_slow_stays_so_after_a_failed_start_of_the_other() -> None:
    full, short = Timed(0.1, None), Timed(0.03, BackendUnavailableError("memory is short"))
    engine = engine_of(full_range=full, short_range=short)
    with pytest.raises(BackendUnavailableError):
        await engine.ready()
    short.error = None
    await engine.ready()
    assert engine.model == "short_range"
    await engine.aclose()


@pytest.mark.anyio
async def test_models_that_could_not_be_had_are_tried_again_in_their_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A device that starts without a network does not stay with the lesser model for that."""
    monkeypatch.setattr(engine_module, "LOAD_RETRY_S", -1.0)
    offline = {"full_range", "short_range"}

    def make(name: str, *_: Any) -> Any:
        gone = ModelError(f"{name} is not to be had", name=name)
        return Timed(0.005, gone if name in offline else None)

    engine = engine_from(make)
    with pytest.raises(ModelError, match="short_range is not"):
        await engine.detect(FRAME, 0.0, when_done=lambda: None)
    offline.clear()
    engine._worker.detector.error = None  # type: ignore[attr-defined]
    await engine.detect(FRAME, 0.0, when_done=lambda: None)
    assert engine.model == "full_range"
    await engine.aclose()


# -- with the models -------------------------------------------------------------------------


@pytest.mark.device
@pytest.mark.anyio
@pytest.mark.parametrize("isolation", ["process", "none"])
@pytest.mark.parametrize("is_quick", [True, False])
async def test_the_device_takes_the_model_that_suits_it(
    isolation: str, is_quick: bool, astronaut: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the limit far above and far below what a look takes anywhere."""
    if not any(map(is_installed, ("ai_edge_litert", "mediapipe"))):
        pytest.skip("neither LiteRT nor MediaPipe is installed")
    try:
        for spec in (FULL, SHORT):
            load_model(spec.name)
    except ModelError as error:
        pytest.skip(f"no model to be had: {error}")
    most_s = 100.0 if is_quick else 1e-9
    on_device = "hybrid_detect.backends.device.on_device.is_quick_enough"
    monkeypatch.setattr(on_device, lambda _, look_s: 0 < look_s <= most_s)
    async with OnDeviceDetectionService(isolation=isolation) as device:
        result = await device.process_image(astronaut, deadline_s=30)
        told = device.recall_by_height
    spec = FULL if is_quick else SHORT
    assert told == spec.input().recall_by_height
    assert result.model == spec.name
    assert result.min_face_px == spec.min_face_px(512, 512)
    assert len(result.faces) == 1


@pytest.mark.device
@pytest.mark.anyio
@pytest.mark.parametrize("is_quick", [True, False])
async def test_a_desktop_takes_centerface_while_it_is_quick_enough(
    is_quick: bool, astronaut: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not is_installed("onnxruntime"):
        pytest.skip("ONNX Runtime is not installed")
    try:
        for name in ("centerface", "full_range"):
            load_model(name)
    except ModelError as error:
        pytest.skip(f"no model to be had: {error}")
    monkeypatch.setattr(model_choice, "has_time_to_spare", lambda: True)
    on_device = "hybrid_detect.backends.device.on_device.is_quick_enough"
    monkeypatch.setattr(on_device, lambda model, _: model != "centerface" or is_quick)
    async with OnDeviceDetectionService() as device:
        result = await device.process_image(astronaut, deadline_s=30)
        runtime = device.runtime
    assert (result.model, len(result.faces)) == ("centerface" if is_quick else "full_range", 1)
    assert ("ONNX" in runtime) is is_quick


def test_both_models_run_on_the_same_runtimes() -> None:
    """The runtime is chosen once, before the model is."""
    assert FULL.runtimes == SHORT.runtimes
