#!/usr/bin/env bash
# Expected: logging.config.dictConfig with disable_existing_loggers=False leaves alone every logger that the configuration does not name. So a
#           library may quiet one of its own at import, for example websockets' logger, which at debug level writes out the
#           handshake with the caller's token.
# Really:   a logger below one that is named loses its level, its handlers and propagate=False: they are set back to what a new logger has. An app
#           that sets "websockets" to DEBUG undoes the level INFO of "websockets.client", and the token of the next connection is in the log.
# Version:  websockets==17.4 on CPython 3.11, Linux x86-64.
# Source:   seen here, and the function _handle_existing_loggers in CPython's logging/config.py; the documentation of disable_existing_loggers
#           tells of disabling alone.
# Cares:    authors of libraries that quiet a noisy dependency with setLevel, and operators whose log then holds credentials. A logger that
#           logging.getLogger did not make (logging.Logger(...), handed to the dependency) is out of reach of configurations.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet websockets==17.4
cat > show.py <<'PYTHON'
import asyncio
import io
import logging
import logging.config

from websockets.asyncio.client import connect
from websockets.asyncio.server import serve

TOKEN = "not-a-real-token"
log = io.StringIO()


async def answer(connection):
    await connection.wait_closed()


async def connect_once(port):
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with connect(f"ws://127.0.0.1:{port}", additional_headers=headers):
        pass


async def main():
    quiet = logging.getLogger("of.the.server")
    quiet.setLevel(logging.CRITICAL)
    seen = []
    async with serve(answer, "127.0.0.1", 0, logger=quiet) as server:
        port = server.sockets[0].getsockname()[1]
        logging.getLogger("websockets.client").setLevel(logging.INFO)  # what the library does
        for disable in (None, False):
            if disable is not None:
                logging.config.dictConfig(
                    {
                        "version": 1,
                        "disable_existing_loggers": False,
                        "handlers": {"memory": {"class": "logging.StreamHandler", "stream": log}},
                        "loggers": {"websockets": {"level": "DEBUG", "handlers": ["memory"]}},
                    }
                )
            else:
                logging.getLogger("websockets").setLevel(logging.DEBUG)
                logging.getLogger("websockets").addHandler(logging.StreamHandler(log))
            await connect_once(port)
            level = logging.getLevelName(logging.getLogger("websockets.client").level)
            seen.append((level, TOKEN in log.getvalue()))
    return seen


with asyncio.Runner() as runner:
    by_hand, by_dict_config = runner.run(main())
print(f"websockets at DEBUG by setLevel:   websockets.client is {by_hand[0]}, token in the log: {by_hand[1]}")
print(f"websockets at DEBUG by dictConfig: websockets.client is {by_dict_config[0]}, token in the log: {by_dict_config[1]}")
assert (by_hand, by_dict_config) == (("INFO", False), ("NOTSET", True)), "this finding is out of date"
PYTHON
venv/bin/python show.py
