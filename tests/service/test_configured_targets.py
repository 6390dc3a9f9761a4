"""Targets by configuration and environment: what they can say, and what is refused."""

from __future__ import annotations

import json
import warnings
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from hybrid_detect.backends.remote.cloud import CloudDetectionService
from hybrid_detect.backends.remote.providers.custom import CustomProtocol
from hybrid_detect.backends.remote.providers.face_mapping import FaceMapping
from hybrid_detect.backends.remote.providers.json_endpoint import JsonEndpoint
from hybrid_detect.backends.remote.target_settings import target_of
from hybrid_detect.backends.remote.targets import Target
from hybrid_detect.config import ServiceConfig
from hybrid_detect.errors import ConfigurationError
from hybrid_detect.exchange.keys import PrivateKey, Suite
from hybrid_detect.service.hybrid import HybridDetectionService
from hybrid_detect.types import BackendKind

from ..foreign_server import Request, foreign_server, json_answer

IMAGE = np.zeros((48, 64, 3), np.uint8)
OURS = {"endpoint": "https://eu.faces.example", "region": "eu-west-1"}
THEIRS = {"provider": "json_endpoint", "endpoint": "https://faces.acme.example", "preference": 1}


async def one_face(_: Request) -> tuple[int, bytes, str]:
    return json_answer({"faces": [{"box": [8, 8, 24, 24]}]})


def cloud_of(config: ServiceConfig) -> CloudDetectionService:
    service = HybridDetectionService(config=config)
    backend = service._backends.by_kind[BackendKind.CLOUD]._backend  # type: ignore[union-attr]
    assert isinstance(backend, CloudDetectionService)
    return backend


@pytest.mark.anyio
async def test_the_environment_names_targets_and_where_their_keys_are() -> None:
    async with foreign_server(one_face) as one, foreign_server(one_face) as two:
        targets = [
            {
                "provider": "json_endpoint",
                "endpoint": one.url,
                "region": "eu",
                "name": "near",
                "auth_token_variable": "HYBRID_DETECT_NEAR_TOKEN",
            },
            {"provider": "json_endpoint", "endpoint": two.url, "region": "us", "preference": -1},
        ]
        environ = {
            "HYBRID_DETECT_TARGETS": json.dumps(targets),
            "HYBRID_DETECT_NEAR_TOKEN": "canary",
            "HYBRID_DETECT_ALLOWED_REGIONS": "eu, eu-west-1",
            "HYBRID_DETECT_MODE": "cloud",
            "HYBRID_DETECT_DEADLINE_S": "20",
        }
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            config = ServiceConfig.from_env(environ)
        assert "canary" not in repr(config)
        async with HybridDetectionService(config=config) as service:
            result = await service.process_image(IMAGE)
        assert (result.target, result.region) == ("near", "eu")
        assert one.requests[0].headers["authorization"] == "bearer canary"
        assert two.requests == []


@pytest.mark.parametrize(
    "text",
    ["{", "{}", '["https://canary.example"]', '[{"api_key": "canary"', "1", "[" * 100_000],
)
def test_a_list_of_targets_that_cannot_be_read_is_refused_without_repeating_it(text: str) -> None:
    with pytest.raises(ConfigurationError, match="HYBRID_DETECT_TARGETS") as caught:
        ServiceConfig.from_env({"HYBRID_DETECT_TARGETS": text})
    assert "canary" not in str(caught.value)


def test_provider_options_that_cannot_be_read_are_not_repeated() -> None:
    environ = {"HYBRID_DETECT_PROVIDER_OPTIONS": '{"fields": {"key": "canary"'}
    with pytest.raises(ConfigurationError, match="JSON object") as caught:
        ServiceConfig.from_env(environ)
    assert "canary" not in str(caught.value)


def test_a_key_that_is_not_set_is_told_by_its_variable() -> None:
    text = json.dumps([{**THEIRS, "api_key_variable": "VISION_KEY"}])
    with pytest.raises(ConfigurationError, match="VISION_KEY"):
        ServiceConfig.from_env({"HYBRID_DETECT_TARGETS": text})


@pytest.mark.parametrize(
    "settings",
    [
        {"api_key": "canary"},
        {**OURS, "key": "canary"},
        {**OURS, "provider": "nobody"},
        {**OURS, "api_key": "canary", "auth_token": "canary"},
        {**OURS, "api_key": "can ary"},
        {**OURS, "price_per_frame": -1},
        {**OURS, "preference": "first"},
        {**OURS, "endpoint": "http://canary.example"},
        "https://canary.example",
        None,
    ],
)
def test_settings_of_a_target_that_cannot_be_used_are_refused(settings: Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        target_of(settings)
    assert "canary" not in str(caught.value).replace("'canary.example'", "")


def test_targets_take_the_place_of_the_endpoint_in_the_cloud_and_leave_it_to_the_stream() -> None:
    config = ServiceConfig(
        endpoint="https://stream.example", targets=[OURS, target_of(THEIRS)], mode="auto"
    )
    cloud = cloud_of(config)
    assert [target.name for target in cloud.targets] == ["eu.faces.example", "faces.acme.example"]
    assert [target.preference for target in cloud.targets] == [0, 1]
    service = HybridDetectionService(config=config)
    assert service._backends.by_kind[BackendKind.STREAMING].host == "stream.example"
    without = HybridDetectionService(config=ServiceConfig(targets=[OURS], mode="auto"))
    assert "no endpoint" in without._backends.missing[BackendKind.STREAMING]


def test_a_provider_beside_targets_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="each of which names its own"):
        ServiceConfig(endpoint="https://a.example", provider="json_endpoint", targets=[OURS])


@pytest.mark.parametrize("targets", [OURS, "https://a.example"])
def test_targets_are_a_list(targets: Any) -> None:
    with pytest.raises(ConfigurationError, match="targets: expected a list"):
        ServiceConfig(targets=targets)


@pytest.mark.parametrize("name", ["allowed_regions", "allowed_providers"])
@pytest.mark.parametrize("value", ["eu-west-1", [1]])
def test_a_rule_is_a_set_of_names(name: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=name):
        ServiceConfig(**{name: value})


MIXED = [OURS, THEIRS]
MIXED_MADE = [
    Target(url="https://ours.example"),
    Target(url="https://theirs.example", protocol=JsonEndpoint(FaceMapping())),
]


@pytest.mark.parametrize("targets", [MIXED, MIXED_MADE], ids=["settings", "made"])
def test_pictures_are_never_sealed_for_some_targets_and_sent_open_to_others(targets: Any) -> None:
    key = PrivateKey.generate(
        Suite.X25519_CHACHA20, datetime.now(UTC) + timedelta(days=1)
    ).public.text
    with pytest.raises(ConfigurationError, match="no other server opens them"):
        ServiceConfig(targets=targets, server_public_key=key)
    with pytest.raises(ConfigurationError, match="no other server opens them"):
        ServiceConfig(targets=targets, trust_on_first_use=True)
    own = [OURS, Target(url="https://us.faces.example", protocol=CustomProtocol())]
    assert len(cloud_of(ServiceConfig(targets=own, server_public_key=key)).targets) == 2


def test_a_cloud_of_its_own_keeps_to_the_rules_too() -> None:
    cloud = CloudDetectionService(targets=MIXED, allowed_regions=["EU-WEST-1"])
    assert [target.region for target in cloud.targets] == ["eu-west-1"]
    cloud = CloudDetectionService(targets=MIXED, allowed_providers={"json_endpoint"})
    assert [target.provider for target in cloud.targets] == ["json_endpoint"]
    with pytest.raises(ConfigurationError, match="no target is left"):
        CloudDetectionService(targets=MIXED, allowed_regions=["us-east-1"])
    with pytest.raises(ConfigurationError, match="no target is left"):
        CloudDetectionService(
            endpoint="https://a.example", region="eu", allowed_regions=["eu-west-1"]
        )


def test_a_service_whose_only_backend_is_outside_the_rules_says_so_at_construction() -> None:
    with pytest.raises(ConfigurationError, match="names no region"):
        HybridDetectionService(
            "https://a.example", mode="cloud", config=ServiceConfig(allowed_regions=["eu-west-1"])
        )
    inside = ServiceConfig(
        endpoint="https://a.example", region="eu-west-1", allowed_regions=["eu-west-1"]
    )
    service = HybridDetectionService(config=inside, mode="auto")
    assert {BackendKind.CLOUD, BackendKind.STREAMING} <= set(service._backends.by_kind)
