"""What is said when a system library is missing that pip does not bring."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from hybrid_detect.backends.device import mediapipe_loading, system_libraries
from hybrid_detect.backends.device.face_detector import MediaPipeFaceDetector
from hybrid_detect.backends.device.mediapipe_loading import load_mediapipe
from hybrid_detect.backends.device.system_libraries import loading_error, missing_libraries
from hybrid_detect.errors import BackendUnavailableError
from hybrid_detect.extras import is_installed

linux = pytest.mark.skipif(sys.platform != "linux", reason="only there is MediaPipe so linked")

CANNOT_OPEN = "{}: cannot open shared object file: No such file or directory"


@pytest.fixture
def absent(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Names of libraries that this system lacks for the test."""
    names: set[str] = set()

    def load(name: str) -> None:
        if name in names:
            raise OSError(CANNOT_OPEN.format(name))

    monkeypatch.setattr(system_libraries.ctypes, "CDLL", load)
    return names


@linux
@pytest.mark.parametrize(
    ("lacks", "says"),
    [
        (
            {"libEGL.so.1", "libGLESv2.so.2"},
            "libEGL.so.1 and libGLESv2.so.2 are missing: apt-get install libegl1 libgles2",
        ),
        ({"libEGL.so.1"}, "libEGL.so.1 is missing: apt-get install libegl1"),
        ({"libGLESv2.so.2"}, "libGLESv2.so.2 is missing: apt-get install libgles2"),
    ],
    ids=["both", "EGL", "GLES"],
)
def test_the_packages_are_named(absent: set[str], lacks: set[str], says: str) -> None:
    absent |= lacks
    assert {library.filename for library in missing_libraries()} == lacks
    error = loading_error(OSError(CANNOT_OPEN.format(min(lacks))))
    assert isinstance(error, BackendUnavailableError)
    assert not error.retryable
    assert says in str(error)


@linux
def test_opencv_s_library_is_named_where_the_whole_package_is_loaded(absent: set[str]) -> None:
    assert missing_libraries() == ()
    error = loading_error(ImportError(CANNOT_OPEN.format("libGL.so.1")))
    assert "apt-get install libgl1" in str(error)


@pytest.mark.parametrize(
    ("reason", "says"),
    [
        ("libmediapipe.so: failed to map segment from shared object", "ulimit -v"),
        ("libmediapipe.so: file too short", "on this machine: libmediapipe.so: file too short"),
        ("libEGL.so.1: Too many open files", "Too many open files"),
    ],
)
def test_other_reasons_are_no_missing_package(absent: set[str], reason: str, says: str) -> None:
    if "open files" in reason:
        absent.add("libEGL.so.1")
    message = str(loading_error(OSError(reason)))
    assert says in message
    assert "apt-get" not in message


@linux
def test_what_a_diagnosis_asks_of_this_system_is_answered() -> None:
    for library in missing_libraries():
        with pytest.raises(OSError, match="cannot open"):
            ctypes.CDLL(library.filename)


def test_a_package_that_cannot_be_loaded_is_not_taken_for_one_that_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ImportError(CANNOT_OPEN.format("libGL.so.1"), name="cv2")

    monkeypatch.setattr(mediapipe_loading, "require", fail)
    with pytest.raises(BackendUnavailableError, match=r"libGL\.so\.1 is missing"):
        load_mediapipe()


@linux
@pytest.mark.device
def test_the_worker_names_the_packages(tmp_path: Path) -> None:
    """In a system whose two libraries are hidden behind an empty file."""
    if not is_installed("mediapipe") or missing_libraries():
        pytest.skip("needs MediaPipe and its libraries")
    if shutil.which("unshare") is None:
        pytest.skip("unshare (util-linux) is not installed")
    empty = tmp_path / "empty"
    empty.touch()
    script = """
        from hybrid_detect.backends.device.worker import DetectorWorker
        from hybrid_detect.errors import BackendUnavailableError
        from hybrid_detect.testing.synthetic_model import synthetic_face_model
        model = synthetic_face_model()
        try:
            DetectorWorker(lambda: model).start()
        except BackendUnavailableError as error:
            print(error)
    """
    inside = """
        for name in libEGL.so.1 libGLESv2.so.2; do
            path=$(readlink -f "$(ldconfig -p | grep -F "$name" | head -1 | sed "s/.*=> //")")
            mount --bind "$2" "$path" || exit 77
        done
        exec "$0" -c "$1"
    """
    command = ["unshare", "-rm", "sh", "-c", inside, sys.executable, textwrap.dedent(script)]
    done = subprocess.run([*command, str(empty)], capture_output=True, text=True, timeout=60)
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip(f"no mount namespace to be had: {done.stderr.strip()[:200]}")
    assert "apt-get install libegl1 libgles2" in done.stdout, done.stderr[-500:]


@pytest.mark.device
def test_a_detector_whose_library_fails_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        class FaceDetector:
            @staticmethod
            def create_from_options(_: object) -> None:
                raise OSError(CANNOT_OPEN.format("libmediapipe.so"))

        @staticmethod
        def FaceDetectorOptions(**_: object) -> None:  # noqa: N802 - MediaPipe's name
            return None

        @staticmethod
        def BaseOptions(**_: object) -> None:  # noqa: N802 - MediaPipe's name
            return None

    monkeypatch.setattr(
        "hybrid_detect.backends.device.face_detector.load_mediapipe", lambda **_: Broken
    )
    with pytest.raises(BackendUnavailableError, match="cannot be loaded on this machine"):
        MediaPipeFaceDetector(b"model of a test")
