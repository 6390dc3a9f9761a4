"""A UI loop that never waits: frames go to a worker thread, the newest result comes back.

python examples/ui_thread.py photo.jpg

The loop below stands for Kivy's Clock, Tk's after() or a game loop: it draws at its own pace with
whatever result is there, and says how old it is.
"""

import contextlib
import queue
import sys
import threading
import time

from hybrid_detect import AllBackendsFailedError, DetectionResult, ServiceConfig, sync


class Detector(threading.Thread):
    """Looks at the newest frame only; older ones are thrown away."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.frames: queue.Queue = queue.Queue(maxsize=1)
        self.result: DetectionResult | None = None
        self.error: Exception | None = None
        self.stopping = threading.Event()

    def offer(self, frame: object) -> None:
        """Called by the UI thread: never blocks."""
        with contextlib.suppress(queue.Full):  # busy: the next frame will be fresher anyway
            self.frames.put_nowait(frame)

    def run(self) -> None:
        try:
            with sync.HybridDetectionService(config=ServiceConfig.from_env()) as service:
                while not self.stopping.is_set():
                    with contextlib.suppress(queue.Empty):
                        self.look(service, self.frames.get(timeout=0.1))
        except Exception as error:  # the thread ends with it; the UI tells
            self.error = error

    def look(self, service: sync.HybridDetectionService, frame: object) -> None:
        try:
            self.result = service.process_image(frame)
        except AllBackendsFailedError as error:  # this frame's alone: the next may do better
            self.error = error


def main(photo: str) -> None:
    detector = Detector()
    detector.start()
    ends = time.monotonic() + 20
    ticks = 0
    while detector.result is None and detector.is_alive() and time.monotonic() < ends:
        detector.offer(photo)
        ticks += 1
        time.sleep(1 / 30)  # the UI draws here
    detector.stopping.set()
    detector.join()
    if detector.result is None:
        sys.exit(f"no result: {detector.error or 'no backend was ready in time'}")
    print(f"the UI drew {ticks} times; then: {len(detector.result.faces)} faces")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
