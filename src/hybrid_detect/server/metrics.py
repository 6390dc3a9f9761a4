"""What the server counts for Prometheus, in text or in OpenMetrics (extra ``[server]``).

Names have the prefix ``hybrid_detect_server_`` and base units; those of the process are Prometheus'
usual ones (``process_resident_memory_bytes``, ``process_open_fds``). Every label has a small set of
values that is known beforehand, none of them a caller's, and every counter is there from the start:
``increase()`` of a series that appears with its first failure would not see that failure.

The server is one process, so what can be read when it is asked for (`_State`) is not counted
along: the length of the queue, the detectors' processes, the connections' memory.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import psutil

from hybrid_detect.exchange.batch import BATCH_PATH
from hybrid_detect.exchange.wire import DETECT_PATH, STREAM_PATH, ErrorReply, ResultReply
from hybrid_detect.extras import require
from hybrid_detect.monitoring.exporters.series import DURATION_BOUNDS_S
from hybrid_detect.server.observation import (
    CLIENT_GONE,
    OTHER_ROUTE,
    PICTURE_ROUTES,
    ROUTES,
    SESSION_ROUTE,
    WATCH_ROUTE,
    Record,
)

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from hybrid_detect.server.detectors import Detection

__all__ = ["CAUSES", "DetectorState", "ServerMetrics", "ServerState"]

CAUSES = (
    "bad_request",
    "bad_seal",
    "detector_failed",
    "encryption_required",
    "internal",
    "invalid_image",
    "not_found",
    "overloaded",
    "refused",
    "replayed",
    "stale",
    "stopping",
    "storage_failed",
    "too_fast",
    "too_large",
    "too_late",
    "too_many",
    "too_slow",
    "unauthorized",
    "unavailable",
    "unknown_key",
    "unsupported_body",
    "wrong_origin",
)
"""The codes of error replies."""

_OTHER = "other"

_ALWAYS = (401, 403, 405, 429, CLIENT_GONE, 500, 503)
_STATUSES = {
    DETECT_PATH: (200, 400, 408, 409, 412, 413, 415, 421, 422, 504),
    BATCH_PATH: (200, 400, 408, 413),
    STREAM_PATH: (101, 404),
    WATCH_ROUTE: (101, 200, 400, 404),
    SESSION_ROUTE: (200, 400, 404),
    OTHER_ROUTE: (404,),
}
"""What each route answers with, beside `_ALWAYS`; the others answer 200 or 404."""

_KNOWN_STATUSES = frozenset(_ALWAYS).union(*_STATUSES.values())


@dataclass(frozen=True, slots=True)
class DetectorState:
    """The detectors' processes at one moment."""

    wanted: int
    """Processes of the levels that are offered."""
    pids: tuple[int, ...]
    """Those that run."""
    restarts: int
    """How often one died, or did not start, since the server was started."""
    places: int
    """Pictures, or halves of batches, that are looked at at the same time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerState:
    """What is read of the server whenever it is asked for."""

    waiting: Callable[[], int]
    """Pictures that wait for a detector."""
    max_waiting: int
    looking: Callable[[], int]
    """Pictures that are looked at."""
    is_stopping: Callable[[], bool]
    detectors: Callable[[], DetectorState]


class ServerMetrics:
    """An `Observer` that counts for Prometheus.

    Args:
        state: What is read when the metrics are.
        registry: Where they are registered; `None` for a registry of its own.

    Raises:
        MissingExtraError: If ``prometheus-client`` is not installed.
    """

    def __init__(self, state: ServerState, registry: CollectorRegistry | None = None) -> None:
        client: Any = require("prometheus_client", extra="server", purpose="the server's metrics")
        self.registry: CollectorRegistry = registry or client.CollectorRegistry()
        """All of the metrics."""
        made: dict[str, Any] = {"registry": self.registry}
        durations = {**made, "buckets": DURATION_BOUNDS_S}
        prefix = "hybrid_detect_server_"

        self._requests = client.Counter(
            f"{prefix}requests",
            "Requests and handshakes of streams, by route and status; 499 if the client went.",
            ["route", "status"],
            **made,
        )
        self._refusals = client.Counter(
            f"{prefix}refusals",
            "Error replies to requests, pictures and connections, by their code.",
            ["cause"],
            **made,
        )
        self._answers = client.Counter(
            f"{prefix}answers",
            "Pictures that were looked at, by route, model and level of quality.",
            ["route", "model", "level"],
            **made,
        )
        self._faces = client.Counter(
            f"{prefix}faces", "Faces found, by model and level.", ["model", "level"], **made
        )
        self._picture = client.Histogram(
            f"{prefix}picture_duration_seconds",
            "From a picture's first byte to its answer: receiving, waiting and detecting.",
            ["route"],
            **durations,
        )
        self._receive = client.Histogram(
            f"{prefix}receive_duration_seconds", "Receiving a picture.", **durations
        )
        self._queue = client.Histogram(
            f"{prefix}queue_duration_seconds", "A picture's wait for a detector.", **durations
        )
        self._decode = client.Histogram(
            f"{prefix}decode_duration_seconds", "Decoding a picture.", **durations
        )
        self._detect = client.Histogram(
            f"{prefix}detect_duration_seconds",
            "Detecting faces in a picture, by level; with decoding if the detector tells them as "
            "one.",
            ["level"],
            **durations,
        )
        self._received = client.Counter(
            f"{prefix}received_bytes", "Bytes of bodies and messages that came.", ["route"], **made
        )
        self._sent = client.Counter(
            f"{prefix}sent_bytes", "Bytes of answers, without headers.", ["route"], **made
        )
        self._under_way = client.Gauge(
            f"{prefix}requests_in_progress", "HTTP requests that are being answered.", **made
        )
        self._streams = client.Gauge(
            f"{prefix}streams_open",
            "Streams that are open, or asked for: of pictures, and of those who watch a session.",
            ["route"],
            **made,
        )

        for route in ROUTES:
            for status in (*_ALWAYS, *_STATUSES.get(route, (200, 404))):
                self._requests.labels(route, str(status))
            self._requests.labels(route, _OTHER)
            self._received.labels(route)
            self._sent.labels(route)
        for route in PICTURE_ROUTES:
            self._picture.labels(route)
        for route in (STREAM_PATH, WATCH_ROUTE):
            self._streams.labels(route)
        for cause in (*CAUSES, _OTHER):
            self._refusals.labels(cause)
        # `labels` checks its values and takes a lock; that of a few hundred series once is enough.
        self._series: Callable[..., Any] = lru_cache(maxsize=1024)(_series)
        client.ProcessCollector(registry=self.registry)
        self.registry.register(_State(client, state))

    def offer(self, looks: Iterable[tuple[str, str]]) -> None:
        """Have the series of these pairs of model and level from the start."""
        for model, level in looks:
            self._faces.labels(model, level)
            self._detect.labels(level)
            for route in PICTURE_ROUTES:
                self._answers.labels(route, model, level)

    def on_begin(self, record: Record) -> None:
        """Count what is under way."""
        self._open(record).inc()

    def on_look(self, record: Record, seen: Detection, trace_id: str) -> None:
        """Count where the time of a look went; the exemplars lead to its trace."""
        decode_s = min(seen.decode_s or 0.0, seen.detect_s)
        exemplar = {"trace_id": trace_id} if trace_id else None
        self._queue.observe(seen.queue_s, exemplar)
        if seen.decode_s is not None:
            self._decode.observe(decode_s, exemplar)
        level = "none" if seen.quality is None else seen.quality.value
        self._series(self._detect, level).observe(seen.detect_s - decode_s, exemplar)

    def on_reply(
        self, record: Record, reply: ResultReply | ErrorReply, message: bytes = b""
    ) -> None:
        """Count a picture's answer, or a refusal."""
        if isinstance(reply, ErrorReply):
            self._refuse(reply.code)
            return
        level = reply.quality or "none"
        self._series(self._answers, record.route, reply.model, level).inc()
        self._series(self._faces, reply.model, level).inc(len(reply.faces))
        if reply.receive_s is not None:
            self._receive.observe(reply.receive_s)
        parts = (reply.receive_s, reply.queue_s, reply.detect_s)
        self._series(self._picture, record.route).observe(sum(seconds or 0.0 for seconds in parts))

    def on_end(self, record: Record) -> None:
        """Count what has ended."""
        self._open(record).dec()
        status = str(record.status) if record.status in _KNOWN_STATUSES else _OTHER
        self._series(self._requests, record.route, status).inc()
        self._series(self._received, record.route).inc(record.received_bytes)
        self._series(self._sent, record.route).inc(record.sent_bytes)

    def on_refused_connection(self, error: ErrorReply) -> None:
        """Count a connection that got no further."""
        self._refuse(error.code)

    def _open(self, record: Record) -> Any:
        return self._series(self._streams, record.route) if record.is_stream else self._under_way

    def _refuse(self, cause: str) -> None:
        self._series(self._refusals, cause if cause in CAUSES else _OTHER).inc()


def _series(metric: Any, *labels: str) -> Any:
    return metric.labels(*labels)


class _State:
    """Reads the gauges when they are asked for."""

    def __init__(self, client: Any, state: ServerState) -> None:
        self._core = client.metrics_core
        self._state = state
        self._version = version("hybrid-detect")

    def collect(self) -> Iterator[Any]:
        """The metrics as they are now; called by the registry."""
        state, core = self._state, self._core
        detectors = state.detectors()
        gauges = {
            "ready": (
                "1 if pictures are taken, 0 while the server stops.",
                int(not state.is_stopping()),
            ),
            "queue_length": ("Pictures that wait for a detector.", state.waiting()),
            "queue_limit": ("Pictures that may wait.", state.max_waiting),
            "pictures_in_flight": ("Pictures that are looked at.", state.looking()),
            "places": ("Pictures that can be looked at together.", detectors.places),
            "detectors_wanted": (
                "Processes of detectors of the levels that are offered.",
                detectors.wanted,
            ),
            "detectors_alive": ("Those of them that run.", len(detectors.pids)),
            "detectors_resident_memory_bytes": (
                "Memory of the detectors' processes; pages that they share count in each.",
                sum(map(_resident_bytes, detectors.pids)),
            ),
        }
        for name, (meaning, value) in gauges.items():
            yield core.GaugeMetricFamily(f"hybrid_detect_server_{name}", meaning, value=value)
        yield core.CounterMetricFamily(
            "hybrid_detect_server_detector_restarts",
            "Times that a detector's process died, or did not start, and was replaced.",
            value=detectors.restarts,
        )
        build = core.GaugeMetricFamily(
            "hybrid_detect_server_build_info",
            "Always 1; what runs is in the labels.",
            labels=["version", "python"],
        )
        build.add_metric([self._version, platform.python_version()], 1)
        yield build


def _resident_bytes(pid: int) -> int:
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:  # it has just ended
        return 0
