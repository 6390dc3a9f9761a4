"""Pictures that share requests to the reference server, beside the same pictures one by one."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from hybrid_detect.backends.remote.cloud import CloudDetectionService
from hybrid_detect.backends.remote.link_meter import Upload
from hybrid_detect.backends.remote.protocol import HttpRequest, HttpResponse
from hybrid_detect.exchange.batch import BATCH_PATH
from hybrid_detect.selection.fixed import FixedPolicy
from hybrid_detect.service.hybrid import HybridDetectionService

if TYPE_CHECKING:
    from hybrid_detect.server.serving import ServerProcess

pytestmark = pytest.mark.anyio

DEADLINE_S = 30.0
TRIES = 20


class Watched(CloudDetectionService):
    """Counts the requests by path."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.paths: Counter[str] = Counter()

    async def exchange(
        self, request: HttpRequest, *, deadline_s: float, upload: Upload | None = None
    ) -> HttpResponse:
        self.paths["/" + request.url.split("/", 3)[3]] += 1
        return await super().exchange(request, deadline_s=deadline_s, upload=upload)


async def test_faces_are_the_same_in_a_request_of_their_own_and_in_a_shared_one(
    server: ServerProcess, astronaut: np.ndarray
) -> None:
    # Half the size: within the bytes that are sent at most, so that both times the same picture is.
    images = [np.ascontiguousarray(astronaut[16 * n :: 2, 8 * n :: 2]) for n in range(6)]
    cloud = Watched(endpoint=server.url, auth_token="test-token")
    async with HybridDetectionService(
        mode="cloud", backends=[cloud], policy=FixedPolicy(backend="cloud")
    ) as service:
        alone = [await service.process_image(each, deadline_s=DEADLINE_S) for each in images]
        assert cloud.paths[BATCH_PATH] == 0
        for _ in range(TRIES):  # whether pictures meet before a request depends on the machine
            together = [
                result async for result in service.process_images(images * 2, deadline_s=DEADLINE_S)
            ]
            if cloud.paths[BATCH_PATH]:
                break
    assert cloud.paths[BATCH_PATH] > 0
    assert [len(result.faces) for result in alone] == [1] * 6
    for expected, result in zip(alone * 2, together, strict=True):
        assert result.status.value == "ok"
        # Each picture's quality depends on those before it: the budget is met in one encode.
        [alone_face], [shared_face] = expected.faces, result.faces
        assert alone_face.box.iou(shared_face.box) > 0.95
        assert result.target == expected.target == "127.0.0.1"
