"""Detectors for the tests of the device backend."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from hybrid_detect.backends.device import face_detector
from hybrid_detect.backends.device import on_device as device
from hybrid_detect.backends.device.models import load_model
from hybrid_detect.backends.device.worker import DetectorWorker
from hybrid_detect.errors import ModelError
from hybrid_detect.extras import is_installed
from hybrid_detect.testing.synthetic_model import synthetic_face_model

from .service_support import FakeEngine, assert_no_thread_of_ours
from .stand_in import install
from .worker_support import assert_no_process_of_ours


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch)


@pytest.fixture
def worker(stand_in: None) -> Iterator[DetectorWorker]:
    worker = DetectorWorker(lambda: b"model")
    yield worker
    worker.close()
    assert_no_process_of_ours()


@pytest.fixture(scope="module")
def model() -> bytes:
    if not is_installed("mediapipe"):
        pytest.skip("MediaPipe is not installed")
    try:
        return load_model("short_range")
    except ModelError as exc:
        pytest.skip(f"no model to be had: {exc}")


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeEngine]:
    engine = FakeEngine()
    monkeypatch.setattr("hybrid_detect.backends.device.runtimes.is_installed", "mediapipe".__eq__)
    monkeypatch.setattr(device, "load_model", engine.load)
    monkeypatch.setattr(face_detector, "MediaPipeFaceDetector", engine.build)
    yield engine
    engine.may_load.set()
    engine.may_answer.set()
    assert_no_thread_of_ours()


@pytest.fixture
def synthetic(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bytes | Exception]]:
    """What loading gives, first to last; the generated model when this list is empty."""
    if not is_installed("mediapipe"):
        pytest.skip("MediaPipe is not installed")
    if sys.platform == "win32":
        pytest.skip("tests speak in signals")
    model = synthetic_face_model()
    answers: list[bytes | Exception] = []

    def load(*_: object, **__: object) -> bytes:
        answer = answers.pop(0) if answers else model
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(device, "load_model", load)
    yield answers
    assert_no_thread_of_ours()
    assert not [c for c in psutil.Process().children() if "worker_child" in str(c.cmdline())]
