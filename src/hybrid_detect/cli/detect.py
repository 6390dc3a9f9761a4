"""``hybrid-detect detect``: find the faces in pictures."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from hybrid_detect.cli.fetching import fetch_for_device
from hybrid_detect.cli.options import add_service_options, described, service_config
from hybrid_detect.cli.table import table
from hybrid_detect.config import ServiceConfig
from hybrid_detect.errors import AllBackendsFailedError, InvalidFrameError
from hybrid_detect.frames.drawing import draw
from hybrid_detect.service.hybrid import HybridDetectionService
from hybrid_detect.types import DetectionResult

__all__ = ["add_parser"]


def add_parser(commands: Any) -> None:
    """Add the command to the parser's `commands`."""
    parser = commands.add_parser("detect", **described("find the faces in pictures"))
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="a picture file")
    add_service_options(parser)
    parser.add_argument(
        "--json", action="store_true", help="print one line of JSON for each picture"
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="write each picture with its faces marked into DIR"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Look at every picture, in the order given."""
    config = service_config(arguments)
    if arguments.out is not None:
        try:
            arguments.out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            print(f"--out: cannot make the folder: {error.strerror}", file=sys.stderr)
            return 2
    fetch_for_device(config)
    return asyncio.run(_run(arguments, config))


async def _run(arguments: argparse.Namespace, config: ServiceConfig) -> int:
    failures = 0
    written: Counter[str] = Counter()
    async with HybridDetectionService(config=config) as service:
        for name in arguments.images:
            try:
                result = await service.process_image(name)
            except (InvalidFrameError, AllBackendsFailedError) as error:
                failures += 1
                print(f"{name}: {error}", file=sys.stderr)
                continue
            print(_as_json(name, result) if arguments.json else _told(name, result))
            if arguments.out is not None:
                stem = Path(name).stem
                written[stem] += 1
                mark = "" if written[stem] == 1 else f"-{written[stem]}"  # a/x.jpg and b/x.jpg
                drawn = arguments.out / f"{stem}{mark}.faces.png"
                try:
                    draw(name, result).save(drawn)
                except OSError as error:
                    failures += 1
                    print(f"{drawn}: cannot be written: {error.strerror}", file=sys.stderr)
    return 1 if failures else 0


def _as_json(name: str, result: DetectionResult) -> str:
    # With its name, because a picture that failed has no line.
    return json.dumps({"image": name, **result.to_dict()})


def _told(name: str, result: DetectionResult) -> str:
    backend = result.backend.value if result.backend else "nobody"
    faces = f"{len(result.faces)} face{'' if len(result.faces) == 1 else 's'}"
    head = f"{name}: {faces}, {backend} ({result.timings.total_s * 1000:.0f} ms): {result.reason}"
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
