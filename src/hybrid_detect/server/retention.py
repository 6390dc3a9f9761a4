"""Results that the server keeps, by session and for a day, if it is told where.

Keeping never delays an answer and never costs one: it is done after it, by a thread of its own,
and left out while that cannot follow.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from hybrid_detect.errors import ConfigurationError, HybridDetectError, StorageError
from hybrid_detect.exchange.wire import SESSIONS_PATH, DetectRequest, ErrorReply, ResultReply
from hybrid_detect.server.config import ServerConfig
from hybrid_detect.server.gate import CALLER
from hybrid_detect.server.replies import reply_to_values
from hybrid_detect.server.shared_state import ResultHistory, SharedState

__all__ = ["BAD_SESSION", "SEALED_ONLY", "Retention", "owner_of"]

logger = logging.getLogger("hybrid_detect.server")

_T = TypeVar("_T")

SESSION_PATH = SESSIONS_PATH + "/{session:path}"
EXPORT_PATH = SESSION_PATH + "/export"

MAX_WAITING = 16
"""Results that wait to be written, with pictures of at most 64 MiB; more are not kept."""

NOT_FOUND = ErrorReply(
    request_id=0, status=404, code="not_found", detail="nothing of yours is kept under this session"
)

BAD_SESSION = ErrorReply(
    request_id=0, status=400, code="bad_request", detail="this cannot be a session"
)

SEALED_ONLY = ErrorReply(
    request_id=0,
    status=403,
    code="encryption_required",
    detail="this answer is not encrypted; have the operator look beside the server",
)

FAILED = ErrorReply(
    request_id=0, status=503, code="storage_failed", detail="the storage failed; try again"
)


def owner_of(connection: HTTPConnection) -> str:
    """The owner of a caller's sessions: ``key <id>``, ``subject <name>``, or ``token``.

    All who hold the one token share its sessions, wherever they call from.
    """
    caller = str(connection.scope.get(CALLER, ""))
    return caller if caller.startswith(("key ", "subject ")) else "token"


class Retention:
    """Keeps results where `config` says so, and hands them out or erases them on request.

    Args:
        config: What to keep.
        state: Where to keep it, and for how long.
        respond: Makes an HTTP answer of an error.
    """

    def __init__(
        self,
        config: ServerConfig,
        state: SharedState,
        *,
        respond: Callable[[HTTPConnection, ErrorReply], Response],
    ) -> None:
        self._config = config
        self._state = state
        self._respond = respond
        self._history: ResultHistory | None = None
        # One thread: an erasure comes after everything that was to be written before it.
        self._writer = ThreadPoolExecutor(1, "hybrid-detect-retention")
        self._waiting = 0
        self._trouble = ""

    @property
    def routes(self) -> list[Route]:
        """How one's own sessions are exported and erased; none if nothing is kept."""
        if self._config.history_path is None:
            return []
        return [
            Route(EXPORT_PATH, self._export, methods=["GET"]),
            Route(SESSION_PATH, self._erase, methods=["DELETE"]),
        ]

    async def start(self) -> None:
        """Open the history, which deletes what has expired.

        Raises:
            StorageError: If it cannot be opened.
        """
        self._history = await self._run(self._state.open_history)

    def keep(self, owner: str, request: DetectRequest, reply: ResultReply) -> None:
        """Have a result written; its picture only if the configuration asks for it.

        A request without a session is not kept: no caller could ask for it to be erased.
        """
        history, session = self._history, request.session_id
        if history is None or not session:
            return
        if self._waiting >= MAX_WAITING:
            self._tell("the disk does not follow")
            return
        image = request.image if self._config.history_images else None
        self._waiting += 1
        writing = asyncio.get_running_loop().run_in_executor(
            self._writer,
            partial(history.add, reply_to_values(reply), session=session, image=image, owner=owner),
        )
        writing.add_done_callback(self._kept)

    async def aclose(self) -> None:
        """Write what waits, and close the history."""
        history, self._history = self._history, None
        if history is not None:
            await self._run(history.close)
        self._writer.shutdown(wait=False)

    def _kept(self, writing: asyncio.Future[int]) -> None:
        self._waiting -= 1
        error = None if writing.cancelled() else writing.exception()
        if error is None:
            self._trouble = ""
        elif isinstance(error, HybridDetectError):
            self._tell(str(error))
        else:
            logger.error("keeping a result failed with a bug", exc_info=error)

    def _tell(self, trouble: str) -> None:
        """Log `trouble` once, not once for each picture."""
        if trouble != self._trouble:
            logger.error("results are not being kept: %s", trouble)
        self._trouble = trouble

    async def _export(self, request: Request) -> Response:
        if self._config.require_encryption:
            return self._respond(request, SEALED_ONLY)
        session, owner = request.path_params["session"], owner_of(request)

        def begin(history: ResultHistory) -> Response:
            if next(history.results(session, owner=owner, images=False), None) is None:
                return self._respond(request, NOT_FOUND)
            if request.method == "HEAD":  # nothing is handed out, so that nothing is noted either
                return Response(media_type="application/zip")
            return StreamingResponse(
                history.export_pieces(session, owner=owner, who=owner),
                media_type="application/zip",
                headers={"Content-Disposition": 'attachment; filename="session.zip"'},
            )

        return await self._answer(request, begin)

    async def _erase(self, request: Request) -> Response:
        session, owner = request.path_params["session"], owner_of(request)

        def erase(history: ResultHistory) -> Response:
            erased = history.erase(session, owner=owner, who=owner)
            return JSONResponse({"results": erased.results, "images": erased.images})

        return await self._answer(request, erase)

    async def _answer(self, request: Request, act: Callable[[ResultHistory], Response]) -> Response:
        if self._history is None:  # being closed
            return self._respond(request, FAILED)
        try:
            return await self._run(partial(act, self._history))
        except ConfigurationError:
            return self._respond(request, BAD_SESSION)
        except StorageError as error:
            logger.error("a session could not be exported or erased: %s", error)
            return self._respond(request, FAILED)

    async def _run(self, act: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._writer, act)
