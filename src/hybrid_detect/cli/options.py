"""Command-line options that several commands share."""

from __future__ import annotations

import argparse
from typing import Any

from hybrid_detect.config import ENV_PREFIX, ServiceConfig
from hybrid_detect.types import DetectionMode

__all__ = ["add_service_options", "service_config"]


def add_service_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which ways to use."""
    parser.add_argument(
        "--mode",
        choices=[mode.value for mode in DetectionMode],
        help=f"which ways may be used (default: {ENV_PREFIX}MODE, else auto)",
    )
    parser.add_argument(
        "--endpoint",
        metavar="URL",
        help=f"the detection server (default: {ENV_PREFIX}ENDPOINT, else none)",
    )
    parser.add_argument(
        "--deadline", dest="deadline_s", type=float, metavar="S", help="seconds each picture has"
    )
    parser.add_argument("--model", help="the on-device model (see 'hybrid-detect models list')")
    parser.add_argument(
        "--min-confidence", type=float, metavar="SCORE", help="leave out faces below it, 0 to 1"
    )
    parser.epilog = f"The server's token is read from {ENV_PREFIX}AUTH_TOKEN."


def service_config(arguments: argparse.Namespace) -> ServiceConfig:
    """The configuration of the environment, with the command line's options on top."""
    names = ("mode", "endpoint", "deadline_s", "model", "min_confidence")
    given: dict[str, Any] = {
        name: value for name in names if (value := getattr(arguments, name)) is not None
    }
    return ServiceConfig.from_env(**given)
