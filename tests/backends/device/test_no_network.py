"""Nothing leaves the device: watched from outside, in the app's process and in the detector's."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from hybrid_detect.backends.device.worker import DetectorWorker
from hybrid_detect.extras import is_installed
from hybrid_detect.testing.synthetic_model import synthetic_face_model

pytestmark = [
    pytest.mark.device,
    pytest.mark.skipif(sys.platform != "linux", reason="strace, namespaces and /proc are Linux's"),
]

SPEAKS = re.compile(r"sin6?_(addr|port)|sa_family=AF_(INET6?|NETLINK|PACKET|VSOCK)")
"""A call that names an address: nobody can be reached without one."""

SOCKETS = re.compile(r"socket\(AF_(?!UNIX)(.*)\)")
UNUSED_SOCKET = "INET, SOCK_DGRAM, IPPROTO_IP"
"""MediaPipe's library opens it while it is loaded, to see whether there is IPv4, and no more."""

BACKEND = """
    import asyncio, sys
    from pathlib import Path
    import numpy as np
    from hybrid_detect.backends.device import on_device as device
    from hybrid_detect.backends.device.on_device import OnDeviceDetectionService

    device.load_model = lambda *_, **__: Path(sys.argv[1]).read_bytes()

    async def main():
        picture = np.full((90, 120, 3), 255, np.uint8)
        async with OnDeviceDetectionService(
            isolation={isolation!r}, runtime={runtime!r}
        ) as service:
            for _ in range(3):
                assert len((await service.process_image(picture, deadline_s=20)).faces) == 1
            await service.unload()
            assert len((await service.process_image(picture, deadline_s=20)).faces) == 1
        print("seen", service._engine)

    asyncio.run(main())
"""

SERVICE = """
    import asyncio, sys
    from pathlib import Path
    import numpy as np
    from hybrid_detect import HybridDetectionService, PrivacyPolicy
    from hybrid_detect.backends.device import on_device as device

    device.load_model = lambda *_, **__: Path(sys.argv[1]).read_bytes()

    async def main():
        picture = np.full((90, 120, 3), 255, np.uint8)
        async with HybridDetectionService({how}) as service:
            for _ in range(3):
                assert len((await service.process_image(picture, deadline_s=20)).faces) == 1
        print("seen")

    asyncio.run(main())
"""

MEDIAPIPE_ITSELF = """
    import sys
    from pathlib import Path
    import mediapipe as mp

    options = mp.tasks.vision.FaceDetectorOptions(
        base_options=mp.tasks.BaseOptions(model_asset_buffer=Path(sys.argv[1]).read_bytes())
    )
    mp.tasks.vision.FaceDetector.create_from_options(options).close()
    print("seen")
"""

SCRIPTS = {
    "backend": BACKEND.format(isolation="process", runtime="mediapipe"),
    "backend in the app's process": BACKEND.format(isolation="none", runtime="mediapipe"),
    "backend on LiteRT": BACKEND.format(isolation="process", runtime="litert"),
    "backend on LiteRT in the app's process": BACKEND.format(isolation="none", runtime="litert"),
    "service": SERVICE.format(how="mode='on_device'"),
    "service with an endpoint, but told that no frame may leave": SERVICE.format(
        how="'http://127.0.0.1:9', privacy=PrivacyPolicy(may_leave=False)"
    ),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for module in ("mediapipe", "ai_edge_litert"):
        if not is_installed(module):
            pytest.skip(f"{module} is not installed")
    path = tmp_path_factory.mktemp("model") / "synthetic.tflite"
    path.write_bytes(synthetic_face_model())
    return path


def network_calls(script: str, model: Path, tmp_path: Path) -> list[str]:
    """What `script` and every process and thread below it asked of the network, by strace."""
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed")
    trace = tmp_path / "trace"
    command = [strace, "-f", "-qq", "-s", "3000", "-e", "trace=%network,execve", "-o", str(trace)]
    command += [sys.executable, "-c", textwrap.dedent(script), str(model)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=55)
    if "ptrace" in done.stderr or "PTRACE" in done.stderr:
        pytest.skip(f"strace may not trace here: {done.stderr.strip().splitlines()[0]}")
    assert done.stdout.startswith("seen"), done.stderr
    return trace.read_text(encoding="utf-8", errors="replace").splitlines()


@pytest.mark.parametrize("name", SCRIPTS)
def test_no_process_speaks_to_an_address(name: str, model: Path, tmp_path: Path) -> None:
    calls = network_calls(SCRIPTS[name], model, tmp_path)
    started = [call for call in calls if "execve(" in call and "worker_child" in call]
    assert bool(started) is ("in the app's process" not in name), "the worker was watched as well"
    assert not [call for call in calls if SPEAKS.search(call)]
    sockets = [found.group(1) for call in calls if (found := SOCKETS.search(call))]
    on_mediapipe = name.startswith("backend") and "LiteRT" not in name
    assert len(sockets) <= (2 if name == "backend" else 1) * on_mediapipe
    assert set(sockets) <= {UNUSED_SOCKET}


def test_watching_would_have_shown_it(model: Path, tmp_path: Path) -> None:
    """MediaPipe's own close(), which is never called, looks up a host: strace sees that."""
    calls = network_calls(MEDIAPIPE_ITSELF, model, tmp_path)
    if not any(SPEAKS.search(call) for call in calls):
        pytest.skip("this version of MediaPipe sends nothing on close()")


@pytest.mark.parametrize("name", SCRIPTS)
def test_it_works_where_there_is_no_network_at_all(name: str, model: Path) -> None:
    unshare = shutil.which("unshare")
    if unshare is None:
        pytest.skip("unshare (util-linux) is not installed")
    command = [unshare, "-rn", sys.executable, "-c", textwrap.dedent(SCRIPTS[name]), str(model)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=55)
    if done.stderr.startswith("unshare:"):
        pytest.skip(f"no network namespace to be had: {done.stderr.strip()}")
    assert done.stdout.startswith("seen"), done.stderr


@pytest.mark.parametrize("runtime", ["mediapipe", "litert"])
def test_standing_worker_has_no_socket_and_can_open_none(model: Path, runtime: str) -> None:
    worker = DetectorWorker(model.read_bytes, runtime=runtime)
    try:
        for _ in range(3):
            assert len(worker.detect(np.full((90, 120, 3), 255, np.uint8))) == 1
            folder = Path(f"/proc/{worker.pid}")
            opened = [os.readlink(fd) for fd in (folder / "fd").iterdir()]
            assert not [name for name in opened if name.startswith("socket:")]
            limits = (folder / "limits").read_text(encoding="ascii")
            files = next(line for line in limits.splitlines() if line.startswith("Max open files"))
            assert files.split()[3:5] == ["0", "0"]
    finally:
        worker.close()
