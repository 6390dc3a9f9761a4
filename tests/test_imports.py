"""What importing loads: seen from a fresh interpreter each time."""

import json
import subprocess
import sys

import pytest

HEAVY = {
    "PIL",
    "anyio",
    "asyncio",
    "cryptography",
    "cv2",
    "httpx",
    "matplotlib",
    "mediapipe",
    "numpy",
    "psutil",
    "starlette",
    "supervision",
    "tenacity",
    "websockets",
}


def loaded_by(code: str) -> set[str]:
    """The heavy libraries that running `code` loads."""
    script = f"{code}\nimport sys, json\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=50, check=True
    )
    return {name.partition(".")[0] for name in json.loads(done.stdout.splitlines()[-1])} & HEAVY


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import hybrid_detect", HEAVY),
        (
            "import hybrid_detect; dir(hybrid_detect); hybrid_detect.__version__",
            HEAVY - {"asyncio"},
        ),
        ("from hybrid_detect import DetectionResult, DetectionMode, Plan, Policy", HEAVY),
        ("from hybrid_detect import ServiceConfig, BackendError, ModePolicy", HEAVY),
        (
            "from hybrid_detect import Frame, CameraImage, ImageCompressionService",
            {"httpx", "websockets", "mediapipe", "cv2", "tenacity"},
        ),
        (
            "from hybrid_detect import CloudDetectionService",
            {"mediapipe", "websockets", "cv2", "starlette"},
        ),
        (
            "from hybrid_detect import StreamingService",
            {"mediapipe", "httpx", "cv2", "starlette"},
        ),
        (
            "from hybrid_detect import OnDeviceDetectionService",
            {"httpx", "websockets", "mediapipe", "cv2"},
        ),
        (
            "from hybrid_detect import HybridDetectionService",
            {"httpx", "websockets", "mediapipe", "cv2", "starlette"},
        ),
        (
            "from hybrid_detect import CloudDetectionService, HybridDetectionService\n"
            "HybridDetectionService('https://faces.example', mode='cloud')",
            {"mediapipe", "websockets", "cv2", "starlette"},
        ),
    ],
    ids=lambda value: value.replace("\n", "; ")[:60] if isinstance(value, str) else "",
)
def test_only_what_is_used_is_loaded(code: str, absent: set[str]) -> None:
    assert not loaded_by(code) & absent
