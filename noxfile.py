"""Everything that checks, measures or shows this project: `nox -l` lists it."""

import os
import re
import shutil
import tempfile
from pathlib import Path

import nox

nox.needs_version = ">=2025.2"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.error_on_external_run = True
nox.options.sessions = ["lint", "typing", "layers", "tests", "providers"]

ROOT = Path(__file__).parent

FUZZED = (
    "tests/exchange/test_encryption.py",
    "tests/exchange/test_wire.py",
    "tests/frames/test_frame.py",
    "tests/compression/test_jpeg_markers.py",
    "tests/privacy/test_metadata.py",
    "tests/server/test_fuzz.py",
    "tests/server/test_schema_fuzz.py",
    "tests/server/test_sealing.py",
)
"""The files that ask `tests/fuzzing.py` how long to go on: wire, seals, images, endpoints."""

ORACLES = ("tests/backends/remote/providers", "tests/backends/remote/test_google_credentials.py")
"""What the SDKs of providers are needed for; in `tests` it skips."""

PARALLEL = ("-n", str((os.cpu_count() or 1) + 1), "--dist", "worksteal")
"""One pytest worker more than CPUs, because a fifth of the suite waits for processes and sockets. A
worker that has finished takes over tests of a busy one."""


FROZEN_APP = """\
import numpy

from hybrid_detect.sync import HybridDetectionService

with HybridDetectionService(mode="on_device") as service:
    result = service.process_image(numpy.zeros((480, 640, 3), numpy.uint8), deadline_s=30)
assert result.answered, result.reason
print("a frozen app detects on the device:", result.status)
"""


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
    """Run the whole suite against the built package, README and docs included."""
    session.install(".[all,supervision,test]")
    session.run("hybrid-detect", "models", "pull")  # no test is skipped for want of a model
    # Hundreds of tests start a Python: each would compile all that it imports.
    session.env["PYTHONDONTWRITEBYTECODE"] = ""
    session.run("pytest", *PARALLEL, *session.posargs)


@nox.session
def hostile(session: nox.Session) -> None:
    """Run the long tests of bad days: damaged files, kills, overload (20 minutes at most)."""
    session.install(".[all,supervision,test]")
    session.run("hybrid-detect", "models", "pull")
    # One after the other: overload and silence are measured against an idle machine.
    session.run("pytest", "-m", "hostile", "--timeout=600", *session.posargs)


@nox.session
def providers(session: nox.Session) -> None:
    """Compare each provider with its own SDK, and with moto (60 MB of wheels)."""
    session.install(".[google,test,providers-test]")
    session.run("pytest", *ORACLES, *session.posargs)


@nox.session(name="providers-live")
def providers_live(session: nox.Session) -> None:
    """Detect through real servers: Triton from its wheel (146 MB), MLServer (326 MB) and ours."""
    session.install(".[device,device-lite,server,test]", "mlserver==1.7.1")
    session.run("hybrid-detect", "models", "pull")
    # Triton's own Python reads no tensor right with a numpy of 2 and above.
    wheel = session.create_tmp()
    session.install("--no-deps", "--target", wheel, "nvidia-pytriton==0.7.0", "numpy==1.26.4")
    session.env["TRITON_WHEEL"] = wheel
    session.run("pytest", "-m", "live", "-rA", "--timeout=300", *session.posargs)


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
    session.install("-e", ".[server]")
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
def examples(session: nox.Session) -> None:
    """Run every example."""
    session.install(".[all,test]")
    session.run("pytest", "tests/test_examples.py", *session.posargs)


@nox.session
def benchmarks(session: nox.Session) -> None:
    """Measure what the documentation claims; takes about an hour."""
    session.install(".[all,test]")
    for script in sorted((ROOT / "benchmarks").glob("bench_*.py")):
        session.run("python", str(script), *session.posargs)


@nox.session
def frozen(session: nox.Session) -> None:
    """Build an app with PyInstaller and run it, MediaPipe in a process of its own."""
    session.install(".[device]", "pyinstaller>=6.10")
    session.run("hybrid-detect", "models", "pull", "short_range")
    with session.chdir(session.create_tmp()):
        Path("app.py").write_text(FROZEN_APP, encoding="utf-8")
        session.run("pyinstaller", "-y", "--log-level", "WARN", "app.py")
        session.run("dist/app/app", external=True)


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
