"""What operators see of the server: metrics, request log and probes, and where they are served."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from hybrid_detect.exchange.wire import ErrorReply
from hybrid_detect.server.admission import Admission
from hybrid_detect.server.config import ServerConfig, is_loopback
from hybrid_detect.server.credentials import Credentials
from hybrid_detect.server.detectors import Detector, DetectorPool
from hybrid_detect.server.gate import Gate
from hybrid_detect.server.health import Health
from hybrid_detect.server.logs import RequestLog
from hybrid_detect.server.metrics import DetectorState, ServerMetrics, ServerState
from hybrid_detect.server.observation import METRICS_PATH, Observation, Observed, Observer
from hybrid_detect.server.peer_log import PeerLog
from hybrid_detect.server.replies import http_response

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

__all__ = ["Management"]

MAX_CONNECTIONS = 32
"""Of Prometheus and of probes at the port of their own, each of which needs one."""


class Management:
    """Metrics and request log as `config` asks for them; nothing is observed if it does not.

    Args:
        config: What to count and log, and where the metrics are.
        admission: The pictures that wait and are looked at.
        detector: What looks at them.
        health: The probes.
        log: Tells of wrong credentials.

    Raises:
        MissingExtraError: If metrics are configured and ``prometheus-client`` is not installed.
    """

    def __init__(
        self,
        config: ServerConfig,
        *,
        admission: Admission,
        detector: Detector,
        health: Health,
        log: PeerLog,
    ) -> None:
        self._config = config
        self._detector = detector
        self._health = health
        self._log = log
        self.metrics: ServerMetrics | None = None
        """What is counted; `None` if nothing is."""
        self._observers: list[Observer] = []
        self.observation = Observation(self._observers, tells_ids=config.request_log != "none")
        """Keeps the records of requests and streams."""
        if config.has_metrics:
            state = ServerState(
                waiting=lambda: admission.waiting,
                max_waiting=config.max_waiting,
                looking=lambda: admission.looking,
                is_stopping=lambda: admission.is_closed,
                detectors=lambda: _state_of(detector, admission),
            )
            self.metrics = ServerMetrics(state)
            self._observers.append(self.metrics)
        if config.request_log != "none":
            self._observers.append(RequestLog(config.request_log))

    def observe(self, observer: Observer) -> None:
        """Have `observer` told of the requests.

        Before anything that asks `observation.is_on` is made.
        """
        self._observers.append(observer)

    @property
    def middleware(self) -> list[Middleware]:
        """What observes the requests."""
        observation = self.observation
        return [Middleware(Observed, observation=observation)] if observation.is_on else []

    @property
    def routes(self) -> list[Route]:
        """The metrics beside the pictures, where they have no port of their own."""
        if self.metrics is None or self._config.metrics_port is not None:
            return []
        return [_metrics_route(self.metrics.registry)]

    @property
    def credentials(self) -> Credentials | None:
        """Who may read the metrics beside the pictures; `None` if they are not there."""
        return Credentials(self._own_config()) if self.routes else None

    def own_port(self) -> tuple[Starlette, ServerConfig] | None:
        """The app for the port of their own, with its address and limits; `None` for no such port.

        Apart from the pictures in everything: connections, rates and credentials.
        """
        if self.metrics is None or self._config.metrics_port is None:
            return None
        config = self._own_config()
        gate = Middleware(
            Gate,
            config=config,
            credentials=Credentials(config),
            respond=http_response,
            log=self._log,
        )
        routes = [_metrics_route(self.metrics.registry), *self._health.routes]
        made = Starlette(routes=routes, middleware=[gate])
        made.router.redirect_slashes = False
        return made, config

    def started(self) -> None:
        """The detector is there: what it can look with has its series from now on."""
        info = self._detector.info
        if self.metrics is not None and isinstance(self._detector, DetectorPool):
            served = (level for level, _ in self._detector.detectors())
            self.metrics.offer((level.spec.name, level.quality.value) for level in served)
        elif self.metrics is not None:
            levels = ("none",) if info is None else info.qualities
            self.metrics.offer((self._detector.model, level) for level in levels)

    def refused(self, error: ErrorReply) -> None:
        """A connection was refused before the app could see it."""
        for observer in self._observers:
            observer.on_refused_connection(error)

    def _own_config(self) -> ServerConfig:
        config = self._config
        has_port = config.metrics_port is not None
        host = config.metrics_host if has_port else config.host
        return replace(
            config,
            host=host,
            port=config.metrics_port or 0,
            metrics_port=None,
            auth_token=config.metrics_token,
            metrics_token=None,
            api_keys=None,
            jwt=None,
            tls=None if is_loopback(host) else config.tls,
            max_connections=MAX_CONNECTIONS,
            max_connections_per_peer=MAX_CONNECTIONS,
        )


def _state_of(detector: Detector, admission: Admission) -> DetectorState:
    detectors = list(detector.detectors()) if isinstance(detector, DetectorPool) else []
    return DetectorState(
        wanted=sum(level.quality in admission.offered for level, _ in detectors),
        pids=tuple(pid for _, each in detectors if (pid := each.pid) is not None),
        restarts=sum(each.restarts for _, each in detectors),
        places=admission.places,
    )


def _metrics_route(registry: CollectorRegistry) -> Route:
    """The metrics in Prometheus' text format, or in OpenMetrics if Accept asks for it."""
    return Route(METRICS_PATH, partial(_metrics, registry), methods=["GET"])


async def _metrics(registry: CollectorRegistry, request: Request) -> Response:
    from prometheus_client.exposition import choose_encoder

    write, media_type = choose_encoder(request.headers.get("Accept", ""))
    return Response(write(registry), headers={"Content-Type": media_type})
