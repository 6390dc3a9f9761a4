"""What importing costs: time and private memory, as ratios to importing numpy.

python benchmarks/bench_import.py [ROUNDS]
"""

import json
import statistics
import subprocess
import sys

ROUNDS = 7

STATEMENTS = {
    "numpy": "import numpy",
    "hybrid_detect": "import hybrid_detect",
    "service": "from hybrid_detect import HybridDetectionService",
    "cloud": "from hybrid_detect import CloudDetectionService",
    "httpx + numpy + Pillow": "import httpx, numpy, PIL.Image",
    "mediapipe": "import mediapipe",
}

PROBE = """
import json, sys, time
import psutil
before = psutil.Process().memory_full_info().uss
started = time.perf_counter()
{statement}
took = time.perf_counter() - started
after = psutil.Process().memory_full_info().uss
print(json.dumps([took, after - before]))
"""


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    samples: dict[str, list[tuple[float, float]]] = {name: [] for name in STATEMENTS}
    for _ in range(rounds):
        for name, statement in STATEMENTS.items():
            run = subprocess.run(
                [sys.executable, "-c", PROBE.format(statement=statement)],
                capture_output=True,
                text=True,
                check=True,
            )
            samples[name].append(tuple(json.loads(run.stdout)))
    time_s = {name: statistics.median(s[0] for s in seen) for name, seen in samples.items()}
    uss = {name: statistics.median(s[1] for s in seen) for name, seen in samples.items()}
    print(f"{'import':24} {'ms':>7} {'x numpy':>8} {'MiB':>7} {'x numpy':>8}")
    for name in STATEMENTS:
        print(
            f"{name:24} {time_s[name] * 1000:7.1f} {time_s[name] / time_s['numpy']:8.2f} "
            f"{uss[name] / 2**20:7.1f} {uss[name] / uss['numpy']:8.2f}"
        )


if __name__ == "__main__":
    main()
