"""Streams that outlive their link: what came over one link is answered over the next.

A client that lost its link says under which name it streamed and what it still waits for. What is
being looked at goes on meanwhile, and what was answered last is remembered, so that a picture is
neither looked at twice nor sent twice, and no answer is lost with a link.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from starlette.websockets import WebSocket

from hybrid_detect.exchange.wire import AWAITS_HEADER, RESUME_HEADER
from hybrid_detect.server.live import Presence

__all__ = ["Resumption", "Stream", "StreamKey", "StreamLink", "awaited_by", "stream_key"]

logger = logging.getLogger("hybrid_detect.server")

RESUME_S = 2.0
"""How long a stream outlives its link. Our client's frames wait for half a second; beyond the
usual deadline of a frame, a second, no answer is of use."""

MAX_AWAITED = 64
"""Pictures that a client may say it waits for; far more than any has under way."""

_NAME = re.compile("[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class StreamKey:
    """A stream's name, which is hard to guess, with the owner whose streams it is one of.

    Not the caller: one who shares a token is known by the address, and a phone that leaves its
    Wi-Fi comes back with another.
    """

    owner: str
    name: str


def stream_key(websocket: WebSocket, owner: str) -> StreamKey | None:
    """What the stream is called; `None` if its client does not want it to be taken up again."""
    name = websocket.headers.get(RESUME_HEADER, "")
    return StreamKey(owner, name) if _NAME.fullmatch(name) else None


def awaited_by(websocket: WebSocket) -> list[int]:
    """Request ids that the client still waits for."""
    words = websocket.headers.get(AWAITS_HEADER, "").split()[:MAX_AWAITED]
    return [int(word) for word in words if re.fullmatch("[0-9]{1,10}", word)]


class StreamLink(Protocol):
    """What carries the answers of a stream."""

    def send_at_once(self, reply: bytes) -> bool:
        """Send `reply` if that needs no wait; returns whether it was sent."""
        ...

    async def send(self, reply: bytes) -> None:
        """Send `reply`, if the link still stands."""
        ...


class Stream:
    """The pictures of one client, over one link or several, one after the other.

    Args:
        places: Pictures that are looked at at the same time.
        presence: The sessions that it brings.
        is_resumable: Whether its request ids tell its pictures apart.
        take: Counts one more picture; gives the seconds to wait if it came too early. `None` if
            each may come.
    """

    def __init__(
        self,
        *,
        places: int,
        presence: Presence,
        is_resumable: bool,
        take: Callable[[], float] | None = None,
    ) -> None:
        self.take = take
        """Counts one more picture: another link gives no other rate."""
        self.presence = presence
        self.link: StreamLink | None = None
        """The link that it has now."""
        self.is_over = False
        """Whether its client will not come back."""
        self.is_resumable = is_resumable
        self._places = places
        # An answer may be on its way for each of the pictures that were and are under way.
        self._remembered = 2 * places
        self._answered: OrderedDict[int, bytes] = OrderedDict()
        self._under_way: dict[asyncio.Task[Any], int] = {}
        """What looks at its pictures, or waits to send an answer: each has a place until then."""

    def has(self, request_id: int) -> bool:
        """Whether that picture is being looked at, or was a moment ago."""
        if not self.is_resumable:
            return False
        return request_id in self._answered or request_id in self._under_way.values()

    def answer_to(self, request_id: int) -> bytes | None:
        """The answer that is remembered; `None` if there is none, or none yet."""
        return self._answered.get(request_id)

    def is_ready(self) -> bool:
        """Whether there is a place for another picture."""
        return len(self._under_way) < self._places

    async def place(self) -> None:
        """Return when there is a place for another picture."""
        while not self.is_ready():
            await asyncio.wait(self._under_way, return_when=asyncio.FIRST_COMPLETED)

    def begin(self, request_id: int, work: Coroutine[Any, Any, bytes]) -> None:
        """Answer a picture, which has a place, over the link that there is by then.

        Args:
            request_id: The picture's.
            work: Gives the answer.
        """
        self._run(request_id, work, self._answer)

    def remember(self, request_id: int, reply: bytes) -> None:
        """Keep the answer to a picture, in case that it is lost with a link."""
        self._answered[request_id] = reply
        while len(self._answered) > self._remembered:
            self._answered.popitem(last=False)

    def _run(
        self,
        request_id: int,
        work: Coroutine[Any, Any, Any],
        ended: Callable[[asyncio.Task[Any]], object],
    ) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._under_way[task] = request_id
        task.add_done_callback(ended)

    def _answer(self, task: asyncio.Task[bytes]) -> None:
        """Send what a picture is answered with; one that has to wait for that keeps its place."""
        request_id = self._under_way[task]
        if task.cancelled() or task.exception() is not None:
            self._ended(task)
            return
        del self._under_way[task]
        reply = task.result()
        if self.is_resumable:
            self.remember(request_id, reply)
        if self.link is not None and not self.link.send_at_once(reply):
            self._run(request_id, self.link.send(reply), self._ended)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        del self._under_way[task]
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("a stream's picture failed with a bug", exc_info=error)

    def attach(self, link: StreamLink, awaited: Iterable[int]) -> list[bytes]:
        """Go on over `link`.

        Returns:
            The answers to be sent over it first: those that are `awaited` and ready. The others
            are sent as they become ready.
        """
        self.link = link
        return [self._answered[each] for each in awaited if each in self._answered]

    def detach(self, link: StreamLink) -> bool:
        """`link` has ended; returns whether the stream has no other."""
        if self.link is link:
            self.link = None
        return self.link is None

    async def finished(self) -> None:
        """Return when nothing is under way."""
        while self._under_way:
            await asyncio.wait(self._under_way)

    def end(self, *, for_good: bool) -> None:
        """Look at nothing of it any more; `for_good` if its client said goodbye."""
        self.is_over = True
        for task in self._under_way:
            task.cancel()
        self._answered.clear()
        self.presence.leave(for_good=for_good)


class Resumption:
    """The streams that may be taken up again, with a link or without.

    Args:
        max_lost: Streams without a link; of more the longest lost are given up.
    """

    def __init__(self, *, max_lost: int) -> None:
        self._max_lost = max_lost
        self._streams: dict[StreamKey, Stream] = {}
        self._lost: OrderedDict[StreamKey, asyncio.TimerHandle] = OrderedDict()

    def __len__(self) -> int:
        return len(self._streams)

    def taken_up(self, key: StreamKey, make: Callable[[], Stream]) -> Stream:
        """The stream of that name, or a new one."""
        self.found(key)
        if key not in self._streams:
            self._streams[key] = make()
        return self._streams[key]

    def found(self, key: StreamKey) -> None:
        """The stream has a link."""
        if (timer := self._lost.pop(key, None)) is not None:
            timer.cancel()

    def lost(self, key: StreamKey) -> None:
        """The stream's link broke: its client may come back within `RESUME_S`."""
        self.found(key)  # or the time of a link that broke before would go on beside this one's
        timer = asyncio.get_running_loop().call_later(RESUME_S, self.given_up, key)
        self._lost[key] = timer
        if len(self._lost) > self._max_lost:
            self.given_up(next(iter(self._lost)))

    def given_up(self, key: StreamKey, *, for_good: bool = False) -> None:
        """The stream is over; `for_good` if its client said goodbye."""
        self.found(key)
        if (stream := self._streams.pop(key, None)) is not None:
            stream.end(for_good=for_good)

    def close(self) -> None:
        """Give up all."""
        for key in list(self._streams):
            self.given_up(key)
