"""Why a frame goes where it goes, in words a person can read."""

from __future__ import annotations

from hybrid_detect.selection.conditions import BackendConditions, LinkConditions, SceneConditions
from hybrid_detect.selection.decision_process import Choice

__all__ = ["prediction", "queue", "sight"]


def prediction(choice: Choice, link: LinkConditions) -> str:
    """The chance of being in time, and what it rests on."""
    return (
        f"{choice.on_time:.0%} in time at {link.bits_per_s / 1e6:.1f} Mbit/s, "
        f"round trip {link.rtt_s * 1000:.0f} ms"
    )


def sight(scene: SceneConditions) -> str:
    """Which share of the faces the device sees, and how that is known."""
    share = f"{scene.device_share:.2f}"
    if scene.is_doubtful:
        return f"the scene has changed: perhaps {share} of the faces seen on the device"
    if scene.faces is None:
        return f"the server has not looked: perhaps {share} of the faces seen on the device"
    if scene.faces == 0:
        return "no face in sight of the server"
    if scene.device_share < 0.5:
        return f"faces too small for the device: {share} of them seen there"
    return f"{share} of the faces seen on the device"


def queue(link: LinkConditions, device: BackendConditions | None) -> str:
    """What a frame would have to wait for."""
    busy = f", the device is busy for {device.busy_s * 1000:.0f} ms" if device else ""
    return f"{link.backlog_s * 1000:.0f} ms are queued on the link{busy}"
