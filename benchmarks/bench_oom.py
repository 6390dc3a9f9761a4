"""Whether a leaking detector can take the app down when memory is short.

An app (the service in AUTO mode with the device as its only way) runs in a memory cgroup of
300 MB while its detector's process is made to leak 20 MiB a picture, its own limits switched
off, so that the kernel's OOM killer has to choose. The app survives a round if it ends by itself,
having had an answer after the last death. Making a cgroup takes root; without it the detector's
heap limit (RLIMIT_DATA) stands in, which is printed.

    python benchmarks/bench_oom.py [--rounds N] [--frames N]
"""

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LIMIT_BYTES = 300 * 10**6
DEATHS = 3
LEAK = """
import sys
from importlib.machinery import PathFinder

class Leaky:
    def find_spec(self, name, path=None, target=None):
        if name != "hybrid_detect.backends.device.face_detector":
            return None
        spec = PathFinder.find_spec(name, path, target)
        run = spec.loader.exec_module
        def exec_module(module):
            run(module)
            detect, kept = module.MediaPipeFaceDetector.detect, []
            def leak(self, image):
                kept.append(b"x" * (20 * 2**20))
                return detect(self, image)
            module.MediaPipeFaceDetector.detect = leak
        spec.loader.exec_module = exec_module
        return spec

sys.meta_path.insert(0, Leaky())
"""
"""For ``sitecustomize``: the app's own process does not call what it changes."""


async def app(*, leaking: bool, capped: bool, frames: int) -> None:
    """The app; prints what happened to its frames."""
    import psutil
    from skimage import data

    from hybrid_detect import BackendError, HybridDetectionService
    from hybrid_detect.backends.device.on_device import OnDeviceDetectionService
    from hybrid_detect.backends.device.worker import DetectorWorker
    from hybrid_detect.errors import AllBackendsFailedError

    image = data.astronaut()
    device = OnDeviceDetectionService() if capped else OnDeviceDetectionService(memory_cap_bytes=0)
    counts: dict[str, int] = {}
    async with HybridDetectionService(backends=[device], mode="auto") as service:
        worker = device._engine._worker.detector
        assert isinstance(worker, DetectorWorker)
        if leaking and not capped:
            worker._recycle_bytes = 2**40
        for _ in range(frames):
            try:
                result = await service.process_image(image, deadline_s=10.0)
            except (BackendError, AllBackendsFailedError) as error:
                name = type(error).__name__
                await asyncio.sleep(0.1)
            else:
                name = result.status.value
            counts[name] = counts.get(name, 0) + 1
            if leaking and worker.restarts >= DEATHS and name in ("ok", "degraded"):
                break
        own = psutil.Process().memory_full_info().uss
        print(f"deaths {worker.restarts}", f"app's USS {own / 1e6:.0f} MB", counts, flush=True)
        if leaking and worker.restarts < DEATHS:
            raise SystemExit("the detector never died")


@contextmanager
def memory_cgroup() -> Iterator[Path | None]:
    """A new memory cgroup of `LIMIT_BYTES`; `None` where none can be made."""
    group, made = None, False
    for root, limit in (
        (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"),
        (Path("/sys/fs/cgroup"), "memory.max"),
    ):
        group = root / f"hybrid-detect-bench-{os.getpid()}"
        try:
            group.mkdir()
            (group / limit).write_text(str(LIMIT_BYTES), encoding="ascii")
            made = True
            break
        except OSError as error:
            print(f"no cgroup under {root}: {error}")
            if group.is_dir():
                group.rmdir()
    try:
        yield group if made else None
    finally:
        if made and group is not None:
            remove(group)


def remove(group: Path) -> None:
    for _ in range(100):
        try:
            group.rmdir()
        except OSError:
            time.sleep(0.05)  # what ran in it is still being cleared away
        else:
            return


def oom_kills(group: Path) -> int:
    for name in ("memory.oom_control", "memory.events"):
        if (group / name).exists():
            for entry in (group / name).read_text(encoding="ascii").splitlines():
                if entry.startswith("oom_kill "):
                    return int(entry.split()[1])
    return 0


def run_app(group: Path | None, site: str, *options: str) -> tuple[int, str]:
    def enter() -> None:
        if group is not None:
            (group / "cgroup.procs").write_text(str(os.getpid()), encoding="ascii")

    done = subprocess.run(
        [sys.executable, __file__, "--app", *options],
        preexec_fn=enter,
        env={**os.environ, "PYTHONPATH": site},
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout.strip() or done.stderr.strip()[-300:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--frames", type=int, default=10_000)
    parser.add_argument("--app", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--leaking", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--capped", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.app:
        asyncio.run(
            app(leaking=arguments.leaking, capped=arguments.capped, frames=arguments.frames)
        )
        return
    with memory_cgroup() as group, tempfile.TemporaryDirectory() as leaky:
        (Path(leaky) / "sitecustomize.py").write_text(LEAK, encoding="utf-8")
        if group is None:
            print("no memory cgroup can be made here: RLIMIT_DATA of the detector stands in")
        else:
            print(f"memory cgroup of {LIMIT_BYTES // 10**6} MB")
        modes = [("with its own limits", ["--capped"])]
        if group is not None:
            modes.insert(0, ("kernel's OOM killer alone", []))
        for name, options in modes:
            survived, seen = 0, ""
            kills = oom_kills(group) if group else 0
            for _ in range(arguments.rounds):
                code, seen = run_app(group, leaky, "--leaking", *options)
                survived += code == 0
                if code:
                    print(f"  app ended with {code}: {seen}")
            print(f"leaking, {name}: app survived {survived} of {arguments.rounds}; last: {seen}")
            if group is not None:
                print(f"  kernel's kills in these rounds: {oom_kills(group) - kills}")
        code, seen = run_app(group, "", "--capped", f"--frames={arguments.frames}")
        print(f"not leaking, {arguments.frames} frames: app ended with {code}; {seen}")


if __name__ == "__main__":
    main()
