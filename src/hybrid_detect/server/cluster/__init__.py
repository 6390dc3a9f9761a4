"""Scale-out: replicas of the reference server on Ray Serve, behind one HAProxy.

Ray Serve places replicas, starts dead ones anew and chooses their number; HAProxy is the one
address that clients know. Bytes go from HAProxy straight to a replica's own front, not through Ray:
so bodies, WebSockets, close codes and hang-ups arrive as they left, and an open stream takes up no
place of Ray's. What replicas must know together is owned by actors (`owners`).

Everything here but `config`, `scaling` and `haproxy_config` needs the extra ``[cluster]``.
"""
