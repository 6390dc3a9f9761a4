"""Every example runs against the reference server and finds the face."""

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hybrid_detect.extras import is_installed

from . import xvfb

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
def environ(server):
    return {
        **os.environ,
        "HYBRID_DETECT_ENDPOINT": server.url,
        "HYBRID_DETECT_AUTH_TOKEN": "test-token",
        "HYBRID_DETECT_DEADLINE_S": "30",  # the default of a second is missed by a busy machine
    }


@pytest.fixture
def run(tmp_path, environ, astronaut):
    Image.fromarray(astronaut).save(tmp_path / "photo.jpg")

    def run(name: str, *arguments: str) -> str:
        done = started(name, *arguments, cwd=tmp_path, environ=environ)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_photo_prints_and_draws_the_face(run, tmp_path):
    assert run("photo.py", "photo.jpg", "faces.png").startswith("1 faces by ")
    with Image.open(tmp_path / "faces.png") as picture:
        assert picture.size == (512, 512)


def test_raspberry_pi_writes_a_json_line_for_each_frame(run):
    lines = run("raspberry_pi.py", "photo.jpg", "1").splitlines()
    assert [len(json.loads(line)["faces"]) for line in lines] == [1]
    assert json.loads(lines[0])["backend"] == "device"


@pytest.mark.skipif(sys.platform != "linux", reason="needs systemd's kind of socket")
@pytest.mark.parametrize("is_abstract", [False, True], ids=["a file", "abstract"])
def test_raspberry_pi_tells_systemd_and_ends_in_order(is_abstract, environ, face_video, tmp_path):
    """As systemd would: it waits for READY, is fed by answers, and asks to end by SIGTERM."""
    address = f"\0hybrid-detect-{os.getpid()}" if is_abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(address)
        systemd.settimeout(50)
        process = subprocess.Popen(
            [sys.executable, str(EXAMPLES / "raspberry_pi.py"), str(face_video)],
            env={**environ, "NOTIFY_SOCKET": address.replace("\0", "@")},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        told = [systemd.recv(4096).decode()]
        while not told[-1].startswith("WATCHDOG=1"):
            told.append(systemd.recv(4096).decode())
        assert told[0].startswith("READY=1\n")
        assert "STATUS=device: prefer_on_device" in told[-1]
        process.terminate()
        out, errors = process.communicate(timeout=50)
        while told[-1] != "STOPPING=1":
            told.append(systemd.recv(4096).decode())
    assert process.returncode == 0, errors
    assert not errors
    assert all(json.loads(line)["captured_at_s"] for line in out.splitlines())


def test_the_smallest_client_prints_the_face(run):
    assert re.match(r"\{'x_min': .*\} 0\.\d+\n$", run("simple_backend_detection.py", "photo.jpg"))


def test_ui_thread_goes_on_drawing(run):
    assert run("ui_thread.py", "photo.jpg").endswith("then: 1 faces\n")


@pytest.fixture(scope="module")
def face_video(astronaut, tmp_path_factory) -> Path:
    """A face that moves, 640x480, for twelve seconds of ten looks."""
    av = pytest.importorskip("av")
    path = tmp_path_factory.mktemp("video") / "face.mp4"
    face = Image.fromarray(astronaut).resize((420, 420))
    with av.open(str(path), "w") as file:
        stream = file.add_stream("h264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 640, 480, "yuv420p"
        for number in range(120):
            picture = Image.new("RGB", (640, 480), (40, 60, 90))
            picture.paste(face, (60 + number * 3 % 160, 30))
            file.mux(stream.encode(av.VideoFrame.from_image(picture)))
        file.mux(stream.encode())
    return path


@pytest.fixture(scope="module")
def display():
    if reason := xvfb.unavailable_reason():
        pytest.skip(reason)
    with xvfb.display() as name:
        yield name


def shown_in_a_docs_block(page, toolkit, folder, video, url) -> Path:
    """The program of `toolkit` in a page of the documentation, with a video for a camera."""
    page = (EXAMPLES.parent / "docs" / page).read_text(encoding="utf-8")
    (code,) = (
        block
        for block in re.findall(r"<!-- window -->\n```python\n(.*?)^```$", page, re.M | re.S)
        if toolkit in block
    )
    (program := folder / "program.py").write_text(
        code.replace("https://faces.example.com", url)
        .replace("(root, 0,", f"(root, {str(video)!r},")
        .replace("camera: 0", f"camera: {str(video)!r}")
    )
    return program


WINDOWS = [
    ("tk", "desktop_camera.py", "800x600"),
    ("tk", "desktop_camera.py", "320x240"),
    ("tk", "how-to/widgets.md", "640x520"),
    ("tk", "tutorials/camera-app.md", "640x520"),
    ("kivy", "kivy_camera.py", "800x600"),
    ("kivy", "kivy_camera.py", "320x240"),
    ("kivy", "how-to/widgets.md", "640x520"),
]


@pytest.mark.parametrize(("toolkit", "name", "size"), WINDOWS)
def test_a_window_shows_the_face(
    toolkit, name, size, tmp_path, face_video, display, environ, server
):
    if not is_installed({"tk": "tkinter"}.get(toolkit, toolkit)):
        pytest.skip(f"{toolkit} is not installed")
    program = EXAMPLES / name
    if name.endswith(".md"):
        program = shown_in_a_docs_block(name, toolkit, tmp_path, face_video, server.url)
    picture = tmp_path / "window.png"
    arguments = (face_video, server.url) if name.startswith("tutorials") else (face_video,)
    driver = (toolkit, program, picture, size, *arguments)
    done = subprocess.run(
        [sys.executable, "-m", "tests.window_driver", *map(str, driver)],
        cwd=EXAMPLES.parent,
        env={**environ, "DISPLAY": display, "KIVY_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=55,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout, "it has told its status"
    if kept := os.environ.get("KEPT_PICTURES"):
        Image.open(picture).save(Path(kept) / f"{toolkit}-{Path(name).name}-{size}.png")
    pixels = np.asarray(Image.open(picture).convert("RGB")).astype(int)
    width, height = map(int, size.split("x"))
    assert pixels.shape[:2] == (height, width)

    red, green, blue = np.moveaxis(pixels, 2, 0)
    is_box = (green > red + 80) & (green > blue + 50)  # thin lines, softened by the graphics card
    assert is_box.mean() > 0.0005
    # The video's margin: neither its colours are swapped, nor is it gone.
    assert (np.abs(pixels - (40, 60, 90)).max(axis=2) < 20).mean() > 0.03


@pytest.mark.parametrize(
    ("name", "variables", "told"),
    [
        ("ui_thread.py", {"MODE": "cloud"}, "no result: no endpoint is configured"),
        (
            "ui_thread.py",
            {"ENDPOINT": "http://127.0.0.1:9"},
            "no result: expected the path of a readable image file",
        ),
        (
            "raspberry_pi.py",
            {"ENDPOINT": "http://127.0.0.1:9"},
            "raspberry_pi: camera: there is no file",  # yet: it may be plugged in
        ),
        ("raspberry_pi.py", {"DEADLINE_S": "-1"}, "raspberry_pi: "),
    ],
)
def test_an_example_that_cannot_work_says_so_and_ends(name, variables, told, tmp_path):
    environ = {key: value for key, value in os.environ.items() if "HYBRID_DETECT_" not in key}
    environ["HYBRID_DETECT_MODEL_FETCH"] = "0"
    environ |= {f"HYBRID_DETECT_{key}": value for key, value in variables.items()}
    done = started(name, "missing.jpg", cwd=tmp_path, environ=environ)
    assert done.returncode == (78 if "DEADLINE_S" in variables else 1), "78: systemd lets it be"
    assert done.stderr.splitlines()[-1].startswith(told)
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", sorted(example.name for example in EXAMPLES.glob("*.py")))
def test_an_example_without_arguments_says_how_to_run_it(name, tmp_path):
    done = started(name, cwd=tmp_path, environ=dict(os.environ))
    assert done.returncode == 1
    assert f"\npython examples/{name} " in done.stderr
    assert "Traceback" not in done.stderr


def test_the_test_suite_passes(server):
    """It starts a server of its own, as a reader's would; the fixture only asks whether one can."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=EXAMPLES / "test_suite",
        capture_output=True,
        text=True,
        timeout=55,
    )
    assert done.returncode == 0, done.stdout
    assert "7 passed" in done.stdout


def test_every_example_is_tested():
    here = Path(__file__).read_text(encoding="utf-8")
    for example in EXAMPLES.glob("*.py"):
        assert f'"{example.name}"' in here
