"""The Raspberry Pi's camera, by picamera2: planes as the camera writes them, without RGB."""

from __future__ import annotations

import time
from typing import Any

from hybrid_detect.errors import ConfigurationError, SourceError
from hybrid_detect.extras import require
from hybrid_detect.frames.camera import CameraFormat, CameraImage
from hybrid_detect.frames.frame import PixelFormat
from hybrid_detect.frames.timed_image import TimedImage

__all__ = ["Picamera2Source"]

SIZE = (1280, 720)

STREAM = "main"

CHANNELS = {
    "RGB888": PixelFormat.BGR,
    "BGR888": PixelFormat.RGB,
    "XRGB8888": PixelFormat.BGRA,
    "XBGR8888": PixelFormat.RGBA,
}
"""libcamera names the channels of a pixel from the highest byte down: in memory, and so in an
array, they lie the other way round. Source: picamera2's manual, 4.2."""


class Picamera2Source:
    """A camera of a Raspberry Pi.

    Frames are ``YUV420`` planes with the camera's own row stride, as a JPEG encoder wants them,
    and carry the time at which the sensor began to expose them. picamera2 is a package of the
    system: ``apt install python3-picamera2``, and a virtual environment that was made with
    ``--system-site-packages``.

    Args:
        camera: The number of the camera; or your own ``Picamera2``, which is used as you have
            configured and started it, and stays yours.
        size: Width and height in pixels.
        rotation: Clockwise degrees that make the picture upright: 0, 90, 180 or 270.
        mirror: Whether left and right are swapped, after the rotation.
        full_range: Whether samples span 0 to 255; `None` asks the camera's colour space. Still and
            preview configurations are full, video configurations limited.
    """

    def __init__(
        self,
        camera: Any = 0,
        *,
        size: tuple[int, int] = SIZE,
        rotation: int = 0,
        mirror: bool = False,
        full_range: bool | None = None,
    ) -> None:
        self._camera = camera
        self._size = size
        self._rotation = rotation
        self._mirror = mirror
        self._full_range = full_range

    def open(self) -> _Picamera2Reader:
        """Start the camera. May block.

        Raises:
            MissingExtraError: If picamera2 is not installed.
            ConfigurationError: If there is no such camera, or it cannot be configured.
        """
        camera, is_ours = self._camera, isinstance(self._camera, int)
        if is_ours:
            camera = _started(self._camera, self._size)
        try:
            configuration = camera.camera_configuration()[STREAM]
            return _Picamera2Reader(
                camera,
                configuration,
                full_range=_is_full_range(camera) if self._full_range is None else self._full_range,
                turn={"rotation": self._rotation, "mirror": self._mirror},
                is_ours=is_ours,
            )
        except BaseException:
            if is_ours:
                camera.close()
            raise

    def __repr__(self) -> str:
        return f"<Picamera2Source: {self._camera!r}>"


class _Picamera2Reader:
    """A camera that has been started."""

    is_live = True

    def __init__(
        self,
        camera: Any,
        configuration: Any,
        *,
        full_range: bool,
        turn: dict[str, Any],
        is_ours: bool,
    ) -> None:
        self._camera = camera
        self._format = str(configuration["format"])
        self._width, self._height = configuration["size"]
        self._stride = int(configuration["stride"])
        self._full_range = full_range
        self._turn = turn
        self._is_ours = is_ours
        self.pixel_format = CHANNELS.get(self._format, PixelFormat.RGB)
        if self._format not in {"YUV420", "YVU420", *CHANNELS}:
            msg = f"picamera2: expected a format such as YUV420, got {self._format[:20]}"
            raise ConfigurationError(msg)

    def read(self) -> TimedImage:
        """The next image.

        Raises:
            SourceError: If the camera has been stopped.
        """
        try:
            request = self._camera.capture_request()
        except RuntimeError as error:
            raise SourceError(str(error)) from error
        # The camera has few buffers: this one is given back before anything else is done.
        try:
            data = request.make_buffer(STREAM)
            sensor_ns = request.get_metadata().get("SensorTimestamp")
        finally:
            request.release()
        if not isinstance(sensor_ns, int):
            return TimedImage(self._image(data))
        return TimedImage(self._image(data), _monotonic_s(sensor_ns), sensor_ns / 1e9)

    def _image(self, data: Any) -> Any:
        if self._format in CHANNELS:
            pixels = 3 if self._format in {"RGB888", "BGR888"} else 4
            rows = data[: self._stride * self._height].reshape(self._height, self._stride)
            return rows[:, : pixels * self._width].reshape(self._height, self._width, pixels)
        image = CameraImage.from_buffer(
            data,
            format="i420",
            width=self._width,
            height=self._height,
            row_stride=self._stride,
            full_range=self._full_range,
            **self._turn,
        )
        if self._format == "YVU420":
            y, v, u = image.planes
            image = CameraImage(
                format=CameraFormat.I420,
                width=self._width,
                height=self._height,
                planes=(y, u, v),
                full_range=self._full_range,
                **self._turn,
            )
        return image

    def close(self) -> None:
        """Let go of the camera, if it is ours."""
        if self._is_ours:
            self._camera.close()


def _started(number: int, size: tuple[int, int]) -> Any:
    picamera2 = require("picamera2", extra="camera", purpose="the Raspberry Pi's camera")
    try:
        camera = picamera2.Picamera2(number)
    except (IndexError, RuntimeError) as error:
        msg = f"picamera2: camera {number} cannot be opened: {error}"
        raise ConfigurationError(msg) from error
    try:
        # A preview's colour space is sYCC: full range, as a JPEG has it.
        camera.configure(
            camera.create_preview_configuration({"size": size, "format": "YUV420"}, buffer_count=4)
        )
        camera.start()
    except BaseException:
        camera.close()
        raise
    return camera


def _is_full_range(camera: Any) -> bool:
    space = camera.camera_configuration().get("colour_space")
    named = str(getattr(getattr(space, "range", None), "name", "") or space).lower()
    return "full" in named or "sycc" in named


def _monotonic_s(sensor_ns: int) -> float:
    """`sensor_ns`, which counts from the start of the system, by `time.monotonic`.

    Source: libcamera, ``SensorTimestamp``: CLOCK_BOOTTIME, which goes on while a system sleeps.
    """
    boot = getattr(time, "CLOCK_BOOTTIME", None)
    asleep_s = 0.0 if boot is None else time.clock_gettime(boot) - time.monotonic()
    return sensor_ns / 1e9 - asleep_s
