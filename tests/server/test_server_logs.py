"""The log of requests: one line each, in three formats, and nothing of what callers send."""

import io
import json
import logging
import re
import shlex
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect

from hybrid_detect.exchange.wire import DetectRequest, encode_request
from hybrid_detect.server.config import ServerConfig
from hybrid_detect.server.logs import LOG_FORMATS, RequestLog, set_up_logging
from hybrid_detect.server.observation import Record

from ..waiting import until
from .loopback import Served, jpeg, served

pytestmark = pytest.mark.anyio

TOKEN = "s3cret-token"
GOOD = {"Authorization": f"Bearer {TOKEN}"}
CANARY = "canary-7f3a"
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


LogAs = Callable[[str], io.StringIO]


@pytest.fixture
def log_as(monkeypatch: pytest.MonkeyPatch) -> Iterator[LogAs]:
    """Sets logging up as in a process that has not yet done so; gives its standard error."""
    requests = logging.getLogger("hybrid_detect.server.requests")
    level = requests.level

    def set_up(log_format: str) -> io.StringIO:
        stderr = io.StringIO()
        monkeypatch.setattr("sys.stderr", stderr)
        monkeypatch.setattr(logging.root, "handlers", [])
        set_up_logging(log_format)
        return stderr

    yield set_up
    requests.setLevel(level)


@asynccontextmanager
async def logged(which: str = "all") -> AsyncIterator[tuple[Served, httpx.AsyncClient]]:
    config = ServerConfig(auth_token=TOKEN, request_log=which)
    # A connection each: one that goes on after refusals is read more slowly.
    alone = httpx.Limits(max_keepalive_connections=0)
    async with (
        served(config) as server,
        httpx.AsyncClient(base_url=server.server.url, limits=alone) as http,
    ):
        yield server, http


def json_lines(stderr: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stderr.getvalue().splitlines()]


async def test_a_request_has_one_line_of_json(log_as: LogAs) -> None:
    stderr = log_as("json")
    async with logged() as (_, http):
        headers = {**GOOD, "traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}
        reply = await http.post("/v1/detect", content=jpeg(), headers=headers)
    (line,) = json_lines(stderr)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line.pop("time"))
    assert line.pop("duration_s") > 0
    assert line.pop("request_id") == reply.headers["X-Request-ID"]
    assert line == {
        "level": "info",
        "logger": "hybrid_detect.server.requests",
        "event": "request",
        "trace_id": TRACE,
        "peer": "127.0.0.1",
        "route": "/v1/detect",
        "status": 200,
        "received_bytes": len(jpeg()),
        "sent_bytes": len(reply.content),
        "answered": 1,
        "refused": 0,
        "queue_s": 0.0,
        "detect_s": 0.0,
    }


@pytest.mark.parametrize("log_format", ["json", "logfmt"])
def test_no_field_of_a_request_takes_the_place_of_a_line_s_own(
    log_format: str, log_as: LogAs
) -> None:
    stderr = log_as(log_format)
    record = Record(route="/v1/detect", is_stream=False, peer="127.0.0.1", status=503)
    record.answered, record.level, record.cause = 1, "fast", "overloaded"
    record.traceparent = f"00-{TRACE}-{'cd' * 8}-01"
    RequestLog("all").on_end(record)
    text = stderr.getvalue()
    if log_format == "json":
        names = [name for name, _ in json.loads(text, object_pairs_hook=list)]
        assert (json.loads(text)["level"], json.loads(text)["quality"]) == ("info", "fast")
    else:
        names = [pair.partition("=")[0] for pair in text.split()]
        assert " level=info " in text
    assert len(names) == len(set(names))
    assert {"time", "level", "logger", "quality", "status"} <= set(names)


async def test_a_stream_has_one_line_when_it_has_ended(log_as: LogAs) -> None:
    stderr = log_as("json")
    async with logged() as (server, _):
        url = f"ws://127.0.0.1:{server.port}/v1/stream"
        async with connect(url, additional_headers=GOOD) as stream:
            assert stream.response is not None
            request_id = stream.response.headers["X-Request-ID"]
            for image in (jpeg(), jpeg(), b"none"):
                await stream.send(encode_request(DetectRequest(request_id=1, image=image)))
                await stream.recv()
            assert stderr.getvalue() == ""
        await until(stderr.getvalue)
    (line,) = json_lines(stderr)
    assert (line["event"], line["request_id"]) == ("stream", request_id)
    assert (line["status"], line["close_code"]) == (101, 1000)
    assert (line["answered"], line["refused"], line["cause"]) == (2, 1, "invalid_image")


async def test_a_stream_that_the_server_ends_has_its_close_code(log_as: LogAs) -> None:
    stderr = log_as("json")
    async with logged() as (server, _):
        url = f"ws://127.0.0.1:{server.port}/v1/stream"
        stream = await connect(url, additional_headers=GOOD)
    await stream.close()
    (line,) = json_lines(stderr)
    assert (line["event"], line["close_code"]) == ("stream", 1012)


@pytest.mark.parametrize("log_format", LOG_FORMATS)
async def test_nothing_that_a_caller_chose_is_in_a_line(log_format: str, log_as: LogAs) -> None:
    stderr = log_as(log_format)
    named = [
        "X-API-Key", "X-Session-ID", "X-Quality", "X-Request-ID", "User-Agent", "traceparent",
        "Referer", "X-Forwarded-For", "Cookie",
    ]  # fmt: skip
    headers = dict.fromkeys(named, CANARY)
    async with logged() as (server, http):
        for sent in (headers, {**headers, **GOOD}, {**GOOD, "X-Session-ID": CANARY}):
            for path in (f"/{CANARY}", f"/v1/sessions/{CANARY}", f"/v1/detect?{CANARY}"):
                await http.post(path, content=jpeg() + CANARY.encode(), headers=sent)
        await server.raw(f"{CANARY}\r\n\r\n".encode())
    out = stderr.getvalue()
    assert out.count("route") == 9
    assert CANARY not in out
    assert TOKEN not in out


@pytest.mark.parametrize("value", ["x" * 65, "00-" + "g" * 32 + "-00f067aa0ba902b7-01", TRACE])
async def test_what_is_no_trace_id_is_left_out(value: str, log_as: LogAs) -> None:
    stderr = log_as("json")
    async with logged() as (_, http):
        await http.get("/v1/health", headers={"traceparent": value})
    (line,) = json_lines(stderr)
    assert "trace_id" not in line


async def test_logfmt_can_be_taken_apart_by_a_shell(log_as: LogAs) -> None:
    stderr = log_as("logfmt")
    async with logged() as (_, http):
        await http.post("/v1/detect", content=jpeg(), headers=GOOD)
    logging.getLogger("hybrid_detect.server").warning('a "line"\nof two = parts \\ %s', "é")
    request, warning = stderr.getvalue().splitlines()
    fields = dict(part.split("=", 1) for part in shlex.split(request))
    assert (fields["level"], fields["route"], fields["status"]) == ("info", "/v1/detect", "200")
    message = re.search(r'message=(".*")$', warning)
    assert message is not None
    assert json.loads(message[1]) == 'a "line"\nof two = parts \\ é'


async def test_text_is_the_bare_message(log_as: LogAs) -> None:
    stderr = log_as("text")
    async with logged() as (_, http):
        await http.get("/v1/health")
    logging.getLogger("hybrid_detect.server").warning("a detector died")
    logging.getLogger("hybrid_detect.server").info("nothing of note")
    request, warning = stderr.getvalue().splitlines()
    assert request.startswith("event=request request_id=")
    assert warning == "a detector died"


async def test_an_exception_is_one_line_of_json(log_as: LogAs) -> None:
    stderr = log_as("json")
    try:
        raise RuntimeError("a bug")
    except RuntimeError:
        logging.getLogger("hybrid_detect.server").exception("detecting failed")
    (line,) = json_lines(stderr)
    assert (line["level"], line["message"]) == ("error", "detecting failed")
    assert line["error"].endswith("RuntimeError: a bug")


@pytest.mark.parametrize(("which", "lines"), [("none", 0), ("refused", 2), ("all", 3)])
async def test_as_many_requests_are_logged_as_configured(
    which: str, lines: int, log_as: LogAs
) -> None:
    stderr = log_as("json")
    async with logged(which) as (_, http):
        await http.get("/v1/health")
        await http.post("/v1/detect", content=b"none", headers=GOOD)
        await http.get("/v1/keys")
    assert len([each for each in json_lines(stderr) if each.get("event")]) == lines
