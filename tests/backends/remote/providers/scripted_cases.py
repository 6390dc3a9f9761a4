"""Azure and the servers of one's own as cases: how each is made and asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from hybrid_detect import CloudDetectionService
from hybrid_detect.frames.frame import Frame
from hybrid_detect.testing.provider_servers import (
    AzureServer,
    CodeProjectServer,
    CompreFaceServer,
    KServeServer,
    ProviderServer,
    RoboflowServer,
)
from hybrid_detect.types import BackendKind, BoundingBox, DetectionResult, Face, Plan

__all__ = ["CASES", "NOISE", "SURE", "Case", "each_case", "look"]

NOISE = np.random.default_rng(5).integers(0, 255, (100, 200, 3), np.uint8)
SURE = Face(BoundingBox(0.25, 0.25, 0.5, 0.75), 0.875)


@dataclass(frozen=True)
class Case:
    provider: str
    server: Callable[..., ProviderServer]
    options: Mapping[str, Any] = field(default_factory=dict)
    api_key: str | None = "key"
    score: float | None = 0.875

    def cloud(self, server: ProviderServer, **changes: Any) -> CloudDetectionService:
        settings = {
            "endpoint": server.url,
            "provider_options": self.options,
            "api_key": self.api_key,
        }
        return CloudDetectionService(self.provider, **{**settings, **changes})


CASES = {
    "azure": Case("azure", AzureServer, score=None),
    "kserve, Triton": Case("kserve", KServeServer, {"model": "faces"}, api_key=None),
    "kserve, Triton in batches": Case(
        "kserve",
        lambda **given: KServeServer(max_batch_size=8, token="key", **given),
        {"model": "faces", "batched": True},
    ),
    "kserve, Triton and pixels": Case(
        "kserve",
        lambda **given: KServeServer(takes_pixels=True, **given),
        {"model": "faces", "encoding": "rgb-u8-hwc"},
        api_key=None,
    ),
    "kserve, MLServer": Case(
        "kserve",
        lambda **given: KServeServer(habits="mlserver", **given),
        {"model": "faces", "binary": False},
        api_key=None,
    ),
    "compreface, FaceNet": Case("compreface", CompreFaceServer),
    "compreface, InsightFace": Case(
        "compreface", lambda **given: CompreFaceServer(detector="insightface", **given)
    ),
    "codeproject": Case("codeproject", CodeProjectServer, api_key=None),
    "codeproject, percent": Case(
        "codeproject", lambda **given: CodeProjectServer(in_percent=True, **given), api_key=None
    ),
    "deepstack": Case(
        "deepstack", lambda **given: CodeProjectServer(is_deepstack=True, api_key="key", **given)
    ),
    "roboflow": Case("roboflow", RoboflowServer, {"model": "faces/1"}),
    "roboflow, legacy": Case("roboflow", RoboflowServer, {"model": "faces/1", "api": "legacy"}),
}
each_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


async def look(service: CloudDetectionService, *, deadline_s: float = 20.0) -> DetectionResult:
    plan = Plan(backend=BackendKind.CLOUD, reason="test", deadline_s=deadline_s, retries=2)
    return await service.detect(Frame.of(NOISE), plan)
