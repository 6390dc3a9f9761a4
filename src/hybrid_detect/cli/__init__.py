"""The command ``hybrid-detect``."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version

from hybrid_detect.cli import (
    api_keys,
    bench,
    costs,
    demo,
    detect,
    doctor,
    keys,
    models,
    report,
    serve,
    stream,
    watch,
)
from hybrid_detect.cli.ends import ended_in_order
from hybrid_detect.cli.exit_codes import ExitCode
from hybrid_detect.cli.plain_text import one_line, warnings_told
from hybrid_detect.errors import HybridDetectError
from hybrid_detect.extras import require

__all__ = ["main"]

COMMANDS = (
    *(demo, detect, stream, watch, serve),
    *(api_keys, keys, models, costs, report, doctor, bench),
)
"""In the order in which help lists them."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` and return the exit status, a value of `ExitCode`."""
    parser = argparse.ArgumentParser(
        prog="hybrid-detect",
        description="Face detection in the cloud, over a stream or on the device.",
        epilog="Exit status: 0 done, 1 the command failed, 2 the command line is wrong, "
        "3 some pictures have no answer.",
    )
    parser.add_argument("--version", action="version", version=version("hybrid-detect"))
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add_parser(commands)
    if "_ARGCOMPLETE" in os.environ:  # the shell asks for completions of a line
        require("argcomplete", extra="completion", purpose="completion").autocomplete(parser)
    arguments = parser.parse_args(argv)
    for file in (sys.stdout, sys.stderr):
        if isinstance(file, io.TextIOWrapper):  # a file's name may have bytes that are no text
            file.reconfigure(errors="backslashreplace")
    try:
        with ended_in_order(), warnings_told():
            status = int(arguments.run(arguments))
        sys.stdout.flush()  # here, where a reader that has ended is noticed without a traceback
    except HybridDetectError as error:
        print(f"hybrid-detect: {one_line(error)}", file=sys.stderr)
        return ExitCode.FAILED
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        # Python flushes once more as it ends; what is left goes nowhere then, and quietly.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.BROKEN_PIPE
    return status
