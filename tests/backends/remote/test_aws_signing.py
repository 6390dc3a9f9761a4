"""Signature Version 4 against AWS's published example; botocore's signer is in the oracle tests."""

from __future__ import annotations

import calendar

import pytest

from hybrid_detect.backends.remote.aws_signing import signed
from hybrid_detect.backends.remote.protocol import HttpRequest

EXAMPLE_S = float(calendar.timegm((2015, 8, 30, 12, 36, 0)))


def sign(request: HttpRequest, token: str | None = None, region: str = "us-east-1") -> HttpRequest:
    return signed(
        request,
        access_key_id="AKIDEXAMPLE",
        secret_access_key="wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY",
        session_token=token,
        region=region,
        service="service",
        now_s=EXAMPLE_S,
    )


def test_awss_own_example_comes_out() -> None:
    """``get-vanilla`` of AWS's Signature Version 4 test suite."""
    request = sign(HttpRequest(method="GET", url="https://example.amazonaws.com/"))
    assert request.headers["Authorization"] == (
        "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, "
        "SignedHeaders=host;x-amz-date, "
        "Signature=5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"
    )


def test_a_signed_request_can_be_signed_anew() -> None:
    request = HttpRequest(url="https://a.example/", headers={"X-Amz-Target": "T"}, body=b"x")
    once = sign(request, "token")
    assert sign(once, "token") == once
    assert "X-Amz-Security-Token" not in sign(once).headers


@pytest.mark.parametrize(
    ("url", "same"),
    [
        ("https://A.example:443/", "https://a.example/"),
        ("http://a.example:80/", "http://a.example/"),
        ("https://a.example", "https://a.example/"),
        ("http://[::1]:80/", "http://[::1]/"),
    ],
)
def test_the_host_is_signed_as_it_is_sent(url: str, same: str) -> None:
    assert sign(HttpRequest(url=url)).headers == sign(HttpRequest(url=same)).headers


def test_another_port_is_another_host() -> None:
    first, second = (sign(HttpRequest(url=f"http://a.example:{port}/")) for port in (8000, 8001))
    assert first.headers != second.headers


def test_no_secret_is_in_the_request() -> None:
    request = sign(HttpRequest(url="https://a.example/", body=b"canary-picture"), "canary-token")
    assert "canary" not in repr(request)
    assert "wJalrXUtnFEMI" not in str(request.headers)
