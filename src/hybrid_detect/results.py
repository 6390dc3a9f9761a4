"""Results: what became of a frame, with its faces, its times and the attempts before it.

Coordinates are pixels of the upright picture; see `geometry`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from html import escape
from typing import TYPE_CHECKING, Any, Self

from hybrid_detect.errors import (
    AllBackendsFailedError,
    BackendError,
    HybridDetectError,
    StorageError,
    error_from_text,
)
from hybrid_detect.extras import require
from hybrid_detect.geometry import KEYPOINT_NAMES, Face

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Attempt", "BackendKind", "DetectionResult", "DetectionStatus", "Timings"]


class BackendKind(StrEnum):
    """Where a frame is looked at."""

    CLOUD = "cloud"
    STREAMING = "streaming"
    DEVICE = "device"


class DetectionStatus(StrEnum):
    """What kind of answer a result is."""

    OK = "ok"
    """The backend that was chosen looked at this frame."""
    DEGRADED = "degraded"
    """A backend looked at this frame after a first attempt had failed."""
    STALE = "stale"
    """No backend looked at this frame; the faces are an earlier frame's (see `age_s`)."""
    SKIPPED = "skipped"
    """No backend looked at this frame: a newer one took its place, or the policy left it out."""
    FAILED = "failed"
    """No backend could look at this frame."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """Where a frame's time went, in seconds; `None` where the backend has no such step."""

    total_s: float = 0.0
    """From the frame being handed in to the result being handed out."""
    prepare_s: float | None = None
    """Compressing and framing the picture for a remote backend."""
    exchange_s: float | None = None
    """From handing the bytes to the network to having the whole answer."""
    server_receive_s: float | None = None
    """The server's own figure: first to last byte of the frame."""
    server_queue_s: float | None = None
    """The server's own figure: waiting for a free detector."""
    detect_s: float | None = None
    """Decoding and detecting, on the server or on the device."""

    def to_dict(self) -> dict[str, float | None]:
        """Plain values by name."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class Attempt:
    """An attempt at a frame that did not bring its answer: it failed, or was given up."""

    backend: str
    """The backend that was asked: a value of `BackendKind`."""
    error: str
    """Name of the error's class; empty if it was given up because another answered first."""
    message: str
    """What happened, in words a person can read."""
    elapsed_s: float
    """Seconds it took."""
    bytes_sent: int = 0
    """Bytes that it handed to a network, retries included."""

    @classmethod
    def from_error(cls, error: BackendError, *, bytes_sent: int = 0) -> Self:
        """The record of `error`."""
        return cls(error.backend, type(error).__name__, str(error), error.elapsed_s, bytes_sent)

    def to_dict(self) -> dict[str, str | float | int]:
        """Plain values by name."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectionResult:
    """The answer for one frame.

    "No faces" and "could not look" are different answers: check `answered` (or call
    `raise_for_status()`) before reading an empty `faces` as a picture without faces.
    """

    status: DetectionStatus
    width: int
    """Width of the upright picture in pixels."""
    height: int
    """Height of the upright picture in pixels."""
    faces: tuple[Face, ...] = ()
    """The faces found, best score first. Empty when no backend looked: see `answered`."""
    backend: BackendKind | None = None
    """The backend that answered; `None` if none did."""
    model: str = ""
    """The model that looked, as the backend names it."""
    quality: str = ""
    """How thoroughly a server of this project, or the device, looked: a `QualityLevel`, which may
    be below the one that was asked for. Empty if another server answered."""
    min_face_px: float | None = None
    """Height in pixels of the smallest face that this look could have found, so that "no faces" can
    be read for what it is; `None` if the backend does not tell."""
    target: str = ""
    """The target that answered, by its name; empty if the picture stayed on the device."""
    provider: str = ""
    """Whose protocol that target speaks, such as ``aws``."""
    region: str = ""
    """Where that target processes pictures, such as ``eu-west-1``; empty if it does not say."""
    reason: str = ""
    """Why this backend was chosen, and what came between."""
    timings: Timings = field(default_factory=Timings)
    age_s: float = 0.0
    """Seconds between the capture of the picture these faces were seen in and this result."""
    bytes_sent: int = 0
    """Bytes of the messages with this picture that were handed to a network for this frame:
    those of retries and of `attempts` included. 0 means that the picture stayed on the device."""
    attempts: tuple[Attempt, ...] = ()
    """The attempts that failed, and those that were given up after they had sent the picture."""
    frame_id: int = 0
    """Number of the frame in its process, in the order of creation."""
    source_index: int | None = None
    """Its number in its source, from 0, dropped frames counted; `None` outside a stream."""
    captured_at_s: float | None = None
    """When the frame was taken, in seconds of `time.monotonic`; `None` if it is no image."""
    source_time_s: float | None = None
    """The source's own time of the frame in seconds, as from the start of a video, if it tells."""
    dropped_before: int = 0
    """Frames of the source that were dropped between the last result's frame and this one."""
    frame: Any = field(default=None, repr=False, compare=False)
    """The `Frame` itself, with ``start_detection(..., keep_frames=True)``; else `None`."""
    session_id: str | None = None
    """The caller's own name for this run of the app."""
    trace_id: str = ""
    """The trace of this frame, 32 hexadecimal digits; empty if it was not sampled."""
    error: HybridDetectError | None = field(default=None, compare=False)
    """Why the status is ``failed`` or ``skipped``."""

    @property
    def answered(self) -> bool:
        """Whether a backend looked: at this frame, or (``stale``) at an earlier one."""
        return self.status not in {DetectionStatus.SKIPPED, DetectionStatus.FAILED}

    def raise_for_status(self) -> Self:
        """Return this result, or raise its error if no backend looked at the frame.

        Raises:
            HybridDetectError: The reason why there is no answer.
        """
        if self.answered:
            return self
        raise self.error or AllBackendsFailedError(self.reason)

    @property
    def xyxy(self) -> NDArray[np.float32]:
        """The boxes as an array of shape ``(len(faces), 4)``: x_min, y_min, x_max, y_max."""
        import numpy as np

        rows = [face.box.xyxy for face in self.faces]
        return np.array(rows, dtype=np.float32).reshape(-1, 4)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able values. ``faces`` is `None`, not an empty list, if none looked."""
        return {
            "status": self.status.value,
            "answered": self.answered,
            "backend": self.backend.value if self.backend else None,
            "model": self.model,
            "quality": self.quality,
            "min_face_px": self.min_face_px,
            "target": self.target,
            "provider": self.provider,
            "region": self.region,
            "reason": self.reason,
            "width": self.width,
            "height": self.height,
            "faces": [self._face_to_dict(face) for face in self.faces] if self.answered else None,
            "age_s": self.age_s,
            "timings": self.timings.to_dict(),
            "bytes_sent": self.bytes_sent,
            "attempts": [attempt.to_dict() for attempt in self.attempts],
            "frame_id": self.frame_id,
            "source_index": self.source_index,
            "captured_at_s": self.captured_at_s,
            "source_time_s": self.source_time_s,
            "dropped_before": self.dropped_before,
            "session_id": self.session_id,
            "trace_id": self.trace_id,
            "error": f"{type(self.error).__name__}: {self.error}" if self.error else None,
        }

    def _face_to_dict(self, face: Face) -> dict[str, Any]:
        unit = face.box.normalized(self.width, self.height)
        return {
            "box": face.box.to_dict(),
            "box_normalized": unit.to_dict(),
            "score": face.score,
            "keypoints": {p.name: [p.x, p.y] for p in face.keypoints},
            "keypoints_normalized": {
                p.name: [p.x / self.width, p.y / self.height] for p in face.keypoints
            },
        }

    def to_json(self, *, indent: int | None = None) -> str:
        """`to_dict()` as JSON text."""
        return json.dumps(self.to_dict(), indent=indent)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The result whose `to_dict` this was, less its frame; unknown fields are left out.

        Raises:
            StorageError: If `values` are not a result's.
        """
        known = {name: values[name] for name in cls.__slots__ if name in values}
        try:
            known["status"] = DetectionStatus(values["status"])
            known["backend"] = BackendKind(values["backend"]) if values["backend"] else None
            known["faces"] = tuple(map(Face.from_dict, values["faces"] or ()))
            known["timings"] = Timings(**values.get("timings", {}))
            known["attempts"] = tuple(Attempt(**each) for each in values.get("attempts", ()))
            known["error"] = error_from_text(values.get("error"))
            return cls(**known)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            msg = f"not a result: {type(error).__name__}: {error}"
            raise StorageError(msg) from None

    def _repr_html_(self) -> str | None:
        """A notebook's view: who looked, and a row for each face; `None` for the picture instead.

        Where there is both, Jupyter shows the page, and the picture never.
        """
        if self.frame is not None:
            return None
        cells = [
            ("" if f.score is None else f"{f.score:.2f}", *(f"{v:.0f}" for v in f.box.xyxy))
            for f in self.faces
        ]
        head = ("score", "x_min", "y_min", "x_max", "y_max")
        rows = "".join(f"<tr><td>{'</td><td>'.join(row)}</td></tr>" for row in cells)
        who = f"{self.status}, {' '.join(filter(None, (self.backend or 'no backend', self.model)))}"
        if self.answered:
            count = len(self.faces)
            who += f", {count} {'face' if count == 1 else 'faces'}"
        table = f"<table><tr><th>{'</th><th>'.join(head)}</th></tr>{rows}</table>" if rows else ""
        return f"<p>{escape(who)}<br><small>{escape(self.reason)}</small></p>{table}"

    def _repr_png_(self) -> bytes | None:
        """A notebook's view of the faces in their picture, if the result keeps its frame."""
        drawn: bytes | None = None if self.frame is None else self.frame.png_with(self)
        return drawn

    def to_supervision(self) -> Any:
        """This result as a ``supervision.Detections``.

        Keypoints lie in ``data["keypoints"]`` with shape ``(n, 6, 2)``, a missing one as NaN;
        status, backend and age in ``metadata``.

        Raises:
            MissingExtraError: If supervision is not installed.
            HybridDetectError: If no backend looked at the frame: `Detections` cannot say so.
        """
        self.raise_for_status()
        sv = require("supervision", extra="supervision", purpose="to_supervision()")
        import numpy as np

        points = np.full((len(self.faces), len(KEYPOINT_NAMES), 2), np.nan, dtype=np.float32)
        for row, face in enumerate(self.faces):
            for point in face.keypoints:
                if point.name in KEYPOINT_NAMES:
                    points[row, KEYPOINT_NAMES.index(point.name)] = (point.x, point.y)
        scores = [np.nan if f.score is None else f.score for f in self.faces]
        backend = self.backend.value if self.backend else None
        return sv.Detections(
            xyxy=self.xyxy,
            confidence=np.array(scores, dtype=np.float32),
            class_id=np.zeros(len(self.faces), dtype=int),
            data={"keypoints": points},
            metadata={"status": self.status.value, "backend": backend, "age_s": self.age_s},
        )
