"""A Raspberry Pi's camera without a screen: the device first, a server as help, a line a frame.

python examples/raspberry_pi.py CAMERA [FRAMES]

CAMERA is "auto" (picamera2 where it is installed, else the first camera), a camera's number, a
video, a folder of pictures or an rtsp address. examples/deploy/hybrid-detect-camera.service starts
it with the system. Every time is of the steady clock, so that a wrong one at boot does no harm.
"""

import asyncio
import importlib.util
import os
import signal
import socket
import sys
from contextlib import aclosing, suppress

from hybrid_detect import (
    ConfigurationError,
    HybridDetectError,
    HybridDetectionService,
    MissingExtraError,
    ServiceConfig,
    SourceError,
)

CANNOT_WORK = 78
"""EX_CONFIG: the unit's RestartPreventExitStatus, because starting again would not help."""


def tell_systemd(state: str) -> None:
    """Send `state` to systemd, if that has started this: sd_notify(3) without its library."""
    if address := os.environ.get("NOTIFY_SOCKET"):
        if address.startswith("@"):
            address = "\0" + address[1:]
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.sendto(state.encode(), address)


async def watch(camera: str, frames: int) -> None:
    config = ServiceConfig.from_env(mode="prefer_on_device", max_side_px=640)
    async with HybridDetectionService(config=config) as service:
        tell_systemd("READY=1\nSTATUS=the camera is being opened")
        try:
            await look(service, camera, frames)
        except MissingExtraError:
            raise
        except ConfigurationError as error:  # not plugged in, not ready at boot: it may be soon
            raise SourceError(str(error)) from error


async def look(service: HybridDetectionService, camera: str, frames: int) -> None:
    async with aclosing(service.start_detection(camera, max_fps=5)) as results:
        async for result in results:
            print(result.to_json(), flush=True)
            status = f"STATUS={result.backend or 'no answer'}: {result.reason}"
            # Only answers feed the watchdog: a camera that is gone for good, or a hang, starts
            # it anew.
            tell_systemd(f"WATCHDOG=1\n{status}" if result.answered else status)
            frames -= 1
            if frames == 0:
                break


async def main(camera: str, frames: int) -> None:
    if camera == "auto":
        camera = "picamera2" if importlib.util.find_spec("picamera2") else "0"
    watching = asyncio.ensure_future(watch(camera, frames))
    with suppress(NotImplementedError):  # on Windows
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, watching.cancel)
    with suppress(asyncio.CancelledError):
        await watching
    tell_systemd("STOPPING=1")


if __name__ == "__main__":
    if len(sys.argv) not in {2, 3}:
        sys.exit(__doc__)
    try:
        asyncio.run(main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 0))
    except HybridDetectError as error:
        print(f"raspberry_pi: {error}", file=sys.stderr)
        sys.exit(CANNOT_WORK if isinstance(error, ConfigurationError) else 1)
