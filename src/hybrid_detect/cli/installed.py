"""What is installed of this package's parts, and the command that brings what is missing."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version

from hybrid_detect.backends.device.system_libraries import missing_libraries

__all__ = ["INSTEAD", "PARTS", "Part", "installed", "summary"]

MISSING = "missing"

UVLOOP = () if sys.platform == "win32" else ("uvloop",)
"""There is none for Windows."""

PARTS = {
    "device-lite": ("ai-edge-litert",),
    "device": ("mediapipe",),
    "centerface": ("onnxruntime",),
    "server": ("starlette", "httptools", *UVLOOP),
    "cluster": ("ray",),
    "server-gpu": ("onnxruntime-gpu",),
    "camera": ("av",),
    "tui": ("rich",),
    "opencv": ("opencv-python-headless",),
    "completion": ("argcomplete",),
    "google": ("google-auth",),
    "jwt": ("pyjwt",),
    "kivy": ("kivy",),
    "otel": (
        "opentelemetry-api",
        "opentelemetry-sdk",
        "opentelemetry-exporter-otlp-proto-http",
    ),
    "prometheus": ("prometheus-client",),
    "report": ("jinja2", "pygal"),
    "turbo": ("simplejpeg",),
    "supervision": ("supervision",),
}
"""What each extra brings, as distributions."""

INSTEAD = {
    "mediapipe": ("ai-edge-litert",),
    "ai-edge-litert": ("mediapipe",),
    "onnxruntime": ("onnxruntime-gpu",),
    "onnxruntime-gpu": ("onnxruntime",),
    "opencv-python-headless": (
        "opencv-python",
        "opencv-contrib-python",
        "opencv-contrib-python-headless",
    ),
}
"""What does for a distribution that is missing. Of ONNX Runtime's two and of OpenCV's four each
installs the same module: a second one beside the first would break both."""


@dataclass(frozen=True, slots=True)
class Part:
    """A distribution or a library of the system."""

    name: str
    version: str
    """`MISSING` if it is not there."""
    cure: str = ""
    """What brings it; empty if it is there, or if `instead` does."""
    instead: str = ""
    """What is there and does as well."""
    note: str = ""

    @property
    def told(self) -> str:
        """The cure, or why none is needed."""
        if self.instead:
            return f"not needed: {self.instead} is there"
        return "; ".join(text for text in (self.cure, self.note) if text)


def installed() -> Iterator[Part]:
    """Python, this package, what it depends on and may use, and libraries that are missing."""
    system = f"{platform.system()} {platform.machine()}"
    yield Part("python", platform.python_version(), note=system)
    yield Part("hybrid-detect", version("hybrid-detect"))
    for line in requires("hybrid-detect") or ():
        if "extra ==" not in line:
            name = line.partition(">")[0]
            found = _version(name)
            yield Part(name, found, "" if found != MISSING else f"pip install '{line}'")
    for extra, names in PARTS.items():
        for name in names:
            yield _part(name, extra)
    if _version("mediapipe") != MISSING:
        for library in missing_libraries():
            cure = f"apt-get install {library.debian_package} (for MediaPipe)"
            yield Part(library.filename, MISSING, cure)


def summary() -> str:
    """The same in one line: what runs, the extras that are there, and one command for the rest."""
    parts = {part.name: part for part in installed()}
    python = parts["python"]
    there = [
        extra for extra, names in PARTS.items() if all(parts[n].version != MISSING for n in names)
    ]
    missing: dict[str, tuple[str, ...]] = {}
    for extra, names in PARTS.items():
        brought = {name for each in missing.values() for name in each}
        suffices = any(brought.intersection(INSTEAD.get(name, ())) for name in names)
        if any(parts[name].cure for name in names) and not suffices:
            missing[extra] = names
    extras = {name for names in PARTS.values() for name in names}
    others = [part.cure for part in parts.values() if part.cure and part.name not in extras]
    line = (
        f"hybrid-detect {parts['hybrid-detect'].version}, Python {python.version}, {python.note}; "
        f"with {', '.join(there) or 'no extra'}"
    )
    if missing:
        line += f"; the rest: pip install 'hybrid-detect[{','.join(missing)}]'"
    return "; ".join([line, *others])


def _part(name: str, extra: str) -> Part:
    found = _version(name)
    if found != MISSING:
        return Part(name, found)
    for other in INSTEAD.get(name, ()):
        if _version(other) != MISSING:
            return Part(name, found, instead=other)
    others = " or ".join(INSTEAD.get(name, ()))
    note = f"or {others}, one suffices" if others else ""
    return Part(name, found, f"pip install 'hybrid-detect[{extra}]'", note=note)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return MISSING
