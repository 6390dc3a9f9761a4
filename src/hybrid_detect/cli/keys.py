"""``hybrid-detect keys``: make, show and rotate the keys that pictures are encrypted to."""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from hybrid_detect.cli.exit_codes import ExitCode
from hybrid_detect.cli.options import described
from hybrid_detect.cli.table import table

__all__ = ["add_parser"]

CURE = "take another name, or 'hybrid-detect keys rotate' if it holds keys"
"""For who would write over a file."""


def add_parser(commands: Any) -> None:
    """Add the command to the parser's `commands`."""
    parser = commands.add_parser(
        "keys", **described("make, show and rotate the keys that pictures are encrypted to")
    )
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    for name, run, text in (
        ("generate", run_generate, "make a server's first key, and print its public half"),
        ("show", run_show, "print the public keys and how long they are good for"),
        ("rotate", run_rotate, "make a new key the active one; the old go on until they end"),
    ):
        action = actions.add_parser(name, **described(text))
        action.add_argument("file", type=Path, metavar="FILE", help="the server's key file")
        action.set_defaults(run=run)
        if name == "show":
            action.add_argument(
                "--public",
                action="store_true",
                help="print the active key alone, to pin it in a client",
            )
            continue
        before = "x25519-chacha20" if name == "generate" else "as before"
        action.add_argument(
            "--suite",
            help="x25519-chacha20, x25519-aes256gcm or mlkem768-x25519, which a quantum computer "
            f"does not open either (default: {before})",
        )
        action.add_argument(
            "--days", type=_days, metavar="N", help="days the new key is good for (default: 365)"
        )
        if name == "rotate":
            action.add_argument(
                "--revoke", action="store_true", help="end the old keys at once: one became known"
            )


def run_generate(arguments: argparse.Namespace) -> int:
    """Write a file with one new key, where there is no file yet."""
    from hybrid_detect.exchange.key_files import write_key_file
    from hybrid_detect.exchange.key_ring import KeyRing

    if arguments.file.exists():
        print(f"{arguments.file} is there already: {CURE}", file=sys.stderr)
        return ExitCode.FAILED
    ring = KeyRing((_new_key(arguments, arguments.suite or "x25519-chacha20"),))
    write_key_file(arguments.file, ring)
    print(ring.active.text)
    return ExitCode.DONE


def run_show(arguments: argparse.Namespace) -> int:
    """Print what may be known of the keys."""
    from hybrid_detect.exchange.key_files import read_key_file

    ring = read_key_file(arguments.file)
    if arguments.public:
        print(ring.active.text)
        return ExitCode.DONE
    now = datetime.now(UTC)
    accepted, published = ring.accepted(now), ring.published(now)
    rows = []
    for key in ring.keys:
        public = key.public
        state = "ended"
        if public in published:
            state = "active" if public == ring.active else "accepted"
        elif public.id in accepted:
            state = "ending"
        rows.append(
            (public.id, public.suite.value, f"{public.not_after:%Y-%m-%d}", state, public.text)
        )
    print(table(("id", "suite", "not after", "state", "public key"), rows))
    return ExitCode.DONE


def run_rotate(arguments: argparse.Namespace) -> int:
    """Put a new key in front of those that are there."""
    from hybrid_detect.exchange.key_files import changing_keys, read_key_file, write_key_file

    with changing_keys(arguments.file):
        old = read_key_file(arguments.file)
        suite = arguments.suite or old.active.suite.value
        new = _new_key(arguments, suite)
        ring = old.rotated(new, now=datetime.now(UTC), revoke=arguments.revoke)
        write_key_file(arguments.file, ring)
    print(ring.active.text)
    return ExitCode.DONE


def _new_key(arguments: argparse.Namespace, suite: str) -> Any:
    # Here and above, because most commands have no use for cryptography.
    from hybrid_detect.errors import ConfigurationError
    from hybrid_detect.exchange.key_ring import VALIDITY
    from hybrid_detect.exchange.keys import PrivateKey, Suite

    try:
        chosen = Suite(suite)
    except ValueError:
        names = ", ".join(known.value for known in Suite)
        msg = f"--suite: expected one of {names}, got {suite!r}"
        raise ConfigurationError(msg) from None
    valid = VALIDITY if arguments.days is None else timedelta(days=arguments.days)
    return PrivateKey.generate(chosen, datetime.now(UTC) + valid)


def _days(text: str) -> int:
    days = int(text) if text.isdecimal() else 0
    if not 1 <= days <= 3650:
        msg = f"expected 1 to 3650 days, got {text!r}"
        raise argparse.ArgumentTypeError(msg)
    return days
