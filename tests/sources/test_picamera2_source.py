"""The Raspberry Pi's camera, against a stand-in that has picamera2's own calls and layouts.

Source of the stand-in: picamera2's `Picamera2` (`camera_configuration`, `capture_request`) and
`CompletedRequest` (`make_buffer`, `get_metadata`, `release`).
"""

import asyncio
import sys
import time
import types
from typing import Any, ClassVar

import numpy as np
import pytest

from hybrid_detect.errors import ConfigurationError
from hybrid_detect.frames.camera import CameraImage
from hybrid_detect.frames.frame import Frame
from hybrid_detect.sources.picamera2_source import Picamera2Source
from hybrid_detect.sources.sources import CapturedFrame, open_source

from ..waiting import LIMIT_S

pytestmark = pytest.mark.anyio

WIDTH, HEIGHT = 60, 40
STRIDE = 64
"""The camera's rows are padded to a multiple of 64 bytes."""


class Request:
    def __init__(self, camera: "Camera") -> None:
        self._camera = camera
        self.is_released = False

    def make_buffer(self, name: str) -> np.ndarray:
        assert name == "main"
        assert not self.is_released
        return self._camera.buffer.copy()

    def get_metadata(self) -> dict[str, Any]:
        assert not self.is_released
        return {"SensorTimestamp": self._camera.stamp_ns(), "ExposureTime": 9_000}

    def release(self) -> None:
        assert not self.is_released
        self.is_released = True


class Camera:
    """A `Picamera2` whose pictures are grey, of level 100 as samples go."""

    made: ClassVar["list[Camera]"] = []

    def __init__(self, number: int = 0) -> None:
        if number > 1:
            raise IndexError("list index out of range")
        self.number = number
        self.configuration: dict[str, Any] | None = None
        self.requests: list[Request] = []
        self.is_started = self.is_closed = False
        self.stamp_ns = lambda: time.clock_gettime_ns(time.CLOCK_BOOTTIME) - 30_000_000
        Camera.made.append(self)

    def create_preview_configuration(
        self, main: dict[str, Any], buffer_count: int = 4
    ) -> dict[str, Any]:
        space = types.SimpleNamespace(range=types.SimpleNamespace(name="Full"))
        return {"main": dict(main), "buffer_count": buffer_count, "colour_space": space}

    def configure(self, configuration: dict[str, Any]) -> None:
        main = configuration["main"]
        per_row = {"RGB888": 3, "BGR888": 3, "XRGB8888": 4, "XBGR8888": 4}.get(main["format"], 1)
        main["size"] = (WIDTH, HEIGHT)  # what the camera can do, not what was asked for
        main["stride"] = -(-WIDTH * per_row // 64) * 64
        self.configuration = configuration
        if per_row == 1:
            luma = np.zeros((HEIGHT, STRIDE), np.uint8)
            luma[:, :WIDTH] = 100
            chroma = np.zeros((HEIGHT, STRIDE // 2), np.uint8)
            first, second = (90, 150) if main["format"] == "YUV420" else (150, 90)
            chroma[: HEIGHT // 2, : WIDTH // 2] = first
            chroma[HEIGHT // 2 :, : WIDTH // 2] = second
            self.buffer = np.concatenate([luma.ravel(), chroma.ravel()])
        else:
            rows = np.zeros((HEIGHT, main["stride"]), np.uint8)
            pixel = {3: [10, 20, 30], 4: [10, 20, 30, 255]}[per_row]
            rows[:, : WIDTH * per_row] = pixel * WIDTH
            self.buffer = rows.ravel()

    def camera_configuration(self) -> dict[str, Any]:
        assert self.configuration is not None
        return self.configuration

    def start(self) -> None:
        self.is_started = True

    def capture_request(self) -> Request:
        if not self.is_started:
            raise RuntimeError("Camera must be started")
        self.requests.append(Request(self))
        return self.requests[-1]

    def close(self) -> None:
        self.is_closed = True


@pytest.fixture(autouse=True)
def module(monkeypatch: pytest.MonkeyPatch) -> None:
    picamera2 = types.ModuleType("picamera2")
    picamera2.Picamera2 = Camera  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "picamera2", picamera2)
    Camera.made = []


async def first_of(source: Any) -> CapturedFrame:
    async with asyncio.timeout(LIMIT_S), open_source(source, intent="every_frame") as opened:
        captured = await opened.take()
        assert captured is not None
        return captured


@pytest.mark.parametrize(("name", "number"), [("picamera2", 0), ("picamera2:1", 1)])
async def test_it_is_opened_by_its_name_and_closed(name: str, number: int) -> None:
    captured = await first_of(name)
    (camera,) = Camera.made
    assert camera.number == number
    assert camera.is_closed
    assert all(request.is_released for request in camera.requests)
    image = captured.image
    assert isinstance(image, CameraImage)
    assert (image.width, image.height, image.full_range) == (WIDTH, HEIGHT, True)
    assert [plane.row_stride for plane in image.planes] == [STRIDE, STRIDE // 2, STRIDE // 2]


async def test_its_time_is_when_the_sensor_began_to_expose() -> None:
    captured = await first_of("picamera2")
    age_s = time.monotonic() - captured.captured_at_s
    assert 0.03 <= age_s < LIMIT_S
    assert captured.source_time_s is not None
    assert captured.source_time_s <= time.clock_gettime(time.CLOCK_BOOTTIME) - 0.03


def levels(image: CameraImage) -> list[int]:
    return [int(plane[3, 3]) for plane in image.yuv()]


@pytest.mark.parametrize("format_", ["YUV420", "YVU420"])
async def test_planes_are_in_their_order(format_: str) -> None:
    camera = Camera()
    camera.configure(camera.create_preview_configuration({"format": format_}))
    camera.start()
    captured = await first_of(Picamera2Source(camera))
    assert levels(captured.image) == [100, 90, 150]
    assert not camera.is_closed, "it is the app's own"


@pytest.mark.parametrize(
    ("space", "given", "expected"),
    [
        (types.SimpleNamespace(range=types.SimpleNamespace(name="Limited")), None, False),
        (types.SimpleNamespace(range=types.SimpleNamespace(name="Full")), None, True),
        ("<libcamera.ColorSpace 'sYCC'>", None, True),
        ("<libcamera.ColorSpace 'Rec709'>", None, False),
        ("<libcamera.ColorSpace 'Rec709'>", True, True),
    ],
)
async def test_the_range_is_the_colour_space_s_or_what_is_given(
    space: Any, given: bool | None, expected: bool
) -> None:
    camera = Camera()
    camera.configure(
        camera.create_preview_configuration({"format": "YUV420"}) | {"colour_space": space}
    )
    camera.start()
    captured = await first_of(Picamera2Source(camera, full_range=given))
    assert captured.image.full_range is expected
    assert levels(captured.image)[0] == (100 if expected else round((100 - 16) * 255 / 219))


@pytest.mark.parametrize(
    ("format_", "expected"),
    [
        ("RGB888", (30, 20, 10)),
        ("BGR888", (10, 20, 30)),
        ("XRGB8888", (30, 20, 10)),
        ("XBGR8888", (10, 20, 30)),
    ],
)
async def test_pixels_lie_the_other_way_round_than_their_format_is_named(
    format_: str, expected: tuple[int, int, int]
) -> None:
    camera = Camera()
    camera.configure(camera.create_preview_configuration({"format": format_}))
    camera.start()
    captured = await first_of(Picamera2Source(camera))
    assert captured.pixel_format is not None
    rgb = Frame.of(captured.image, pixel_format=captured.pixel_format).rgb()
    assert rgb.shape == (HEIGHT, WIDTH, 3)
    assert tuple(rgb[5, 5]) == expected


async def test_it_is_set_upright() -> None:
    captured = await first_of(Picamera2Source(rotation=90))
    assert captured.image.upright_size == (HEIGHT, WIDTH)


async def test_what_cannot_be_opened_is_told() -> None:
    with pytest.raises(ConfigurationError, match="camera 5 cannot be opened"):
        await first_of("picamera2:5")
    with pytest.raises(ConfigurationError, match="picamera2:NUMBER"):
        await first_of("picamera2:front")
    camera = Camera()
    camera.configure(camera.create_preview_configuration({"format": "MJPEG"}))
    with pytest.raises(ConfigurationError, match="a format such as YUV420, got MJPEG"):
        await first_of(Picamera2Source(camera))
