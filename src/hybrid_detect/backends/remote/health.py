"""Checking targets by the cheapest request of their protocols; of several, one is enough."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from hybrid_detect.backends.remote.protocol import HttpRequest, HttpResponse, TellsModel
from hybrid_detect.backends.remote.target_pool import TargetPool
from hybrid_detect.backends.remote.targets import Target
from hybrid_detect.errors import BackendError, BackendResponseError
from hybrid_detect.exchange.model_info import ModelInfo

__all__ = ["is_healthy", "require_one_healthy"]


async def is_healthy(
    target: Target,
    exchange: Callable[[HttpRequest], Awaitable[HttpResponse]],
    *,
    judge: Callable[[BaseException], None],
    learn: Callable[[Target, ModelInfo | None], None],
) -> bool:
    """Ask `target` for its health, with its credentials; False if its protocol has no such request.

    Args:
        target: The target.
        exchange: Sends a request and brings the response.
        judge: Told of a refusal before the credentials are renewed.
        learn: Told what the answer says of the server's model.

    Raises:
        BackendError: If it refused, did not answer, or is another kind of server.
    """
    if (health := target.protocol.health()) is None:
        return False
    for is_renewed in (False, True):
        request = await target.addressed(health, now_s=time.time())
        try:
            response = await exchange(request)
            target.protocol.decode(response, ())
        except BackendResponseError as error:
            judge(error)
            if is_renewed or not target.can_renew(error):
                raise
        else:
            if isinstance(target.protocol, TellsModel):
                learn(target, target.protocol.model_info(response))
            break
    return True


async def require_one_healthy(pool: TargetPool, check: Callable[[Target], Awaitable[bool]]) -> None:
    """Check all targets of `pool` and return when the first is well; `pool` learns of each.

    Args:
        pool: The targets.
        check: Raises a `BackendError` for a target that is not well; False if it could not be
            asked, which is no sign of life.

    Raises:
        BackendError: The first that came, if no target is well.
    """
    if len(pool.targets) == 1:
        await check(pool.targets[0])
        return
    tasks = {asyncio.ensure_future(check(target)): target for target in pool.targets}
    first: BackendError | None = None
    pending = set(tasks)
    try:
        while pending:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                error = task.exception()
                if error is not None and not isinstance(error, BackendError):
                    raise error
                if error is not None or task.result():
                    pool.checked(tasks[task], error)
                first = first or error
            if any(task.exception() is None for task in done):
                return
    finally:
        # One that hangs must not make the others wait; a frame may still find out.
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
    if first is not None:
        raise first
