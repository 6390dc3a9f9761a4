"""The cascade beside its two halves: what asking the server only where the device is unsure gains.

A real service looks at labelled photos through the reference server on this machine and through
the device, under three policies. Printed are precision, recall and F1 at an overlap of one half,
and how many photos and bytes were sent. The photos lie beside the repository with their faces in
labels.json.

    python benchmarks/bench_escalation.py [FOLDER]
"""

import asyncio
import sys
from pathlib import Path

from photo_scores import FOLDER, Photo, Score, photos

from hybrid_detect import (
    BackendKind,
    CascadePolicy,
    FixedPolicy,
    HybridDetectionService,
    Policy,
)
from hybrid_detect.server.serving import ServerProcess

TOKEN = "a-token-for-the-benchmark"  # noqa: S105 - of a server on this machine


async def row(policy: Policy, url: str, chosen: list[Photo]) -> str:
    score, sent = Score(), 0
    async with HybridDetectionService(url, TOKEN, policy=policy) as service:
        await service.wait_ready()
        for photo in chosen:
            result = await service.process_image(photo.path, deadline_s=10)
            score.add(photo, result.faces)
            sent += result.backend is not BackendKind.DEVICE
        sent_bytes = service.status().traffic.sent_bytes
    return (
        f"{score.precision:9.3f} {score.recall:7.3f} {score.f1:6.3f} "
        f"{sent:4d} of {len(chosen)} {sent_bytes / 1e6:8.2f} MB"
    )


async def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    chosen = photos(folder)
    if not chosen:
        print(f"skipped: no labelled photos in {folder}")
        return
    policies = {
        "device alone": FixedPolicy(backend=BackendKind.DEVICE),
        "cascade": CascadePolicy(),
        "server alone": FixedPolicy(backend=BackendKind.CLOUD),
    }
    with ServerProcess(auth_token=TOKEN) as server:
        print(f"{'policy':14s} precision  recall     F1  sent")
        for name, policy in policies.items():
            print(f"{name:14s} {await row(policy, server.url, chosen)}", flush=True)


if __name__ == "__main__":
    asyncio.run(main())
