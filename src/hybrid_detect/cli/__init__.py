"""The command ``hybrid-detect``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib.metadata import version

from hybrid_detect.cli import api_keys, bench, demo, detect, doctor, keys, models, serve
from hybrid_detect.errors import HybridDetectError

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` and return the exit status.

    0 means done, 1 that something could not be done, 2 that the command line was wrong.
    """
    parser = argparse.ArgumentParser(
        prog="hybrid-detect",
        description="Face detection in the cloud, over a stream or on the device.",
    )
    parser.add_argument("--version", action="version", version=version("hybrid-detect"))
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in (demo, detect, serve, api_keys, keys, models, doctor, bench):
        command.add_parser(commands)
    arguments = parser.parse_args(argv)
    try:
        return int(arguments.run(arguments))
    except HybridDetectError as error:
        print(f"hybrid-detect: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
