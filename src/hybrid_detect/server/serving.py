"""Running the server: here, or in a process of its own."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from hybrid_detect.errors import BackendUnavailableError, ClosedError
from hybrid_detect.server.app import create_app
from hybrid_detect.server.config import AUTO_MODEL, ServerConfig, is_loopback
from hybrid_detect.server.listening import GRACE_S, Server
from hybrid_detect.server.observation import METRICS_PATH

__all__ = ["METRICS_TOKEN_VARIABLE", "TOKEN_VARIABLE", "ServerProcess", "serve", "tell_address"]

METRICS_TOKEN_VARIABLE = "HYBRID_DETECT_METRICS_TOKEN"  # noqa: S105 - a name, not a token

TOKEN_VARIABLE = "HYBRID_DETECT_SERVER_TOKEN"  # noqa: S105 - a name, not a token
"""The environment, because arguments can be read by every user of the machine."""

logger = logging.getLogger("hybrid_detect.server")

LISTENING = "listening on "
METRICS_AT = "metrics at "


def serve(config: ServerConfig) -> bool:
    """Run the server until it is told to stop; prints its address once it is ready.

    Returns:
        Whether it came up.

    Raises:
        ModelError: If the model can be had nowhere.
        MissingExtraError: If no runtime is installed, or nothing that verifies tokens.
        ConfigurationError: If a file of keys or certificates cannot be used.
    """
    is_open = not config.is_local or not is_loopback(config.metrics_host)
    if config.tls is None and is_open:
        logger.warning("without TLS here, end it in front: credentials are sent in the clear")

    try:
        server = Server(create_app(config), config)
        if config.has_metrics:
            import prometheus_client

            # A second series for each, with the time of its start, that nearly no one asks for.
            prometheus_client.disable_created_metrics()

        def tell(address: str) -> None:
            if server.management is not None:
                _say(f"{METRICS_AT}{server.management.url}{METRICS_PATH}")
            tell_address(address)  # last: who waits for it may read no further

        server.run(tell)
    except OSError as error:
        port = config.metrics_port
        metrics = "" if port is None else f", and for metrics on {config.metrics_host}:{port}"
        logger.error("cannot listen on %s:%d%s: %s", config.host, config.port, metrics, error)
        return False
    return True


def tell_address(address: str) -> None:
    """Print the line that `ServerProcess` waits for."""
    _say(LISTENING + address)


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201 - for the program that started this one


class ServerProcess:
    """The reference server in a process of its own, on this machine's own address.

    For demonstrations, tests and benchmarks: it can be killed, as servers are, and started
    again at the same address. It limits no rate, or measuring it would measure the limit.

    Args:
        auth_token: Token it asks for.
        model: Name of its model; ``auto`` as in `ServerConfig`.
        model_path: File of its model.
        keys_path: File of the keys that pictures may be encrypted to.
        require_encryption: Whether it takes no other pictures.
        options: Further arguments of ``hybrid-detect serve``.
        start_timeout_s: Seconds it may take to be ready.
        stop_timeout_s: Seconds it may take to stop before it is killed.
    """

    def __init__(
        self,
        *,
        auth_token: str | None = None,
        model: str = AUTO_MODEL,
        model_path: Path | None = None,
        keys_path: Path | str | None = None,
        require_encryption: bool = False,
        options: Sequence[str] = (),
        start_timeout_s: float = 60.0,
        stop_timeout_s: float = GRACE_S + 3,
    ) -> None:
        self._token = auth_token
        self._arguments = ["--model", model, "--rate", "0"]
        if model_path is not None:
            self._arguments += ["--model-path", str(model_path)]
        if keys_path is not None:
            self._arguments += ["--encryption-keys", str(keys_path)]
        if require_encryption:
            self._arguments.append("--require-encryption")
        self._arguments += options
        self._start_timeout_s = start_timeout_s
        self._stop_timeout_s = stop_timeout_s
        self._process: subprocess.Popen[str] | None = None
        self._url = ""
        self._metrics_url = ""

    @property
    def url(self) -> str:
        """Its address; the same after every restart."""
        if not self._url:
            msg = "the server has not been started"
            raise ClosedError(msg)
        return self._url

    @property
    def metrics_url(self) -> str:
        """Where its metrics are, if `options` give them a port of their own; empty if not."""
        return self._metrics_url

    @property
    def pid(self) -> int | None:
        """Its process id; `None` while it is not running."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Start it, unless it runs already, and wait until it is ready.

        Raises:
            BackendUnavailableError: If it did not come up; its own words are in the message.
        """
        if self._process is not None and self._process.poll() is None:
            return
        self._reap()
        port = self._url.rpartition(":")[2] or "0"
        command = [sys.executable, "-m", "hybrid_detect", "serve", "--port", port, *self._arguments]
        with tempfile.TemporaryFile("w+") as complaints:
            self._process = subprocess.Popen(  # noqa: S603 - our own module
                command,
                env={**os.environ, TOKEN_VARIABLE: self._token or ""},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=complaints,
                text=True,
            )
            # Ending the process ends the wait for its address, too.
            limit = threading.Timer(self._start_timeout_s, self._process.kill)
            limit.start()
            address = self._read_address(self._process)
            limit.cancel()
            if address is not None:
                self._url = address
                return
            self.kill()
            complaints.seek(0)
            last = complaints.read().strip().splitlines()[-1:]
        msg = f"the server did not start: {last[0] if last else 'it said nothing'}"
        raise BackendUnavailableError(msg)

    def _read_address(self, process: subprocess.Popen[str]) -> str | None:
        for line in process.stdout or ():
            if line.startswith(METRICS_AT):
                self._metrics_url = line.removeprefix(METRICS_AT).strip()
            if line.startswith(LISTENING):
                return line.removeprefix(LISTENING).strip()
        return None

    def kill(self) -> None:
        """End it without warning: no goodbye to anyone."""
        if self._process is not None:
            self._process.kill()
            self._reap()

    def stop(self) -> None:
        """Ask it to stop, and wait until it has."""
        if self._process is not None:
            self._process.terminate()
            self._reap()

    def _reap(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        try:
            process.wait(timeout=self._stop_timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()
