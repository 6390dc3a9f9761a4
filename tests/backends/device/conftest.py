"""Workers for the tests of the detector's process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hybrid_detect.backends.device.models import load_model
from hybrid_detect.backends.device.worker import DetectorWorker
from hybrid_detect.errors import ModelError
from hybrid_detect.extras import is_installed

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
