"""Videos, streams and cameras, opened with PyAV: planes as they are decoded, without RGB."""

from __future__ import annotations

import os
import struct
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from hybrid_detect.errors import ConfigurationError, SourceError
from hybrid_detect.extras import require
from hybrid_detect.frames.camera import CameraFormat, CameraImage, Plane
from hybrid_detect.frames.frame import PixelFormat
from hybrid_detect.frames.timed_image import TimedImage
from hybrid_detect.sources.names import (
    LINUX_CAMERA,
    SCHEMES,
    described,
    scheme_of,
    spelled,
    unopened,
)

__all__ = ["PyAVSource"]

TIMEOUT_S = 10.0
"""Seconds that FFmpeg may wait for an answer or for data: a network camera's pause between two
frames is far below it."""

FULL_RANGE = 2
"""Source: FFmpeg, ``AVCOL_RANGE_JPEG`` in ``pixfmt.h``."""

PLANE_FORMATS = {
    "yuv420p": CameraFormat.I420,
    "yuvj420p": CameraFormat.I420,
    "nv12": CameraFormat.NV12,
    "nv21": CameraFormat.NV21,
    "yuyv422": CameraFormat.YUYV,
}
"""FFmpeg's names of the layouts that `CameraImage` has. All others are brought to the first."""

RGB_FORMATS = ("rgb", "bgr", "gbr", "rgba", "argb", "abgr", "pal8")
"""How FFmpeg's names of layouts begin that hold red, green and blue."""

CAMERA_NAMES = {"linux": ("v4l2", LINUX_CAMERA), "darwin": ("avfoundation", "{}")}
"""FFmpeg's input device, and what it calls the camera of an index there."""

LIVE_FORMATS = frozenset({"v4l2", "video4linux2", "avfoundation", "dshow", "x11grab", "gdigrab"})
"""FFmpeg's input devices that go on by themselves: cameras and screens."""


class PyAVSource:
    """A video file, the address of a stream, or a camera by its index, read with PyAV.

    Frames are the planes that the decoder gives, set upright as the file says (phones store their
    clips turned, and PyAV leaves them so), with the file's own range and times.

    Args:
        target: The path of a video, an address, or a camera's index (Linux and macOS).
        format: FFmpeg's name of the format or input device, where it cannot be told by itself.
        options: FFmpeg's options, such as ``{"video_size": "1280x720"}`` for a camera.
        timeout_s: Seconds that opening and each read may wait for the network.
    """

    def __init__(
        self,
        target: int | str | os.PathLike[str],
        *,
        format: str | None = None,
        options: Mapping[str, str] | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self._target = target
        self._format = format
        self._options = dict(options or {})
        self._timeout_s = timeout_s

    def open(self) -> _PyAVReader:
        """Open it. May block.

        Raises:
            MissingExtraError: If PyAV is not installed.
            ConfigurationError: If it cannot be opened, or holds no video.
        """
        # What an input device is told to open need not be a file: "video=Integrated Camera".
        what = described(self._target, check=self._format is None)
        av = require("av", extra="camera", purpose="opening a video or camera by its name")
        format, name, options = self._format, self._target, dict(self._options)
        if isinstance(name, int):
            if sys.platform not in CAMERA_NAMES:
                msg = f"{what} needs OpenCV on this system: pip install 'hybrid-detect[opencv]'"
                raise ConfigurationError(msg)
            format, pattern = CAMERA_NAMES[sys.platform]
            name = pattern.format(name)
        elif scheme_of(name).startswith("rtsp"):
            # Over UDP, a lost packet smears the picture until the next key frame.
            options.setdefault("rtsp_transport", "tcp")
        is_address = scheme_of(name) in SCHEMES
        if isinstance(name, str) and is_address:
            name = spelled(name)
        timeout = (self._timeout_s, self._timeout_s) if is_address else None
        try:
            container = av.open(
                os.fspath(name), format=format, container_options=options, timeout=timeout
            )
        except (av.FFmpegError, OSError, ValueError) as error:
            # The error's whole text may hold the address, and so a password.
            why = getattr(error, "strerror", None) or type(error).__name__
            raise ConfigurationError(unopened(self._target, why)) from None
        if not container.streams.video:
            container.close()
            raise ConfigurationError(unopened(self._target, "it holds none"))
        is_device = format in LIVE_FORMATS
        return _PyAVReader(av, container, what, is_device=is_device, is_address=is_address)

    def __repr__(self) -> str:
        return f"<PyAVSource: {described(self._target, check=False)}>"


class _PyAVReader:
    """An open container."""

    pixel_format = PixelFormat.RGB

    def __init__(
        self, av: Any, container: Any, what: str, *, is_device: bool, is_address: bool
    ) -> None:
        self._av = av
        self._container = container
        self._what = what
        self._stream = stream = container.streams.video[0]
        # A clip on a web server has an end; a camera's stream has none.
        self.is_live = is_device or (is_address and container.duration is None)
        if not self.is_live:
            stream.thread_type = "AUTO"  # which holds frames back, and so is not for live ones
        # V4L2 stamps frames with the kernel's monotonic clock; x11grab with the wall's, which no
        # frame's monotonic time can be.
        self._has_our_clock = is_device and sys.platform == "linux"
        start = stream.start_time
        self._start_s = float(start * stream.time_base) if start and not is_device else 0.0
        self._turn: tuple[int, bool] | None = None
        self._frames = self._decoded()

    def read(self) -> TimedImage:
        """The next image.

        Raises:
            EOFError: At the end of a file.
            SourceError: If it broke off; a live stream never ends otherwise.
        """
        try:
            frame = next(self._frames)
        except StopIteration:
            if self.is_live:
                msg = f"{self._what} has ended"
                raise SourceError(msg) from None
            raise EOFError from None
        except (self._av.FFmpegError, OSError) as error:
            # FFmpeg's own text may hold the address, and so a password.
            msg = f"{self._what} broke off ({type(error).__name__})"
            raise SourceError(msg) from None
        time_s = None if frame.time is None else frame.time - self._start_s
        taken_s = time_s if self._has_our_clock else None
        return TimedImage(self._image(frame), taken_s, time_s)

    def _decoded(self) -> Iterator[Any]:
        for packet in self._container.demux(self._stream):
            try:
                frames = packet.decode()
            except self._av.InvalidDataError:
                continue  # a damaged packet; the next key frame mends it
            yield from frames

    def _image(self, frame: Any) -> Any:
        rotation, mirror = self._turn or _turn_of(frame)
        self._turn = rotation, mirror
        name = frame.format.name
        is_rgb = name.startswith(RGB_FORMATS)
        full_range = is_rgb or frame.color_range == FULL_RANGE or name.startswith("yuvj")
        if name not in PLANE_FORMATS:
            name = "yuvj420p" if full_range else "yuv420p"
            frame = frame.reformat(format=name)
        planes = tuple(
            Plane(bytes(plane), plane.line_size, 2 if name.startswith("nv") and index else 1)
            for index, plane in enumerate(frame.planes)
        )
        return CameraImage(
            format=PLANE_FORMATS[name],
            width=frame.width,
            height=frame.height,
            planes=planes,
            rotation=rotation,
            mirror=mirror,
            full_range=full_range,
        )

    def close(self) -> None:
        """Let go of it."""
        self._frames.close()  # type: ignore[attr-defined]
        self._container.close()


def _turn_of(frame: Any) -> tuple[int, bool]:
    """Clockwise degrees that make `frame` upright, and whether to mirror it after.

    The file's display matrix says so. Source: FFmpeg, ``libavutil/display.h``: nine numbers of 32
    bits, a row vector times the matrix is where a point is shown, and y grows downward.
    """
    for side in frame.side_data:
        if "DISPLAYMATRIX" in str(side.type) and len(bytes(side)) >= 36:
            a, b, _, c, d = struct.unpack_from("<5i", bytes(side))
            # The mirror comes last, and turns what x becomes around.
            mirror = a * d - b * c < 0
            if mirror:
                a, c = -a, -c
            if abs(a) + abs(d) >= abs(b) + abs(c):
                return (0 if a >= 0 else 180), mirror
            return (90 if b > 0 else 270), mirror
    return -int(frame.rotation) % 360 // 90 * 90, False
