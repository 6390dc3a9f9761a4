"""What a policy may see when it decides: frozen values that probes and estimators write.

A client can know all of it at the moment of deciding: it holds nothing of the future, and nothing
of queues inside the network.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import StrEnum

from hybrid_detect.selection.rungs import USUAL_LADDER, PictureLadder
from hybrid_detect.types import BackendKind, Medium, PowerConditions

__all__ = [
    "BackendConditions",
    "Conditions",
    "LinkConditions",
    "NetworkClass",
    "SceneConditions",
]


class NetworkClass(StrEnum):
    """The network's class."""

    UNKNOWN = "unknown"
    """Nothing has been measured yet."""
    OFFLINE = "offline"
    """Nothing comes back."""
    SLOW = "slow"
    """A compressed frame is late, or arrives only as a small picture."""
    MODERATE = "moderate"
    """A frame arrives in time with some of its quality given up."""
    GOOD = "good"
    """A frame arrives in time at full quality."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkConditions:
    """What is believed about the path to the server."""

    bits_per_s: float
    """Median of what the uplink is believed to carry, in bits per second."""
    spread: float
    """Standard deviation of the natural logarithm of `bits_per_s`; 1.0 is close to not knowing."""
    rtt_s: float
    """Round trip of a message that weighs nothing, in seconds, own queue excluded."""
    rtt_deviation_s: float
    """Mean deviation of `rtt_s`, in seconds."""
    server_s: float
    """Seconds the server takes for a frame once it has it."""
    backlog_s: float = 0.0
    """Seconds until what was sent earlier is believed to have left."""
    in_flight: int = 0
    """Frames sent and not answered."""
    idle_s: float = math.inf
    """Seconds since a frame was last sent."""
    probe_due: bool = False
    """Whether a probe is allowed now: none is in flight and the pause since the last is over."""
    silent_s: float = 0.0
    """Seconds for which something has been asked and nothing has come back."""
    network: NetworkClass = NetworkClass.UNKNOWN
    medium: Medium = Medium.UNKNOWN
    """What carries its first hop, as the system or the app tells."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendConditions:
    """What is known about one backend at the moment of deciding."""

    kind: BackendKind
    usable: bool
    """Whether a frame may be given to it now."""
    unavailable_reason: str = ""
    """If not usable: why, in words a person can read."""
    latency_s: float | None = None
    """Predicted seconds for one frame; `None` when there is no recent measurement."""
    busy_s: float = 0.0
    """Seconds until it can begin with a frame."""
    accuracy: float = 1.0
    """What an answer of it is worth, full quality supposed: 1.0 is the best backend's. The
    device's counts while there is no `Conditions.scene`."""
    link: LinkConditions | None = None
    """The path to its host; `None` for the device, and where `Conditions.link` is the only one."""
    ladder: PictureLadder = USUAL_LADDER
    """The pictures that are worth sending there."""
    cost: float = 0.0
    """What a frame costs there besides bytes (energy, money), in answers: 0.03 means that
    33 frames cost as much as one perfect answer is worth."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneConditions:
    """What is believed about the faces in front of the camera."""

    device_share: float
    """Share of the faces that the server finds that the device finds as well, 0 to 1."""
    faces: int | None = None
    """Faces in the server's last answer; `None` before the first."""
    is_doubtful: bool = False
    """Whether the device has seen that the scene is another one than the server saw."""
    server_look_due: bool = False
    """Whether the server ought to look, because the device may not see what has changed."""
    device_look_due: bool = False
    """Whether the device ought to look, because it may see all that the server sees."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """Everything a policy may see."""

    now_s: float
    """Monotonic time in seconds."""
    backends: tuple[BackendConditions, ...]
    deadline_s: float
    """Seconds this frame has; a later answer is worth nothing."""
    link: LinkConditions | None = None
    """The path to the first remote backend that is usable, or to the first; `None` without one.
    Backends on other hosts have links of their own: see `link_to`."""
    interval_s: float = math.inf
    """Seconds until the next frame of the same stream; infinite for a lone picture."""
    must_answer: bool = True
    """Whether the frame may not be left out."""
    age_s: float = 0.0
    """Seconds since the frame was captured."""
    frame_bytes: float | None = None
    """What this frame is believed to weigh at full size and quality 80, before any budget;
    `None` if nothing is known of its like."""
    frame_side_px: int | None = None
    """Its longer side; `None` if unknown."""
    previous: BackendKind | None = None
    """The backend that was chosen for the last frame that was not left out, probes aside."""
    metered: bool = False
    """Whether bytes on this network cost the user money."""
    spent: float = 0.0
    """Share of the tightest budget that is used up; 1.0 is all of it. Backends that there is no
    money for are not usable: a policy need not know this, but may spend less towards the end."""
    power: PowerConditions = field(default_factory=PowerConditions)
    scene: SceneConditions | None = None
    """The faces that are to be expected; `None` if nothing can be said of them: the device's
    answers are then worth its `BackendConditions.accuracy`."""

    def backend(self, kind: BackendKind) -> BackendConditions | None:
        """The conditions of `kind`; `None` if the service does not have it."""
        return next((backend for backend in self.backends if backend.kind is kind), None)

    def link_to(self, kind: BackendKind | None) -> LinkConditions | None:
        """The path to the host of `kind`: its own, or the one that all remote backends share."""
        backend = None if kind is None else self.backend(kind)
        return self.link if backend is None or backend.link is None else backend.link
