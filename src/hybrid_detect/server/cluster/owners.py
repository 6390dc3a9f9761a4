"""The actors that own what replicas share, and how a replica asks them.

One actor owns rates, replays and the list of replicas, another the history. Ray starts either anew
if it dies. The new one has seen no request, so it refuses what was sealed before it began, as a
server does that was restarted: nothing is answered twice. Rates start full again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError

from hybrid_detect.errors import ReplayError, StaleRequestError, StorageError
from hybrid_detect.server.cluster.config import MAX_REPLICAS
from hybrid_detect.server.cluster.leases import Leases
from hybrid_detect.server.cluster.replica_place import ReplicaPlace
from hybrid_detect.server.config import ServerConfig
from hybrid_detect.server.shared_state import Limit, LocalState, StateUnavailableError
from hybrid_detect.storage.history import DetectionHistory
from hybrid_detect.storage.records import Deleted, StoredResult

__all__ = [
    "LEASE_S",
    "NAMESPACE",
    "RENEW_S",
    "HistoryOwner",
    "OwnedHistory",
    "OwnedState",
    "StateOwner",
    "history_owner",
    "start_owners",
    "state_owner",
]

logger = logging.getLogger("hybrid_detect.server")

RENEW_S = 1.0
"""A replica says that it is there, and which sessions are watched there, this often."""

NAMESPACE = "hybrid-detect"
STATE, HISTORY = "state", "history"
"""The actors' names in Ray's `NAMESPACE`."""

ANSWER_LIMIT_S = 1.0
"""Seconds to wait for the owner of the state: a call takes about 1 ms, a frame lives for 1 s."""

HISTORY_LIMIT_S = 30.0
"""Seconds to wait for the owner of the history; the caller is never waiting for it, but a client
that exports or erases is."""

LEASE_S = 10.0
"""A replica renews its place in the list each `RENEW_S`; after this it is left out, and what is
open to it ended: long, for a busy machine. HAProxy notices in a second that it gets no answer."""

SHOWN_WAIT_S = 5.0
"""How long a replica's question for live results of others waits for one."""

MAX_SHOWN = 256
"""Live results that wait for a replica; of more the oldest are left out."""

STATE_CALLS = 4 * MAX_REPLICAS
"""At the same time: each replica has a question that waits."""

HISTORY_CALLS = 4
"""At the same time: an export that is slow to be read must not keep results from being written."""


class StateOwner:
    """Owns rates, replays and the list of replicas. An actor: one call after the other.

    Args:
        config: The rates.
        secret: What the gateway shows replicas.
        clock: Seconds that only grow.
    """

    def __init__(
        self, config: ServerConfig, secret: str, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._state = LocalState(config)
        self._secret = secret
        self._clock = clock
        self._complete_s = clock() + LEASE_S
        self._replicas: dict[str, tuple[float, ReplicaPlace]] = {}
        self._watched: dict[str, set[tuple[str, str]]] = {}
        self._shown: defaultdict[str, deque[tuple[str, str, bytes]]] = defaultdict(
            lambda: deque(maxlen=MAX_SHOWN)
        )
        self._news: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)

    async def secret(self) -> str:
        """What the gateway shows replicas."""
        return self._secret

    async def lease(self, limit: str, name: str, most: int) -> tuple[int, float]:
        """See `RateLimiter.lease`."""
        return self._state.lease(Limit(limit), name, most)

    async def admit(self, nonce: bytes, sealed_at_ms: int) -> tuple[str, str]:
        """See `SharedState.admit`; gives the error's kind and words, both empty for none.

        Ray would log an error that is raised, and strangers can cause these.
        """
        try:
            await self._state.admit(nonce, sealed_at_ms=sealed_at_ms)
        except StaleRequestError as error:
            return "stale", str(error)
        except ReplayError as error:
            return "replayed", str(error)
        return "", ""

    async def renew(
        self, place: ReplicaPlace, watched: list[tuple[str, str]] | None = None
    ) -> list[tuple[str, str]]:
        """Keep a replica in the list for `LEASE_S` more.

        Args:
            place: Where it is.
            watched: Owner and name of each session that is watched there.

        Returns:
            The sessions that are watched at others.
        """
        self._replicas[place.name] = (self._clock() + LEASE_S, place)
        self._watched[place.name] = set(watched or ())
        others = (keys for name, keys in self._watched.items() if name != place.name)
        return sorted(set().union(*others))

    async def leave(self, name: str) -> None:
        """Take a replica out of the list."""
        self._forget(name)

    async def show(self, name: str, owner: str, session: str, reply: bytes) -> None:
        """Hand a result of replica `name` to those at which its session is watched."""
        for other, keys in self._watched.items():
            if other != name and (owner, session) in keys:
                self._shown[other].append((owner, session, reply))
                self._news[other].set()

    async def shown(self, name: str) -> list[tuple[str, str, bytes]]:
        """What is to be shown at replica `name`, as soon as there is something; or nothing."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SHOWN_WAIT_S):
                await self._news[name].wait()
        self._news[name].clear()
        found = list(self._shown[name])
        self._shown[name].clear()
        if name not in self._replicas:  # it left while it waited, or its lease ended
            self._forget(name)
        return found

    def _forget(self, name: str) -> None:
        for known in (self._replicas, self._watched, self._shown, self._news):
            known.pop(name, None)

    async def replicas(self) -> tuple[list[ReplicaPlace], bool]:
        """The replicas that have renewed their place in time, and whether these are all.

        They are not while this owner, which may follow one that died, is younger than `LEASE_S`.
        """
        now_s = self._clock()
        for name, (until_s, _) in list(self._replicas.items()):
            if until_s <= now_s:
                self._forget(name)
        return [place for _, place in self._replicas.values()], now_s >= self._complete_s


class HistoryOwner:
    """Owns the history's file. An actor, with some calls at the same time.

    Args:
        config: Where the file is, and its limits.
    """

    def __init__(self, config: ServerConfig) -> None:
        self._history = LocalState(config).open_history()

    def add(self, result: Mapping[str, Any], session: str, image: bytes | None, owner: str) -> int:
        """See `DetectionHistory.add`."""
        return self._opened().add(result, session=session, image=image, owner=owner)

    def results(self, session: str, owner: str, images: bool) -> Iterator[StoredResult]:
        """See `DetectionHistory.results`."""
        yield from self._opened().results(session, owner=owner, images=images)

    def export_pieces(self, session: str, owner: str, who: str) -> Iterator[bytes]:
        """See `DetectionHistory.export_pieces`."""
        yield from self._opened().export_pieces(session, owner=owner, who=who)

    def erase(self, session: str, owner: str, who: str) -> Deleted:
        """See `DetectionHistory.erase`."""
        return self._opened().erase(session, owner=owner, who=who)

    def close(self) -> None:
        """Close the file."""
        if self._history is not None:
            self._history.close()

    def _opened(self) -> DetectionHistory:
        if self._history is None:
            msg = "the cluster keeps no history"
            raise StorageError(msg)
        return self._history


class OwnedState:
    """A replica's view of the state that `StateOwner` has.

    While the owner does not answer, rates are counted here alone, so that pictures are still
    looked at, and what is sealed is refused for a moment, so that nothing is answered twice.

    Args:
        config: The rates.
        owner: The actor.
        history: The history's actor; `None` where nothing is kept.
    """

    def __init__(self, config: ServerConfig, owner: Any, history: Any | None) -> None:
        self._config = config
        self._owner = owner
        self._history = history
        self._alone = LocalState(config)
        self._is_alone = False
        self._leases = Leases()

    async def take(self, limit: Limit, name: str) -> float:
        """See `SharedState.take`. Probes are counted by each replica: they take no detector."""
        if limit is Limit.PROBES or (limit is Limit.PICTURES and not self._config.rate_per_s):
            return await self._alone.take(limit, name)
        lease = self._leases.of(limit, name)
        if lease.spend():
            return 0.0
        try:
            async with asyncio.timeout(ANSWER_LIMIT_S):
                given, wait_s = await self._owner.lease.remote(limit.value, name, lease.wanted)
        except (RayError, TimeoutError) as error:
            self._note(error)
            return await self._alone.take(limit, name)
        self._is_alone = False
        lease.add(given)
        return 0.0 if lease.spend() else wait_s

    async def admit(self, nonce: bytes, *, sealed_at_ms: int) -> None:
        """See `SharedState.admit`."""
        try:
            async with asyncio.timeout(ANSWER_LIMIT_S):
                kind, words = await self._owner.admit.remote(nonce, sealed_at_ms)
        except (RayError, TimeoutError) as error:
            self._note(error)
            raise StateUnavailableError from None
        self._is_alone = False
        if kind == "stale":
            raise StaleRequestError(words)
        if kind:
            raise ReplayError(words)

    def open_history(self) -> OwnedHistory | None:
        """See `SharedState.open_history`."""
        return None if self._history is None else OwnedHistory(self._history)

    def _note(self, error: Exception) -> None:
        if not self._is_alone:  # once, not for each picture
            logger.error("the state that replicas share cannot be asked: %s", type(error).__name__)
        self._is_alone = True


class OwnedHistory:
    """A replica's view of the history that `HistoryOwner` has; to be used off the event loop."""

    def __init__(self, owner: Any) -> None:
        self._owner = owner

    def add(
        self,
        result: Mapping[str, Any],
        *,
        session: str | None = None,
        image: bytes | None = None,
        owner: str = "",
    ) -> int:
        """See `ResultHistory.add`."""
        number: int = _asked(self._owner.add.remote(dict(result), session, image, owner))
        return number

    def results(
        self, session: str, *, owner: str = "", images: bool = True
    ) -> Iterator[StoredResult]:
        """See `ResultHistory.results`."""
        return _pieces(self._owner.results, session, owner, images)

    def export_pieces(self, session: str, *, owner: str = "", who: str) -> Iterator[bytes]:
        """See `ResultHistory.export_pieces`."""
        return _pieces(self._owner.export_pieces, session, owner, who)

    def erase(self, session: str, *, owner: str = "", who: str) -> Deleted:
        """See `ResultHistory.erase`."""
        deleted: Deleted = _asked(self._owner.erase.remote(session, owner, who))
        return deleted

    def close(self) -> None:
        """Nothing: the file is its owner's."""


def _pieces(method: Any, *arguments: object) -> Iterator[Any]:
    # Two ahead of the reader, so that an export never fills Ray's object store.
    options = {"num_returns": "streaming", "_generator_backpressure_num_objects": 2}
    for reference in method.options(**options).remote(*arguments):
        yield _asked(reference)


def _asked(reference: Any) -> Any:
    try:
        return ray.get(reference, timeout=HISTORY_LIMIT_S)
    except RayTaskError as error:
        raise (error.cause if isinstance(error.cause, Exception) else error) from None
    except (RayActorError, GetTimeoutError) as error:
        msg = f"the history's owner does not answer ({type(error).__name__})"
        raise StorageError(msg) from None


def start_owners(config: ServerConfig, *, secret: str) -> tuple[Any, Any | None]:
    """Start the owners on this machine, which has the history's file, or find those there are.

    Returns:
        The owner of the state, and that of the history; `None` where nothing is kept.
    """
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    options = {
        "namespace": NAMESPACE,
        "get_if_exists": True,
        "lifetime": "detached",  # a gateway that is restarted finds it as it was
        "num_cpus": 0,
        "max_restarts": -1,
        "scheduling_strategy": here,
    }
    owner = ray.remote(StateOwner).options(name=STATE, max_concurrency=STATE_CALLS, **options)
    state = owner.remote(config, secret)
    history = None
    if config.history_path is not None:
        made = ray.remote(HistoryOwner).options(
            name=HISTORY, max_concurrency=HISTORY_CALLS, **options
        )
        history = made.remote(config)
    return state, history


def state_owner() -> Any:
    """The actor that owns the state."""
    return ray.get_actor(STATE, namespace=NAMESPACE)


def history_owner() -> Any:
    """The actor that owns the history."""
    return ray.get_actor(HISTORY, namespace=NAMESPACE)
