"""The command ``hybrid-detect``, and ``python -m hybrid_detect``."""

# PYTHON_ARGCOMPLETE_OK: tells argcomplete's shell function that this program completes itself.

from __future__ import annotations

import signal

__all__ = ["main"]


def main() -> int:
    """Run the command line and return the exit status.

    Ctrl-C while the command is still being imported, which takes seconds on a small machine, ends
    the program as the signal does: a traceback through half-made modules would tell nothing.
    """
    is_pythons = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if is_pythons:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from hybrid_detect.cli import main as run

    if is_pythons:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    return run()


if __name__ == "__main__":
    raise SystemExit(main())
