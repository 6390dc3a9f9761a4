"""Find the faces in one photo and draw them.

python examples/photo.py photo.jpg faces.png
"""

import asyncio
import sys

from hybrid_detect import HybridDetectionService, ServiceConfig, draw


async def main(photo: str, out: str) -> None:
    async with HybridDetectionService(config=ServiceConfig.from_env()) as service:
        result = await service.process_image(photo)
    print(f"{len(result.faces)} faces by {result.backend}: {result.reason}")
    for face in result.faces:
        print(face.box, face.score)
    draw(photo, result).save(out)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    asyncio.run(main(*sys.argv[1:]))
