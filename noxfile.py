"""Everything that checks, measures or shows this project: `nox -l` lists it."""

import os
import re
import shutil
import tempfile
import zipfile
from pathlib import Path

import nox

nox.needs_version = ">=2025.2"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.error_on_external_run = True
nox.options.sessions = ["lint", "typing", "layers", "tests", "providers"]

ROOT = Path(__file__).parent

FUZZED = (
    "tests/backends/device/test_batches.py",
    "tests/compression/test_jpeg_markers.py",
    "tests/exchange/test_model_info.py",
    "tests/exchange/test_sealer.py",
    "tests/exchange/test_usual_headers.py",
    "tests/exchange/test_wire.py",
    "tests/exchange/test_wire_faces.py",
    "tests/frames/test_bad_input.py",
    "tests/privacy/test_metadata.py",
    "tests/server/test_fuzz.py",
    "tests/server/test_schema_fuzz.py",
    "tests/server/test_sealing.py",
    "tests/server/test_websocket_frames.py",
)
"""The files that ask `tests/fuzzing.py` how long to go on: wire, seals, images, endpoints."""

ORACLES = ("tests/backends/remote/providers", "tests/backends/remote/test_google_credentials.py")
"""What the SDKs of providers are needed for: `providers` runs it, `tests` does not."""

PARALLEL = ("-n", str((os.cpu_count() or 1) + 1), "--dist", "worksteal")
"""One pytest worker more than CPUs, because a fifth of the suite waits for processes and sockets. A
worker that has finished takes over tests of a busy one."""


FROZEN_APP = """\
import numpy

from hybrid_detect.sync import HybridDetectionService

with HybridDetectionService(mode="on_device") as service:
    result = service.process_image(numpy.zeros((480, 640, 3), numpy.uint8), deadline_s=30)
    print(service.status().backends[0].runtime)
assert result.answered, result.reason
print("a frozen app detects on the device:", result.status)
"""


PI_SCRIPT = "shared/lab/arm64-debian"
"""What makes and enters an emulated Raspberry Pi, beside this repository if it is there."""

PI_LOOK = """\
import sys

from hybrid_detect.backends.device import worker_process
from hybrid_detect.errors import ConfigurationError
from hybrid_detect.sync import HybridDetectionService

worker_process.START_LIMIT_S = worker_process.ANSWER_LIMIT_S = 300.0  # emulated, on a busy machine
try:
    with HybridDetectionService(mode="on_device") as service:
        result = service.process_image(sys.argv[1], deadline_s=300)
        (backend,) = service.status().backends
except ConfigurationError as error:
    print("refused:", error)
else:
    (face,) = result.faces
    print(f"found: a face, score {face.score:.3f}, by {backend.runtime}")
"""
"""What the emulated Raspberry Pi is asked to do with a photo."""

PI_WATCH = """\
import runpy
import sys

from hybrid_detect.backends.device import worker_process

worker_process.START_LIMIT_S = worker_process.ANSWER_LIMIT_S = 300.0  # emulated, on a busy machine
sys.argv = ["/pi/raspberry_pi.py", "/pi/pictures", "2"]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""Runs `examples/raspberry_pi.py` in the emulated Raspberry Pi, over a folder of two pictures."""

PI_WATCHED = r'(?s)"backend": ?"device".*"backend": ?"device"'

PI_FILES = """\
import sys
from pathlib import Path

from PIL import Image
from skimage import data

from hybrid_detect.backends.device.model_registry import MODELS
from hybrid_detect.backends.device.models import load_model

folder = Path(sys.argv[1])
photo = Image.fromarray(data.astronaut())
photo.save(folder / "photo.png")
(folder / "pictures").mkdir(exist_ok=True)
for name in ("1.png", "2.png"):
    photo.save(folder / "pictures" / name)
(folder / MODELS["short_range"].filename).write_bytes(load_model("short_range"))
"""
"""Gives the emulated Raspberry Pi a photo and a model."""

PI_REFUSED = r"refused: .*lacks the LSE.*pip install 'hybrid-detect\[device-lite\]'"

PI_LOOKS = (
    ("device-lite", "cortex-a53", r"found: .* by LiteRT"),
    ("device-lite", "cortex-a72", r"found: .* by LiteRT"),
    ("device-lite", "cortex-a76", r"found: .* by LiteRT"),
    ("device", "cortex-a53", PI_REFUSED),
    ("device", "cortex-a72", PI_REFUSED),
    ("device", "cortex-a76", r"found: .* by MediaPipe"),
)
"""Extra, processor and what has to be printed. The processors are those of a Pi 3 and Zero 2 W, of
a Pi 4, and of a Pi 5."""


ON_DEVICE = """\
import numpy

from hybrid_detect import ServiceConfig
from hybrid_detect.sync import HybridDetectionService

config = ServiceConfig(mode="on_device", model={model!r})
with HybridDetectionService(config=config) as service:
    result = service.process_image(numpy.zeros((480, 640, 3), numpy.uint8), deadline_s=60)
    print(service.status().backends[0].runtime)
assert result.status == "ok" and result.model == {model!r}, result.reason
"""

SERVES = """\
import numpy

from hybrid_detect.server.serving import ServerProcess
from hybrid_detect.sync import HybridDetectionService

with ServerProcess(auth_token="of-a-release-check") as server:
    for mode in ("cloud", "streaming"):
        with HybridDetectionService(
            mode=mode, endpoint=server.url, auth_token="of-a-release-check"
        ) as service:
            result = service.process_image(numpy.zeros((480, 640, 3), numpy.uint8), deadline_s=60)
        assert result.status == "ok", result.reason
        print(mode, result.model, result.bytes_sent)
"""

CLIENT_ALONE = """\
import sys

import numpy

from hybrid_detect.errors import AllBackendsFailedError, MissingExtraError
from hybrid_detect.sync import HybridDetectionService

frame = numpy.zeros((480, 640, 3), numpy.uint8)
with HybridDetectionService(mode="cloud", endpoint="http://127.0.0.1:9") as service:
    try:
        service.process_image(frame, deadline_s=1)
    except AllBackendsFailedError as error:
        print("nothing listens there:", error)
try:
    with HybridDetectionService(mode="on_device") as service:
        service.process_image(frame, deadline_s=1)
except (AllBackendsFailedError, MissingExtraError) as error:
    assert "pip install" in str(error), error
    print("no device:", error)
assert not {"mediapipe", "cv2", "starlette"} & set(sys.modules)
"""

COMPRESSES = """\
import sys

import numpy

from hybrid_detect import ImageCompressionService

frame = numpy.random.default_rng(1).integers(0, 255, (720, 1280, 3), numpy.uint8)
picture = ImageCompressionService().compress_camera_image(frame)
assert picture.file_size_kb <= 80 and "simplejpeg" in sys.modules, picture.file_size_kb
print(picture.width, picture.height, picture.file_size_kb)
"""

SUPERVISION = """\
from hybrid_detect import BoundingBox, DetectionResult, DetectionStatus, Face

face = Face(BoundingBox(1, 2, 3, 4), 0.5)
result = DetectionResult(status=DetectionStatus.OK, width=9, height=9, faces=(face,))
assert result.to_supervision().xyxy.tolist() == [[1, 2, 3, 4]]
"""

WATCHES = """\
import av
import numpy

from hybrid_detect import PyAVSource

with av.open("video.mp4", "w") as file:
    stream = file.add_stream("mpeg4", rate=10)
    stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
    for _ in range(5):
        frame = av.VideoFrame.from_ndarray(numpy.zeros((48, 64, 3), numpy.uint8))
        file.mux(stream.encode(frame))
    file.mux(stream.encode())
reader = PyAVSource("video.mp4").open()
print(type(reader.read()).__name__)
reader.close()
"""

REPORTS = """\
import pathlib

import numpy

from hybrid_detect.cli import main
from hybrid_detect.errors import AllBackendsFailedError
from hybrid_detect import ServiceConfig
from hybrid_detect.sync import HybridDetectionService

config = ServiceConfig(mode="cloud", endpoint="http://127.0.0.1:9", costs_path="costs.db")
with HybridDetectionService(config=config) as service:
    try:
        service.process_image(numpy.zeros((48, 64, 3), numpy.uint8), deadline_s=1)
    except AllBackendsFailedError:
        pass
assert main(["report", "costs.db", "-o", "report.html"]) == 0
print(pathlib.Path("report.html").stat().st_size)
"""

RELEASED = {
    "": CLIENT_ALONE,
    "device-lite": ON_DEVICE.format(model="full_range"),
    "device": ON_DEVICE.format(model="short_range"),
    "centerface": ON_DEVICE.format(model="centerface"),
    "server,device-lite": SERVES,
    "turbo": COMPRESSES,
    "prometheus": "from hybrid_detect import PrometheusHook; PrometheusHook()",
    "otel": "from hybrid_detect import OpenTelemetryHook; OpenTelemetryHook()",
    "jwt": "import jwt; from hybrid_detect.server import jwks",
    "google": "import google.auth; from hybrid_detect.backends.remote.providers import google",
    "completion": "import argcomplete; from hybrid_detect.cli import main; main(['--version'])",
    "camera": WATCHES,
    "opencv": "import cv2; from hybrid_detect.sources import opencv_source; cv2.VideoCapture",
    "tui": "import rich; from hybrid_detect.cli import live_view",
    "report": REPORTS,
    "kivy": "import os; os.environ['KIVY_NO_ARGS'] = '1'; import kivy, hybrid_detect.integrations",
    "cluster,device-lite": "import ray.serve; from hybrid_detect.server.cluster import running",
    "supervision": SUPERVISION,
}
"""What the wheel has to do when it is installed with an extra and nothing else."""

NOT_RELEASED = {"all", "fuzz", "providers-test", "server-gpu", "test"}
"""Extras that are others together, for the project's own tests, or for a graphics processor."""


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and common mistakes (ruff)."""
    session.install("ruff==0.17.*")  # formatting changes between minor versions
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def typing(session: nox.Session) -> None:
    """Check types, strictly (mypy)."""
    session.install("-e", ".[server]", "mypy>=2.0", "nox", "pytest")
    session.run("mypy")


@nox.session
def layers(session: nox.Session) -> None:
    """Check that imports run downward only (import-linter)."""
    session.install("-e", ".", "import-linter>=2.3")
    session.run("lint-imports")


@nox.session
def tests(session: nox.Session) -> None:
    """Run the suite against the built package, README and docs included; not the providers'."""
    session.install(".[all,supervision,test]")
    session.run("hybrid-detect", "models", "pull")  # no test is skipped for want of a model
    # Hundreds of tests start a Python: each would compile all that it imports.
    session.env["PYTHONDONTWRITEBYTECODE"] = ""
    # `providers` runs those beside the SDKs, and they need nothing that is installed here alone.
    left_out = () if session.posargs else tuple(f"--ignore={path}" for path in ORACLES)
    session.run("pytest", *PARALLEL, *left_out, *session.posargs)


@nox.session
def hostile(session: nox.Session) -> None:
    """Run the long tests of bad days: damaged files, kills, overload (20 minutes at most)."""
    session.install(".[all,supervision,test]")
    session.run("hybrid-detect", "models", "pull")
    # One after the other: overload and silence are measured against an idle machine.
    session.run("pytest", "-m", "hostile", "--timeout=600", *session.posargs)


@nox.session
def providers(session: nox.Session) -> None:
    """Compare each provider with its own SDK, and with moto (150 MB of wheels)."""
    # The last two are not in the extra, because their OpenCV would overwrite MediaPipe's.
    session.install(".[google,test,providers-test]", "deepstack-sdk==0.2.1", "inference-sdk==1.8.3")
    session.run("pytest", *PARALLEL, *ORACLES, *session.posargs)


@nox.session(name="providers-live")
def providers_live(session: nox.Session) -> None:
    """Detect through real servers: Triton from its wheel (146 MB), MLServer (326 MB) and ours."""
    session.install(".[device,device-lite,server,test]", "mlserver==1.7.1")
    session.run("hybrid-detect", "models", "pull")
    # Triton's own Python reads no tensor right with a numpy of 2 and above.
    wheel = session.create_tmp()
    session.install("--no-deps", "--target", wheel, "nvidia-pytriton==0.7.0", "numpy==1.26.4")
    session.env["TRITON_WHEEL"] = wheel
    session.run("pytest", "-m", "live", "-v", "--timeout=300", "tests/live", *session.posargs)


@nox.session
def fuzz(session: nox.Session) -> None:
    """Feed generated input to the server and the parsers for minutes (schemathesis included)."""
    session.install(".[all,test,fuzz]")
    session.env["FUZZ_EXAMPLES"] = "1000"
    session.run("pytest", "--timeout=0", *FUZZED, *session.posargs)


@nox.session
def mutants(session: nox.Session) -> None:
    """Change the pure modules a little, and list the changes that no test notices."""
    session.install("-e", ".[server,test]", "mutmut>=3.8")
    session.run("mutmut", "run", *session.posargs)  # name some: "*rate_limit*"
    session.run("mutmut", "results")
    session.log("mutmut show NAME prints a change; mutmut browse shows all of them")


@nox.session
def docs(session: nox.Session) -> None:
    """Run every code block of README and docs."""
    session.install(".[all,test]")
    session.run("pytest", "tests/test_docs.py", *session.posargs)


@nox.session
def reference(session: nox.Session) -> None:
    """Write the reference pages that are made from the code."""
    session.install("-e", ".[otel,prometheus,server]")
    session.run("python", "tests/reference_pages.py")


@nox.session
def site(session: nox.Session) -> None:
    """Build the documentation as pages for a browser, in site/."""
    session.install("-e", ".[server]", "mkdocs-material>=9.7", "mkdocstrings[python]>=1.0")
    session.env["NO_MKDOCS_2_WARNING"] = "1"
    session.run("mkdocs", "build", "--strict", *session.posargs)


@nox.session
def gateways(session: nox.Session) -> None:
    """Run nginx and Caddy, where they are installed, in front of the server."""
    session.install(".[all,test]")
    session.run("pytest", "tests/deploy", *session.posargs)


@nox.session
def alerts(session: nox.Session) -> None:
    """Kill a server, and see the alert fire and resolve in a real Prometheus (Debian's)."""
    session.install(".[all,test]")
    session.run("hybrid-detect", "models", "pull")
    session.run("pytest", "-m", "hostile", "tests/deploy/test_alerts.py", *session.posargs)


@nox.session
def cluster(session: nox.Session) -> None:
    """Run replicas on Ray (250 MB installed) behind HAProxy: load, kills, scaling, replays."""
    session.install(".[centerface,cluster,device-lite,test,turbo]")
    session.run("hybrid-detect", "models", "pull")
    session.run("pytest", "--timeout=600", "tests/server/cluster", *session.posargs)


@nox.session
def examples(session: nox.Session) -> None:
    """Run every example."""
    session.install(".[all,test]")
    session.run("pytest", "tests/test_examples.py", *session.posargs)


@nox.session
def widgets(session: nox.Session) -> None:
    """Open the windows of Tk and Kivy (60 MB of wheels) on a display without a screen."""
    session.install(".[all,kivy,test]")
    session.run("hybrid-detect", "models", "pull")
    session.run("pytest", "tests/integrations", "tests/test_examples.py", *session.posargs)


@nox.session
def benchmarks(session: nox.Session) -> None:
    """Measure what the documentation claims; takes about an hour."""
    session.install(".[all,test]")
    for script in sorted((ROOT / "benchmarks").glob("bench_*.py")):
        if script.name == "bench_peers.py":
            continue  # installs other servers, which takes longer than all of this
        session.run("python", str(script), *session.posargs)


@nox.session
@nox.parametrize("extra", ["device", "device-lite"])
def frozen(session: nox.Session, extra: str) -> None:
    """Build an app with PyInstaller and run it, its detector in a process of its own."""
    session.install(f".[{extra}]", "pyinstaller>=6.10")
    session.run("hybrid-detect", "models", "pull", "short_range")
    with session.chdir(session.create_tmp()):
        Path("app.py").write_text(FROZEN_APP, encoding="utf-8")
        session.run("pyinstaller", "-y", "--log-level", "WARN", "app.py")
        session.run("dist/app/app", external=True)


@nox.session
def pi(session: nox.Session) -> None:
    """Install the wheel in an emulated Raspberry Pi; find a face and watch on each processor.

    nox -s pi -- [SCRIPT [FOLDER]], as root on Linux; an hour the first time. SCRIPT makes, enters
    and removes a Debian for 64-bit Arm in FOLDER: ``SCRIPT make|run|drop FOLDER [CPU COMMAND]``. A
    FOLDER that is there already is used and kept.
    """
    given, folder = (*session.posargs, "", "")[:2]
    script = Path(given or os.environ.get("HYBRID_DETECT_PI") or ROOT.parent / PI_SCRIPT)
    if not script.is_file():
        session.skip(f"no emulated Raspberry Pi: {script} is not there")
    is_kept = folder != "" and (Path(folder) / "usr").is_dir()
    system = Path(folder or Path(session.create_tmp()) / "arm64")

    def lab(*command: str, silent: bool = False) -> str:
        return str(session.run("bash", str(script), *command, external=True, silent=silent))

    session.install("build", ".", "scikit-image")
    if not is_kept:
        lab("make", str(system))
    (system / "pi").mkdir(exist_ok=True)
    session.run("python", "-m", "build", "--wheel", "--outdir", str(system / "pi"))
    wheel = max((system / "pi").glob("*.whl"), key=os.path.getmtime).name
    (system / "pi/look.py").write_text(PI_LOOK, encoding="utf-8")
    (system / "pi/watch.py").write_text(PI_WATCH, encoding="utf-8")
    shutil.copy(ROOT / "examples/raspberry_pi.py", system / "pi")
    session.run("python", "-c", PI_FILES, str(system / "pi"))
    failures = []
    for extra in ("device-lite", "device"):
        python = f"/pi/{extra}/bin/python"
        install = f"{python} -m pip install --quiet --no-compile"
        steps = (
            f"python3 -m venv /pi/{extra}",
            f"{install} '/pi/{wheel}[{extra}]'",
            f"{install} --no-deps --force-reinstall /pi/{wheel}",
        )
        lab("run", str(system), "cortex-a76", "sh", "-c", " && ".join(steps))
        where = ("env", "HYBRID_DETECT_MODEL_DIR=/pi", "HYBRID_DETECT_DEADLINE_S=300", python)
        for _, processor, expected in (look for look in PI_LOOKS if look[0] == extra):
            asked: list[tuple[tuple[str, ...], str]]
            asked = [(("/pi/look.py", "/pi/photo.png"), expected)]
            if expected != PI_REFUSED:
                asked.append((("/pi/watch.py",), PI_WATCHED))
            for program, pattern in asked:
                told = lab("run", str(system), processor, *where, *program, silent=True)
                session.log(f"{program[0]}, {extra} on {processor}: {told.strip()[:400]}")
                if re.search(pattern, told) is None:
                    failures.append(f"{program[0]}, {extra} on {processor}")
    if not is_kept:
        lab("drop", str(system))
    if failures:
        session.error(f"not as expected: {', '.join(failures)}")


@nox.session
def release(session: nox.Session) -> None:
    """Build the distributions, check them, and use the wheel alone with each extra.

    nox -s release [-- EXTRA ...]; nothing is published.
    """
    extras = nox.project.load_toml(ROOT / "pyproject.toml")["project"]["optional-dependencies"]
    tried = {name for key in RELEASED for name in key.split(",")}
    if left_out := {*extras} - tried - NOT_RELEASED:
        session.error(f"no program in RELEASED uses the extras {', '.join(sorted(left_out))}")
    session.install("build", "twine>=6.1", "towncrier>=24.8")
    dist = Path(session.create_tmp()) / "dist"
    shutil.rmtree(dist, ignore_errors=True)
    session.run("python", "-m", "build", "--outdir", str(dist), silent=True)
    wheel, sdist = next(dist.glob("*.whl")), next(dist.glob("*.tar.gz"))
    session.run("twine", "check", "--strict", str(wheel), str(sdist))
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    if strangers := [name for name in names if not re.match(r"hybrid_detect[-/]", name)]:
        session.error(f"files that do not belong into the wheel: {strangers}")
    if missing := {"hybrid_detect/py.typed", "hybrid_detect/__init__.pyi"} - {*names}:
        session.error(f"the wheel has no {', '.join(sorted(missing))}")
    session.run("towncrier", "build", "--draft", "--version", "next", silent=True)
    for extra in session.posargs or RELEASED:
        with tempfile.TemporaryDirectory() as folder:
            clean = Path(folder) / "venv"
            session.run("python", "-m", "venv", str(clean), silent=True)
            python = str(clean / ("Scripts" if os.name == "nt" else "bin") / "python")
            wanted = f"{wheel}[{extra}]" if extra else str(wheel)
            install = (python, "-m", "pip", "install", "--quiet", "--no-compile", wanted)
            session.run(*install, external=True)
            session.run(python, "-m", "pip", "check", external=True)
            program = Path(folder) / "program.py"
            program.write_text(RELEASED[extra], encoding="utf-8")
            # Isolated and elsewhere: nothing of the project can be imported but the wheel.
            with session.chdir(folder):
                session.run(python, "-I", str(program), external=True)
    session.log(f"{wheel.name}: {wheel.stat().st_size / 1024:.0f} KiB, {len(names)} files")


@nox.session(venv_backend="none")
def demo(session: nox.Session) -> None:
    """Run README's first command line in a fresh clone."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    found = re.search(r"<!-- demo -->\n```sh\n(.*?)\n```", readme, re.DOTALL)
    if found is None:
        session.error("README.md has no demo command")
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "clone"
        session.run("git", "clone", "--quiet", str(ROOT), str(clone), external=True)
        with session.chdir(clone):
            session.run("sh", "-c", found.group(1), external=True)
            shutil.copy("hybrid-detect-demo.png", ROOT)
    session.log("the picture: hybrid-detect-demo.png")
