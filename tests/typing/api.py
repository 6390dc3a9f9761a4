"""Typed use of the public API. mypy reads it; nothing runs it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import assert_type

import numpy as np
from numpy.typing import NDArray

import hybrid_detect
from hybrid_detect import (
    BackendKind,
    CloudDetectionService,
    CompressedImage,
    Conditions,
    DetectionMode,
    DetectionResult,
    Face,
    Frame,
    HybridDetectionService,
    ImageCompressionService,
    ModePolicy,
    OnDeviceDetectionService,
    Plan,
    Policy,
    PrivacyFilter,
    ServiceConfig,
    StreamingService,
    TargetStatus,
    draw,
)
from hybrid_detect.testing import FakeBackend


class MyPolicy:
    """A policy is any object with this method."""

    def decide(self, conditions: Conditions) -> Plan:
        return Plan(backend=None, reason="never", deadline_s=conditions.deadline_s)


policies: Sequence[Policy] = (MyPolicy(), ModePolicy(mode="auto"))


async def asynchronous(picture: NDArray[np.uint8]) -> None:
    async with HybridDetectionService(
        endpoint="https://faces.example.com",
        auth_token="token",
        mode=DetectionMode.AUTO,
        session_id="session",
        config=ServiceConfig(deadline_s=0.5),
        policy=MyPolicy(),
        backends=[FakeBackend(BackendKind.DEVICE)],
    ) as service:
        assert_type(service, HybridDetectionService)
        result = await service.process_image(picture, pixel_format="bgr", deadline_s=0.1)
        assert_type(result, DetectionResult)
        assert_type(result.faces, tuple[Face, ...])
        assert_type(result.faces[0].score, float | None)
        assert_type(result.backend, BackendKind | None)
        async for one in service.start_detection([picture], max_fps=10):
            assert_type(one, DetectionResult)
        async for one in service.process_images([picture], max_in_flight=4):
            assert_type(one.region, str)
        assert_type(service.status().backends[0].targets, tuple[TargetStatus, ...])
        draw(picture, result).save("faces.png")
        assert_type(PrivacyFilter().remove_pii("photo.jpg"), bytes)
        assert_type(PrivacyFilter().anonymize(picture, result), NDArray[np.uint8])
        assert_type(PrivacyFilter().redact(picture, result.faces, margin=0.5), NDArray[np.uint8])


async def single_ways() -> None:
    async with CloudDetectionService(endpoint="https://faces.example.com") as cloud:
        assert_type(cloud, CloudDetectionService)
        assert_type(await cloud.process_image(Path("photo.jpg")), DetectionResult)
    async with StreamingService(endpoint="https://faces.example.com") as stream:
        assert_type(stream.round_trip_s, float | None)
    async with OnDeviceDetectionService(model="full_range") as device:
        assert_type(device.unavailable_reason, str)


def blocking(picture: bytes) -> None:
    with hybrid_detect.sync.HybridDetectionService(mode="on_device") as service:
        assert_type(service.process_image(picture), DetectionResult)
        for one in service.start_detection([picture]):
            assert_type(one, DetectionResult)


def pieces(picture: bytes) -> None:
    assert_type(ImageCompressionService().compress_camera_image(picture), CompressedImage)
    assert_type(Frame.of(picture).rgb(), NDArray[np.uint8])
