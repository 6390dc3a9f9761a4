"""Our form and parser beside deepstack-sdk, DeepStack's own client."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_detect import CloudDetectionService
from hybrid_detect.backends.remote.providers.codeproject import DeepStack
from hybrid_detect.frames.frame import Frame
from hybrid_detect.testing.provider_servers import CodeProjectServer
from hybrid_detect.testing.provider_servers.forms import parts_of
from hybrid_detect.types import BackendKind, Plan

from .protocol_contract import PICTURE, json_response

sdk = pytest.importorskip("deepstack_sdk", reason="nox -s providers installs deepstack-sdk")

from deepstack_sdk.structs import FaceDetectionResponse  # noqa: E402

NOISE = np.random.default_rng(3).integers(0, 255, (100, 200, 3), np.uint8)


@pytest.mark.anyio
async def test_our_request_is_the_sdk_s_and_the_answer_is_read_alike() -> None:
    plan = Plan(backend=BackendKind.CLOUD, reason="test", deadline_s=20.0, retries=0)
    with CodeProjectServer(is_deepstack=True, api_key="key") as server:
        async with CloudDetectionService(
            "deepstack", endpoint=server.url, api_key="key", min_confidence=0.4
        ) as service:
            result = await service.detect(Frame.of(NOISE), plan)
        (ours,) = server.requests
        picture = parts_of(ours)["image"][1]
        config = sdk.ServerConfig(server.url, api_key="key")
        (theirs,) = sdk.Face(config).detectFace(picture, min_confidence=0.4)
    asked = server.requests[-1]
    assert (ours.method, ours.target) == (asked.method, asked.target)
    assert {name: part for name, (_, part) in parts_of(ours).items()} == {
        name: part for name, (_, part) in parts_of(asked).items()
    }
    (face,) = result.faces
    assert face.box.xyxy == (theirs.x_min, theirs.y_min, theirs.x_max, theirs.y_max)
    assert face.score == theirs.confidence


faces = st.fixed_dictionaries(
    {
        "confidence": st.floats(0, 1),
        "x_min": st.integers(-50, 100),
        "y_min": st.integers(-50, 100),
        "width": st.integers(0, 150),
        "height": st.integers(0, 150),
    }
)


@given(st.lists(faces, max_size=6))
def test_answers_are_read_as_the_sdk_reads_them(found: list[dict[str, float]]) -> None:
    for each in found:
        each["x_max"] = each["x_min"] + each.pop("width")
        each["y_max"] = each["y_min"] + each.pop("height")
    said = {"success": True, "predictions": found}
    (reply,) = DeepStack().decode(json_response(said), (PICTURE,))
    expected = [
        (
            (max(t.x_min, 0), max(t.y_min, 0), min(t.x_max, 64), min(t.y_max, 48)),
            t.confidence,
        )
        for t in FaceDetectionResponse(said)
        if min(t.x_max, 64) > max(t.x_min, 0) and min(t.y_max, 48) > max(t.y_min, 0)
    ]
    assert [(face.box.xyxy, face.score) for face in reply.faces] == expected
