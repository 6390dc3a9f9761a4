"""The demonstration of a killed server, as a real Prometheus sees it: `nox -s alerts`."""

import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from prometheus_client import CollectorRegistry, start_http_server
from skimage import data

from hybrid_detect.monitoring.exporters.prometheus import PrometheusHook
from hybrid_detect.server.serving import ServerProcess
from hybrid_detect.sync import HybridDetectionService

from ..waiting import wait_until
from .gateways import free_port
from .prometheus import prometheus
from .test_monitoring import queries

pytestmark = [pytest.mark.hostile, pytest.mark.device]

SERVER_DOWN = "HybridDetectServerDown"
WITHOUT_SERVER = "HybridDetectClientWithoutServer"
LIMIT_S = 60.0


@contextmanager
def client(endpoint: str, hook: PrometheusHook) -> Iterator[Counter[str]]:
    """An app that asks for one picture after the other; counts the answers by their backend."""
    answers: Counter[str] = Counter()
    ends = threading.Event()

    def look() -> None:
        with HybridDetectionService(
            endpoint=endpoint, auth_token="a-token", mode="prefer_cloud", hooks=[hook]
        ) as service:
            while not ends.is_set():
                result = service.process_image(data.astronaut(), deadline_s=10.0)
                answers[result.backend.value if result.answered else "none"] += 1

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield answers
    finally:
        ends.set()
        thread.join(LIMIT_S)


def test_alerts_fire_while_the_server_is_gone_and_resolve_when_it_is_back(tmp_path: Path) -> None:
    metrics_port = free_port()
    registry = CollectorRegistry()
    exposed, _ = start_http_server(0, "127.0.0.1", registry)
    options = ["--metrics-port", str(metrics_port)]
    targets = {
        "hybrid-detect-server": metrics_port,
        "hybrid-detect-client": exposed.server_port,
    }
    try:
        with (
            ServerProcess(auth_token="a-token", model="full_range", options=options) as server,
            prometheus(tmp_path, targets) as seen,
            client(server.url, PrometheusHook(registry)) as answers,
        ):
            answered = 'sum(hybrid_detect_server_answers_total{route="/v1/detect"})'
            wait_until(lambda: (seen.value(answered) or 0) > 3, limit_s=LIMIT_S)
            assert seen.value('up{job="hybrid-detect-client"}') == 1
            assert (seen.value('hybrid_detect_answers_total{backend="cloud"}') or 0) > 0
            assert SERVER_DOWN not in seen.states()

            server.kill()
            for alert in (SERVER_DOWN, WITHOUT_SERVER):
                wait_until(lambda a=alert: seen.states().get(a) == "firing", limit_s=LIMIT_S)
                assert seen.was(alert, "pending")
            wait_until(
                lambda: seen.value('hybrid_detect_answers_total{backend="device"}'),
                limit_s=LIMIT_S,
            )

            server.start()
            wait_until(
                lambda: not {SERVER_DOWN, WITHOUT_SERVER} & set(seen.states()), limit_s=LIMIT_S
            )
            assert seen.was(SERVER_DOWN, "firing")
            assert seen.was(WITHOUT_SERVER, "firing")
            assert seen.value('up{job="hybrid-detect-server"}') == 1

            # Panels of failures alone are empty in good times.
            empty = [query for query in queries() if not seen.query(query)]
            assert all("> 0" in query for query in empty), empty

            (worker, *_) = psutil.Process(server.pid).children()
            os.kill(worker.pid, signal.SIGKILL)
            restarts = "hybrid_detect_server_detector_restarts_total"
            wait_until(lambda: seen.value(restarts) == 1, limit_s=LIMIT_S)
            wanted = "hybrid_detect_server_detectors_wanted - hybrid_detect_server_detectors_alive"
            wait_until(lambda: seen.value(wanted) == 0, limit_s=LIMIT_S)
        assert answers["none"] == 0
        assert answers["cloud"] > 0
        assert answers["device"] > 0
    finally:
        exposed.shutdown()
        exposed.server_close()
