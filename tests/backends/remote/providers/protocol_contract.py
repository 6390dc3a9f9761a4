"""What every protocol promises, whoever the provider is: subclass, say how one is made, done."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hybrid_detect.backends.remote.protocol import DetectParams, HttpResponse, Protocol
from hybrid_detect.compression.compressed_image import CompressedImage
from hybrid_detect.errors import BackendError, BackendResponseError, ProtocolError
from hybrid_detect.exchange.wire import CONTENT_TYPE

__all__ = ["CANARY", "PICTURE", "ProtocolContract", "json_response"]

CANARY = "canary-words-of-theirs"

PICTURE = CompressedImage(
    data=b"\xff\xd8\xff canary-picture \xff\xd9",
    width=64,
    height=48,
    original_width=128,
    original_height=96,
    quality=80,
    encodes=1,
)


def json_response(value: object, status: int = 200) -> HttpResponse:
    body = json.dumps(value).encode()
    return HttpResponse(status=status, headers={"content-type": "application/json"}, body=body)


class ProtocolContract:
    score: float | None = 0.75

    def make(self) -> Protocol:
        raise NotImplementedError

    def good(self) -> HttpResponse:
        """An answer with the one face at (8, 8) to (24, 24) of the picture, with `score`."""
        raise NotImplementedError

    def test_it_has_a_name_and_takes_the_format_that_is_sent(self) -> None:
        protocol = self.make()
        assert protocol.name
        assert "jpeg" in protocol.capabilities.formats
        assert protocol.capabilities.max_pictures >= 1

    def test_the_request_carries_the_picture_to_a_path_and_shows_neither(self) -> None:
        request = self.make().encode((PICTURE,), DetectParams(session_id="s", deadline_s=0.5))
        assert request.method == "POST"
        assert request.url == "" or request.url.startswith("/")
        assert request.body
        assert "canary" not in repr(request)
        assert all(isinstance(text, str) for pair in request.headers.items() for text in pair)

    def test_the_answer_becomes_faces_in_the_pixels_of_the_picture(self) -> None:
        (reply,) = self.make().decode(self.good(), (PICTURE,))
        assert (reply.width, reply.height) == (64, 48)
        (face,) = reply.faces
        assert face.box.xyxy == (8, 8, 24, 24)
        assert face.score == self.score

    @pytest.mark.parametrize("status", [301, 400, 401, 403, 404, 413, 429, 500, 502, 503, 520])
    def test_a_refusal_is_typed_and_repeats_nothing(self, status: int) -> None:
        for media_type in ("text/html", "application/json", CONTENT_TYPE, ""):
            response = HttpResponse(
                status=status,
                headers={"content-type": media_type},
                body=CANARY.encode(),
                retry_after_s=3.0,
            )
            for pictures in ((PICTURE,), ()):
                with pytest.raises(BackendResponseError) as caught:
                    self.make().decode(response, pictures)
                assert caught.value.status_code == status
                assert caught.value.retry_after_s == 3.0
                assert CANARY not in f"{caught.value} {vars(caught.value)}"

    @pytest.mark.parametrize(
        "body", [b"", b"{", b"null", b"[1", b"<html>", b"\xff\xfe", b"[" * 100_000, b'{"a": NaN}']
    )
    @pytest.mark.parametrize("media_type", ["application/json", CONTENT_TYPE, "text/html", ""])
    def test_a_body_that_is_no_answer_is_a_protocol_error(
        self, body: bytes, media_type: str
    ) -> None:
        response = HttpResponse(status=200, headers={"content-type": media_type}, body=body)
        with pytest.raises(ProtocolError):
            self.make().decode(response, (PICTURE,))

    @settings(suppress_health_check=[HealthCheck.differing_executors])  # one for each protocol
    @given(st.binary(max_size=300), st.integers(200, 599))
    def test_whatever_comes_is_read_or_is_a_backend_error(self, body: bytes, status: int) -> None:
        for media_type in ("application/json", CONTENT_TYPE):
            response = HttpResponse(status=status, headers={"content-type": media_type}, body=body)
            for pictures in ((PICTURE,), ()):
                try:
                    replies = self.make().decode(response, pictures)
                except BackendError:
                    continue
                assert len(replies) == len(pictures)

    def test_health_is_a_request_or_nothing(self) -> None:
        request = self.make().health()
        assert request is None or (request.method == "GET" and request.url.startswith("/"))
