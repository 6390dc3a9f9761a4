"""What several commands share: options, descriptions, and files to be written."""

from __future__ import annotations

import argparse
import math
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from hybrid_detect.config import ServiceConfig
from hybrid_detect.environment import ENV_PREFIX
from hybrid_detect.types import DetectionMode

__all__ = [
    "above_zero",
    "add_service_options",
    "at_least_one",
    "can_write",
    "described",
    "service_config",
]


def described(text: str) -> dict[str, str]:
    """`text` as a parser's line in the list of commands, and as the head of its own help."""
    return {"help": text, "description": f"{text[0].upper()}{text[1:]}."}


def at_least_one(text: str) -> int:
    """The whole number above 0 that an option's `text` is.

    Raises:
        ArgumentTypeError: If it is none.
    """
    if not text.isdecimal() or int(text) < 1:
        msg = f"expected a number of 1 or more, got {text!r}"
        raise argparse.ArgumentTypeError(msg)
    return int(text)


def above_zero(text: str) -> float:
    """The finite number above 0 that an option's `text` is.

    Raises:
        ArgumentTypeError: If it is none.
    """
    with suppress(ValueError):
        if 0 < (number := float(text)) < math.inf:
            return number
    msg = f"expected a number above 0, got {text!r}"
    raise argparse.ArgumentTypeError(msg)


def add_service_options(
    parser: argparse.ArgumentParser, *, deadline_s: float = 1.0, with_mode: bool = True
) -> None:
    """Add the options that choose and configure backends.

    Args:
        parser: The command's.
        deadline_s: What its help says that a picture has; `ServiceConfig`'s own default.
        with_mode: Whether the command lets the mode be chosen.
    """
    if with_mode:
        parser.add_argument(
            "--mode",
            choices=[mode.value for mode in DetectionMode],
            metavar="MODE",  # the choices in braces would make a line of 99 columns
            help=f"which backends may be used: {', '.join(DetectionMode)} "
            f"(default: {ENV_PREFIX}MODE, else auto)",
        )
    parser.add_argument(
        "--endpoint",
        metavar="URL",
        help=f"the detection server (default: {ENV_PREFIX}ENDPOINT, else none)",
    )
    parser.add_argument(
        "--deadline",
        dest="deadline_s",
        type=float,
        metavar="S",
        help=f"seconds each picture has (default: {ENV_PREFIX}DEADLINE_S, else {deadline_s:g})",
    )
    parser.add_argument(
        "--model",
        help="the on-device model (see 'hybrid-detect models list'; "
        f"default: {ENV_PREFIX}MODEL, else auto)",
    )
    parser.add_argument(
        "--min-confidence",
        type=float,
        metavar="SCORE",
        help="leave out faces below it, 0 to 1 "
        f"(default: {ENV_PREFIX}MIN_CONFIDENCE, else the model's own)",
    )
    parser.epilog = (
        f"The server's token is read from {ENV_PREFIX}AUTH_TOKEN, the key that pictures are "
        f"encrypted to from {ENV_PREFIX}SERVER_PUBLIC_KEY."
    )


def service_config(arguments: argparse.Namespace, **otherwise: Any) -> ServiceConfig:
    """The configuration of the environment, with the command line's options on top.

    Args:
        arguments: What the command line says.
        otherwise: Fields that neither of the two may name, and what they then are for this command.
    """
    names = ("mode", "endpoint", "deadline_s", "model", "min_confidence", *otherwise)
    given: dict[str, Any] = {
        name: value for name in names if (value := getattr(arguments, name, None)) is not None
    }
    for name, value in otherwise.items():
        if not os.environ.get(f"{ENV_PREFIX}{name.upper()}"):
            given.setdefault(name, value)
    return ServiceConfig.from_env(**given)


def can_write(file: Path, *, option: str) -> bool:
    """Whether `file` can be written, its folder made if need be; if not, says why.

    Asked before the work, rather than found out after minutes of it.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        is_new = not file.exists()
        file.open("ab").close()
        if is_new:
            file.unlink()  # else work that is broken off would leave an empty picture
    except OSError as error:
        print(f"{option}: cannot write the file: {error.strerror}", file=sys.stderr)
        return False
    return True
