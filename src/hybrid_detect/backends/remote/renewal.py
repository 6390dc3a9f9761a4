"""Renewal: a secret that ends, and the function that gives a new one.

The function is asked when there is no secret, again shortly before the secret ends, and once more
after the server has refused it. It never runs on the event loop unless it is async itself.
"""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar

from hybrid_detect.errors import BackendUnavailableError, ConfigurationError
from hybrid_detect.sources.daemon_threads import in_daemon_thread

__all__ = ["REASK_S", "REFRESH_BEFORE_S", "Renewed"]

T = TypeVar("T")

REFRESH_BEFORE_S = 30.0
"""A secret is asked for again so long before it ends, which a clock that is some seconds late and a
slow answer fit into; a short-lived one when a tenth of its life is left."""

REASK_S = 1.0
"""A function that gives secrets which have ended already, or none while the last one is good, is
asked once a second, not per frame."""

FETCH_S = 30.0
"""A function that has not answered by then counts as failed, and the next frame waits again. Longer
than the 12.4 s that google-auth takes to give up a silent metadata server."""


class Renewed(Generic[T]):
    """A secret, and the function it comes from if there is one.

    Args:
        given: The secret, or a function, sync or async, that gives it. A sync one is called in a
            thread.
        name: What errors call it.
        read: Makes a secret of what was given; raises a `ConfigurationError` if it is none.
        ends_at_s: When a secret ends, in seconds since 1970; `None` if that is unknown.

    Raises:
        ConfigurationError: If `given` is neither a function nor what `read` takes.
    """

    def __init__(
        self,
        given: object,
        *,
        name: str,
        read: Callable[[object], T],
        ends_at_s: Callable[[T], float | None],
    ) -> None:
        self._name = name
        self._read = read
        self._ends_at_s = ends_at_s
        self._source: Callable[[], Any] | None = given if callable(given) else None
        self._value: T | None = None if callable(given) else read(given)
        self._is_refused = False
        self._ask_at_s = -math.inf
        self._renewing: asyncio.Task[None] | None = None
        self._call: asyncio.Task[Any] | None = None

    async def prepare(self, *, now_s: float) -> None:
        """Ask the function, if there is one and it is time to.

        A secret that is still good serves the frames meanwhile: they wait for a new one only where
        the old one has ended, or was refused.

        Args:
            now_s: Seconds since 1970.

        Raises:
            BackendUnavailableError: If it failed, or gave something else.
        """
        if self._source is None or (self._value is not None and now_s < self._ask_at_s):
            return
        if self._renewing is None:
            # One question serves all frames that wait, and outlives those that give up.
            self._renewing = asyncio.create_task(self._renew(self._source, now_s))
            self._renewing.add_done_callback(_see)
        if not self._is_good(now_s):
            await asyncio.shield(self._renewing)

    def _is_good(self, now_s: float) -> bool:
        """Whether the present secret can be sent, as far as is known."""
        if self._value is None or self._is_refused:
            return False
        ends_at_s = self._ends_at_s(self._value)
        return ends_at_s is None or now_s < ends_at_s

    async def _renew(self, source: Callable[[], T | Awaitable[T]], now_s: float) -> None:
        try:
            self._value = value = await self._fetch(source)
        except BackendUnavailableError:
            if self._is_good(now_s):
                self._ask_at_s = now_s + REASK_S
            raise
        else:
            self._is_refused = False
            self._ask_at_s = _ask_at_s(self._ends_at_s(value), now_s=now_s)
        finally:
            self._renewing = None

    async def _fetch(self, source: Callable[[], T | Awaitable[T]]) -> T:
        try:
            async with asyncio.timeout(FETCH_S):
                if inspect.iscoroutinefunction(source):
                    given = await source()
                else:
                    given = await self._called(source)
                    if inspect.isawaitable(given):
                        given = await given
        except BackendUnavailableError:
            raise  # it says itself what is missing
        except Exception as exc:
            # Its message may well hold the secret, or what it was made from.
            msg = f"{self._name}: the function that gives it failed ({type(exc).__name__})"
            raise BackendUnavailableError(msg, retryable=True) from None
        try:
            return self._read(given)
        except ConfigurationError as error:
            raise BackendUnavailableError(str(error)) from None

    async def _called(self, source: Callable[[], Any]) -> Any:
        """What `source` returns, in a thread.

        One that hangs is waited for again by the next question, rather than called a second time:
        each call would hold one of the threads that all blocking calls of the process share.
        """
        if self._call is None:
            self._call = asyncio.create_task(in_daemon_thread(source))
            self._call.add_done_callback(_see)
        call = self._call
        try:
            return await asyncio.shield(call)
        finally:
            if call.done():
                self._call = None

    def current(self) -> T:
        """The secret that requests carry now."""
        assert self._value is not None  # noqa: S101 - `prepare` comes first
        return self._value

    def forget(self) -> bool:
        """Ask the function again before the next request; False if there is none."""
        if self._source is None:
            return False
        self._is_refused = True
        self._ask_at_s = -math.inf
        return True


def _ask_at_s(ends_at_s: float | None, *, now_s: float) -> float:
    if ends_at_s is None:
        return math.inf
    left_s = ends_at_s - now_s
    return now_s + max(left_s - min(REFRESH_BEFORE_S, left_s / 10), REASK_S)


def _see(task: asyncio.Task[Any]) -> None:
    """Look at an error that every frame has given up waiting for."""
    if not task.cancelled():
        task.exception()
