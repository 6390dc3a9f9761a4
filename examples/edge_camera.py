"""A Raspberry Pi script: the device first, the server as help; one JSON line for each frame.

python examples/edge_camera.py SOURCE [FRAMES]

SOURCE is a camera's number or a video or image file for OpenCV.
"""

import asyncio
import sys
from contextlib import aclosing

import cv2

from hybrid_detect import HybridDetectError, HybridDetectionService, ServiceConfig


async def main(source: str, frames: int) -> None:
    camera = cv2.VideoCapture(int(source) if source.isdecimal() else source)
    config = ServiceConfig.from_env(mode="prefer_on_device", max_side_px=640)
    try:
        async with (
            HybridDetectionService(config=config) as service,
            aclosing(service.start_detection(camera, max_fps=5, pixel_format="bgr")) as results,
        ):
            async for result in results:
                print(result.to_json(), flush=True)
                frames -= 1
                if frames == 0:
                    break
    finally:
        camera.release()


if __name__ == "__main__":
    if len(sys.argv) not in {2, 3}:
        sys.exit(__doc__)
    try:
        asyncio.run(main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 0))
    except HybridDetectError as error:
        sys.exit(f"edge_camera: {error}")
