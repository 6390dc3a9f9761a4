"""``hybrid-detect serve``: run the reference server."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hybrid_detect.cli.exit_codes import ExitCode
from hybrid_detect.cli.fetching import SERVER_MODEL, fetch_for_server
from hybrid_detect.cli.options import described
from hybrid_detect.errors import ConfigurationError, MissingExtraError
from hybrid_detect.extras import require
from hybrid_detect.types import QualityLevel

if TYPE_CHECKING:
    from hybrid_detect.server.config import ServerConfig
    from hybrid_detect.server.tls import TlsConfig
    from hybrid_detect.server.tokens import JwtConfig

__all__ = ["add_parser"]

EXPORTER = "opentelemetry.exporter.otlp.proto.http"
"""What sends traces; it brings the SDK along."""


def add_parser(commands: Any) -> None:
    """Add the command to the parser's `commands`."""
    parser = commands.add_parser(
        "serve",
        **described("run the reference server"),
        epilog="The token that clients must send is read from HYBRID_DETECT_SERVER_TOKEN.",
    )
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: %(default)s)"
    )
    parser.add_argument(
        "--port", type=int, default=8000, help="port; 0 takes a free one (default: %(default)s)"
    )
    parser.add_argument(
        "--model",
        default=SERVER_MODEL,
        help="the model (see 'hybrid-detect models list'); auto is CenterFace where it can be had, "
        "else full_range (default: %(default)s)",
    )
    parser.add_argument(
        "--model-path",
        type=Path,
        metavar="FILE",
        help="the model's file (default: the one that 'hybrid-detect models list' shows)",
    )
    parser.add_argument(
        "--quality",
        choices=[*QualityLevel],
        default=QualityLevel.HIGH,
        help="how thoroughly to look at pictures that ask for no level (default: %(default)s)",
    )
    parser.add_argument(
        "--detectors",
        type=int,
        metavar="N",
        help="detector processes (default: one for each usable core, "
        "and one more with --quality fast)",
    )
    parser.add_argument(
        "--provider",
        choices=["cpu", "cuda", "tensorrt"],
        default="cpu",
        help="what runs the network (default: %(default)s)",
    )
    parser.add_argument(
        "--provider-fallback",
        action="store_true",
        help="look on the processor where the graphics processor cannot be used",
    )
    parser.add_argument(
        "--cluster",
        type=Path,
        metavar="FILE",
        help="serve with replicas on Ray, as the TOML in FILE says; an empty file will do",
    )
    gate = parser.add_argument_group("who may come in, and how often")
    gate.add_argument(
        "--api-keys", type=Path, metavar="FILE", help="API keys (see 'hybrid-detect api-keys')"
    )
    gate.add_argument("--jwt-issuer", metavar="URL", help="accept JSON Web Tokens of this issuer")
    gate.add_argument("--jwt-audience", metavar="NAME", help="what their 'aud' must name")
    gate.add_argument("--jwt-jwks", metavar="URL|FILE", help="the issuer's public keys")
    gate.add_argument(
        "--allow-origin",
        action="append",
        default=[],
        metavar="ORIGIN",
        help="origin whose pages in a browser may come in; may be given more than once",
    )
    gate.add_argument(
        "--rate",
        type=float,
        metavar="N",
        help="pictures a second of each caller (default: 30); 0 for no limit",
    )
    gate.add_argument(
        "--burst", type=int, metavar="N", help="pictures that may come at once (default: 60)"
    )
    gate.add_argument(
        "--stream-rate",
        type=float,
        metavar="N",
        help="pictures a second of each stream (default: as many as its caller may send)",
    )
    gate.add_argument(
        "--connections-per-peer",
        type=int,
        metavar="N",
        help="connections from one address (default: 256)",
    )
    tls = parser.add_argument_group("TLS")
    tls.add_argument("--tls-cert", type=Path, metavar="FILE", help="certificate chain, PEM")
    tls.add_argument("--tls-key", type=Path, metavar="FILE", help="its private key, PEM")
    tls.add_argument(
        "--tls-client-ca",
        type=Path,
        metavar="FILE",
        help="ask clients for a certificate of this CA",
    )
    parser.add_argument(
        "--encryption-keys",
        type=Path,
        metavar="FILE",
        help="take encrypted pictures, with the keys in FILE (see 'hybrid-detect keys')",
    )
    parser.add_argument(
        "--require-encryption",
        action="store_true",
        help="refuse pictures that are not encrypted (needs --encryption-keys)",
    )
    parser.add_argument(
        "--history",
        type=Path,
        metavar="FILE",
        help="keep results by session, to be exported and erased (default: keep nothing)",
    )
    parser.add_argument(
        "--history-images", action="store_true", help="keep the pictures, too (needs --history)"
    )
    parser.add_argument(
        "--retention-hours",
        type=float,
        metavar="H",
        help="hours that results and pictures are kept (default: 24)",
    )
    seen = parser.add_argument_group(
        "what operators see",
        "The token for /metrics alone is read from HYBRID_DETECT_METRICS_TOKEN.",
    )
    seen.add_argument(
        "--metrics-port",
        type=int,
        metavar="PORT",
        help="serve /metrics and the probes at this port; 0 takes a free one (default: /metrics is "
        "beside the pictures if it has a token, else nowhere)",
    )
    seen.add_argument(
        "--metrics-host",
        metavar="HOST",
        help="address of that port (default: 127.0.0.1)",
    )
    seen.add_argument(
        "--log-format",
        choices=["text", "json", "logfmt"],
        default="text",
        help="how the log is written to standard error (default: %(default)s)",
    )
    seen.add_argument(
        "--log-requests",
        choices=["none", "refused", "all"],
        default="none",
        help="requests and streams that get a line in the log (default: %(default)s)",
    )
    seen.add_argument(
        "--otlp",
        metavar="URL",
        help="send traces to this OpenTelemetry collector over HTTP (default: that of "
        "OTEL_EXPORTER_OTLP_ENDPOINT, else none); OTEL_TRACES_SAMPLER says how many",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Serve until stopped."""
    for module in ("starlette", "httptools"):
        require(module, extra="server", purpose="'hybrid-detect serve'")
    from hybrid_detect.server.config import ServerConfig
    from hybrid_detect.server.logs import set_up_logging
    from hybrid_detect.server.serving import METRICS_TOKEN_VARIABLE, TOKEN_VARIABLE, serve

    if arguments.retention_hours is not None and arguments.history is None:
        msg = "--retention-hours: expected --history FILE as well, got none"
        raise ConfigurationError(msg)
    if arguments.metrics_host is not None and arguments.metrics_port is None:
        msg = "--metrics-host: expected --metrics-port as well, got none"
        raise ConfigurationError(msg)
    set_up_logging(arguments.log_format)
    limits = {
        "detectors": arguments.detectors,
        "rate_per_s": arguments.rate,
        "burst": arguments.burst,
        "stream_rate_per_s": arguments.stream_rate,
        "max_connections_per_peer": arguments.connections_per_peer,
        "metrics_host": arguments.metrics_host,
        "history_retention_s": arguments.retention_hours and arguments.retention_hours * 3600,
    }
    config = ServerConfig(
        host=arguments.host,
        port=arguments.port,
        auth_token=os.environ.get(TOKEN_VARIABLE) or None,
        model=arguments.model,
        model_path=arguments.model_path,
        quality=arguments.quality,
        provider=arguments.provider,
        provider_fallback=arguments.provider_fallback,
        keys_path=arguments.encryption_keys,
        require_encryption=arguments.require_encryption,
        history_path=arguments.history,
        history_images=arguments.history_images,
        api_keys=arguments.api_keys,
        jwt=_jwt(arguments),
        allowed_origins=tuple(arguments.allow_origin),
        tls=_tls(arguments),
        metrics_port=arguments.metrics_port,
        metrics_token=os.environ.get(METRICS_TOKEN_VARIABLE) or None,
        request_log=arguments.log_requests,
        otlp_endpoint=_otlp(arguments),
        **{name: value for name, value in limits.items() if value is not None},
    )
    if arguments.cluster is not None:
        return _serve_cluster(config, arguments.cluster)
    fetch_for_server(config, warns=False)
    return ExitCode.DONE if serve(config) else ExitCode.FAILED


def _serve_cluster(config: ServerConfig, path: Path) -> int:
    from hybrid_detect.server.cluster.config import read_cluster_file

    cluster = read_cluster_file(path)
    require("ray.serve", extra="cluster", purpose="'hybrid-detect serve --cluster'")
    from hybrid_detect.server.cluster.running import run_cluster
    from hybrid_detect.server.serving import tell_address

    fetch_for_server(config)
    run_cluster(config, cluster, ready=tell_address)
    return ExitCode.DONE


def _otlp(arguments: argparse.Namespace) -> str | None:
    """The collector for traces, as OpenTelemetry's variables name it where no option does."""
    if arguments.otlp is not None or os.environ.get("OTEL_TRACES_EXPORTER", "otlp") == "none":
        return arguments.otlp or None
    variables = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
    found = next(filter(None, map(os.environ.get, variables)), None)
    if found is not None:
        # A platform sets it for all of its programs; those without the SDK have to start, too.
        try:
            require(
                "opentelemetry.exporter.otlp.proto.http", extra="otel", purpose="sending traces"
            )
        except MissingExtraError as error:
            print(f"no traces are sent: {error}", file=sys.stderr)
            return None
    return found


def _jwt(arguments: argparse.Namespace) -> JwtConfig | None:
    from hybrid_detect.server.tokens import JwtConfig

    given = (arguments.jwt_issuer, arguments.jwt_audience, arguments.jwt_jwks)
    if given == (None, None, None):
        return None
    if None in given:
        msg = "--jwt-issuer, --jwt-audience and --jwt-jwks go together"
        raise ConfigurationError(msg)
    return JwtConfig(issuer=given[0], audience=given[1], jwks=given[2])


def _tls(arguments: argparse.Namespace) -> TlsConfig | None:
    from hybrid_detect.server.tls import TlsConfig

    cert, key, client_ca = arguments.tls_cert, arguments.tls_key, arguments.tls_client_ca
    if cert is key is client_ca is None:
        return None
    if cert is None or key is None:
        msg = "--tls-cert and --tls-key go together, and --tls-client-ca with both"
        raise ConfigurationError(msg)
    return TlsConfig(cert=cert, key=key, client_ca=client_ca)
