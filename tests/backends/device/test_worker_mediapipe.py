"""The detector's process with MediaPipe itself."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from hybrid_detect.backends.device import child_program
from hybrid_detect.backends.device.face_detector import MediaPipeFaceDetector
from hybrid_detect.backends.device.worker import DetectorWorker
from hybrid_detect.errors import BackendUnavailableError

from .worker_support import linux, pid_of, python, repeat

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="tests speak in signals")


@pytest.fixture
def real(model: bytes) -> Iterator[DetectorWorker]:
    worker = DetectorWorker(lambda: model)
    yield worker
    worker.close()


@pytest.mark.device
def test_same_answer_as_in_process(
    real: DetectorWorker, model: bytes, astronaut: np.ndarray
) -> None:
    with MediaPipeFaceDetector(model) as in_process:
        for image in (astronaut, astronaut[::2, ::2], astronaut[:, ::-1], astronaut[300:, :200]):
            image = np.ascontiguousarray(image)
            assert real.detect(image) == in_process.detect(image)
    assert len(real.detect(astronaut)) == 1


@pytest.mark.device
def test_largest_pictures_fit_under_the_cap(real: DetectorWorker, astronaut: np.ndarray) -> None:
    """MediaPipe copies a picture twice, which 8K would not survive under the cap for 4K."""
    assert len(real.detect(astronaut)) == 1
    large = np.tile(astronaut, (9, 15, 1))[:4320]
    for _ in range(2):
        real.detect(large)
    assert len(real.detect(astronaut)) == 1
    assert real.restarts == 0


@pytest.mark.device
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT])
def test_killed_mediapipe_costs_one_picture(
    real: DetectorWorker, astronaut: np.ndarray, how: signal.Signals
) -> None:
    expected = real.detect(astronaut)
    os.kill(pid_of(real), how)
    with pytest.raises(BackendUnavailableError, match=f"signal {how.value}"):
        real.detect(astronaut)
    assert real.detect(astronaut) == expected


@linux
@pytest.mark.device
def test_mediapipe_at_its_memory_limit_costs_one_picture(
    real: DetectorWorker, astronaut: np.ndarray
) -> None:
    import resource

    expected = real.detect(astronaut)
    resource.prlimit(pid_of(real), resource.RLIMIT_DATA, (1, 1))
    large = np.tile(astronaut, (4, 4, 1))
    with pytest.raises(BackendUnavailableError):
        repeat(3, lambda: real.detect(large))
    assert real.detect(astronaut) == expected


@pytest.mark.device
@pytest.mark.usefixtures("model")
@pytest.mark.parametrize("mode", ["on_device", "auto", "cloud", "streaming"])
def test_mediapipe_never_comes_into_the_app(mode: str) -> None:
    script = f"""
        import asyncio, json, sys
        import numpy as np
        from hybrid_detect import HybridDetectionService
        from hybrid_detect.errors import HybridDetectError

        async def main():
            picture = np.zeros((48, 64, 3), np.uint8)
            endpoint = None if {mode!r} == "on_device" else "http://127.0.0.1:9"
            seen = None
            async with HybridDetectionService(endpoint, mode={mode!r}) as service:
                for _ in range(3):
                    try:
                        seen = (await service.process_image(picture, deadline_s=5)).backend
                    except HybridDetectError:
                        pass
            return seen

        seen = asyncio.run(main())
        heavy = {{"mediapipe", "cv2", "matplotlib", "sounddevice"}} & set(sys.modules)
        print(json.dumps([sorted(heavy), seen]))
    """
    heavy, seen = json.loads(python(script, quiet=False))
    assert heavy == []
    assert seen == ("device" if mode in {"on_device", "auto"} else None)


@pytest.mark.parametrize(
    ("attributes", "can"),
    [
        ({}, True),
        ({"executable": ""}, False),  # embedded in an app, as on phones
        ({"frozen": True}, False),
        ({"frozen": True, "hybrid_detect_worker": child_program.FROZEN_ARGUMENT}, True),
    ],
)
def test_a_frozen_app_starts_itself_only_where_it_knows_how_to_become_a_detector(
    attributes: dict[str, Any], can: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would start itself again and again otherwise. ``nox -s frozen`` builds a real one."""
    for name, value in attributes.items():
        monkeypatch.setattr(sys, name, value, raising=False)
    assert child_program.can_start_processes() is can
