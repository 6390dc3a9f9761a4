"""``hybrid-detect detect``: find the faces in pictures."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from hybrid_detect.cli.exit_codes import ExitCode
from hybrid_detect.cli.fetching import fetch_for_device
from hybrid_detect.cli.options import add_service_options, can_write, described, service_config
from hybrid_detect.cli.pictures import DrawnFiles, NamedPicture, named_pictures
from hybrid_detect.cli.plain_text import one_line
from hybrid_detect.cli.progress import counter
from hybrid_detect.cli.table import table
from hybrid_detect.config import ServiceConfig
from hybrid_detect.environment import ENV_PREFIX
from hybrid_detect.errors import (
    AllBackendsFailedError,
    HybridDetectError,
    InvalidFrameError,
    StorageError,
)
from hybrid_detect.frames.drawing import draw
from hybrid_detect.interchange import to_coco
from hybrid_detect.service.hybrid import HybridDetectionService
from hybrid_detect.types import DetectionResult, QualityLevel

__all__ = ["add_parser"]

DEADLINE_S = 10.0
"""Seconds a picture has: ten times a camera's frame, for nothing moves on meanwhile, and the first
one waits for its detector, which a busy machine takes seconds to start."""


def add_parser(commands: Any) -> None:
    """Add the command to the parser's `commands`."""
    parser = commands.add_parser("detect", **described("find the faces in pictures"))
    parser.add_argument(
        "images",
        nargs="+",
        metavar="IMAGE",
        help="a picture file, a folder of pictures, or - for standard input",
    )
    add_service_options(parser, deadline_s=DEADLINE_S)
    parser.add_argument(
        "--device-quality",
        choices=[level.value for level in QualityLevel],
        help="how thoroughly the device looks, if the deadline leaves the time "
        f"(default: {ENV_PREFIX}DEVICE_QUALITY, else max: these are still pictures)",
    )
    parser.add_argument(
        "--json", action="store_true", help="print one line of JSON for each picture, in order"
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="PATH",
        help="write each picture with its faces marked: into a folder, or to a file such as "
        "faces.jpg; no file is overwritten",
    )
    parser.add_argument(
        "--coco",
        type=Path,
        metavar="FILE",
        help="write the faces of all pictures as a data set in COCO's format",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Look at every picture, in the order given."""
    config = service_config(arguments, deadline_s=DEADLINE_S, device_quality=QualityLevel.MAX)
    pictures = list(named_pictures(arguments.images))
    drawn = None if arguments.out is None else DrawnFiles(arguments.out)
    if drawn is not None and drawn.is_one_file and len(pictures) > 1:
        print("--out: expected a folder for several pictures, got a file", file=sys.stderr)
        return ExitCode.USAGE
    if arguments.coco is not None and not can_write(arguments.coco, option="--coco"):
        return ExitCode.USAGE
    fetch_for_device(config)
    results: list[tuple[str, DetectionResult]] = []
    code = asyncio.run(_run(pictures, config, drawn, results, as_json=arguments.json))
    if arguments.coco is not None:
        arguments.coco.write_text(json.dumps(to_coco(results)), encoding="utf-8")
    return code


async def _run(
    pictures: list[NamedPicture],
    config: ServiceConfig,
    drawn: DrawnFiles | None,
    results: list[tuple[str, DetectionResult]],
    *,
    as_json: bool,
) -> ExitCode:
    failures = 0
    # Where the results go elsewhere, the terminal would stay silent.
    is_counted = sys.stderr.isatty() and not sys.stdout.isatty() and len(pictures) > 1
    show = counter("pictures", sys.stderr)
    async with HybridDetectionService(config=config) as service:
        for number, picture in enumerate(pictures):
            if is_counted and number:
                show(number, len(pictures))
            try:
                image = picture.read()
                result = await service.process_image(image)
            except (InvalidFrameError, AllBackendsFailedError) as error:
                failures += 1
                told = one_line(f"{picture.name}: {error}")
                # Below the counter, whose line has no end yet.
                print(f"\n{told}" if is_counted and number else told, file=sys.stderr)
                if as_json:
                    print(_failure_as_json(picture, error), flush=True)
                continue
            results.append((picture.name, result))
            # At once, also into a pipe: its reader shall not wait for the last picture.
            print(_as_json(picture, result) if as_json else _as_text(picture, result), flush=True)
            if drawn is not None:
                try:
                    drawn.write(draw(image, result), picture)
                except StorageError as error:
                    failures += 1
                    print(one_line(error), file=sys.stderr)
    if is_counted:
        show(len(pictures), len(pictures))
    return ExitCode.PARTLY if failures else ExitCode.DONE


def _as_json(picture: NamedPicture, result: DetectionResult) -> str:
    return json.dumps({"image": picture.name, **result.to_dict()})


def _failure_as_json(picture: NamedPicture, error: HybridDetectError) -> str:
    """The line of a picture without an answer: ``faces`` is null, which is not "no faces"."""
    why = f"{type(error).__name__}: {error}"
    return json.dumps(
        {
            "image": picture.name,
            "status": "failed",
            "answered": False,
            "faces": None,
            "error": why,
        }
    )


def _as_text(picture: NamedPicture, result: DetectionResult) -> str:
    backend = result.backend.value if result.backend else "no backend"
    faces = f"{len(result.faces)} face{'' if len(result.faces) == 1 else 's'}"
    spent = f"{result.timings.total_s * 1000:.0f} ms"
    if not result.faces and result.min_face_px is not None:
        faces += f" of {result.min_face_px:.0f} pixels or more"
    head = one_line(f"{picture.name}: {faces}, {backend} ({spent}): {result.reason}")
    rows = [
        (
            f"  {number}",
            "-" if face.score is None else f"{face.score:.2f}",
            *(f"{side:.0f}" for side in face.box.xyxy),
        )
        for number, face in enumerate(result.faces, 1)
    ]
    header = ("  face", "score", "x_min", "y_min", "x_max", "y_max")
    return f"{head}\n{table(header, rows)}" if rows else head
