"""The Kivy widget, in an app on a display of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hybrid_detect.extras import is_installed

from .. import xvfb


@pytest.mark.skipif(not is_installed("kivy"), reason="kivy is not installed")
@pytest.mark.skipif(bool(xvfb.unavailable_reason()), reason=xvfb.unavailable_reason())
def test_it_shows_switches_pauses_and_tells(tmp_path: Path) -> None:
    with xvfb.display() as display:
        done = subprocess.run(
            [sys.executable, "-m", "tests.integrations.kivy_app"],
            cwd=Path(__file__).parents[2],
            env={**os.environ, "DISPLAY": display, "KIVY_HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=55,
        )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout.splitlines()[-1])
    assert seen == {
        "mode in the menu": "prefer_cloud",
        "texture": [320, 240],
        "top left": [200, 30, 40],
        "stays": True,
        "the switch follows": "normal",
        "fills": True,
        "no camera": ["paused: no camera", "", [0, 0]],
        "done": True,
        "closed": "failed",
        "told": "failed: no endpoint is configured: set endpoint= (HYBRID_DETECT_ENDPOINT) to the "
        "address of a detection server",
    }


def test_without_kivy_the_error_names_the_extra() -> None:
    code = "import sys; sys.modules['kivy.app'] = None; import hybrid_detect.integrations.kivy"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=50, check=False
    )
    assert "pip install 'hybrid-detect[kivy]'" in done.stderr.splitlines()[-1]
