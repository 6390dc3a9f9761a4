"""Sources by an address: a network camera that hangs up and comes back; packages of others."""

import asyncio
import io
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hybrid_detect.errors import ConfigurationError, SourceError
from hybrid_detect.frames.frame import Frame
from hybrid_detect.sources import live, sources
from hybrid_detect.sources.opencv_source import OpenCVSource
from hybrid_detect.sources.pyav_source import PyAVSource
from hybrid_detect.sources.sources import named_source, open_source

from ..waiting import LIMIT_S

pytestmark = pytest.mark.anyio


def jpeg(level: int) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.full((48, 64, 3), level, np.uint8)).save(out, "JPEG", quality=95)
    return out.getvalue()


class NetworkCamera(ThreadingHTTPServer):
    """Serves MJPEG as IP cameras do: on each connection so many frames, then it hangs up."""

    daemon_threads = True

    def __init__(self, frames_each: int) -> None:
        super().__init__(("127.0.0.1", 0), _Connection)
        self.frames_each = frames_each
        self.connections = 0
        self.is_away = False

    @property
    def address(self) -> str:
        return f"http://user:secret@127.0.0.1:{self.server_address[1]}/video"


class _Connection(BaseHTTPRequestHandler):
    server: NetworkCamera

    def do_GET(self) -> None:
        if self.server.is_away:
            self.send_error(503)
            return
        self.server.connections += 1
        level = 40 * self.server.connections
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        for _ in range(self.server.frames_each):
            data = jpeg(level)
            head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
            self.wfile.write(head.encode() + data + b"\r\n")

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def network_camera() -> Iterator[NetworkCamera]:
    pytest.importorskip("av")
    server = NetworkCamera(frames_each=4)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


async def test_a_network_camera_that_hangs_up_is_connected_to_again(
    network_camera: NetworkCamera, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "FIRST_PAUSE_S", 0.001)
    seen: list[int] = []
    told: list[str] = []
    async with (
        asyncio.timeout(LIMIT_S),
        open_source(network_camera.address, intent="every_frame") as opened,
    ):
        assert opened.is_live
        while network_camera.connections < 3 or len(seen) < 9:
            try:
                captured = await opened.take()
            except SourceError as error:
                told.append(str(error))
                # Away for one try after the first connection.
                network_camera.is_away = len(told) == 1
                continue
            assert captured is not None
            assert captured.index == len(seen)
            seen.append(round(int(Frame.of(captured.image).rgb()[5, 5, 0]) / 40))
    assert seen == sorted(seen)
    assert {1, 2, 3} <= set(seen)
    assert "the http address" in told[0]
    assert "could not be opened again" in told[1]
    assert not any("secret" in text for text in told)


def test_names_stand_for_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    here: set[str] = set()
    monkeypatch.setattr(sources, "is_installed", here.__contains__)
    rtsp = "rtsp://192.0.2.1/1"
    for installed, expected in (
        ({"av", "cv2"}, (OpenCVSource, PyAVSource)),
        ({"av"}, (PyAVSource, PyAVSource)),
        ({"cv2"}, (OpenCVSource, OpenCVSource)),
        (set(), (PyAVSource, PyAVSource)),
    ):
        here.clear()
        here.update(installed)
        assert isinstance(named_source(0), expected[0])
        assert isinstance(named_source("1"), expected[0])
        assert isinstance(named_source(rtsp), expected[1])
        assert isinstance(named_source("C:\\clips\\a.mp4"), expected[1])


class _EntryPoint:
    def __init__(self, gives: Any) -> None:
        self._gives = gives

    def load(self) -> Any:
        return lambda address: self._gives(address)


class _Scanner:
    """What another package opens addresses of its own scheme with."""

    def __init__(self, address: str) -> None:
        self._pages = iter([address.encode()])

    def open(self) -> Any:
        return self

    def read(self) -> Any:
        for page in self._pages:
            return page
        raise EOFError

    def close(self) -> None:
        pass


async def test_an_installed_package_opens_addresses_of_its_scheme(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Source:
        def __init__(self, address: str) -> None:
            self._address = address

        def open(self) -> Any:
            return _Scanner(self._address)

    known: dict[str, Any] = {"scanner": Source, "odd": str}

    def entry_points(*, group: str, name: str) -> list[_EntryPoint]:
        assert group == "hybrid_detect.sources"
        return [_EntryPoint(known[name])] if name in known else []

    monkeypatch.setattr(sources, "entry_points", entry_points)
    async with asyncio.timeout(LIMIT_S), open_source("scanner://desk") as opened:
        captured = await opened.take()
        assert captured is not None
        assert captured.image == b"scanner://desk"
    with pytest.raises(ConfigurationError, match="gave no source that opens"):
        named_source("odd://x")
    with pytest.raises(ConfigurationError, match=r"expected an address of .*rtsp.*, got one of"):
        named_source("gopher://x")
