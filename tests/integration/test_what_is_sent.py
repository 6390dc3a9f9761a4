"""What is sent follows what the server's model sees, whatever a plan allows."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from hybrid_detect import CloudDetectionService, Frame, Plan, StreamingService
from hybrid_detect.backends.remote.remote_backend import RemoteBackend
from hybrid_detect.exchange.model_info import ModelInfo
from hybrid_detect.exchange.wire import DetectRequest
from hybrid_detect.selection.rungs import RUNGS, PictureLadder, Rung
from hybrid_detect.server.detectors import Detection

from ..server.loopback import OneFace, served
from ..waiting import LIMIT_S

pytestmark = pytest.mark.anyio

INFO = ModelInfo(
    name="centerface",
    quality="high",
    qualities=("fast", "high", "max"),
    side_px=640,
    picture_bytes=40_960,
    rungs=((80, 640, 1.0), (50, 320, 0.9)),
    recall=((0.0, 0.5), (0.1, 1.0)),
)


class Telling(OneFace):
    """A detector that tells of its model, and remembers the pictures that it got."""

    def __init__(self, info: ModelInfo | None) -> None:
        super().__init__(max_pixels=2_000_000)
        self.info = info
        self.pictures: list[tuple[int, int]] = []

    async def detect(
        self,
        request: DetectRequest,
        *,
        caller: str = "",
        is_abandoned: Callable[[], Awaitable[bool]] | None = None,
    ) -> Detection:
        found = await super().detect(request, is_abandoned=is_abandoned)
        self.pictures.append((max(found.width, found.height), len(request.image)))
        return found


def busy_frame() -> Frame:
    """Noise, of which a picture has as many bytes as it may have."""
    return Frame.of(np.random.default_rng(1).integers(0, 256, (720, 1280, 3), np.uint8))


async def sent(
    make: type[RemoteBackend], info: ModelInfo | None, **options: str
) -> tuple[int, int, PictureLadder]:
    """The longer side and the bytes of the picture of `busy_frame`, and the backend's ladder."""
    detector = Telling(info)
    async with served(detector=detector) as server:
        backend = make(endpoint=f"http://127.0.0.1:{server.port}", **options)  # type: ignore[call-arg]
        async with backend:
            await backend.start()
            await backend.check(deadline_s=LIMIT_S)
            plan = Plan(backend=backend.kind, deadline_s=LIMIT_S, reason="a test")
            await backend.detect(busy_frame(), plan)
            ladder = backend.ladder
    [(side_px, size)] = detector.pictures
    return side_px, size, ladder


@pytest.mark.parametrize("make", [CloudDetectionService, StreamingService])
async def test_no_more_is_sent_than_the_server_s_model_gains_by(make: type[RemoteBackend]) -> None:
    side_px, size, ladder = await sent(make, INFO)
    assert side_px <= 640
    assert 20_000 < size <= 40_960
    assert ladder.rungs == (Rung(80, 640, 1.0), Rung(50, 320, 0.9))


@pytest.mark.parametrize("make", [CloudDetectionService, StreamingService])
async def test_a_server_that_tells_nothing_gets_what_the_plan_allows(
    make: type[RemoteBackend],
) -> None:
    _, size, ladder = await sent(make, None)
    assert 60_000 < size <= 80 * 1024
    assert ladder == PictureLadder()
    assert ladder.rungs == RUNGS


@pytest.mark.parametrize("make", [CloudDetectionService, StreamingService])
async def test_what_is_told_of_another_level_than_is_asked_for_does_not_count(
    make: type[RemoteBackend],
) -> None:
    _, size, _ = await sent(make, INFO, quality="max")
    assert size > 60_000
    _, size, _ = await sent(make, INFO, quality="high")
    assert size <= 40_960


@pytest.mark.parametrize(
    "nonsense",
    [
        {"side_px": 1},
        {"picture_bytes": 1},
        {"rungs": ((80, 640, 1.0), (1, 1, 0.9))},
        {"rungs": ((80, 640, 0.0), (50, 320, 0.0))},
    ],
    ids=str,
)
async def test_a_server_that_tells_nonsense_is_taken_to_tell_nothing(
    nonsense: dict[str, Any],
) -> None:
    """No JPEG has one byte; every frame would be refused before it is sent."""
    _, size, ladder = await sent(CloudDetectionService, replace(INFO, **nonsense))
    assert size > 60_000
    assert ladder == PictureLadder()


async def test_a_plan_for_less_stays_as_it_is() -> None:
    ladder = PictureLadder(max_side_px=640, max_bytes=40_960)
    small = Plan(
        backend=None, deadline_s=1.0, reason="a test", max_side_px=320, target_bytes=10_000
    )
    assert ladder.limited(small) == small
    unlimited = Plan(backend=None, deadline_s=1.0, reason="a test", max_side_px=None)
    assert ladder.limited(unlimited).max_side_px == 640
    assert ladder.limited(unlimited).target_bytes == 40_960
