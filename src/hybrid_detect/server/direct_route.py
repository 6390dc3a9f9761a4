"""The route that nearly all requests ask for, before the gate's middleware and the router.

It asks the gate itself, takes a body that has come in one piece, and gives a whole answer. `Server`
asks it without ASGI between, and any other ASGI server with it: the same rules decide.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeAlias

from starlette.applications import Starlette
from starlette.requests import HTTPConnection, Request
from starlette.types import ASGIApp, Receive, Scope, Send

from hybrid_detect.server.counted_messages import counted_receive
from hybrid_detect.server.gate import Gate, RefusedError
from hybrid_detect.server.observation import Observation
from hybrid_detect.server.replies import BUG, HttpAnswer, http_answer

__all__ = ["Answer", "DirectRoute", "Whole"]

Whole: TypeAlias = Callable[[], bytes | None]
"""Takes all of a body; `None` if it has not come, or its peer has gone. Until then nothing holds it
for one who waits at the gate, perhaps for ever."""

Answer: TypeAlias = Callable[[Request, bytes | None], Awaitable[HttpAnswer]]
"""Makes the answer to a request that was let in, and whose body is given if all of it has come."""


class DirectRoute:
    """ASGI middleware before everything else: answers POST requests to one path itself.

    The gate's middleware, the router, and what both wrap around a route would take a tenth of the
    time of a request.

    Args:
        path: The path.
        gate: Says who may come in.
        answer: Makes the answers; raises nothing that the router would turn into one.
        observation: Is told of each request.
    """

    def __init__(self, path: str, *, gate: Gate, answer: Answer, observation: Observation) -> None:
        self._path = path
        self._gate = gate
        self._answer = answer
        self._observation = observation
        self._app: ASGIApp = gate
        self.answer = self._observed if observation.is_on else self._admitted
        """The answer to a request for this route, as a coroutine.

        It is given the ASGI scope, what gives the body in pieces, and what gives all of it at once;
        where that does, nothing is asked for in pieces."""

    def before(self, app: ASGIApp) -> DirectRoute:
        """Stand before `app`, which answers everything else; for a `Middleware`."""
        self._app = app
        return self

    def is_first_in(self, app: Starlette) -> bool:
        """Whether nothing in `app` stands before this, which would have to be asked first."""
        outermost: object = app.user_middleware[0].cls if app.user_middleware else None
        return outermost == self.before

    def takes(self, method: str, path: str) -> bool:
        """Whether it answers such a request."""
        return path == self._path and method == "POST"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or pass on."""
        if scope["type"] == "http" and self.takes(scope["method"], scope["path"]):
            answer = await self.answer(scope, receive, _nothing)
            headers = answer.headers()
            await send({"type": "http.response.start", "status": answer.status, "headers": headers})
            await send({"type": "http.response.body", "body": answer.body})
        else:
            await self._app(scope, receive, send)

    def bug(self, scope: Scope) -> HttpAnswer:
        """What a request is told whose answer failed with a bug."""
        return http_answer(HTTPConnection(scope), BUG)

    async def _observed(self, scope: Scope, receive: Receive, whole: Whole) -> HttpAnswer:
        with self._observation.kept(scope) as record:

            def counted() -> bytes | None:
                if (body := whole()) is not None:
                    record.received_bytes = len(body)
                return body

            answer = await self._admitted(scope, counted_receive(record, receive), counted)
            record.status, record.sent_bytes = answer.status, len(answer.body)
            return answer._replace(more=(*answer.more, *self._observation.identity(record)))

    async def _admitted(self, scope: Scope, receive: Receive, whole: Whole) -> HttpAnswer:
        request, gate = Request(scope, receive), self._gate
        try:
            caller = await gate.admitted(request)
            gate.take_place(caller)
        except RefusedError as refusal:
            return http_answer(request, refusal.reply)
        try:
            return await self._answer(request, whole())
        finally:
            gate.give_place_back(caller)


def _nothing() -> None:
    return None
