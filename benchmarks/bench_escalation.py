"""The cascade beside its two halves: what asking the server only where the device is unsure gains.

A real service looks at labelled photos through the reference server on this machine and through
the device, under three policies. Printed are precision, recall and F1 at an overlap of one half,
and how many photos and bytes were sent. The photos lie beside the repository with their faces in
labels.json.

    python benchmarks/bench_escalation.py [FOLDER]
"""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from hybrid_detect import (
    BackendKind,
    BoundingBox,
    CascadePolicy,
    DetectionResult,
    FixedPolicy,
    HybridDetectionService,
    Policy,
)
from hybrid_detect.server.serving import ServerProcess

FOLDER = Path(__file__).resolve().parents[2] / "shared" / "faces"
TOKEN = "a-token-for-the-benchmark"  # noqa: S105 - of a server on this machine


def counted(result: DetectionResult, label: dict[str, Any]) -> tuple[int, int, int]:
    """Hits, detections that count, and faces wanted."""
    wanted = [_box(*box) for box in label["boxes"]]
    ignored = [_box(*box) for box in label["ignore"]]
    total, hits, found = len(wanted), 0, 0
    for face in result.faces:  # best first
        best = max(wanted, key=face.box.iou, default=None)
        if best is not None and face.box.iou(best) >= 0.5:
            wanted.remove(best)
            hits, found = hits + 1, found + 1
        elif not any(_inside(face.box, area) >= 0.5 for area in ignored):
            found += 1
    return hits, found, total


def _box(x: float, y: float, width: float, height: float) -> BoundingBox:
    return BoundingBox(x, y, x + width, y + height)


def _inside(box: BoundingBox, area: BoundingBox) -> float:
    """Share of `box` that lies in `area`."""
    shared = box.iou(area) * (box.area + area.area) / (1 + box.iou(area))
    return shared / box.area if box.area else 0.0


async def row(policy: Policy, url: str, folder: Path, labels: dict[str, Any]) -> str:
    hits = found = wanted = sent = sent_bytes = 0
    async with HybridDetectionService(url, TOKEN, policy=policy) as service:
        await service.wait_ready()
        for name, label in labels.items():
            result = await service.process_image(folder / name, deadline_s=10)
            one = counted(result, label)
            hits, found, wanted = hits + one[0], found + one[1], wanted + one[2]
            sent += result.backend is not BackendKind.DEVICE
        sent_bytes = service.status().traffic.sent_bytes
    precision, recall = hits / max(found, 1), hits / wanted
    f1 = 2 * hits / (found + wanted)
    return (
        f"{precision:9.3f} {recall:7.3f} {f1:6.3f} "
        f"{sent:4d} of {len(labels)} {sent_bytes / 1e6:8.2f} MB"
    )


async def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    if not (folder / "labels.json").is_file():
        print(f"skipped: no labelled photos in {folder}")
        return
    labels = json.loads((folder / "labels.json").read_text())["images"]
    policies = {
        "device alone": FixedPolicy(backend=BackendKind.DEVICE),
        "cascade": CascadePolicy(),
        "server alone": FixedPolicy(backend=BackendKind.CLOUD),
    }
    with ServerProcess(auth_token=TOKEN) as server:
        print(f"{'policy':14s} precision  recall     F1  sent")
        for name, policy in policies.items():
            print(f"{name:14s} {await row(policy, server.url, folder, labels)}", flush=True)


if __name__ == "__main__":
    asyncio.run(main())
