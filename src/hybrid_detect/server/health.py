"""Whether the server runs, and whether it takes pictures: apart from what pictures may ask for."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from hybrid_detect.exchange.wire import HEALTH_PATH
from hybrid_detect.server.admission import Admission
from hybrid_detect.server.connections import STOPPING
from hybrid_detect.server.detectors import Detector
from hybrid_detect.server.observation import LIVE_PATH
from hybrid_detect.server.replies import http_response

__all__ = ["Health"]


class Health:
    """Answers probes; none of them waits for a detector.

    Args:
        detector: What looks at pictures.
        admission: Knows whether the server stops.
    """

    def __init__(self, detector: Detector, admission: Admission) -> None:
        self._detector = detector
        self._admission = admission
        self._version = version("hybrid-detect")

    @property
    def routes(self) -> list[Route]:
        """Readiness and liveness."""
        return [
            Route(HEALTH_PATH, self.ready, methods=["GET"]),
            Route(LIVE_PATH, self.live, methods=["GET"]),
        ]

    async def ready(self, request: Request) -> Response:
        """Whether pictures are taken: 503 once the server stops.

        Not for want of a living detector: a dead one is replaced when the next picture comes, and
        no picture would come to a server that calls itself unready.
        """
        if self._admission.is_closed:
            return http_response(request, STOPPING)
        detector = self._detector
        body: dict[str, Any] = {"status": "ok", "model": detector.model, "version": self._version}
        if detector.info is not None:
            body["model_info"] = detector.info.to_values()
        return JSONResponse(body)

    async def live(self, request: Request) -> Response:
        """200 as long as the event loop turns, a stopping server's included."""
        return JSONResponse({"status": "ok"})
