"""The text of HAProxy's configuration: one address in front, places for replicas behind.

Places are filled and emptied through HAProxy's own socket while it runs, so that no open stream
ends because a replica came or went.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from hybrid_detect.exchange.wire import HEALTH_PATH, RESUME_HEADER, STREAM_PATH
from hybrid_detect.server.bodies import RECEIVE_LIMIT_S
from hybrid_detect.server.cluster.ingress_peer import GATEWAY, PEER_HEADER, peer_value
from hybrid_detect.server.connections import KEEP_ALIVE_S
from hybrid_detect.server.replies import error_reply, reply_to_values
from hybrid_detect.server.websocket_heartbeat import PING_EVERY_S

__all__ = ["BACKENDS", "Front", "bracketed", "haproxy_config", "place_name"]

PICTURES, STREAMS = BACKENDS = ("pictures", "streams")
"""Each knows every replica, and gives new work to the one with the fewest of its kind: so a replica
with many idle streams still gets its share of pictures."""

MAX_NAMES = 100_000
"""Of streams that are remembered with their replica, some 15 MB; the oldest are forgotten first."""

ANSWER_S = 30.0
"""Seconds of silence of a replica that owes an answer; it answers or refuses in 10 at most."""

UNREACHABLE_RETRY_S = 1.0
"""What is asked of clients while no replica is there: a dead one is replaced in a few seconds."""

_REASONS = {
    400: ("bad_request", "that is no HTTP request"),
    408: ("too_slow", "the request did not come in time"),
    500: ("internal", "the gateway has a bug"),
    502: ("replica_failed", "the replica ended amid the request; try again"),
    503: ("overloaded", "no replica can take this now; try again"),
    504: ("too_late", "the replica did not answer in time"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Front:
    """Where HAProxy listens, and what it takes."""

    host: str
    port: int
    socket_path: Path
    """The socket that it is steered through."""
    secret: str
    """What tells replicas that a request comes from here."""
    places: int
    """Replicas there can be at the same time."""
    max_connections: int
    max_connections_per_peer: int
    certificate: Path | None = None
    """A PEM file with certificates, its key beside it with ``.key`` added; `None` for no TLS."""
    client_ca: Path | None = None

    @property
    def url(self) -> str:
        """The address that clients know."""
        scheme = "http" if self.certificate is None else "https"
        return f"{scheme}://{bracketed(self.host)}:{self.port}"


def place_name(number: int) -> str:
    """The name of the place with this number, from 1 on."""
    return f"place{number}"


def haproxy_config(front: Front) -> str:
    """The configuration, as the text of a file that its owner alone may read: it has the secret."""
    bind = f"bind {bracketed(front.host)}:{front.port}"
    if front.certificate is not None:
        bind += f" ssl crt {_quoted(front.certificate)} ssl-min-ver TLSv1.2 alpn http/1.1"
    if front.client_ca is not None:
        bind += f" ca-file {_quoted(front.client_ca)} verify required"
    most = front.max_connections_per_peer
    lines = [
        "global",
        f"  stats socket {_quoted(front.socket_path)} mode 600 level admin",
        f"  maxconn {front.max_connections}",
        "  hard-stop-after 30s",
        "  noreuseport",  # else a second one would share the port, and the clients, in silence
        "defaults",
        "  mode http",
        "  timeout connect 1s",
        "  timeout queue 1s",
        # A replica ends a body that is too slow itself, and says so.
        f"  timeout client {RECEIVE_LIMIT_S + 20:g}s",
        f"  timeout server {ANSWER_S:g}s",
        f"  timeout http-request {RECEIVE_LIMIT_S:g}s",
        f"  timeout http-keep-alive {KEEP_ALIVE_S:g}s",
        f"  timeout tunnel {3 * PING_EVERY_S:g}s",  # a replica pings each stream
        "  option abortonclose",
        "  option redispatch 1",
        "  retries 3",
        # A request that reached no replica goes to another, and so does a question that a replica
        # died over. A picture is its client's to repeat: HAProxy could only if it held each one
        # back until it is complete, in a buffer as large.
        "  retry-on conn-failure empty-response",
        *(f"  {_error(status)}" for status in _REASONS),
        "frontend ingress",
        f"  {bind}",
        "  stick-table type ipv6 size 100k expire 60s store conn_cur",
        "  tcp-request connection track-sc0 src",
        f"  tcp-request connection reject if {{ sc0_conn_cur gt {most} }}",
        f'  http-request set-header {PEER_HEADER} "{peer_value(front.secret, "%[src]")}"',
        # A repeated DELETE would report that nothing was erased.
        "  http-request disable-l7-retry unless METH_GET",
        f"  use_backend {STREAMS} if {{ path {STREAM_PATH} }}",
        f"  default_backend {PICTURES}",
    ]
    for backend in BACKENDS:
        lines += [
            f"backend {backend}",
            "  balance leastconn",
            "  option httpchk",
            f"  http-check send meth GET uri {HEALTH_PATH} ver HTTP/1.1 hdr Host ingress "
            f'hdr {PEER_HEADER} "{peer_value(front.secret, GATEWAY)}"',
            "  http-check expect status 200",
            # What is open to one that is down goes on: it may be leaving, and answer what it took.
            "  default-server check inter 500ms fastinter 200ms downinter 200ms fall 2 rise 1",
            f"  server-template {place_name(0)[:-1]} 1-{front.places} 127.0.0.1:1 disabled",
        ]
        if backend == STREAMS:
            # A stream that is taken up again finds what it waits for where it was. Its name is
            # remembered once a replica has let its client in: else strangers could fill the table.
            lines += [
                f"  stick-table type string len 32 size {MAX_NAMES} expire 24h",
                f"  http-request set-var(txn.stream) req.hdr({RESUME_HEADER})",
                "  stick match var(txn.stream)",
                "  stick store-response var(txn.stream) if { status 101 }",
            ]
    return "\n".join(lines) + "\n"


def bracketed(host: str) -> str:
    """`host` as it stands before a port."""
    return f"[{host}]" if ":" in host else host


def _error(status: int) -> str:
    code, detail = _REASONS[status]
    retry_after_s = UNREACHABLE_RETRY_S if status == 503 else None
    body = json.dumps(reply_to_values(error_reply(0, status, code, detail, retry_after_s)))
    line = f"http-error status {status} content-type application/json string '{body}'"
    return line + (f" hdr Retry-After {UNREACHABLE_RETRY_S:g}" if retry_after_s else "")


def _quoted(path: Path) -> str:
    return '"' + str(path).replace("\\", "\\\\").replace('"', '\\"').replace("$", "\\$") + '"'
