"""``hybrid-detect models``: list, fetch and verify the face models."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from hybrid_detect.backends.device.models import MODELS, fetch_model, find_model, verify_model
from hybrid_detect.cli.exit_codes import ExitCode
from hybrid_detect.cli.options import described
from hybrid_detect.cli.progress import progress_line
from hybrid_detect.cli.table import table
from hybrid_detect.errors import ModelError, ModelIntegrityError

__all__ = ["add_parser", "where"]


def add_parser(commands: Any) -> None:
    """Add the command to the parser's `commands`."""
    parser = commands.add_parser("models", **described("list, fetch and verify the face models"))
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    for name, run, text in (
        ("list", run_list, "show the models and where they are"),
        ("pull", run_pull, "fetch models that are not here yet"),
        ("verify", run_verify, "check the size and SHA-256 of the models that are here"),
    ):
        action = actions.add_parser(name, **described(text))
        if name != "list":
            action.add_argument(
                "names", nargs="*", metavar="MODEL", help="a model's name (default: all)"
            )
        action.set_defaults(run=run)


def run_list(_: argparse.Namespace) -> int:
    """Print the registry."""
    rows = (
        (
            name,
            spec.size_bytes,
            f"{spec.licence} ({spec.licence_from})",
            where(name, missing="-"),
            spec.description,
        )
        for name, spec in MODELS.items()
    )
    print(table(("model", "bytes", "licence", "where", "what it is"), rows))
    return ExitCode.DONE


def run_pull(arguments: argparse.Namespace) -> int:
    """Fetch what is missing."""
    for name in _names(arguments):
        with progress_line() as progress:
            path = find_model(name) or fetch_model(name, progress=progress)
        print(f"{name}: {path}")
    return ExitCode.DONE


def run_verify(arguments: argparse.Namespace) -> int:
    """Check every file, and change none."""
    failures = 0
    for name in _names(arguments):
        path = None
        try:
            path = verify_model(name)
            found = f"{path} ok" if path else "not here (run: hybrid-detect models pull)"
        except ModelIntegrityError as error:
            found = f"damaged: {error}"
        except ModelError as error:
            found = str(error)
        failures += path is None
        print(f"{name}: {found}")
    return ExitCode.FAILED if failures else ExitCode.DONE


def where(name: str, *, path: Path | None = None, missing: str) -> str:
    """The verified file of a model as text, else what is wrong with it, else `missing`."""
    try:
        return str(verify_model(name, path=path) or missing)
    except ModelError as error:
        return str(error)


def _names(arguments: argparse.Namespace) -> list[str]:
    unknown = [name for name in arguments.names if name not in MODELS]
    if unknown:
        print(f"MODEL: expected one of {', '.join(MODELS)}, got {unknown[0]!r}", file=sys.stderr)
        raise SystemExit(2)
    return arguments.names or list(MODELS)
