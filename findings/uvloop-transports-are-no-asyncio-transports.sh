#!/usr/bin/env bash
# Expected: the transport that an event loop gives to Protocol.connection_made is an asyncio.Transport, on uvloop as on asyncio: uvloop is a
#           drop-in replacement, and a protocol that asserts the type for its type checker works on both.
# Really:   uvloop's TCP and TLS transports derive from none of asyncio's transport classes, so isinstance(transport, asyncio.Transport) is
#           False and such an assertion closes every connection.
# Version:  uvloop==0.22.1 on Linux x86-64, CPython 3.11.
# Source:   seen here; Python's documentation, "Transports and Protocols", gives the parameter's type as a transport object only.
# Cares:    authors of asyncio protocols (servers above all) that run under uvloop in production and under asyncio in tests.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet uvloop==0.22.1
cat > show.py <<'PYTHON'
import asyncio

import uvloop


class Server(asyncio.Protocol):
    def __init__(self, seen):
        self.seen = seen

    def connection_made(self, transport):
        self.seen.set_result(isinstance(transport, asyncio.BaseTransport))
        transport.close()


async def is_transport():
    loop = asyncio.get_running_loop()
    seen = loop.create_future()
    server = await loop.create_server(lambda: Server(seen), "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    _, writer = await asyncio.open_connection(host, port)
    found = await seen
    writer.close()
    server.close()
    return found


with asyncio.Runner() as runner:
    plain = runner.run(is_transport())
with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
    fast = runner.run(is_transport())
print(f"isinstance(transport, asyncio.BaseTransport): asyncio {plain}, uvloop {fast}")
assert (plain, fast) == (True, False), "this finding is out of date"
PYTHON
venv/bin/python show.py
