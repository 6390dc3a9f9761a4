"""A canary in pixels, keys, tokens, the session and a provider's words is in nothing exported.

A service with every exporter there is meets a provider that refuses with a body, a server that
answers, and pictures that cannot be read. Then all that was exported is searched.
"""

import io
import json
import logging
import logging.config
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("prometheus_client", reason="prometheus-client is an extra")
pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="the exporter is an extra")

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.exposition import generate_latest

from hybrid_detect import (
    BackendKind,
    CloudDetectionService,
    HybridDetectionService,
    InvalidFrameError,
    JsonLinesHook,
    LoggingHook,
    OpenTelemetryHook,
    OpenTelemetryTracer,
    Plan,
    PrometheusHook,
    StreamingService,
)
from hybrid_detect.server.config import ServerConfig
from hybrid_detect.testing import FakeBackend
from hybrid_detect.testing.provider_servers import Failure, GoogleServer

from ..otlp import otlp_receiver
from ..server.loopback import served

TOKEN, KEY, SESSION = "canary-token-5f1c", "canary-key-77aa", "canary-session-93ab"
BODY, PIXELS, COMMENT = "canary-body-20de", b"canary-pixel", b"canary-comment-8c"
REFUSAL = json.dumps({"error": {"status": "UNAVAILABLE", "message": BODY}, BODY: BODY}).encode()
SECRETS = (TOKEN, KEY, SESSION, BODY, PIXELS.decode(), PIXELS.hex(), COMMENT.decode())


def pixels() -> np.ndarray:
    row = np.frombuffer(PIXELS * 48, np.uint8)
    return np.broadcast_to(row.reshape(1, 192, 3), (144, 192, 3)).copy()


def jpeg_with_comment() -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels()).save(out, "JPEG", comment=COMMENT)
    return out.getvalue()


class TheStreamIfTheCloudFails:
    def decide(self, _conditions: Any) -> Plan:
        return Plan(
            backend=BackendKind.CLOUD,
            fallbacks=(BackendKind.STREAMING,),
            reason="a test",
            deadline_s=20.0,
            retries=0,
        )


@pytest.mark.anyio
async def test_no_canary_is_in_any_metric_span_or_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, request: pytest.FixtureRequest
) -> None:
    caplog.set_level(logging.DEBUG)
    # As an app may that looks for a fault; it resets the levels of all loggers below that one.
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "loggers": {"hybrid_detect": {"level": "DEBUG"}},
        }
    )
    request.addfinalizer(partial(logging.getLogger("hybrid_detect").setLevel, logging.NOTSET))
    own = [name for name in logging.root.manager.loggerDict if name.startswith("hybrid_detect")]
    for name in own:  # those, too, that do not hand on what they are told
        logging.getLogger(name).addHandler(caplog.handler)
        request.addfinalizer(partial(logging.getLogger(name).removeHandler, caplog.handler))
    # What frameworks say at debug level is theirs to tell.
    for chatty in ("httpcore", "httpx", "urllib3", "asyncio", "PIL"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    registry, reader = CollectorRegistry(), InMemoryMetricReader()
    with (
        otlp_receiver() as receiver,
        GoogleServer(api_key=KEY) as google,
        JsonLinesHook(tmp_path / "events.jsonl") as lines,
    ):
        provider = TracerProvider()
        exporter = OTLPSpanExporter(endpoint=f"{receiver.url}/v1/traces")
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        hooks = [
            PrometheusHook(registry),
            OpenTelemetryHook(MeterProvider([reader])),
            LoggingHook(),
            lines,
        ]
        config = ServerConfig(auth_token=TOKEN, rate_per_s=0, otlp_endpoint=receiver.url)
        async with served(config) as server:
            stream = StreamingService(
                endpoint=f"http://127.0.0.1:{server.port}", auth_token=TOKEN, session_id=SESSION
            )
            cloud = CloudDetectionService("google", endpoint=google.url, api_key=KEY)
            async with HybridDetectionService(
                backends=[cloud, stream, FakeBackend("device")],
                policy=TheStreamIfTheCloudFails(),
                session_id=SESSION,
                hooks=hooks,
                tracer=OpenTelemetryTracer(provider),
            ) as service:
                await service.wait_ready()
                first = await service.process_image(pixels())
                google.fail_always(Failure(503, body=REFUSAL))
                second = await service.process_image(pixels())
                google.fail_always(Failure(403, body=REFUSAL))
                third = await service.process_image(jpeg_with_comment())
                for broken in (PIXELS, COMMENT + jpeg_with_comment()[:200]):
                    with pytest.raises(InvalidFrameError):
                        await service.process_image(broken)
        provider.shutdown()
        assert first.provider == "google"
        assert second.provider == third.provider == "custom_backend"
        assert second.attempts

        exported = {
            "Prometheus": generate_latest(registry).decode(),
            "OpenTelemetry's metrics": reader.get_metrics_data().to_json(),  # type: ignore[union-attr]
            "spans": b"\n".join(receiver.bodies).decode("latin-1"),
            "JSON lines": (tmp_path / "events.jsonl").read_text(encoding="utf-8"),
            "log": caplog.text,
        }
    # At debug level websockets would tell the first and the last bytes of each message.
    assert "BINARY" not in exported["log"]
    for name, text in exported.items():
        found = [secret for secret in SECRETS if secret in text]
        assert not found, f"{name}: {found}"

    # All of them did export, or there would be nothing to find.
    assert 'hybrid_detect_answers_total{backend="cloud"} 1.0' in exported["Prometheus"]
    assert "hybrid_detect.frame.duration" in exported["OpenTelemetry's metrics"]
    services = {span.service for span in receiver.spans}
    assert "hybrid-detect-server" in services
    assert len(exported["JSON lines"].splitlines()) >= 5
    assert all(json.loads(line) for line in exported["JSON lines"].splitlines())
    assert "frame " in exported["log"]
