"""How thoroughly to look: asked for in a request, told in the answer, on every channel."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import httpx
import pytest
from websockets.asyncio.client import connect

from hybrid_detect.backends.remote.cloud import CloudDetectionService
from hybrid_detect.backends.remote.remote_backend import RemoteBackend
from hybrid_detect.backends.remote.streaming import StreamingService
from hybrid_detect.config import ServiceConfig
from hybrid_detect.errors import ConfigurationError
from hybrid_detect.exchange.model_info import MODEL_INFO_HEADER, ModelInfo
from hybrid_detect.exchange.wire import DetectRequest
from hybrid_detect.frames.frame import Frame
from hybrid_detect.server.detectors import Detection
from hybrid_detect.types import BackendKind, Plan, QualityLevel

from ..waiting import LIMIT_S
from .loopback import FACE, OneFace, jpeg, served

pytestmark = pytest.mark.anyio

INFO = ModelInfo(
    name="centerface",
    quality="high",
    qualities=("fast", "high"),
    side_px=640,
    picture_bytes=40_960,
    recall=((0.0, 0.5), (0.1, 1.0)),
)


class Levels(OneFace):
    """A detector that has no level above ``high``, and remembers what it was asked for."""

    info: ModelInfo | None = INFO

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[QualityLevel | None] = []
        self.turned: list[bool] = []

    async def detect(
        self,
        request: DetectRequest,
        *,
        caller: str = "",
        is_abandoned: Callable[[], Awaitable[bool]] | None = None,
    ) -> Detection:
        self.asked.append(request.quality)
        self.turned.append(request.second_look)
        return Detection(
            width=32,
            height=24,
            faces=(FACE,),
            queue_s=0.0,
            detect_s=0.0,
            model="centerface",
            quality=QualityLevel.HIGH,
            min_face_px=6.0,
        )


@pytest.mark.parametrize("make", [CloudDetectionService, StreamingService])
@pytest.mark.parametrize("level", [None, "max"])
async def test_a_client_asks_for_a_level_and_is_told_the_one_that_was_used(
    make: type[RemoteBackend], level: str | None
) -> None:
    detector = Levels()
    async with served(detector=detector) as server:
        backend = make(endpoint=f"http://127.0.0.1:{server.port}", quality=level)  # type: ignore[call-arg]
        async with backend:
            plan = Plan(backend=backend.kind, deadline_s=LIMIT_S, reason="a test")
            result = await backend.detect(Frame.of(jpeg(128, 96)), plan)
    assert detector.asked == [level]
    assert (result.model, result.quality) == ("centerface", "high")
    assert result.min_face_px == 24.0, "in the frame's pixels, which are four of the reply's"
    assert result.to_dict()["min_face_px"] == 24.0


async def test_a_server_that_tells_no_level_is_understood() -> None:
    async with (
        served() as server,
        CloudDetectionService(
            endpoint=f"http://127.0.0.1:{server.port}", quality="high"
        ) as backend,
    ):
        plan = Plan(backend=BackendKind.CLOUD, deadline_s=LIMIT_S, reason="a test")
        result = await backend.detect(Frame.of(jpeg()), plan)
    assert (result.model, result.quality, result.min_face_px) == ("fake", "", None)


def test_a_level_that_does_not_exist_is_refused_before_anything_is_sent() -> None:
    with pytest.raises(ConfigurationError, match="fast, high, max, got 'best'"):
        CloudDetectionService(endpoint="https://a.example", quality="best")
    with pytest.raises(ConfigurationError, match="fast, high, max"):
        ServiceConfig(server_quality="best")
    config = ServiceConfig.from_env({"HYBRID_DETECT_SERVER_QUALITY": "max"})
    assert config.server_quality is QualityLevel.MAX


@pytest.mark.parametrize(("header", "level"), [({}, None), ({"X-Quality": "Max"}, "max")])
async def test_a_bare_picture_names_its_level_in_a_header(
    header: dict[str, str], level: str | None
) -> None:
    detector = Levels()
    async with served(detector=detector) as server, httpx.AsyncClient() as client:
        url = f"http://127.0.0.1:{server.port}/v1/detect"
        reply = await client.post(url, content=jpeg(), headers=header)
    assert detector.asked == [level]
    assert {"model": "centerface", "quality": "high", "min_face_px": 6.0}.items() <= (
        reply.json().items()
    )


@pytest.mark.parametrize(
    "headers", [[("X-Quality", "best")], [("X-Quality", "")], [("X-Quality", "max")] * 2]
)
async def test_a_bad_level_is_a_400_that_does_not_repeat_it(
    headers: list[tuple[str, str]],
) -> None:
    async with served(detector=Levels()) as server, httpx.AsyncClient() as client:
        url = f"http://127.0.0.1:{server.port}/v1/detect"
        reply = await client.post(url, content=jpeg(), headers=headers)
    assert (reply.status_code, reply.json()["code"]) == (400, "bad_request")
    assert "fast, high, max" in reply.json()["detail"]
    assert "best" not in reply.text


async def test_health_and_handshake_tell_of_the_model() -> None:
    async with served(detector=Levels()) as server, httpx.AsyncClient() as client:
        health = (await client.get(f"http://127.0.0.1:{server.port}/v1/health")).json()
        async with connect(f"ws://127.0.0.1:{server.port}/v1/stream") as link:
            assert link.response is not None
            header = link.response.headers[MODEL_INFO_HEADER]
    assert ModelInfo.from_values(health["model_info"]) == ModelInfo.from_header(header) == INFO
    assert isinstance(health["model"], str), "clients of before look for a text there"


async def test_a_detector_that_tells_nothing_is_not_described() -> None:
    async with served() as server, httpx.AsyncClient() as client:
        health = (await client.get(f"http://127.0.0.1:{server.port}/v1/health")).json()
        async with connect(f"ws://127.0.0.1:{server.port}/v1/stream") as link:
            assert link.response is not None
            assert MODEL_INFO_HEADER not in link.response.headers
    assert set(health) == {"status", "model", "version"}


@pytest.mark.parametrize("make", [CloudDetectionService, StreamingService])
async def test_a_client_asks_for_a_second_look(make: type[RemoteBackend]) -> None:
    detector = Levels()
    async with served(detector=detector) as server:
        for second_look in (False, True):
            url = f"http://127.0.0.1:{server.port}"
            async with make(endpoint=url, second_look=second_look) as backend:  # type: ignore[call-arg]
                plan = Plan(backend=backend.kind, deadline_s=LIMIT_S, reason="a test")
                await backend.detect(Frame.of(jpeg()), plan)
    assert detector.turned == [False, True]


@pytest.mark.parametrize(
    ("given", "status"), [("true", 200), ("False", 200), ("yes", 400), ("", 400)]
)
async def test_a_bare_picture_asks_for_it_in_a_header(given: str, status: int) -> None:
    detector = Levels()
    async with served(detector=detector) as server, httpx.AsyncClient() as client:
        url = f"http://127.0.0.1:{server.port}/v1/detect"
        reply = await client.post(url, content=jpeg(), headers={"X-Second-Look": given})
    assert reply.status_code == status
    assert detector.turned == ([given == "true"] if status == 200 else [])
