"""What the command line of `hybrid-detect serve` makes of its options."""

import sys
from pathlib import Path
from typing import Any

import pytest

from hybrid_detect.cli import main
from hybrid_detect.errors import ConfigurationError
from hybrid_detect.server import serving
from hybrid_detect.server.config import ServerConfig
from hybrid_detect.server.tls import TlsConfig
from hybrid_detect.server.tokens import JwtConfig


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[ServerConfig]:
    """The configurations that were served."""
    seen: list[ServerConfig] = []
    monkeypatch.delenv(serving.TOKEN_VARIABLE, raising=False)
    monkeypatch.setattr(serving, "serve", lambda config: seen.append(config) or True)
    return seen


JWT = ["--jwt-issuer", "https://id", "--jwt-audience", "faces", "--jwt-jwks", "https://id/jwks"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], {"rate_per_s": 30.0, "burst": 60, "tls": None, "jwt": None, "allowed_origins": ()}),
        (["--rate", "0", "--burst", "5"], {"rate_per_s": 0.0, "burst": 5}),
        (["--stream-rate", "12.5"], {"stream_rate_per_s": 12.5}),
        (["--connections-per-peer", "9"], {"max_connections_per_peer": 9}),
        (
            ["--metrics-port", "0", "--log-requests", "refused"],
            {"metrics_port": 0, "metrics_host": "127.0.0.1", "request_log": "refused"},
        ),
        (["--metrics-port", "1", "--metrics-host", "::1"], {"metrics_host": "::1"}),
        (["--api-keys", "keys.json"], {"api_keys": Path("keys.json")}),
        (
            ["--allow-origin", "https://a", "--allow-origin", "https://b"],
            {"allowed_origins": ("https://a", "https://b")},
        ),
        (JWT, {"jwt": JwtConfig(issuer="https://id", audience="faces", jwks="https://id/jwks")}),
        (
            ["--tls-cert", "c", "--tls-key", "k", "--tls-client-ca", "ca"],
            {"tls": TlsConfig(cert=Path("c"), key=Path("k"), client_ca=Path("ca"))},
        ),
        (["--host", "0.0.0.0", *JWT], {"host": "0.0.0.0", "auth_token": None}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_options_become_the_configuration(
    served: list[ServerConfig], options: list[str], expected: dict[str, Any]
) -> None:
    assert main(["serve", *options]) == 0
    (config,) = served
    assert {name: getattr(config, name) for name in expected} == expected


def test_the_token_for_metrics_comes_from_the_environment(
    served: list[ServerConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(serving.METRICS_TOKEN_VARIABLE, "a-token")
    assert main(["serve"]) == 0
    assert served[0].metrics_token == "a-token"


def test_an_address_for_metrics_needs_a_port(
    served: list[ServerConfig], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", "--metrics-host", "::1"]) == 1
    assert "expected --metrics-port as well" in capsys.readouterr().err
    assert served == []


COLLECTOR = "http://127.0.0.1:4318"


@pytest.mark.parametrize(
    ("options", "variables", "expected"),
    [
        ([], {}, None),
        (["--otlp", COLLECTOR], {}, COLLECTOR),
        ([], {"OTEL_EXPORTER_OTLP_ENDPOINT": COLLECTOR}, COLLECTOR),
        (
            [],
            {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"{COLLECTOR}/x/v1/traces"},
            f"{COLLECTOR}/x/v1/traces",
        ),
        (["--otlp", COLLECTOR], {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://other"}, COLLECTOR),
        (["--otlp", ""], {"OTEL_EXPORTER_OTLP_ENDPOINT": COLLECTOR}, None),
        ([], {"OTEL_EXPORTER_OTLP_ENDPOINT": COLLECTOR, "OTEL_TRACES_EXPORTER": "none"}, None),
    ],
)
def test_traces_go_where_the_option_or_opentelemetrys_variables_say(
    served: list[ServerConfig],
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    variables: dict[str, str],
    expected: str | None,
) -> None:
    if variables:
        pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="it is an extra")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert main(["serve", *options]) == 0
    (config,) = served
    assert config.otlp_endpoint == expected


def test_a_platform_s_collector_keeps_no_server_without_the_extra_from_starting(
    served: list[ServerConfig],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", COLLECTOR)
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http", None)
    assert main(["serve"]) == 0
    assert served[0].otlp_endpoint is None
    told = capsys.readouterr().err
    assert "no traces are sent" in told
    assert "pip install 'hybrid-detect[otel]'" in told


@pytest.mark.parametrize("url", ["", "127.0.0.1:4318", "grpc://collector:4317", "http://"])
def test_a_collector_that_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="otlp_endpoint"):
        ServerConfig(otlp_endpoint=url)


@pytest.mark.parametrize(
    "options", [JWT[:2], JWT[:4], JWT[2:], ["--tls-cert", "c"], ["--tls-client-ca", "ca"]]
)
def test_options_that_go_together_are_asked_for_together(
    served: list[ServerConfig], options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", *options]) == 1
    assert "go together" in capsys.readouterr().err
    assert served == []


def test_files_that_are_not_there_stop_the_start(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(serving.TOKEN_VARIABLE, raising=False)
    assert main(["serve", "--api-keys", "/no/such/file"]) == 1
    assert "cannot read the API keys in /no/such/file" in capsys.readouterr().err
    assert main(["serve", "--tls-cert", "/no/such/cert", "--tls-key", "/no/such/key"]) == 1
    assert "cannot use the certificate /no/such/cert" in capsys.readouterr().err
