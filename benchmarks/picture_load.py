"""Load: finished requests sent without a pause, or at random moments, and what became of them.

`links` has the clients, which cost next to nothing; `Load.client_s` tells how much that was. With
`apart`, server and clients have cores of their own, and neither takes anything from the other.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import random
import selectors
import socket
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self, cast

from links import ANSWER_LIMIT_S, Link, LostError, Target

from hybrid_detect.exchange.wire import (
    DetectRequest,
    ErrorReply,
    ResultReply,
    decode_reply,
    encode_request,
)
from hybrid_detect.server.config import ServerConfig
from hybrid_detect.server.serving import serve

START_LIMIT_S = 900.0  # TensorRT builds its engines
MANY = 20_000


class Answer(NamedTuple):
    """The body of an answer."""

    body: bytes
    took_s: float
    """From the picture's moment, which with `at_random` need not be that of its sending."""
    is_within: bool = True
    """Whether it came before the time of the load was over."""


@dataclass
class Load:
    """What became of the pictures that were sent."""

    seconds: float
    answered_s: list[float] = field(default_factory=list)
    """Of each picture that was looked at, seconds to its answer."""
    refused_s: list[float] = field(default_factory=list)
    """Of each that was refused at once."""
    in_vain: int = 0
    """Let in, and told at their turn that it is too late (504)."""
    levels: dict[str, int] = field(default_factory=dict)
    codes: dict[str, int] = field(default_factory=dict)
    """Of the refusals."""
    lost: int = 0
    late: int = 0
    """Answered after their deadline."""
    good: int = 0
    """Answered in time, and before the load's time was over: what waits at its end is looked at
    beyond it, and would make a rate of a few seconds too high by the length of the queue."""
    client_s: float = 0.0
    """Processor seconds that the clients took."""

    @classmethod
    def of(cls, sent: Sent, seconds: float, deadline_s: float | None = None) -> Self:
        """What the answers of this server say."""
        load = cls(seconds, lost=sent.lost, client_s=sent.client_s)
        for answer in sent.answers:
            load._note(answer, deadline_s)
        return load

    @property
    def per_s(self) -> float:
        """Pictures answered in time, a second."""
        return self.good / self.seconds

    def _note(self, answer: Answer, deadline_s: float | None) -> None:
        body, took_s = answer.body, answer.took_s
        if body.startswith(b"{"):  # of a connection that was not let in
            self.refused_s.append(took_s)
            code = json.loads(body)["code"]
            self.codes[code] = self.codes.get(code, 0) + 1
            return
        reply = decode_reply(body)
        if isinstance(reply, ResultReply):
            self.answered_s.append(took_s)
            is_late = deadline_s is not None and took_s > deadline_s
            self.late += is_late
            self.good += answer.is_within and not is_late
            self.levels[reply.quality] = self.levels.get(reply.quality, 0) + 1
        else:
            assert isinstance(reply, ErrorReply)
            if reply.code == "too_late":
                self.in_vain += 1
                return
            self.refused_s.append(took_s)
            self.codes[reply.code] = self.codes.get(reply.code, 0) + 1


@dataclass
class Sent:
    """The answers to a load, unread: to read them meanwhile would take from the server."""

    answers: list[Answer] = field(default_factory=list)
    lost: int = 0
    """Pictures whose connection ended before their answer."""
    client_s: float = 0.0
    """Processor seconds that the clients took."""


@contextlib.contextmanager
def _clocked(sent: Sent) -> Iterator[None]:
    before = os.times()
    yield
    after = os.times()
    sent.client_s = after.user + after.system - before.user - before.system


def requests(
    target: Target, pictures: Sequence[bytes], level: str, deadline_s: float | None = None
) -> list[bytes]:
    """A finished request for each of the pictures."""
    return [
        target.wrapped(
            encode_request(
                DetectRequest(request_id=1, image=each, quality=level, deadline_s=deadline_s)
            )
        )
        for each in pictures
    ]


class _Crowd:
    """The open links to one server, and what has come over them."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._selector = selectors.DefaultSelector()

    def link(self) -> Link:
        """A new one.

        Raises:
            OSError: If the server cannot be reached.
            LostError: If it lets in no stream.
        """
        link = self._target.link()
        self._selector.register(link, selectors.EVENT_READ)
        return link

    def send(self, link: Link, request: bytes = b"") -> None:
        """Send a request, at once or when the socket takes it; or what is unsent.

        Raises:
            LostError: If the link has ended.
        """
        was_sending = link.is_sending
        link.send(request)
        if link.is_sending != was_sending:
            sends = selectors.EVENT_WRITE if link.is_sending else 0
            self._selector.modify(link, selectors.EVENT_READ | sends)

    def wait(self, limit_s: float) -> Iterator[tuple[Link, list[bytes] | None]]:
        """The links over which answers came, and their bodies; `None` for one that has ended."""
        for key, events in self._selector.select(limit_s):
            link = cast("Link", key.fileobj)
            try:
                if events & selectors.EVENT_WRITE:
                    self.send(link)
                bodies = link.answers() if events & selectors.EVENT_READ else []
            except LostError:
                self._selector.unregister(link)
                link.close()
                yield link, None
            else:
                yield link, bodies

    def close(self) -> None:
        """End all links."""
        for key in list(self._selector.get_map().values()):
            cast("Link", key.fileobj).close()
        self._selector.close()


def without_pause(
    target: Target, asked: Sequence[bytes], seconds: float, *, connections: int
) -> Sent:
    """Each connection sends its next picture when it has the answer to the last one.

    What is answered after the time does not count, so that the rate is that of the time.

    Raises:
        LostError: If a connection ends, or nothing comes for `ANSWER_LIMIT_S`.
    """
    sent = Sent()
    with contextlib.closing(_Crowd(target)) as crowd:
        links = [crowd.link() for _ in range(connections)]
        with _clocked(sent):
            ends_s = time.perf_counter() + seconds
            under_way = {}
            for index, link in enumerate(links):
                under_way[link] = 5 * index, time.perf_counter()
                crowd.send(link, asked[5 * index % len(asked)])
            while under_way:
                came = list(crowd.wait(ANSWER_LIMIT_S))
                if not came:
                    raise LostError
                for link, bodies in came:
                    if bodies is None:
                        raise LostError
                    for body in bodies:
                        number, began_s = under_way.pop(link)
                        now_s = time.perf_counter()
                        if now_s < ends_s:
                            sent.answers.append(Answer(body, now_s - began_s))
                            under_way[link] = number + 1, now_s
                            crowd.send(link, asked[(number + 1) % len(asked)])
    return sent


def at_random(
    target: Target, asked: Sequence[bytes], seconds: float, *, per_s: float, links: int = 0
) -> Sent:
    """Pictures come at random moments, whatever became of the earlier ones.

    Each takes a connection of its own from those that are free; over HTTP another is opened if
    there is none. With a number of `links`, as for streams, that many are open, and a picture that
    finds none free waits for one; the time counts.
    """
    sent = Sent()
    drawn = random.Random(7)
    with contextlib.closing(_Crowd(target)) as crowd, contextlib.ExitStack() as clock:
        free = deque(crowd.link() for _ in range(links))
        clock.enter_context(_clocked(sent))
        waiting: deque[tuple[int, float]] = deque()
        under_way: dict[Link, float] = {}
        began_s, next_s, number = time.perf_counter(), 0.0, 0
        while next_s < seconds or waiting or under_way:
            left_s = began_s + next_s - time.perf_counter()
            came = 0
            for link, bodies in crowd.wait(
                max(left_s, 0.0) if next_s < seconds else ANSWER_LIMIT_S
            ):
                came += 1
                if bodies is None:
                    sent.lost += under_way.pop(link, None) is not None
                    if link in free:
                        free.remove(link)
                    if links:
                        free.append(crowd.link())
                for body in bodies or ():
                    now_s = time.perf_counter()
                    took_s, is_within = now_s - under_way.pop(link), now_s < began_s + seconds
                    sent.answers.append(Answer(body, took_s, is_within))
                    free.append(link)
            if next_s >= seconds and not came:
                sent.lost += len(under_way) + len(waiting)
                break
            while next_s < min(seconds, time.perf_counter() - began_s):
                waiting.append((number, began_s + next_s))
                next_s += drawn.expovariate(per_s)
                number += 1
            while waiting and (free or not links):
                picture, came_s = waiting.popleft()
                try:
                    link = free.popleft() if free else crowd.link()
                    crowd.send(link, asked[picture % len(asked)])
                except (OSError, LostError):  # it is told of the link's end as well
                    sent.lost += 1
                else:
                    under_way[link] = came_s
    return sent


@contextlib.contextmanager
def apart() -> Iterator[frozenset[int]]:
    """Keep this process on one core, and yield the others, for `served`.

    The kernel's work for what this process sends over loopback is done on its core as well. Where
    there is one core alone, or a system that cannot tie processes to cores, they share what there
    is, and the set is empty.
    """
    if not hasattr(os, "sched_setaffinity") or len(before := os.sched_getaffinity(0)) < 2:
        yield frozenset()
        return
    own = max(before)
    os.sched_setaffinity(0, {own})
    try:
        yield frozenset(before - {own})
    finally:
        os.sched_setaffinity(0, before)


def _serve(config: ServerConfig, cores: frozenset[int]) -> None:
    if cores:
        os.sched_setaffinity(0, cores)  # its detectors inherit them
    # Linux shares processor time out by session (autogroup): beside other work, a server would get
    # less than one that has a session of its own, and its detectors could give way to no one else.
    os.setsid()
    serve(config)


@contextlib.contextmanager
def served(cores: frozenset[int] = frozenset(), **options: Any) -> Iterator[tuple[int, int]]:
    """The server with these options in a process of its own: its port and its process id.

    It limits neither rates nor what one caller may have under way: what is measured is the rest.

    Args:
        cores: What it and its detectors run on; empty for all that there are.
        options: Fields of `ServerConfig`.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    config = ServerConfig(
        **{
            "port": port,
            "rate_per_s": 0,
            "max_per_caller": MANY,
            "max_uploads": MANY,
            "max_streams": MANY,
            "max_connections": MANY,
            "max_connections_per_peer": MANY,
            **options,
        }
    )
    # Not a daemon, which could have no detectors' processes.
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=(config, cores))
    process.start()
    try:
        ends_s = time.monotonic() + START_LIMIT_S
        while True:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port), 1.0).close()
                break
            if not process.is_alive() or time.monotonic() > ends_s:
                msg = "the server did not start"
                raise RuntimeError(msg)
            time.sleep(0.05)
        assert process.pid is not None
        yield port, process.pid
    finally:
        process.terminate()
        process.join()
