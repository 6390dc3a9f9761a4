"""The example configurations, run by the real nginx and Caddy on loopback."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme

from ..waiting import wait_until

EXAMPLES = Path(__file__).parents[2] / "examples" / "deploy"

PATH = f"{os.environ.get('PATH', '')}:/usr/sbin"
"""Debian keeps nginx where only root's PATH looks."""


@dataclass(frozen=True)
class Gateway:
    """A gateway that runs."""

    port: int
    ca_file: Path
    folder: Path
    """Where it may write."""

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}"


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def edited(name: str, *edits: tuple[str, str]) -> str:
    """The example `name` with each of `edits`, of which each must fit at exactly one place."""
    text = (EXAMPLES / name).read_text(encoding="utf-8")
    for old, new in edits:
        assert text.count(old) == 1, (
            f"{name}: expected {old!r} once, found it {text.count(old)} times"
        )
        text = text.replace(old, new)
    return text


def certified(folder: Path) -> Path:
    """Make a CA and a certificate of localhost in `folder`; returns the CA's file."""
    ca = trustme.CA()
    ca.cert_pem.write_to_path(folder / "ca.pem")
    issued = ca.issue_cert("localhost")
    issued.private_key_pem.write_to_path(folder / "faces.key")
    for part in issued.cert_chain_pems:
        part.write_to_path(folder / "faces.pem", append=True)
    return folder / "ca.pem"


@contextmanager
def nginx(folder: Path, server_port: int, *edits: tuple[str, str]) -> Iterator[Gateway]:
    """`examples/deploy/nginx.conf` in front of `server_port`; skips where there is no nginx."""
    program = shutil.which("nginx", path=PATH)
    if program is None:
        pytest.skip("nginx is not installed")
    ca_file, port = certified(folder), free_port()
    temporary = "".join(
        f"{kind}_temp_path {folder}/{kind};\n"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    config = folder / "nginx.conf"
    config.write_text(
        edited(
            "nginx.conf",
            ("pid /run/nginx.pid;", f"pid {folder}/nginx.pid;"),
            ("error_log /var/log/nginx/error.log", f"error_log {folder}/error.log"),
            ("access_log /var/log/nginx/access.log", f"{temporary}access_log {folder}/access.log"),
            ("listen 443 ssl http2;", f"listen 127.0.0.1:{port} ssl http2;"),
            ("listen [::]:443 ssl http2;", ""),
            ("/etc/nginx/tls/faces.pem", f"{folder}/faces.pem"),
            ("/etc/nginx/tls/faces.key", f"{folder}/faces.key"),
            ("server 127.0.0.1:8000;", f"server 127.0.0.1:{server_port};"),
            *edits,
        ),
        encoding="utf-8",
    )
    # One process: with a master, its workers would be another user's and outlive a kill.
    own = "daemon off; master_process off;"
    command = [program, "-p", str(folder), "-c", str(config), "-e", str(folder / "error.log")]
    with running([*command, "-g", own], folder, port):
        yield Gateway(port, ca_file, folder)


@contextmanager
def caddy(folder: Path, server_port: int) -> Iterator[Gateway]:
    """`examples/deploy/Caddyfile` in front of `server_port`; skips where there is no Caddy."""
    program = shutil.which("caddy", path=PATH)
    if program is None:
        pytest.skip("caddy is not installed")
    ca_file, port = certified(folder), free_port()
    config = folder / "Caddyfile"
    config.write_text(
        edited(
            "Caddyfile",
            ("{\n\tservers {", "{\n\tadmin off\n\tauto_https disable_redirects\n\tservers {"),
            (
                "faces.example.com {",
                f"localhost:{port} {{\n\tbind 127.0.0.1\n"
                f"\ttls {folder}/faces.pem {folder}/faces.key",
            ),
            ("reverse_proxy 127.0.0.1:8000 {", f"reverse_proxy 127.0.0.1:{server_port} {{"),
        ),
        encoding="utf-8",
    )
    command = [program, "run", "--config", str(config), "--adapter", "caddyfile"]
    with running(command, folder, port):
        yield Gateway(port, ca_file, folder)


@contextmanager
def running(command: list[str], folder: Path, port: int) -> Iterator[None]:
    """Run `command` until the end, from the moment that it listens on `port`."""
    log = folder / "output.log"
    environ = {**os.environ, "XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=environ)
        try:
            wait_until(lambda: process.poll() is not None or is_listening(port))
            assert process.poll() is None, log.read_text() + errors_of(folder)
            yield
        finally:
            process.terminate()
            process.wait(30)


def errors_of(folder: Path) -> str:
    file = folder / "error.log"
    return file.read_text() if file.exists() else ""


def is_listening(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1.0).close()
    except OSError:
        time.sleep(0.01)
        return False
    return True
