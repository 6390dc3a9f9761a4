"""What the exit status of ``hybrid-detect`` says, as `docs/reference/command-line.md` lists it."""

from __future__ import annotations

from enum import IntEnum

__all__ = ["ExitCode"]


class ExitCode(IntEnum):
    """Exit statuses, so that a script can tell a bad command line from a bad picture."""

    DONE = 0
    """All that was asked for was done."""
    FAILED = 1
    """The command could not do its work: the configuration, a server, a model or a file."""
    USAGE = 2
    """The command line was wrong. Source: argparse and POSIX utilities use the same status."""
    PARTLY = 3
    """Some pictures have no answer or could not be written; the others have been dealt with."""
    INTERRUPTED = 130
    """Ctrl-C. Source: shells report 128 plus the signal's number, and SIGINT is 2."""
    BROKEN_PIPE = 141
    """The program that read the output ended first. Source: 128 plus SIGPIPE, which is 13."""
