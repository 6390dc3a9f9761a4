"""How many frames two backends may look at."""

from __future__ import annotations

__all__ = ["HedgeBudget"]


class HedgeBudget:
    """A token bucket: every frame puts a part of a token in, every hedge takes a whole one out.

    A policy hedges where that is expected to pay. Where it errs, over a link that fools it again
    and again, the bucket bounds what the device spends on top: half of the frames, and a burst of
    two seconds at 10 fps. Without a hedge a frame still has its fallbacks.

    Source of the scheme: gRPC's retry throttling (proposal A6), with a share that fits a second
    backend on the same device, where a hedge burdens no server.
    """

    SHARE = 0.5
    BURST = 20.0

    def __init__(self) -> None:
        self._tokens = self.BURST
        self.denied = 0
        """Hedges that were asked for and not granted."""

    def on_frame(self) -> None:
        """A frame is about to be detected on."""
        self._tokens = min(self._tokens + self.SHARE, self.BURST)

    def take(self) -> bool:
        """Whether a hedge may be started; takes its token."""
        if self._tokens < 1.0:
            self.denied += 1
            return False
        self._tokens -= 1.0
        return True
