"""What a person with curl, a probe and a log reader meet."""

import asyncio
import logging

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from hybrid_detect.exchange.wire import MAX_FACES, DetectRequest, decode_reply, encode_request
from hybrid_detect.exchange.wire_faces import WrittenFaces, faces_to_text
from hybrid_detect.server.app import create_app
from hybrid_detect.server.config import ServerConfig
from hybrid_detect.server.detectors import Detection
from hybrid_detect.server.openapi import openapi
from hybrid_detect.server.picture_requests import SESSION_HEADER
from hybrid_detect.types import BoundingBox, Face

from ..waiting import LIMIT_S
from .loopback import OneFace, jpeg, served

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


TOKEN = "s3cret-token-of-the-house"


def client_of(config: ServerConfig, detector: OneFace | None = None) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(create_app(config, detector or OneFace()))
    return httpx.AsyncClient(transport=transport, base_url="http://test")


# -- sending a picture -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "sent",
    [
        {"files": {"file": ("photo.jpg", jpeg(), "image/jpeg")}},
        {"json": {"image": "aGVsbG8="}},
    ],
    ids=["curl -F", "JSON"],
)
async def test_a_form_or_json_is_told_how_to_send_a_picture(sent: dict[str, object]) -> None:
    detector = OneFace()
    async with client_of(ServerConfig(), detector) as client:
        reply = await client.post("/v1/detect", **sent)  # type: ignore[arg-type]
    assert reply.status_code == 415
    assert "--data-binary @photo.jpg" in reply.json()["detail"]
    assert detector.looks == 0


@pytest.mark.parametrize(
    "media_type", ["application/x-www-form-urlencoded", "image/png", "text/plain", ""]
)
async def test_another_media_type_is_not_believed(media_type: str) -> None:
    """curl --data-binary says that it sends a form."""
    async with client_of(ServerConfig()) as client:
        reply = await client.post(
            "/v1/detect", content=jpeg(), headers={"Content-Type": media_type}
        )
    assert reply.status_code == 200


class Noting(OneFace):
    """Notes the requests it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[DetectRequest] = []

    async def detect(self, request: DetectRequest, **asked: object) -> Detection:
        self.seen.append(request)
        return await super().detect(request)


@pytest.mark.parametrize("session", ["visit-81", "Besuch \N{LATIN SMALL LETTER U WITH DIAERESIS}8"])
async def test_a_header_says_which_session_a_bare_picture_belongs_to(session: str) -> None:
    detector = Noting()
    async with client_of(ServerConfig(), detector) as client:
        headers = {SESSION_HEADER.encode(): session.encode()}
        await client.post("/v1/detect", content=jpeg(), headers=headers)  # type: ignore[arg-type]
        await client.post("/v1/detect", content=jpeg())
    assert [request.session_id for request in detector.seen] == [session, None]


@pytest.mark.parametrize("given", [[b""], [b"x" * 1025], [b"a", b"b"], [b"\xff\xfe"]])
async def test_a_session_that_cannot_be_one_is_refused(given: list[bytes]) -> None:
    detector = Noting()
    async with client_of(ServerConfig(), detector) as client:
        headers = [(SESSION_HEADER.encode(), value) for value in given]
        reply = await client.post("/v1/detect", content=jpeg(), headers=headers)
    assert (reply.status_code, reply.json()["code"]) == (400, "bad_request")
    assert SESSION_HEADER in reply.json()["detail"]
    assert detector.seen == []


@pytest.mark.parametrize("are_written", [False, True])
async def test_a_reply_has_at_most_as_many_faces_as_a_client_reads(are_written: bool) -> None:
    class Crowd(OneFace):
        async def detect(self, request: DetectRequest, **asked: object) -> Detection:
            seen = tuple(Face(BoundingBox(0, 0, 9, 9), n / 1000) for n in range(MAX_FACES + 9))
            faces = WrittenFaces(faces_to_text(seen)) if are_written else seen
            return Detection(width=9, height=9, faces=faces, queue_s=0.0, detect_s=0.0)

    async with client_of(ServerConfig(), Crowd()) as client:
        reply = await client.post("/v1/detect", content=jpeg())
    scores = [face["score"] for face in reply.json()["faces"]]
    assert len(scores) == MAX_FACES
    assert min(scores) == 0.009


async def test_the_description_says_what_the_server_does() -> None:
    described = openapi(ServerConfig())
    health = described["paths"]["/v1/health"]["get"]
    assert health["responses"]["200"]["description"] == "The server is up."
    detect = described["paths"]["/v1/detect"]["post"]
    assert detect["parameters"][0]["name"] == SESSION_HEADER
    async with client_of(ServerConfig()) as client:
        (face,) = (await client.post("/v1/detect", content=jpeg())).json()["faces"]
    box = described["components"]["schemas"]["Face"]["properties"]["box"]
    assert set(box["required"]) == set(face["box"]) == {"x_min", "y_min", "x_max", "y_max"}


# -- probes ----------------------------------------------------------------------------------


async def test_probes_and_pictures_have_rates_apart() -> None:
    async with client_of(ServerConfig(rate_per_s=0.001, burst=3)) as client:

        async def statuses(method: str, path: str) -> list[int]:
            replies = [await client.request(method, path, content=jpeg()) for _ in range(4)]
            return [reply.status_code for reply in replies]

        assert await statuses("POST", "/v1/detect") == [200, 200, 200, 429]
        assert await statuses("GET", "/v1/health") == [200, 200, 200, 429]


async def test_a_probe_needs_none_of_its_caller_s_places() -> None:
    go = asyncio.Event()

    class Slow(OneFace):
        async def detect(self, request: DetectRequest, **asked: object) -> Detection:
            found = await super().detect(request)
            await go.wait()
            return found

    detector = Slow()
    async with client_of(ServerConfig(max_per_caller=1), detector) as client:
        picture = asyncio.create_task(client.post("/v1/detect", content=jpeg()))
        while not detector.looks:
            await asyncio.sleep(0)
        assert (await client.post("/v1/detect", content=jpeg())).status_code == 429
        assert (await client.get("/v1/health")).status_code == 200
        go.set()
        assert (await picture).status_code == 200


async def test_a_server_that_stops_is_not_healthy() -> None:
    app = create_app(ServerConfig(), OneFace())
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://test"
    ) as client:
        assert (await client.get("/v1/health")).status_code == 200
        app.state.drain()
        reply = await client.get("/v1/health")
    assert (reply.status_code, reply.json()["code"]) == (503, "stopping")


# -- the log ---------------------------------------------------------------------------------


async def test_refused_strangers_are_one_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with served(ServerConfig(auth_token=TOKEN)) as server, asyncio.timeout(LIMIT_S):
        for _ in range(20):
            with pytest.raises(InvalidStatus):
                await connect(
                    f"ws://127.0.0.1:{server.port}/v1/stream",
                    additional_headers={"Authorization": "Bearer wrong"},
                )
            await server.raw(b"this is no HTTP\r\n\r\n")
            await server.raw(b"GET /v1/stream HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n\r\n")
    lines = [r.getMessage() for r in caplog.records if r.name.startswith(("hybrid", "asyncio"))]
    assert len(lines) <= 2
    assert "came from 127.0.0.1" in lines[0]
    assert "19 more times" in lines[-1]
    assert TOKEN not in caplog.text
    assert not [r for r in caplog.records if r.levelno >= logging.ERROR]


async def test_a_stream_s_messages_keep_their_own_session() -> None:
    detector = Noting()
    async with (
        served(detector=detector) as server,
        connect(
            f"ws://127.0.0.1:{server.port}/v1/stream",
            additional_headers={SESSION_HEADER: "of the header"},
            compression=None,
        ) as link,
    ):
        request = DetectRequest(request_id=1, image=jpeg(), session_id="of the message")
        await link.send(encode_request(request))
        assert decode_reply(await link.recv()).request_id == 1
    assert detector.seen[0].session_id == "of the message"
