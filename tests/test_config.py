import math
from pathlib import Path
from typing import Any

import pytest

from hybrid_detect.config import ServiceConfig
from hybrid_detect.endpoint import Endpoint
from hybrid_detect.errors import ConfigurationError
from hybrid_detect.types import DetectionMode, Medium


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("https://faces.example.com", "https://faces.example.com"),
        ("https://faces.example.com/", "https://faces.example.com"),
        ("https://faces.example.com:8443", "https://faces.example.com:8443"),
        ("https://faces.example.com/base/path/", "https://faces.example.com/base/path"),
        ("HTTPS://Faces.Example.COM/Base", "https://faces.example.com/Base"),
        ("https://[2001:db8::1]:9", "https://[2001:db8::1]:9"),
        ("https://[2001:db8::1]", "https://[2001:db8::1]"),
        ("https://192.0.2.7", "https://192.0.2.7"),
        ("http://localhost:8000", "http://localhost:8000"),
        ("http://app.localhost", "http://app.localhost"),
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("http://127.9.9.9", "http://127.9.9.9"),
        ("http://[::1]:8000/", "http://[::1]:8000"),
    ],
)
def test_an_endpoint_is_read_and_tidied(text: str, url: str) -> None:
    assert Endpoint.parse(text).url == url


@pytest.mark.parametrize(
    "text",
    [
        "",
        "faces.example.com",
        "faces.example.com:8000",
        "//faces.example.com",
        "https://",
        "https:///v1",
        "https://:8000",
        "ftp://faces.example.com",
        "ws://localhost",
        "file:///etc/passwd",
        "https://faces.example.com:http",
        "https://faces.example.com:99999",
        "https://[::1",
        "https://user:secret/@faces.example.com",
        "https://user:secret\u2100@faces.example.com",
        "https://user@faces.example.com",
        "https://user:secret@faces.example.com",
        "https://:secret@faces.example.com",
        "https://faces.example.com?key=secret",
        "https://faces.example.com/#secret",
        "http://faces.example.com",
        "http://192.168.1.5:8000",
        "http://localhost.example.com",
        "http://127.0.0.1.example.com",
        "http://notlocalhost",
        "http://[2001:db8::1]",
        "http://0.0.0.0",
    ],
)
def test_what_is_no_safe_endpoint_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Endpoint.parse(text)
    assert "secret" not in str(caught.value)


def test_plain_http_to_another_machine_has_to_be_asked_for() -> None:
    with pytest.raises(ConfigurationError, match="allow_insecure_http=True"):
        Endpoint.parse("http://192.168.1.5")
    assert Endpoint.parse("http://192.168.1.5", allow_insecure_http=True).url == (
        "http://192.168.1.5"
    )


def test_a_user_in_the_url_is_refused_even_on_an_insecure_network() -> None:
    with pytest.raises(ConfigurationError, match="auth_token"):
        Endpoint.parse("http://me:pw@192.168.1.5", allow_insecure_http=True)


@pytest.mark.parametrize(
    ("url", "http", "websocket"),
    [
        ("https://a.example/x", "https://a.example/x/v1/s", "wss://a.example/x/v1/s"),
        ("http://localhost:1", "http://localhost:1/v1/s", "ws://localhost:1/v1/s"),
    ],
)
def test_both_remote_ways_share_the_endpoint(url: str, http: str, websocket: str) -> None:
    endpoint = Endpoint.parse(url)
    assert endpoint.http("/v1/s") == http
    assert endpoint.websocket("/v1/s") == websocket


# -- ranges ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "good"),
    [
        ("deadline_s", [0.001, 1, 60.0]),
        ("names_kept_s", [1, 8 * 24 * 3600.0]),
        ("user_region", ["", "DE", "x" * 32]),
        ("session_id", [None, "visit-81", "\u00e9" * 1024]),
        ("user_id", [None, "", "x" * 1024]),
        ("min_confidence", [None, 0, 0.5, 1]),
        ("target_file_size_kb", [0.1, 80, 4000]),
        ("quality", [1, 95]),
        ("max_side_px", [1, 1280, None]),
        ("max_pixels", [1, 108_000_000, None]),
        ("endpoint", [None, "https://a.example"]),
        ("mode", ["auto", DetectionMode.CLOUD]),
    ],
)
def test_values_inside_their_range_are_taken(name: str, good: list[Any]) -> None:
    for value in good:
        assert getattr(ServiceConfig(**{name: value}), name) == value


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("deadline_s", [0, -1, math.nan]),
        ("names_kept_s", [0, -1, math.nan, math.inf]),
        ("user_region", ["x" * 33, "Berlin\n"]),
        ("session_id", ["x" * 1025, 81]),
        ("user_id", ["x" * 1025, b"x"]),
        ("min_confidence", [-0.1, 1.1, math.nan]),
        ("target_file_size_kb", [0, -5, math.nan]),
        ("quality", [0, 96, -1]),
        ("max_side_px", [0, -1]),
        ("max_pixels", [0, -1]),
        ("mode", ["", "fastest", None]),
        ("endpoint", ["", "nowhere"]),
    ],
)
def test_values_outside_their_range_are_refused_by_name(name: str, bad: list[Any]) -> None:
    for value in bad:
        with pytest.raises(ConfigurationError, match=name):
            ServiceConfig(**{name: value})


def test_the_lowest_score_is_left_to_the_model_unless_it_is_given() -> None:
    assert ServiceConfig().min_confidence is None
    for environ in ({}, {"HYBRID_DETECT_MIN_CONFIDENCE": ""}):
        assert ServiceConfig.from_env(environ).min_confidence is None
    half = {"HYBRID_DETECT_MIN_CONFIDENCE": "0.5"}
    assert ServiceConfig.from_env(half).min_confidence == 0.5
    assert ServiceConfig.from_env(half, min_confidence=None).min_confidence is None
    with pytest.raises(ConfigurationError, match="MIN_CONFIDENCE: expected float"):
        ServiceConfig.from_env({"HYBRID_DETECT_MIN_CONFIDENCE": "none"})


def test_the_token_is_not_in_the_repr() -> None:
    assert "s3cret" not in repr(ServiceConfig(auth_token="s3cret"))


# -- the environment -------------------------------------------------------------------------


def test_everything_can_come_from_the_environment() -> None:
    config = ServiceConfig.from_env(
        {
            "HYBRID_DETECT_ENDPOINT": "http://faces.example.com",
            "HYBRID_DETECT_AUTH_TOKEN": "token",
            "HYBRID_DETECT_MODE": "prefer_cloud",
            "HYBRID_DETECT_SESSION_ID": "me",
            "HYBRID_DETECT_DEADLINE_S": "0.5",
            "HYBRID_DETECT_MIN_CONFIDENCE": "0.7",
            "HYBRID_DETECT_TARGET_FILE_SIZE_KB": "40",
            "HYBRID_DETECT_QUALITY": "50",
            "HYBRID_DETECT_MAX_SIDE_PX": "640",
            "HYBRID_DETECT_MODEL": "full_range",
            "HYBRID_DETECT_MODEL_PATH": "/models/x.tflite",
            "HYBRID_DETECT_MODEL_FETCH": "no",
            "HYBRID_DETECT_ALLOW_INSECURE_HTTP": "TRUE",
            "UNRELATED": "1",
        }
    )
    assert config == ServiceConfig(
        endpoint="http://faces.example.com",
        auth_token="token",
        mode=DetectionMode.PREFER_CLOUD,
        session_id="me",
        deadline_s=0.5,
        min_confidence=0.7,
        target_file_size_kb=40.0,
        quality=50,
        max_side_px=640,
        model="full_range",
        model_path=Path("/models/x.tflite"),
        model_fetch=False,
        allow_insecure_http=True,
    )


def test_an_empty_environment_gives_the_defaults() -> None:
    assert ServiceConfig.from_env({}) == ServiceConfig()
    assert ServiceConfig.from_env({"HYBRID_DETECT_QUALITY": ""}) == ServiceConfig()


def test_what_the_caller_says_wins() -> None:
    config = ServiceConfig.from_env({"HYBRID_DETECT_QUALITY": "not a number"}, quality=30)
    assert config.quality == 30


def test_the_process_environment_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYBRID_DETECT_DEADLINE_S", "2.5")
    assert ServiceConfig.from_env().deadline_s == 2.5


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("DEADLINE_S", "soon"),
        ("QUALITY", "80.5"),
        ("MAX_SIDE_PX", "big"),
        ("MODEL_FETCH", "perhaps"),
        ("MODE", "fastest"),
        ("QUALITY", "200"),
        ("ENDPOINT", "nowhere"),
    ],
)
def test_an_unreadable_variable_is_named(name: str, text: str) -> None:
    with pytest.raises(ConfigurationError, match=f"(?i){name}"):
        ServiceConfig.from_env({f"HYBRID_DETECT_{name}": text})


def test_a_misspelt_variable_is_named_with_the_setting_it_resembles() -> None:
    environ = {"HYBRID_DETECT_DEADLNE_S": "2", "HYBRID_DETECT_MODE": "cloud", "PATH": "/bin"}
    expected = (
        r"HYBRID_DETECT_DEADLNE_S is not a setting .* did you mean HYBRID_DETECT_DEADLINE_S\?"
    )
    with pytest.warns(UserWarning, match=expected) as caught:
        config = ServiceConfig.from_env(environ)
    assert len(caught) == 1
    assert config.mode is DetectionMode.CLOUD


def test_variables_that_are_read_elsewhere_are_no_misspelling() -> None:
    environ = {"HYBRID_DETECT_MODEL_DIR": "/models", "HYBRID_DETECT_SERVER_TOKEN": "t"}
    assert ServiceConfig.from_env(environ) == ServiceConfig()


@pytest.mark.parametrize("medium", [None, "wifi", Medium.CELLULAR, lambda: "wired"])
def test_the_medium_is_told_by_name_or_by_a_function(medium: object) -> None:
    assert ServiceConfig(medium=medium).medium == medium  # type: ignore[arg-type]


def test_a_medium_that_there_is_not_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="medium: expected one of unknown, wired"):
        ServiceConfig(medium="5g")
    with pytest.raises(ConfigurationError, match="medium"):
        ServiceConfig.from_env({"HYBRID_DETECT_MEDIUM": "ethernet"})
    assert ServiceConfig.from_env({"HYBRID_DETECT_MEDIUM": "cellular"}).medium == "cellular"
