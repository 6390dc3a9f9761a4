"""``hybrid-detect api-keys``: make, list and revoke the keys that the reference server accepts."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hybrid_detect.cli.exit_codes import ExitCode
from hybrid_detect.cli.options import described
from hybrid_detect.cli.table import table

if TYPE_CHECKING:
    from hybrid_detect.server.api_keys import ApiKeyFile

__all__ = ["add_parser"]


def add_parser(commands: Any) -> None:
    """Add the command to the parser's `commands`."""
    parser = commands.add_parser(
        "api-keys", **described("make, list and revoke the server's API keys")
    )
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    for name, run, text, argument in (
        ("add", run_add, "make a key and print it, once", ("name", "whose key it is")),
        ("list", run_list, "show whose keys there are, without the keys", None),
        ("revoke", run_revoke, "take a key out; a running server notices", ("id", "as listed")),
    ):
        action = actions.add_parser(name, **described(text))
        if argument is not None:
            action.add_argument(argument[0], metavar=argument[0].upper(), help=argument[1])
        action.add_argument(
            "--file",
            type=Path,
            required=True,
            metavar="FILE",
            help="the file given to 'hybrid-detect serve --api-keys'",
        )
        action.set_defaults(run=run)


def run_add(arguments: argparse.Namespace) -> int:
    """Print the new key alone on standard output, so that it can go where it must."""
    print(_file(arguments).add(arguments.name))
    print("It is shown this once: the file holds its hash alone.", file=sys.stderr)
    return ExitCode.DONE


def run_list(arguments: argparse.Namespace) -> int:
    """Print what is known of each key."""
    found = _file(arguments).read()
    rows = ((key.id, key.created, key.name) for key in found)
    print(table(("id", "created", "name"), rows))
    return ExitCode.DONE


def run_revoke(arguments: argparse.Namespace) -> int:
    """Take one out."""
    key = _file(arguments).revoke(arguments.id)
    print(f"{key.id} ({key.name}) is revoked")
    return ExitCode.DONE


def _file(arguments: argparse.Namespace) -> ApiKeyFile:
    from hybrid_detect.server.api_keys import ApiKeyFile

    return ApiKeyFile(arguments.file)
