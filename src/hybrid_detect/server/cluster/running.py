"""Running a cluster: Ray, the owners, the replicas, the gateway; and an orderly end of each."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import resource
import secrets
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import ray
from ray import serve
from ray.exceptions import RayError
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy

from hybrid_detect.errors import BackendUnavailableError, ConfigurationError, StorageError
from hybrid_detect.server.cluster.config import ClusterConfig
from hybrid_detect.server.cluster.haproxy import HAProxy, find_haproxy
from hybrid_detect.server.cluster.haproxy_config import Front, bracketed
from hybrid_detect.server.cluster.ingress import Places
from hybrid_detect.server.cluster.owners import NAMESPACE, start_owners
from hybrid_detect.server.cluster.replica import LEAVE_S, SPARE_CONNECTIONS, Replica
from hybrid_detect.server.cluster.replica_place import ReplicaPlace
from hybrid_detect.server.cluster.scaling import ScalingPolicy
from hybrid_detect.server.config import ServerConfig
from hybrid_detect.server.listening import GRACE_S
from hybrid_detect.storage.private_files import replace_file

__all__ = ["run_cluster"]

logger = logging.getLogger("hybrid_detect.server")

APPLICATION = "hybrid-detect"
"""Its name in Ray Serve."""

FOLLOW_S = 0.1
"""How often the places are brought in step: well below `LEAVE_S`, so that a replica that leaves
gets nothing new."""

HEALTH_PERIOD_S = 1.0
HEALTH_LIMIT_S = 10.0
"""How often Ray Serve asks a replica whether it is well, and how long it waits. That is for servers
that hang: the death of a process is noticed at once."""

LOOK_BACK_S = 12.0
"""What Ray Serve averages the load over; it looks five times in it.
It has to be above the 10 s of a setting that Ray Serve is about to drop."""

MAX_CONNECTIONS = 500_000
"""HAProxy sets memory aside for each."""

SIGNALS = (signal.SIGINT, signal.SIGTERM)

LOOPBACK = "127.0.0.2"
"""Where Ray's processes look for each other if it is started here, on Linux. Told 127.0.0.1, they
use an address that others reach (`ray._private.services.resolve_ip_for_localhost`)."""

SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",  # it would tell Ray's makers of the cluster
    "RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "1",  # of 10, which is late
}
"""For Ray where this command starts it; see `docs/how-to/cluster.md` for a cluster of one's own."""


def run_cluster(
    config: ServerConfig, cluster: ClusterConfig, *, ready: Callable[[str], None]
) -> None:
    """Serve with a cluster until this process is told to end (SIGINT, SIGTERM).

    Args:
        config: The server's, as clients see it.
        cluster: The cluster's.
        ready: Called with the address once a replica answers behind it.

    Raises:
        BackendUnavailableError: If Ray, the replicas or HAProxy do not start.
        ConfigurationError: If a program or file cannot be used.
    """
    if config.has_metrics and cluster.metrics_targets is None:
        msg = "metrics of a cluster: expected metrics_targets in its file as well, got none"
        raise ConfigurationError(msg)
    program = find_haproxy(cluster.haproxy)
    with _handlers_kept() as came, _ray(cluster):
        end = _ended_by_signals(came)  # after Ray has put its own handlers into place
        state, history = start_owners(config, secret=secrets.token_urlsafe(32))
        # One that was restarted beside replicas that run has to know the secret they know.
        secret = ray.get(state.secret.remote())
        front = _front(config, cluster, secret)
        # Where it cannot listen, another command may have it: what that one has is left alone.
        with HAProxy(program, front, tls=config.tls) as gateway:
            try:
                _start_replicas(config, cluster, secret)
                targets = _MetricsTargets(cluster.metrics_targets)
                _follow(gateway, front, targets, state, end, ready)
            finally:
                gateway.close_front()
                _stop_replicas()
                for actor in (state, history):
                    if actor is not None:
                        ray.kill(actor)


def _front(config: ServerConfig, cluster: ClusterConfig, secret: str) -> Front:
    wanted = cluster.max_replicas * (cluster.streams_per_replica + SPARE_CONNECTIONS)
    return Front(
        host=config.host,
        port=config.port or _free_port(config.host),
        socket_path=Path(),  # chosen by `HAProxy`
        secret=secret,
        places=2 * cluster.max_replicas + 2,  # new ones come before old ones have gone
        max_connections=min(wanted, _most_connections()),
        max_connections_per_peer=config.max_connections_per_peer,
    )


def _most_connections() -> int:
    """Those that the files a process may have open are enough for, two for each, and some over."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MAX_CONNECTIONS if most == resource.RLIM_INFINITY else min(most // 3, MAX_CONNECTIONS)


def _free_port(host: str) -> int:
    """A port that was free a moment ago: HAProxy cannot say which one it took."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def _ray(cluster: ClusterConfig) -> Iterator[None]:
    """Ray, connected to; ended again if it was started here."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    options: dict[str, Any] = {}
    if cluster.is_local:
        options = {
            "num_cpus": cluster.max_replicas * cluster.detectors_per_replica + 1,
            "object_store_memory": cluster.object_store_mib * 1024 * 1024,
            "include_dashboard": False,
        }
        if sys.platform == "linux":  # elsewhere 127.0.0.1 is all there is
            options["_node_ip_address"] = LOOPBACK
    try:
        ray.init(
            address=cluster.address,
            namespace=NAMESPACE,
            log_to_driver=False,
            logging_level=logging.ERROR,
            **options,
        )
    except Exception as error:  # what Ray raises if it does not start in time is no other
        msg = f"Ray at {cluster.address!r} cannot be had: {error}"
        raise BackendUnavailableError(msg) from None
    try:
        yield
    finally:
        ray.shutdown()


def _start_replicas(config: ServerConfig, cluster: ClusterConfig, secret: str) -> None:
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    policy = AutoscalingPolicy(
        policy_function=f"{ScalingPolicy.__module__}:{ScalingPolicy.__qualname__}",
        policy_kwargs={
            "work": cluster.work_per_replica,
            "streams": float(cluster.streams_per_replica),
            "latency_s": cluster.target_latency_s,
        },
    )
    deployment = serve.deployment(
        Replica,
        name="replica",
        autoscaling_config=AutoscalingConfig(
            min_replicas=cluster.min_replicas,
            max_replicas=cluster.max_replicas,
            upscale_delay_s=cluster.upscale_delay_s,
            downscale_delay_s=cluster.downscale_delay_s,
            look_back_period_s=LOOK_BACK_S,
            policy=policy,
        ),
        ray_actor_options={
            "num_cpus": cluster.detectors_per_replica,
            "num_gpus": cluster.gpus_per_replica,
        },
        health_check_period_s=HEALTH_PERIOD_S,
        health_check_timeout_s=HEALTH_LIMIT_S,
        graceful_shutdown_timeout_s=LEAVE_S + GRACE_S + 5,
        graceful_shutdown_wait_loop_s=0.1,
    )
    serve.start(proxy_location="Disabled")
    try:
        serve.run(deployment.bind(config, cluster, secret), name=APPLICATION, route_prefix=None)
    except RuntimeError as error:
        msg = f"the replicas do not start: {error}"
        raise BackendUnavailableError(msg) from None


class _MetricsTargets:
    """The file in which Prometheus finds the replicas; written when they change.

    Args:
        path: The file; `None` for none.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._written: list[str] | None = None

    def follow(self, replicas: Sequence[ReplicaPlace], *, are_all: bool) -> None:
        """Write where the metrics of `replicas` are, once these are all there are."""
        if self._path is None or not are_all:
            return
        targets = sorted(
            f"{bracketed(each.host)}:{each.metrics_port}"
            for each in replicas
            if each.metrics_port is not None
        )
        if targets == self._written:
            return
        try:
            text = json.dumps([{"targets": targets}]) + "\n"
            replace_file(self._path, [text.encode()], kept_mode=0o777)
        except StorageError as error:
            logger.error("Prometheus cannot be told of the replicas: %s", error)
        self._written = targets  # said once, not ten times a second


def _follow(
    gateway: HAProxy,
    front: Front,
    targets: _MetricsTargets,
    state: Any,
    end: threading.Event,
    ready: Callable[[str], None],
) -> None:
    """Keep the gateway in step with the replicas until `end`."""
    places = Places(gateway, front.places)
    is_ready = False
    while not end.wait(FOLLOW_S):
        try:
            if not gateway.is_running:
                logger.error("HAProxy has ended; it is started anew")
                gateway.start()
                places.forget()
            replicas, are_all = ray.get(state.replicas.remote(), timeout=1.0)
            places.follow(replicas, are_all=are_all)
            targets.follow(replicas, are_all=are_all)
            if not is_ready and gateway.ready_places():
                is_ready = True
                ready(front.url)
        except (BackendUnavailableError, RayError, OSError) as error:
            # What is in the places goes on meanwhile: HAProxy asks each replica itself.
            logger.warning("the gateway is not in step: %s", type(error).__name__)


def _stop_replicas() -> None:
    """End the replicas in order: what they have taken is answered."""
    try:
        serve.delete(APPLICATION)  # alone: Serve itself may have other applications
    except (RayError, RuntimeError, TimeoutError) as error:
        logger.warning("the replicas did not end in order: %s", type(error).__name__)


@contextlib.contextmanager
def _handlers_kept() -> Iterator[list[int]]:
    """Puts the handlers of `SIGNALS` back, and raises those that came meanwhile.

    So the process ends as its parent expects of one that was sent a signal.
    """
    came: list[int] = []
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for each in came[:1]:
            signal.raise_signal(each)


def _ended_by_signals(came: list[int]) -> threading.Event:
    """An event that `SIGNALS` set; they are noted in `came`."""
    end = threading.Event()

    def note(number: int, _: FrameType | None) -> None:
        came.append(number)
        end.set()

    for number in SIGNALS:
        signal.signal(number, note)
    return end
