import io
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest
from PIL import Image

from hybrid_detect.errors import BackendUnavailableError, ClosedError
from hybrid_detect.exchange.wire import CONTENT_TYPE, DetectRequest, encode_request
from hybrid_detect.server.serving import ServerProcess

pytestmark = pytest.mark.server

TOKEN = "a-token-nobody-may-see"


def health(process: ServerProcess) -> int:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    return httpx.get(f"{process.url}/v1/health", headers=headers, timeout=5).status_code


@pytest.fixture(scope="module")
def process(server: ServerProcess) -> ServerProcess:
    """One of our own, to kill; `server` has found out that one can be had."""
    return ServerProcess(auth_token=TOKEN, model="full_range")


def test_it_has_no_address_before_it_is_started() -> None:
    unstarted = ServerProcess()
    assert unstarted.pid is None
    with pytest.raises(ClosedError, match="not been started"):
        _ = unstarted.url
    unstarted.stop()
    unstarted.kill()


def test_a_life(process: ServerProcess) -> None:
    """Start, kill, start again at the same address, stop: one life, to start it rarely."""
    with process:
        first_url, first_pid = process.url, process.pid
        assert first_url.startswith("http://127.0.0.1:")
        assert health(process) == 200
        assert first_pid is not None

        seen = psutil.Process(first_pid)
        assert TOKEN not in " ".join(seen.cmdline())

        process.start()
        assert process.pid == first_pid, "starting a running one changes nothing"

        process.kill()
        assert process.pid is None
        assert not psutil.pid_exists(first_pid)
        with pytest.raises(httpx.TransportError):
            health(process)

        process.start()
        assert process.url == first_url
        assert process.pid not in {None, first_pid}
        assert health(process) == 200
        last_pid = process.pid
    assert process.pid is None
    assert last_pid is not None
    assert not psutil.pid_exists(last_pid)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"model_path": Path("/no/such/model.tflite")}, "cannot read /no/such/model.tflite"),
        ({"model": "no_such_model"}, "no_such_model"),
    ],
)
def test_a_failed_start_says_why(options: dict[str, object], told: str) -> None:
    process = ServerProcess(**options)  # type: ignore[arg-type]
    with pytest.raises(BackendUnavailableError, match=f"did not start.*{told}"):
        process.start()
    assert process.pid is None


def test_a_start_that_takes_too_long_is_given_up() -> None:
    process = ServerProcess(start_timeout_s=0.01)
    with pytest.raises(BackendUnavailableError, match="did not start"):
        process.start()
    assert process.pid is None


def detect(
    process: ServerProcess, *, deadline_s: float | None = None, timeout_s: float = 20.0
) -> int:
    picture = io.BytesIO()
    Image.fromarray(np.zeros((48, 64, 3), np.uint8)).save(picture, "JPEG")
    request = DetectRequest(request_id=1, image=picture.getvalue(), deadline_s=deadline_s)
    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": CONTENT_TYPE}
    return httpx.post(
        f"{process.url}/v1/detect",
        content=encode_request(request),
        headers=headers,
        timeout=timeout_s,
    ).status_code


@pytest.fixture
def detectors(process: ServerProcess) -> Iterator[list[psutil.Process]]:
    """The processes of the detectors of `process`, which is running."""
    with process:
        found = psutil.Process(process.pid).children()
        assert found
        yield found


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="no way to make a process hang")
def test_hung_detectors_are_replaced(
    process: ServerProcess, detectors: list[psutil.Process]
) -> None:
    for detector in detectors:
        detector.suspend()
    with ThreadPoolExecutor(len(detectors)) as clients:
        answers = [clients.submit(detect, process, deadline_s=0.1) for _ in detectors]
        assert {answer.result() for answer in answers} == {503}
    assert not any(psutil.pid_exists(detector.pid) for detector in detectors)
    assert detect(process) == 200


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="no way to make a process hang")
def test_hung_detectors_keep_a_server_from_stopping_for_a_moment_only(
    process: ServerProcess, detectors: list[psutil.Process]
) -> None:
    for detector in detectors:
        detector.suspend()
    running = process._process
    assert running is not None
    with pytest.raises(httpx.ReadTimeout):
        detect(process, timeout_s=0.3)
    process.stop()
    assert running.returncode == -signal.SIGTERM, "it had to be killed"
    assert not any(psutil.pid_exists(detector.pid) for detector in detectors)
