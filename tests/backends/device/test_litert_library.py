"""LiteRT's C library: used where it was tried, told where it is not, and without a leak."""

from __future__ import annotations

import io
import mmap
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hybrid_detect.backends.device import litert_library
from hybrid_detect.backends.device.litert_detector import FaceSteps, LiteRtFaceDetector
from hybrid_detect.backends.device.litert_library import (
    ALIGNMENT,
    LibraryNetwork,
    library_reason,
    library_version,
    tensor_layout,
)
from hybrid_detect.backends.device.litert_network import BindingNetwork, open_network
from hybrid_detect.backends.device.models import load_model
from hybrid_detect.backends.device.runtimes import LITERT
from hybrid_detect.backends.device.worker import DetectorWorker
from hybrid_detect.errors import BackendUnavailableError, ModelError
from hybrid_detect.extras import is_installed
from hybrid_detect.system.memory_probe import process_anonymous_bytes

from .stand_in import install

pytestmark = [
    pytest.mark.device,
    pytest.mark.skipif(not is_installed("ai_edge_litert"), reason="LiteRT is not installed"),
]

MIB = 2**20


@pytest.fixture(scope="module")
def model() -> bytes:
    try:
        return load_model("short_range")
    except ModelError as error:
        pytest.skip(f"no model to be had: {error}")


@pytest.fixture
def usable() -> None:
    if reason := library_reason():
        pytest.skip(reason)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that stands for LiteRT's package of version 2.3.0, without a library in it."""
    folder = tmp_path / "ai_edge_litert"
    folder.mkdir()
    (tmp_path / "ai_edge_litert-2.3.0.dist-info").mkdir()
    monkeypatch.setattr(litert_library, "_package_folder", lambda: str(folder))
    litert_library._library.cache_clear()
    yield folder
    litert_library._library.cache_clear()


def test_the_version_is_that_of_the_installed_package() -> None:
    from importlib.metadata import version

    assert library_version() == version("ai-edge-litert")


def test_a_release_that_was_not_tried_runs_on_the_binding_and_says_so(
    package: Path, model: bytes
) -> None:
    os.rename(
        package.parent / "ai_edge_litert-2.3.0.dist-info",
        package.parent / "ai_edge_litert-9.1.0.dist-info",
    )
    assert "2.3.x, and this is 9.1.0" in library_reason()
    network = open_network(model)
    assert isinstance(network, BindingNetwork)
    assert "Python binding: LiteRT's C library was tried with 2." in network.runs_on
    with pytest.raises(BackendUnavailableError, match=r"this is 9\.1\.0"):
        LibraryNetwork(model)


def test_a_package_without_the_library_or_a_version_is_told(package: Path) -> None:
    assert "cannot be used" in library_reason()
    assert "libLiteRt.so" in library_reason()
    (package.parent / "ai_edge_litert-2.3.0.dist-info").rmdir()
    litert_library._library.cache_clear()
    assert "this is unknown" in library_reason()


def test_a_library_that_lacks_a_function_is_told(
    usable: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(litert_library._SIGNATURES, "LiteRtNoSuchFunction", ())
    litert_library._library.cache_clear()
    try:
        assert "LiteRtNoSuchFunction" in library_reason()
    finally:
        monkeypatch.undo()
        litert_library._library.cache_clear()


def test_another_system_runs_on_the_binding(usable: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(litert_library.sys, "platform", "darwin")
    litert_library._library.cache_clear()
    try:
        assert "not tried on this system" in library_reason()
    finally:
        monkeypatch.undo()
        litert_library._library.cache_clear()


@pytest.mark.parametrize(
    "damaged",
    [
        lambda model: b"",
        lambda model: b"no model!",
        lambda model: model[:1000],
        lambda model: model[:-1000],
        lambda model: bytes(300) + model[300:],
    ],
    ids=["empty", "text", "a head", "cut off", "zeros at its head"],
)
def test_a_damaged_model_is_refused(usable: None, model: bytes, damaged: object) -> None:
    broken = damaged(model)  # type: ignore[operator]
    with pytest.raises(ModelError, match=f"does not accept the model of {len(broken)} bytes"):
        LibraryNetwork(broken)


@pytest.mark.parametrize("make", [LibraryNetwork, BindingNetwork])
def test_memory_that_is_too_small_is_refused(
    usable: None, model: bytes, make: Callable[..., object]
) -> None:
    with pytest.raises(ModelError, match="more than there is room for"):
        make(model, memory=mmap.mmap(-1, 4096))


def test_tensors_lie_one_after_the_other_at_aligned_places() -> None:
    assert tensor_layout(((1, 128, 128, 3), (1, 3, 5), (1, 1))) == ((0, 196608, 196672), 196736)
    assert 196608 % ALIGNMENT == 196672 % ALIGNMENT == 0


def test_both_networks_compute_the_same_numbers_in_the_given_memory(
    usable: None, model: bytes
) -> None:
    found = []
    for kind in (LibraryNetwork, BindingNetwork):
        memory = mmap.mmap(-1, MIB)
        network = kind(model, memory=memory)
        offsets, _ = tensor_layout(network.shapes)
        size = int(np.prod(network.shapes[0]))
        noise = np.random.default_rng(3).uniform(-1, 1, size).astype(np.float32)
        np.frombuffer(memory, np.float32, size)[:] = noise
        network.run()
        found.append(
            {
                shape: np.frombuffer(memory, np.float32, int(np.prod(shape)), offset).copy()
                for shape, offset in zip(network.shapes[1:], offsets[1:], strict=True)
            }
        )
        network.close()
        network.close()
    ours, theirs = found
    assert ours.keys() == theirs.keys()
    for shape in ours:
        assert ours[shape] == pytest.approx(theirs[shape], abs=1e-4)


def test_running_and_making_networks_again_takes_no_more_memory(usable: None, model: bytes) -> None:
    network = LibraryNetwork(model)

    def held() -> int:
        return process_anonymous_bytes(os.getpid()) or 0

    def one() -> None:
        other = LibraryNetwork(model)
        other.run()
        other.close()

    for _ in range(20):
        network.run()
        one()
    before = held()
    for _ in range(1000):
        network.run()
    for _ in range(100):
        one()
    # One network takes 6 MB: one in a hundred that stays would be seen.
    assert held() - before < 3 * MIB
    network.close()


@pytest.fixture
def worker(usable: None, model: bytes) -> Iterator[DetectorWorker]:
    worker = DetectorWorker(lambda: model, runtime=LITERT, enough_px=512)
    yield worker
    worker.close()


def test_a_worker_that_is_given_pixels_runs_one_thread_without_numpy(
    worker: DetectorWorker, astronaut: np.ndarray
) -> None:
    """NumPy would take 8 MB, a pool of threads a stack each; the second thread watches the app."""
    assert len(worker.detect(astronaut)) == 1
    assert worker.runs_on == f"LiteRT {library_version()} (C library)"
    mapped = Path(f"/proc/{worker.pid}/maps").read_text(encoding="utf-8")
    assert "libLiteRt.so" in mapped
    for other in ("numpy", "libpywrap", "PIL"):
        assert other not in mapped
    assert len(os.listdir(f"/proc/{worker.pid}/task")) <= 2


def test_a_worker_answers_as_a_detector_in_the_app_does(
    worker: DetectorWorker, model: bytes, astronaut: np.ndarray
) -> None:
    """Pixels of any size, and encoded pictures, which the process decodes."""
    out = io.BytesIO()
    Image.fromarray(astronaut).save(out, "PNG")
    large = np.repeat(np.repeat(astronaut, 10, axis=0), 10, axis=1)
    with LiteRtFaceDetector(LibraryNetwork(model)) as detector:
        for image in (astronaut, np.ascontiguousarray(astronaut[:, 205:]), large):
            assert worker.detect(image) == detector.detect(image)
        black = np.zeros((240, 320, 3), np.uint8)
        assert worker.detect(black) == detector.detect(black) == ()
        found = worker.detect_encoded(out.getvalue(), max_pixels=10**6)
        assert found.decode_s is not None
        assert found.decode_s > 0
        assert found.faces == detector.detect(astronaut)
        low = worker.detect_encoded(out.getvalue(), max_pixels=10**6, min_confidence=0.99)
        assert low.faces == ()
        assert worker.detect(astronaut) == detector.detect(astronaut)


def test_a_worker_falls_back_to_the_binding_and_says_so(
    usable: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    model: bytes,
    astronaut: np.ndarray,
) -> None:
    site = f"""
import sys
sys.path[:0] = {sys.path!r}
from hybrid_detect.backends.device import litert_library
litert_library.TRIED_RELEASES = ()
"""
    install(tmp_path, monkeypatch, site=site)
    worker = DetectorWorker(lambda: model, runtime=LITERT)
    try:
        found = worker.detect(astronaut)
        assert "Python binding: LiteRT's C library was tried with" in worker.runs_on
    finally:
        worker.close()
    with LiteRtFaceDetector(LibraryNetwork(model)) as detector:
        (face,) = detector.detect(astronaut)
    assert found[0].box.iou(face.box) > 0.999


def test_a_model_that_is_none_of_faces_is_told(usable: None) -> None:
    with pytest.raises(ModelError, match=r"got input \(1, 8, 8, 3\)"):
        FaceSteps(((1, 8, 8, 3), (1, 3)))
