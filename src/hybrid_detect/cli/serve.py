"""``hybrid-detect serve``: run the reference server."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from hybrid_detect.extras import require

__all__ = ["add_parser"]


def add_parser(commands: Any) -> None:
    """Add the command to the parser's `commands`."""
    parser = commands.add_parser(
        "serve",
        help="run the reference server",
        epilog="The token clients must send is read from HYBRID_DETECT_SERVER_TOKEN.",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=8000, help="port; 0 takes a free one")
    parser.add_argument("--model", default="full_range", help="the model (see 'models list')")
    parser.add_argument("--model-path", type=Path, metavar="FILE", help="the model's file")
    parser.add_argument(
        "--detectors", type=int, metavar="N", help="detectors (default: one a usable core)"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Serve until stopped."""
    for module in ("uvicorn", "starlette", "httptools"):
        require(module, extra="server", purpose="'hybrid-detect serve'")
    from hybrid_detect.server.config import ServerConfig
    from hybrid_detect.server.serving import TOKEN_VARIABLE, serve

    detectors = {} if arguments.detectors is None else {"detectors": arguments.detectors}
    config = ServerConfig(
        host=arguments.host,
        port=arguments.port,
        auth_token=os.environ.get(TOKEN_VARIABLE) or None,
        model=arguments.model,
        model_path=arguments.model_path,
        **detectors,
    )
    return 0 if serve(config) else 1
