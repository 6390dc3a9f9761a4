"""CodeProject.AI and DeepStack: failures with a status of 200, percent, the key in the form."""

from __future__ import annotations

from typing import Any

import pytest

from hybrid_detect.backends.remote.credentials import key_credentials
from hybrid_detect.backends.remote.protocol import DetectParams, HttpRequest, HttpResponse
from hybrid_detect.backends.remote.providers import protocol_of
from hybrid_detect.backends.remote.providers.codeproject import CodeProjectAI, DeepStack
from hybrid_detect.errors import BackendResponseError, ConfigurationError, ProtocolError, Refusal

from .protocol_contract import CANARY, PICTURE, ProtocolContract, json_response

FACE = {"confidence": 0.75, "x_min": 8, "y_min": 8, "x_max": 24, "y_max": 24}


class TestCodeProject(ProtocolContract):
    def make(self) -> CodeProjectAI:
        return CodeProjectAI()

    def good(self) -> HttpResponse:
        return json_response({"success": True, "predictions": [FACE], "inferenceMs": 12})


class TestDeepStack(ProtocolContract):
    def make(self) -> DeepStack:
        return DeepStack()

    def good(self) -> HttpResponse:
        return json_response({"success": True, "predictions": [FACE]})


def decoded(value: Any, status: int = 200) -> Any:
    return CodeProjectAI().decode(json_response(value, status), (PICTURE,))


def test_the_threshold_is_always_sent() -> None:
    for made in (CodeProjectAI(), DeepStack()):
        usual = made.encode((PICTURE,), DetectParams())
        assert b'name="min_confidence"\r\n\r\n0.5\r\n' in usual.body
        request = made.encode((PICTURE,), DetectParams(min_confidence=0.25))
        assert request.url == "/v1/vision/face"
        assert b'name="min_confidence"\r\n\r\n0.25\r\n' in request.body
        assert b'name="image"; filename=' in request.body


@pytest.mark.anyio
async def test_the_key_is_a_field_of_the_form() -> None:
    made = DeepStack()
    credentials = key_credentials(made, "the-key")
    await credentials.prepare(now_s=0.0)
    plain = made.encode((PICTURE,), DetectParams())
    signed = credentials.apply(plain, now_s=0.0)
    assert b'name="api_key"\r\n\r\nthe-key\r\n' in signed.body
    assert signed.body.endswith(plain.body)
    assert signed.headers == plain.headers
    assert "the-key" not in repr(credentials) + repr(signed)
    ping = HttpRequest(method="GET", url="/v1/status/ping")
    assert credentials.apply(ping, now_s=0.0) == ping
    assert not credentials.on_refused(BackendResponseError(status_code=401))


@pytest.mark.parametrize(
    ("told", "score"), [(0.87, 0.87), (87, 0.87), (95.5, 0.955), (1, 1.0), (0, 0.0), (None, None)]
)
def test_scores_come_as_fractions_or_as_percent(told: float | None, score: float | None) -> None:
    (reply,) = decoded({"success": True, "predictions": [{**FACE, "confidence": told}]})
    assert reply.faces[0].score == (None if score is None else pytest.approx(score))


def test_a_face_without_a_score_has_none() -> None:
    face = {name: value for name, value in FACE.items() if name != "confidence"}
    (reply,) = decoded({"success": True, "predictions": [face]})
    assert reply.faces[0].score is None


@pytest.mark.parametrize(
    ("said", "refusal", "retryable"),
    [
        ("Unable to load the face detector", Refusal.TRANSIENT, True),
        ("The image provided was of an unknown type", Refusal.PICTURE, False),
        ("cannot identify image file", Refusal.PICTURE, False),
        ("An Error occurred during processing", Refusal.TRANSIENT, True),
        (CANARY, Refusal.TRANSIENT, True),
        (None, Refusal.TRANSIENT, True),
    ],
)
@pytest.mark.parametrize("status", [200, 500])
def test_a_failure_may_have_a_status_of_200(
    said: str | None, refusal: Refusal, retryable: bool, status: int
) -> None:
    with pytest.raises(BackendResponseError) as caught:
        decoded({"success": False, "error": said, "err_trace": CANARY, "code": 500}, status)
    assert (caught.value.refusal, caught.value.retryable) == (refusal, retryable)
    assert caught.value.by_server
    assert CANARY not in str(caught.value)


@pytest.mark.parametrize("status", [403, 404])
def test_a_module_that_is_switched_off(status: int) -> None:
    with pytest.raises(BackendResponseError) as caught:
        decoded({"success": False}, status)
    assert caught.value.is_configuration


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"success": "true", "predictions": []},
        {"success": True},
        {"success": True, "predictions": [1]},
    ],
)
def test_what_is_no_answer(value: object) -> None:
    with pytest.raises(ProtocolError):
        decoded(value)


def test_health_is_a_ping_that_has_to_succeed() -> None:
    assert CodeProjectAI().decode(json_response({"success": True}), ()) == ()
    with pytest.raises(BackendResponseError):
        CodeProjectAI().decode(json_response({"success": False}), ())
    with pytest.raises(ProtocolError):
        CodeProjectAI().decode(HttpResponse(status=200, body=b"<html>sign in</html>"), ())
    assert DeepStack().health() is None  # type: ignore[func-returns-value]


def test_there_are_no_options() -> None:
    assert protocol_of("deepstack").name == "deepstack"
    for name in ("codeproject", "deepstack"):
        with pytest.raises(ConfigurationError, match=f"not an option of {name}"):
            protocol_of(name, {"port": 32168})
