"""The real Prometheus on loopback, with the rules of the examples at a pace for tests."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from ..waiting import wait_until
from .gateways import EXAMPLES, free_port

PACE = "200ms"
"""Between two scrapes, and between two looks at the rules."""

HELD = "1s"
"""How long an alert is pending."""


def program(name: str) -> str:
    """The path of a program of Debian's package ``prometheus``; skips where it is not installed."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed: apt-get install prometheus")
    return path


class Prometheus:
    """Prometheus as its HTTP API tells of it."""

    def __init__(self, port: int) -> None:
        self._http = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10)

    def query(self, expression: str) -> list[dict[str, Any]]:
        reply = self._http.get("/api/v1/query", params={"query": expression}).json()
        assert reply["status"] == "success", reply
        return list(reply["data"]["result"])

    def value(self, expression: str) -> float | None:
        """The one value of `expression`; `None` if there is none."""
        found = self.query(expression)
        assert len(found) <= 1, found
        return float(found[0]["value"][1]) if found else None

    def states(self) -> dict[str, str]:
        """The alerts that are pending or firing now, by name."""
        alerts = self._http.get("/api/v1/alerts").json()["data"]["alerts"]
        return {alert["labels"]["alertname"]: alert["state"] for alert in alerts}

    def was(self, alert: str, state: str) -> bool:
        """Whether `alert` was in `state` at any time."""
        return bool(self.query(f'ALERTS{{alertname="{alert}",alertstate="{state}"}}[10m]'))

    def is_ready(self) -> bool:
        try:
            return self._http.get("/-/ready").status_code == 200
        except httpx.TransportError:
            return False

    def close(self) -> None:
        self._http.close()


@contextmanager
def prometheus(folder: Path, targets: Mapping[str, int]) -> Iterator[Prometheus]:
    """Prometheus with the examples' alerts, of which each holds for `HELD` alone.

    Args:
        folder: Where it may write.
        targets: The port to scrape for each job.
    """
    alerts = (EXAMPLES / "monitoring" / "alerts.yml").read_text(encoding="utf-8")
    alerts = re.sub(r"\bfor: \w+", f"for: {HELD}", alerts)
    (folder / "alerts.yml").write_text(alerts, encoding="utf-8")
    jobs = "".join(
        f"  - job_name: {job}\n    static_configs: [{{targets: ['127.0.0.1:{port}']}}]\n"
        for job, port in targets.items()
    )
    (folder / "prometheus.yml").write_text(
        f"global:\n  {{scrape_interval: {PACE}, scrape_timeout: {PACE}, "
        f"evaluation_interval: {PACE}}}\n"
        f"rule_files: [alerts.yml]\nscrape_configs:\n{jobs}",
        encoding="utf-8",
    )
    port = free_port()
    command = [
        program("prometheus"),
        f"--config.file={folder}/prometheus.yml",
        f"--storage.tsdb.path={folder}/data",
        f"--web.listen-address=127.0.0.1:{port}",
        "--web.enable-lifecycle",
        "--log.level=warn",
    ]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    server = Prometheus(port)
    try:
        wait_until(lambda: process.poll() is not None or server.is_ready())
        assert process.poll() is None, (folder / "log").read_text(encoding="utf-8")
        yield server
    finally:
        server.close()
        process.terminate()
        process.wait(10)
