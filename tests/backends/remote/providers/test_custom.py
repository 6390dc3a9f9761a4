"""The protocol of our own server."""

from __future__ import annotations

import pytest

from hybrid_detect.backends.remote.protocol import DetectParams, HttpResponse
from hybrid_detect.backends.remote.providers import protocol_of
from hybrid_detect.backends.remote.providers.custom import CustomProtocol
from hybrid_detect.errors import ConfigurationError
from hybrid_detect.exchange.batch import decode_batch
from hybrid_detect.exchange.wire import (
    CONTENT_TYPE,
    DETECT_PATH,
    ResultReply,
    decode_request,
    encode_reply,
)
from hybrid_detect.types import BoundingBox, Face

from .protocol_contract import PICTURE, ProtocolContract, json_response

FACE = Face(BoundingBox(8, 8, 24, 24), 0.75)


class TestCustomProtocol(ProtocolContract):
    def make(self) -> CustomProtocol:
        return CustomProtocol()

    def good(self) -> HttpResponse:
        reply = ResultReply(request_id=0, width=64, height=48, faces=(FACE,))
        headers = {"content-type": CONTENT_TYPE}
        return HttpResponse(status=200, headers=headers, body=encode_reply(reply))


def test_the_message_says_what_is_asked() -> None:
    params = DetectParams(min_confidence=0.3, deadline_s=0.4, session_id="s")
    request = CustomProtocol().encode((PICTURE,), params)
    message = decode_request(request.body)
    assert request.url == DETECT_PATH
    assert message.image == PICTURE.data
    assert (message.min_confidence, message.deadline_s, message.session_id) == (0.3, 0.4, "s")


def test_each_picture_of_a_batch_names_its_own_trace() -> None:
    traces = (f"00-{'ab' * 16}-{'cd' * 8}-01", "", f"00-{'12' * 16}-{'34' * 8}-00")
    request = CustomProtocol().encode((PICTURE,) * 3, DetectParams(traceparents=traces))
    found = [decode_request(message).traceparent for message in decode_batch(request.body)]
    assert tuple(found) == traces


@pytest.mark.parametrize(("given", "needed"), [(None, 0.5), (0.0, 0.0), (0.3, 0.3)])
def test_a_score_may_be_left_to_the_model_and_is_a_number_where_one_is_needed(
    given: float | None, needed: float
) -> None:
    params = DetectParams(min_confidence=given)
    assert params.threshold == needed
    assert decode_request(CustomProtocol().encode((PICTURE,), params).body).min_confidence == given


def test_its_health_is_its_own() -> None:
    healthy = {"status": "ok", "model": "m", "version": "1"}
    assert CustomProtocol().decode(json_response(healthy), ()) == ()


def test_a_provider_is_found_by_name_and_an_unknown_one_is_refused() -> None:
    assert isinstance(protocol_of("custom_backend"), CustomProtocol)
    own = CustomProtocol()
    assert protocol_of(own) is own
    for provider, options in (
        ("nobody", None),
        ("custom_backend", {"path": "/x"}),
        ("json_endpoint", {"pth": "/x"}),
        (object(), None),
        (own, {"path": "/x"}),
    ):
        with pytest.raises(ConfigurationError):
            protocol_of(provider, options)  # type: ignore[arg-type]
