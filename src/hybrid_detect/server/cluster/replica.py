"""One replica: the reference server in an actor of Ray Serve, on a port of its own.

The server has a thread and an event loop to itself, as in a process of its own: what Ray does
beside it delays no picture.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

import ray
from ray.exceptions import RayError

from hybrid_detect.errors import BackendUnavailableError
from hybrid_detect.server.app import create_app
from hybrid_detect.server.cluster.config import ClusterConfig
from hybrid_detect.server.cluster.ingress_peer import IngressPeer
from hybrid_detect.server.cluster.live_relay import LiveRelay
from hybrid_detect.server.cluster.load import LoadMeter
from hybrid_detect.server.cluster.owners import (
    LEASE_S,
    RENEW_S,
    OwnedState,
    history_owner,
    state_owner,
)
from hybrid_detect.server.cluster.replica_place import ReplicaPlace
from hybrid_detect.server.config import ServerConfig
from hybrid_detect.server.listening import Server, loop_factory

__all__ = ["LEAVE_S", "SPARE_CONNECTIONS", "Replica", "replica_config"]

logger = logging.getLogger("hybrid_detect.server")

LEAVE_S = 0.5
"""Seconds between a replica's word that it leaves and its end: the gateway hears of it in less, and
sends it nothing new."""

SPARE_CONNECTIONS = 512
"""Beside those of streams; the gateway keeps some open."""


def replica_config(config: ServerConfig, cluster: ClusterConfig, *, host: str) -> ServerConfig:
    """The configuration of one replica, which has its gateway alone for a peer.

    Args:
        config: The server's, as clients see it.
        cluster: What each replica takes.
        host: The address that the gateway reaches it at.
    """
    connections = cluster.streams_per_replica + SPARE_CONNECTIONS
    has_metrics = cluster.metrics_targets is not None
    return replace(
        config,
        host=host,
        port=0,
        tls=None,  # ends at the gateway
        detectors=cluster.detectors_per_replica,
        max_waiting=cluster.queue_per_replica,
        max_streams=cluster.streams_per_replica,
        max_connections=connections,
        max_connections_per_peer=connections,
        metrics_host=host,
        metrics_port=0 if has_metrics else None,
        metrics_token=config.metrics_token if has_metrics else None,
    )


class Replica:
    """What Ray Serve places, checks, scales and restarts.

    Args:
        config: The server's.
        cluster: What it takes.
        secret: What its gateway shows.

    Raises:
        HybridDetectError: If the server cannot start.
        OSError: If no port can be listened on.
    """

    def __init__(self, config: ServerConfig, cluster: ClusterConfig, secret: str) -> None:
        self._secret = secret
        self._name: str = ray.get_runtime_context().get_actor_id()
        self._host: str = "127.0.0.1" if cluster.is_local else ray.util.get_node_ip_address()
        self._config = replica_config(config, cluster, host=self._host)
        self._owner = state_owner()
        history = history_owner() if config.history_path is not None else None
        self._state = OwnedState(self._config, self._owner, history)
        self._meter = LoadMeter()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._end = asyncio.Event()
        self._is_leaving = False
        ready: Future[None] = Future()
        # A daemon, because a server that does not end must not keep the actor from ending.
        self._thread = threading.Thread(
            target=self._run, args=[ready], name="hybrid-detect-server", daemon=True
        )
        self._thread.start()
        ready.result()

    def _run(self, ready: Future[None]) -> None:
        try:
            with asyncio.Runner(loop_factory=loop_factory()) as runner:
                runner.run(self._serve(ready))
        except BaseException as error:
            if ready.done():
                logger.exception("the server of a replica has ended")
            else:
                ready.set_exception(error)

    async def _serve(self, ready: Future[None]) -> None:
        self._loop = asyncio.get_running_loop()

        app = create_app(self._config, state=self._state, watch=self._meter.watch)
        app.add_middleware(
            IngressPeer,
            secret=self._secret,
            is_stopping=lambda: self._is_leaving,
            count_streams=self._meter.count_streams,
        )
        async with Server(app, self._config) as server:
            metrics = server.management
            place = ReplicaPlace(
                name=self._name,
                host=self._host,
                port=server.port,
                metrics_port=metrics.port if metrics is not None else None,
            )
            await self._tell("renew", place)
            relay = LiveRelay(app.state.live, self._owner, self._name)
            beside = [
                asyncio.create_task(self._keep_renewing(place, relay)),
                asyncio.create_task(relay.run()),
            ]
            ready.set_result(None)
            await self._end.wait()
            self._is_leaving = True
            for task in beside:
                task.cancel()
            await self._tell("renew", replace(place, is_leaving=True))
            await asyncio.sleep(LEAVE_S)
        await self._tell("leave", self._name)

    async def _keep_renewing(self, place: ReplicaPlace, relay: LiveRelay) -> None:
        while True:
            await asyncio.sleep(RENEW_S)
            relay.want(await self._tell("renew", place, relay.watched()) or ())

    async def _tell(self, method: str, *arguments: object) -> Any:
        """What the owner of the list answers; `None` if it does not."""
        try:
            async with asyncio.timeout(LEASE_S / 3):
                return await getattr(self._owner, method).remote(*arguments)
        except (RayError, TimeoutError) as error:  # it is started anew, and told again
            logger.warning("the list of replicas cannot be told: %s", type(error).__name__)
            return None

    def check_health(self) -> None:
        """Tell Ray Serve whether this replica has to be replaced.

        Raises:
            BackendUnavailableError: If the server has ended.
        """
        if not self._thread.is_alive():
            msg = "the server of this replica has ended"
            raise BackendUnavailableError(msg)

    def record_autoscaling_stats(self) -> dict[str, float]:
        """What it is doing, for `ScalingPolicy`."""
        return self._meter.load().to_values()

    def __del__(self) -> None:
        """Leave in order: Ray Serve calls it before it ends the actor, and waits."""
        loop, thread = getattr(self, "_loop", None), getattr(self, "_thread", None)
        if loop is not None and thread is not None and thread.is_alive():
            with contextlib.suppress(RuntimeError):  # the loop has just been closed
                loop.call_soon_threadsafe(self._end.set)
            thread.join()
