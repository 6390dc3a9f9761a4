"""``hybrid-detect bench backends``: all backends on this machine and network, and which to use."""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from hybrid_detect.cli.backend_trials import CONTROL, Image, Trial, run_trials
from hybrid_detect.cli.exit_codes import ExitCode
from hybrid_detect.cli.fetching import fetch_for_device
from hybrid_detect.cli.options import add_service_options, at_least_one, described, service_config
from hybrid_detect.cli.pictures import named_pictures
from hybrid_detect.cli.plain_text import one_line
from hybrid_detect.cli.progress import counter
from hybrid_detect.cli.recommendation import Recommendation, recommended
from hybrid_detect.cli.table import table
from hybrid_detect.config import ServiceConfig
from hybrid_detect.errors import ConfigurationError, InvalidFrameError
from hybrid_detect.frames.frame import Frame
from hybrid_detect.testing.drawn_faces import drawn_frames
from hybrid_detect.testing.memory_report import megabytes
from hybrid_detect.types import DetectionMode

__all__ = ["add_parser"]

DEFAULT_LOOKS = 40
"""Of each backend: enough for a 95th percentile, and little money where pictures cost some."""

FEW_LOOKS = 20
"""With fewer, one look is more than 5 % of them."""

DEFAULT_S = 30.0

DRAWN_FACES = (1, 2, 4, 8, 12)
"""Faces in the pictures that are drawn when none is given: from a selfie to a group."""

HEADER = (
    *("backend", "p50", "p95", "in time", "unanswered", "faces"),
    *("KB sent", "memory", "1,000 cost", "trouble"),
)


def add_parser(actions: Any) -> None:
    """Add the command to the parser's `actions`."""
    parser = actions.add_parser(
        "backends",
        **described("compare all backends on this machine and network, and say which to use"),
    )
    parser.add_argument(
        "images",
        nargs="*",
        metavar="IMAGE",
        help="picture files or folders to look at, best from your own app (default: drawn faces)",
    )
    add_service_options(parser, with_mode=False)
    parser.add_argument(
        "--looks",
        type=at_least_one,
        default=DEFAULT_LOOKS,
        metavar="N",
        help="looks of each backend; a provider may charge for each (default: %(default)s)",
    )
    parser.add_argument(
        "--seconds",
        type=_positive,
        default=DEFAULT_S,
        metavar="S",
        help="end after so long, with the looks that were made (default: %(default)g)",
    )
    parser.add_argument("--json", action="store_true", help="print the figures as one JSON object")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Measure and tell; `ExitCode.DONE` if there is a configuration to recommend."""
    config = replace(service_config(arguments), mode=DetectionMode.AUTO)
    pictures = _pictures(arguments.images, arguments.looks)
    # First of all the device's model: with a server, a service would fetch it meanwhile.
    fetch_for_device(replace(config, mode=DetectionMode.PREFER_ON_DEVICE))
    is_terminal = sys.stderr.isatty()
    show = counter("rounds", sys.stderr)
    trials = asyncio.run(
        run_trials(config, pictures, looks=arguments.looks, seconds=arguments.seconds, show=show)
    )
    rounds = len(trials[0].took_s)
    if is_terminal and 0 < rounds < arguments.looks:
        print(file=sys.stderr)  # the counter's line has no end yet
    choice = recommended(trials, config)
    if arguments.json:
        print(json.dumps(_as_json(trials, choice, config), indent=2))
    else:
        _tell(
            trials,
            choice,
            config,
            of_pictures=min(rounds, len(pictures)),
            all_=len(pictures),
            is_drawn=not arguments.images,
        )
    return ExitCode.DONE if choice is not None else ExitCode.FAILED


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise ValueError
    return value


def _pictures(names: Sequence[str], looks: int) -> list[Callable[[], Image]]:
    """Functions that decode a picture each, so that only one is held at a time.

    Raises:
        ConfigurationError: If none of the pictures can be looked at.
    """
    if not names:
        return [partial(_same, next(drawn_frames(1, faces=faces)).image) for faces in DRAWN_FACES]
    found: list[Callable[[], Image]] = []
    for picture in named_pictures(names):
        if len(found) == looks:
            break  # the turn of more of them would never come
        decode = partial(_decoded, picture.read())
        try:
            decode()
        except InvalidFrameError as error:
            print(one_line(f"{picture.name} is left out: {error}"), file=sys.stderr)
        else:
            found.append(decode)
    if not found:
        msg = "there is no picture to look at"
        raise ConfigurationError(msg)
    return found


def _decoded(source: bytes | Path) -> Image:
    return Frame.of(source).rgb()


def _same(image: Image) -> Image:
    return image


# -- telling -------------------------------------------------------------------------------------


def _tell(
    trials: Sequence[Trial],
    choice: Recommendation | None,
    config: ServiceConfig,
    *,
    of_pictures: int,
    all_: int,
    is_drawn: bool,
) -> None:
    print(table(HEADER, [_row(trial, config) for trial in trials]))
    if of_pictures:
        print(
            f"\n{len(trials[0].took_s)} looks each, in turns, at {of_pictures} of {all_} pictures; "
            f"in time: within {config.deadline_s:g} s. The control answers at once: what the "
            "library and this machine take by themselves. Memory: what opening it and its first "
            "look added here."
        )
    if 0 < len(trials[0].took_s) < FEW_LOOKS:
        print(f"Of fewer than {FEW_LOOKS} looks p95 is the slowest: more --seconds tell more.")
    if of_pictures and is_drawn:
        print(f"{sum(DRAWN_FACES[:of_pictures])} faces are drawn in them.")
    if choice is None:
        print("\nNo backend can be used. 'hybrid-detect doctor' says more.", file=sys.stderr)
        return
    print(f"\nRecommended, because {one_line(choice.reason)}:\n\n  {choice.python}")
    print("\nor in the environment:\n")
    for name, value in choice.environment.items():
        print(f"  {name}={value}")


def _row(trial: Trial, config: ServiceConfig) -> tuple[object, ...]:
    if trial.unusable:
        return (trial.name, *"-" * 8, trial.unusable)
    if not trial.took_s:
        return (trial.name, *"-" * 8, "")
    is_control = trial.name == CONTROL
    return (
        trial.name,
        _milliseconds(trial.quantile_s(0.5)),
        _milliseconds(trial.quantile_s(0.95)),
        f"{trial.share_within(config.deadline_s):.0%}",
        len(trial.took_s) - trial.answered,
        "-" if is_control else trial.faces,
        f"{trial.bytes_per_look / 1000:.1f}",
        megabytes(trial.memory_bytes),
        trial.cost_of_1000 or "0",
        trial.error,
    )


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms" if math.isfinite(seconds) else "no answer"


def _as_json(
    trials: Sequence[Trial], choice: Recommendation | None, config: ServiceConfig
) -> dict[str, Any]:
    return {
        "deadline_s": config.deadline_s,
        "backends": [_trial_as_json(trial, config) for trial in trials],
        "recommended": None
        if choice is None
        else {
            "settings": dict(choice.settings),
            "reason": choice.reason,
            "python": choice.python,
            "environment": choice.environment,
        },
    }


def _trial_as_json(trial: Trial, config: ServiceConfig) -> dict[str, Any]:
    """What is not known, such as the latency of a backend that cannot be used, is null."""

    def known(value: float) -> float | None:
        return round(value, 6) if trial.took_s and math.isfinite(value) else None

    return {
        "backend": trial.name,
        "usable": not trial.unusable,
        "unusable_reason": trial.unusable,
        "looks": len(trial.took_s),
        "answered": trial.answered,
        "p50_s": known(trial.quantile_s(0.5)),
        "p95_s": known(trial.quantile_s(0.95)),
        "in_time": known(trial.share_within(config.deadline_s)),
        "faces": None if trial.name == CONTROL or not trial.took_s else trial.faces,
        "bytes_per_look": known(trial.bytes_per_look),
        "memory_bytes": None if trial.unusable else trial.memory_bytes,
        "cost_per_1000": trial.cost_of_1000,
        "last_error": trial.error,
    }
