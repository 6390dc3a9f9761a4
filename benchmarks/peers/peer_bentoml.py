"""BentoML: an ASGI app in its service, as many workers as there are cores.

An app, because its own endpoints take JSON and forms: a JPEG as the body is cheaper for it.
"""

from __future__ import annotations

import os

import bentoml
from looking import Looker
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

looker: Looker | None = None


async def detect(request: Request) -> Response:
    assert looker is not None
    found = await run_in_threadpool(looker.faces, await request.body())
    return Response(found, media_type="application/json")


app = Starlette(routes=[Route("/detect", detect, methods=["POST"])])


@bentoml.service(workers=int(os.environ["PEER_WORKERS"]), traffic={"timeout": 60})
@bentoml.asgi_app(app, path="/")
class Faces:
    """The service."""

    def __init__(self) -> None:
        global looker
        looker = Looker()
