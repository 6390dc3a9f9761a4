"""Google's and AWS's errors, row by row: what each becomes, and how many requests it costs.

Counted in requests that reached the server, because each of them may be billed. Those of the other
providers are in `test_scripted_servers`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from hybrid_detect import (
    AwsKeys,
    BackendKind,
    CloudDetectionService,
    Frame,
    HybridDetectionService,
    Plan,
    Refusal,
    ServiceConfig,
)
from hybrid_detect.backends.remote.providers.google import GoogleVision
from hybrid_detect.errors import (
    AllBackendsFailedError,
    BackendError,
    BackendResponseError,
    BackendTimeoutError,
    ProtocolError,
)
from hybrid_detect.testing import FakeBackend
from hybrid_detect.testing.provider_servers import (
    AwsServer,
    Failure,
    GoogleServer,
    ProviderServer,
)

from .protocol_contract import CANARY

pytestmark = pytest.mark.anyio

NOISE = np.random.default_rng(5).integers(0, 255, (200, 300, 3), np.uint8)

RETRIES = 2

PAGE = f"<html>{CANARY}</html>".encode()

SECRET = "canary-secret-key"


@dataclass(frozen=True)
class Provider:
    make_server: Callable[[], ProviderServer]
    settings: dict[str, Any]


PROVIDERS = {
    "aws": Provider(
        lambda: AwsServer(secret_access_key=SECRET),
        {
            "provider_options": {"region": "eu-west-1"},
            "credentials": AwsKeys(access_key_id="AKIDEXAMPLE", secret_access_key=SECRET),
        },
    ),
    "google": Provider(lambda: GoogleServer(api_key=SECRET), {"api_key": SECRET}),
}

ROWS = [
    # provider, status, code, what it means, requests with two retries
    ("aws", 400, "ThrottlingException", Refusal.THROTTLED, 3),
    ("aws", 500, "ThrottlingException", Refusal.THROTTLED, 3),
    ("aws", 400, "ProvisionedThroughputExceededException", Refusal.THROTTLED, 3),
    ("aws", 500, "InternalServerError", Refusal.TRANSIENT, 3),
    ("aws", 503, "ServiceUnavailable", Refusal.TRANSIENT, 3),
    ("aws", 502, None, Refusal.TRANSIENT, 3),
    ("aws", 504, None, Refusal.TRANSIENT, 3),
    ("aws", 400, "ImageTooLargeException", Refusal.SIZE, 2),
    ("aws", 413, None, Refusal.SIZE, 2),
    ("aws", 400, "InvalidImageFormatException", Refusal.PICTURE, 1),
    ("aws", 400, "InvalidParameterException", Refusal.CONTRACT, 1),
    ("aws", 400, "ValidationException", Refusal.CONTRACT, 1),
    ("aws", 400, "AccessDeniedException", Refusal.FORBIDDEN, 1),
    ("aws", 400, "UnrecognizedClientException", Refusal.FORBIDDEN, 1),
    ("aws", 400, "InvalidSignatureException", Refusal.FORBIDDEN, 1),
    ("aws", 400, "MissingAuthenticationTokenException", Refusal.FORBIDDEN, 1),
    ("aws", 400, "ExpiredTokenException", Refusal.UNAUTHENTICATED, 1),
    ("aws", 400, "OddException", Refusal.CONTRACT, 1),
    ("google", 429, "RESOURCE_EXHAUSTED", Refusal.THROTTLED, 3),
    ("google", 500, "INTERNAL", Refusal.TRANSIENT, 3),
    ("google", 503, "UNAVAILABLE", Refusal.TRANSIENT, 3),
    ("google", 504, "DEADLINE_EXCEEDED", Refusal.TRANSIENT, 3),
    ("google", 502, None, Refusal.TRANSIENT, 3),
    ("google", 413, None, Refusal.SIZE, 2),
    ("google", 400, "INVALID_ARGUMENT", Refusal.CONTRACT, 1),
    ("google", 400, "FAILED_PRECONDITION", Refusal.CONTRACT, 1),
    ("google", 400, "API_KEY_INVALID", Refusal.UNAUTHENTICATED, 1),
    ("google", 401, "UNAUTHENTICATED", Refusal.UNAUTHENTICATED, 1),
    ("google", 403, "PERMISSION_DENIED", Refusal.FORBIDDEN, 1),
]

LASTING = {Refusal.FORBIDDEN, Refusal.UNAUTHENTICATED}


def cloud(name: str, server: ProviderServer) -> CloudDetectionService:
    return CloudDetectionService(name, endpoint=server.url, **PROVIDERS[name].settings)


async def look(service: CloudDetectionService, deadline_s: float = 20.0) -> Any:
    plan = Plan(backend=BackendKind.CLOUD, reason="test", deadline_s=deadline_s, retries=RETRIES)
    return await service.detect(Frame.of(NOISE), plan)


@pytest.mark.parametrize(("name", "status", "code", "refusal", "requests"), ROWS)
async def test_each_row_is_its_error_at_its_number_of_requests(
    name: str,
    status: int,
    code: str | None,
    refusal: Refusal,
    requests: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    with PROVIDERS[name].make_server() as server:
        server.fail_always(Failure(status, code or "", body=None if code else PAGE))
        async with cloud(name, server) as service:
            with pytest.raises(BackendResponseError) as caught:
                await look(service)
            error = caught.value
            told = f"{error!r} {vars(error)} {service!r} {service.targets} {caplog.text}"
        assert len(server.requests) == requests
        assert all("canary" not in request.target for request in server.requests)
    assert (error.refusal, error.status_code) == (refusal, status)
    assert error.code == (code or "")
    assert error.is_configuration == (refusal in LASTING)
    assert error.retryable == (refusal in {Refusal.THROTTLED, Refusal.TRANSIENT})
    assert "canary" not in told
    assert "as the test wished" not in told


@pytest.mark.parametrize("name", PROVIDERS)
async def test_a_hiccup_is_answered_by_the_next_attempt(name: str) -> None:
    with PROVIDERS[name].make_server() as server:
        server.fail_next(Failure(503, body=PAGE), Failure(hangs_up=True))
        async with cloud(name, server) as service:
            assert (await look(service)).faces
    assert len(server.requests) == 3


@pytest.mark.parametrize("name", PROVIDERS)
async def test_a_server_that_hangs_costs_one_request_and_the_deadline(name: str) -> None:
    with PROVIDERS[name].make_server() as server:
        server.fail_always(Failure(hangs=True))
        async with cloud(name, server) as service:
            with pytest.raises(BackendTimeoutError):
                await look(service, deadline_s=2.0)
    assert len(server.requests) == 1


@pytest.mark.parametrize("name", PROVIDERS)
@pytest.mark.parametrize("body", [PAGE, b"", b"{}", b"null", CANARY.encode()])
async def test_a_200_of_something_else_is_no_answer_and_is_not_sent_again(
    name: str, body: bytes
) -> None:
    with PROVIDERS[name].make_server() as server:
        server.fail_always(Failure(200, body=body))
        async with cloud(name, server) as service:
            with pytest.raises(ProtocolError) as caught:
                await look(service)
    assert len(server.requests) == 1
    assert CANARY not in str(caught.value)


RETRY_INFO = (
    b'{"error": {"status": "UNAVAILABLE", "details": [{"@type": '
    b'"type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "0.3s"}]}}'
)


@pytest.mark.parametrize(
    ("name", "failure"),
    [
        ("aws", Failure(400, "ThrottlingException", headers={"x-amz-retry-after": "300"})),
        ("google", Failure(429, "RESOURCE_EXHAUSTED", headers={"Retry-After": "0.3"})),
        ("google", Failure(503, body=RETRY_INFO)),
    ],
)
async def test_the_next_attempt_waits_as_long_as_it_was_asked(name: str, failure: Failure) -> None:
    with PROVIDERS[name].make_server() as server:
        server.fail_next(failure)
        async with cloud(name, server) as service:
            began_s = time.monotonic()
            assert (await look(service)).faces
            assert time.monotonic() - began_s >= 0.3
    assert len(server.requests) == 2


@pytest.mark.parametrize("name", PROVIDERS)
async def test_a_wait_beyond_the_deadline_is_not_begun(name: str) -> None:
    failure = Failure(503, headers={"Retry-After": "3600"})
    with PROVIDERS[name].make_server() as server:
        server.fail_always(failure)
        async with cloud(name, server) as service:
            with pytest.raises(BackendResponseError) as caught:
                await look(service)
    assert caught.value.retry_after_s == 3600
    assert len(server.requests) == 1


@pytest.mark.parametrize("name", PROVIDERS)
async def test_a_picture_that_is_too_large_is_made_smaller_once_and_so_are_the_next(
    name: str,
) -> None:
    with PROVIDERS[name].make_server() as server:
        server.fail_next(Failure(413, body=PAGE))
        async with cloud(name, server) as service:
            assert (await look(service)).faces
            first, second = (len(request.body) for request in server.requests)
            assert second < first * 0.6
            assert (await look(service)).faces
            assert len(server.requests) == 3
            assert len(server.requests[2].body) <= second * 1.01


# ---- through the service around it


@pytest.mark.parametrize("name", PROVIDERS)
@pytest.mark.parametrize("is_from_environment", [False, True])
async def test_the_service_reaches_it_by_configuration_and_by_environment(
    name: str, is_from_environment: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with PROVIDERS[name].make_server() as server:
        settings = {"endpoint": server.url, "mode": "cloud", "deadline_s": 20.0}
        if is_from_environment:
            environ = {
                "HYBRID_DETECT_PROVIDER": name,
                "HYBRID_DETECT_ENDPOINT": server.url,
                "HYBRID_DETECT_MODE": "cloud",
                "HYBRID_DETECT_DEADLINE_S": "20",
            }
            if name == "google":
                environ["HYBRID_DETECT_API_KEY"] = SECRET
            else:
                environ["HYBRID_DETECT_PROVIDER_OPTIONS"] = '{"region": "eu-west-1"}'
                monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
                monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
                monkeypatch.delenv("AWS_SESSION_TOKEN", raising=False)
            config = ServiceConfig.from_env(environ)
        else:
            config = ServiceConfig(provider=name, **settings, **PROVIDERS[name].settings)
        assert SECRET not in repr(config)
        async with HybridDetectionService(config=config) as service:
            result = await service.process_image(NOISE)
            assert SECRET not in repr(service.status())
    (face,) = result.faces
    assert face.box.xyxy == pytest.approx((75, 50, 150, 150), abs=0.5)


async def test_without_an_endpoint_the_public_address_is_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with GoogleServer(api_key=SECRET) as server:
        monkeypatch.setattr(GoogleVision, "url", server.url)
        config = ServiceConfig(provider="google", api_key=SECRET, mode="cloud", deadline_s=20.0)
        async with HybridDetectionService(config=config) as service:
            assert (await service.process_image(NOISE)).faces
    assert len(server.requests) == 1


@pytest.mark.parametrize("name", PROVIDERS)
async def test_the_device_answers_what_a_provider_refuses(name: str) -> None:
    with PROVIDERS[name].make_server() as server:
        server.fail_always(Failure(403, "PERMISSION_DENIED", body=PAGE))
        async with HybridDetectionService(
            mode="prefer_cloud",
            backends=[cloud(name, server), FakeBackend(BackendKind.DEVICE)],
        ) as service:
            first = await service.process_image(NOISE, deadline_s=20)
            second = await service.process_image(NOISE, deadline_s=20)
        assert first.backend is second.backend is BackendKind.DEVICE
        assert len(server.requests) == 1  # a refusal for good is not asked about again


@pytest.mark.parametrize("name", PROVIDERS)
async def test_a_failure_of_the_service_tells_no_word_of_the_provider(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with PROVIDERS[name].make_server() as server:
        server.fail_always(Failure(500, body=PAGE, headers={"X-Note": CANARY}))
        async with HybridDetectionService(mode="cloud", backends=[cloud(name, server)]) as service:
            with pytest.raises(AllBackendsFailedError) as caught:
                await service.process_image(NOISE, deadline_s=5)
            told = f"{caught.value!r} {service.status()}"
            # httpcore writes the headers of every answer into a debug log of its own.
            ours = [each for each in caplog.records if not each.name.startswith("httpcore")]
            told += " ".join(each.getMessage() for each in ours)
            for attempt in caught.value.attempts:
                assert isinstance(attempt, BackendError)
                told += f"{attempt!r} {vars(attempt)}"
    assert "canary" not in told
