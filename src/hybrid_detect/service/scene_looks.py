"""What an answer shows of the scene: every one counts, those of probes and of late losers, too."""

from __future__ import annotations

from hybrid_detect.backends.device.model_registry import MODELS
from hybrid_detect.selection.scene import SceneEstimator
from hybrid_detect.types import BackendKind, DetectionResult

__all__ = ["look"]


def look(scene: SceneEstimator, result: DetectionResult, *, at_s: float) -> None:
    """Take the faces of `result` in.

    Args:
        scene: What has been seen in the stream.
        result: A backend's own answer to one of its frames.
        at_s: When that frame was captured, in seconds of the service's clock.
    """
    side_px = max(result.width, result.height, 1)
    heights = (face.box.height / side_px for face in result.faces)
    if result.backend is BackendKind.DEVICE:
        scene.device_looked(heights, frame=result.frame_id, at_s=at_s)
        return
    model = MODELS.get(result.model)
    scene.server = model.input().recall_by_height if model else None
    scene.server_looked(heights, frame=result.frame_id, at_s=at_s)
