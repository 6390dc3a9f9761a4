"""Every example runs against the reference server and finds the face."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

EXAMPLES = Path(__file__).parent.parent / "examples"


def started(name: str, *arguments: str, cwd: Path, environ: dict[str, str]):
    return subprocess.run(
        [sys.executable, str(EXAMPLES / name), *arguments],
        cwd=cwd,
        env=environ,
        capture_output=True,
        text=True,
        timeout=50,
    )


@pytest.fixture
def run(tmp_path, server, astronaut):
    Image.fromarray(astronaut).save(tmp_path / "photo.jpg")
    environ = {
        **os.environ,
        "HYBRID_DETECT_ENDPOINT": server.url,
        "HYBRID_DETECT_AUTH_TOKEN": "test-token",
        "HYBRID_DETECT_DEADLINE_S": "30",  # the default of a second is missed by a busy machine
    }

    def run(name: str, *arguments: str) -> str:
        done = started(name, *arguments, cwd=tmp_path, environ=environ)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_photo_prints_and_draws_the_face(run, tmp_path):
    assert run("photo.py", "photo.jpg", "faces.png").startswith("1 faces by ")
    with Image.open(tmp_path / "faces.png") as picture:
        assert picture.size == (512, 512)


def test_edge_camera_writes_a_json_line_for_each_frame(run):
    lines = run("edge_camera.py", "photo.jpg", "1").splitlines()
    assert [len(json.loads(line)["faces"]) for line in lines] == [1]
    assert json.loads(lines[0])["backend"] == "device"


def test_ui_thread_goes_on_drawing(run):
    assert run("ui_thread.py", "photo.jpg").endswith("then: 1 faces\n")


@pytest.mark.parametrize(
    ("name", "variables", "told"),
    [
        ("ui_thread.py", {"MODE": "cloud"}, "no result: no endpoint is configured"),
        (
            "ui_thread.py",
            {"ENDPOINT": "http://127.0.0.1:9"},
            "no result: expected the path of a readable image file",
        ),
        ("edge_camera.py", {"ENDPOINT": "http://127.0.0.1:9"}, "edge_camera: the camera is not"),
    ],
)
def test_an_example_that_cannot_work_says_so_and_ends(name, variables, told, tmp_path):
    if name == "edge_camera.py":
        pytest.importorskip("cv2")
    environ = {key: value for key, value in os.environ.items() if "HYBRID_DETECT_" not in key}
    environ["HYBRID_DETECT_MODEL_FETCH"] = "0"
    environ |= {f"HYBRID_DETECT_{key}": value for key, value in variables.items()}
    done = started(name, "missing.jpg", cwd=tmp_path, environ=environ)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(told)
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", sorted(example.name for example in EXAMPLES.glob("*.py")))
def test_an_example_without_arguments_says_how_to_run_it(name, tmp_path):
    if name == "edge_camera.py":
        pytest.importorskip("cv2")
    done = started(name, cwd=tmp_path, environ=dict(os.environ))
    assert done.returncode == 1
    assert f"\npython examples/{name} " in done.stderr
    assert "Traceback" not in done.stderr


def test_every_example_is_tested():
    here = Path(__file__).read_text(encoding="utf-8")
    for example in EXAMPLES.glob("*.py"):
        assert f'"{example.name}"' in here
