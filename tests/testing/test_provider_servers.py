"""The scripted servers' common base: what is recorded, scripted and raised."""

from __future__ import annotations

import io
import json
import threading
import time

import httpx
import numpy as np
import pytest
from PIL import Image

from hybrid_detect.errors import InvalidFrameError
from hybrid_detect.testing.provider_servers import (
    Answer,
    Failure,
    ProviderServer,
    ReceivedRequest,
    Refused,
    SeenPicture,
)


class Echo(ProviderServer):
    def answer(self, request: ReceivedRequest) -> Answer:
        if request.path == "/refused":
            raise Refused(403, "Forbidden", "no")
        if request.path == "/broken":
            raise ZeroDivisionError
        return Answer(200, request.body, {"X-Query": json.dumps(request.query)})

    def error_answer(self, status: int, code: str, message: str) -> Answer:
        return Answer(status, f"{code}: {message}".encode())


def test_it_answers_and_records_over_one_connection() -> None:
    with Echo() as server, httpx.Client(base_url=server.url) as client:
        assert client.post("/a?b=c", content=b"body", headers={"X-K": "v"}).content == b"body"
        assert client.get("/refused").status_code == 403
    first, second = server.requests
    assert (first.method, first.path, first.query) == ("POST", "/a", {"b": "c"})
    assert (first.headers["x-k"], first.body) == ("v", b"body")
    assert second.target == "/refused"
    assert "b'body'" not in repr(first)


def test_failures_come_in_order_and_then_the_usual_answer() -> None:
    with Echo() as server, httpx.Client(base_url=server.url) as client:
        server.fail_next(
            Failure(429, "Slow", headers={"Retry-After": "1"}),
            Failure(502, body=b"<html>", headers={"X": "y"}),
            Failure(200, body=b"odd"),
            Failure(200, delay_s=0.01),
        )
        first = client.post("/", content=b"x")
        assert (first.status_code, first.headers["Retry-After"]) == (429, "1")
        assert first.text.startswith("Slow")
        second = client.post("/", content=b"x")
        assert (second.content, second.headers["Content-Type"]) == (b"<html>", "text/html")
        assert client.post("/", content=b"x").content == b"odd"
        assert client.post("/", content=b"x").content == b"x"
        assert client.post("/", content=b"x").status_code == 200
        server.fail_always(Failure(500))
        assert [client.post("/").status_code for _ in range(3)] == [500] * 3
        server.fail_always(None)
        assert client.post("/").status_code == 200


def test_it_hangs_up_and_hangs_no_longer_than_it_is_open() -> None:
    with Echo() as server, httpx.Client(base_url=server.url) as client:
        server.fail_next(Failure(hangs_up=True), Failure(hangs=True))
        with pytest.raises(httpx.RemoteProtocolError):
            client.post("/", content=b"x")
        caught: list[Exception] = []

        def wait() -> None:
            try:
                client.post("/", content=b"x", timeout=30)
            except httpx.TransportError as error:
                caught.append(error)

        thread = threading.Thread(target=wait)
        thread.start()
        while len(server.requests) < 2:
            time.sleep(0.001)
    thread.join(10)
    assert len(caught) == 1


def test_a_fault_of_a_server_is_raised_when_it_is_closed() -> None:
    with pytest.raises(ZeroDivisionError), Echo() as server:
        assert httpx.get(f"{server.url}/broken").status_code == 500


def test_it_has_no_url_before_it_is_open() -> None:
    with pytest.raises(RuntimeError, match="with block"):
        _ = Echo().url


def test_a_picture_is_seen_as_a_provider_sees_it() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    out = io.BytesIO()
    Image.fromarray(np.zeros((48, 64, 3), np.uint8)).save(out, "jpeg", exif=exif)
    server = Echo()
    seen = server.see(out.getvalue())
    assert seen == SeenPicture("jpeg", 48, 64, len(out.getvalue()), True, True)
    assert server.pictures == [seen]
    assert server.see(b"no picture") is None
    with pytest.raises(InvalidFrameError):
        SeenPicture.of(out.getvalue()[:-40])
