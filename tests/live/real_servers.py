"""Real inference servers as processes, with this library's own detector as their model."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from ..waiting import wait_until

__all__ = ["mlserver", "triton", "triton_folder"]

HERE = Path(__file__).parent

START_S = 120.0
"""Triton starts within 8 s, MLServer within 3 s, on two idle cores."""

CONFIG = """\
backend: "python"
max_batch_size: {batch}
input [{{ name: "image", data_type: {kind}, dims: {dims} }}]
output [
  {{ name: "boxes", data_type: TYPE_FP32, dims: [ -1, 4 ] }},
  {{ name: "scores", data_type: TYPE_FP32, dims: [ -1 ] }}
]
instance_group [{{ kind: KIND_CPU, count: 1 }}]
"""

TRITON_MODELS = {
    "faces": {"batch": 0, "kind": "TYPE_STRING", "dims": "[ 1 ]"},
    "batched": {"batch": 4, "kind": "TYPE_STRING", "dims": "[ 1 ]"},
    "pixels": {"batch": 0, "kind": "TYPE_UINT8", "dims": "[ -1, -1, 3 ]"},
}


def triton_folder() -> Path | None:
    """Where the wheel of nvidia-pytriton was unpacked; `None` if the environment does not say."""
    folder = os.environ.get("TRITON_WHEEL")
    return Path(folder) if folder else None


@contextmanager
def triton(folder: Path, wheel: Path) -> Iterator[str]:
    """Triton with the models of `TRITON_MODELS`, and its URL.

    Args:
        folder: An empty folder for its repository.
        wheel: Where nvidia-pytriton was unpacked, and a numpy older than 2 beside it: its Python
            reads no bytes of a tensor right with a newer one.
    """
    for name, values in TRITON_MODELS.items():
        model = folder / "models" / name / "1"
        model.mkdir(parents=True)
        shutil.copy(HERE / "triton_model.py", model / "model.py")
        (model.parent / "config.pbtxt").write_text(CONFIG.format(**values))
    server = wheel / "pytriton" / "tritonserver"
    backends = folder / "backends"
    shutil.copytree(server / "backends", backends)
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = server / "python_backend_stubs" / version / "triton_python_backend_stub"
    shutil.copy(stub, backends / "python")
    port = _free_port()
    command = [
        server / "bin" / "tritonserver",
        f"--model-repository={folder / 'models'}",
        f"--backend-directory={backends}",
        "--http-address=127.0.0.1",
        f"--http-port={port}",
        "--allow-grpc=false",
        "--allow-metrics=false",
    ]
    environ = {
        **os.environ,
        "LD_LIBRARY_PATH": str(wheel / "nvidia_pytriton.libs"),
        "FACE_MODEL_PATH": os.pathsep.join((str(wheel), _import_path())),
    }
    with _running(command, environ, folder, port):
        for name in TRITON_MODELS:
            _wait_until_ready(port, name)
        yield f"http://127.0.0.1:{port}"


@contextmanager
def mlserver(folder: Path) -> Iterator[str]:
    """MLServer with a model ``faces``, and its URL."""
    port = _free_port()
    settings = {
        "host": "127.0.0.1",
        "http_port": port,
        "grpc_port": _free_port(),
        "metrics_port": _free_port(),
        "parallel_workers": 0,
    }
    (folder / "settings.json").write_text(json.dumps(settings))
    model = {"name": "faces", "implementation": "mlserver_model.FaceModel"}
    (folder / "model-settings.json").write_text(json.dumps(model))
    environ = {**os.environ, "PYTHONPATH": _import_path()}
    command = [Path(sys.executable).parent / "mlserver", "start", folder]
    with _running(command, environ, folder, port):
        _wait_until_ready(port, "faces")
        yield f"http://127.0.0.1:{port}"


def _import_path() -> str:
    given = os.environ.get("PYTHONPATH", "")
    return os.pathsep.join(filter(None, (str(HERE), given, sysconfig.get_path("purelib"))))


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def _running(
    command: list[str | Path], environ: dict[str, str], folder: Path, port: int
) -> Iterator[None]:
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, env=environ, cwd=folder, stdout=log, stderr=log)
        try:
            wait_until(lambda: process.poll() is not None or _answers(port, "/v2"), limit_s=START_S)
            assert process.poll() is None, (folder / "log").read_text()[-3000:]
            yield
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_until_ready(port: int, model: str) -> None:
    # The server itself is ready while it still loads its models.
    wait_until(lambda: _answers(port, f"/v2/models/{model}/ready"), limit_s=START_S)


def _answers(port: int, path: str) -> bool:
    try:
        answer = httpx.get(f"http://127.0.0.1:{port}{path}", timeout=5.0, trust_env=False)
    except httpx.HTTPError:
        return False
    return answer.status_code == 200
