"""Videos and streams that PyAV reads: every frame, upright, in the file's range, at its time."""

import asyncio
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hybrid_detect.errors import ConfigurationError
from hybrid_detect.frames.camera import CameraFormat, CameraImage
from hybrid_detect.frames.frame import Frame
from hybrid_detect.sources import names
from hybrid_detect.sources.opencv_source import OpenCVSource
from hybrid_detect.sources.pyav_source import PyAVSource
from hybrid_detect.sources.sources import CapturedFrame, open_source

from ..waiting import LIMIT_S
from .videos import FPS, SIZE, number_of, numbered, write_video

pytest.importorskip("av")
pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("videos") / "clip.mp4", numbered(12))


async def frames_of(source: Any, **options: Any) -> list[CapturedFrame]:
    async with asyncio.timeout(LIMIT_S), open_source(source, **options) as opened:
        return [captured async for captured in opened]


async def test_every_frame_of_a_file_is_taken_with_its_own_time(clip: Path) -> None:
    for name in (clip, str(clip)):
        frames = await frames_of(name)
        assert [number_of(Frame.of(frame.image).rgb()) for frame in frames] == list(range(12))
        assert [frame.index for frame in frames] == list(range(12))
        times = [frame.source_time_s for frame in frames]
        assert times == pytest.approx([number / FPS for number in range(12)])
        captured_at_s = [frame.captured_at_s for frame in frames]
        assert captured_at_s == sorted(captured_at_s)


async def test_frames_are_the_planes_of_the_decoder(clip: Path) -> None:
    (first, *_) = await frames_of(clip)
    image = first.image
    assert isinstance(image, CameraImage)
    assert image.format is CameraFormat.I420
    assert (image.width, image.height, image.full_range) == (*SIZE, False)


async def test_opencv_gives_the_same_frames_as_arrays(clip: Path) -> None:
    pytest.importorskip("cv2")
    frames = await frames_of(OpenCVSource(clip))
    assert [number_of(frame.image) for frame in frames] == list(range(12))
    assert {frame.pixel_format for frame in frames} == {"bgr"}
    times = [frame.source_time_s for frame in frames]
    assert times == pytest.approx([number / FPS for number in range(12)], abs=1e-3)


def quarters() -> np.ndarray:
    """A picture of 64x48 whose quarters have levels 40, 100, 160 and 220."""
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[:24, :32], picture[:24, 32:], picture[24:, :32], picture[24:, 32:] = 40, 100, 160, 220
    return picture


def levels(picture: np.ndarray) -> list[int]:
    """The levels of the four quarters."""
    height, width = picture.shape[:2]
    rows, columns = (height // 4, 3 * height // 4), (width // 4, 3 * width // 4)
    return [round((int(picture[row, column, 0]) - 40) / 60) for row in rows for column in columns]


@pytest.mark.parametrize("hflip", [False, True])
@pytest.mark.parametrize("turned", [0, 90, 180, 270])
async def test_a_clip_that_a_phone_stored_turned_is_upright(
    tmp_path: Path, turned: int, hflip: bool
) -> None:
    """FFmpeg counts counter-clockwise and mirrors after turning."""
    path = write_video(tmp_path / "phone.mp4", [quarters()] * 2, turned=turned, hflip=hflip)
    shown = np.rot90(quarters(), turned // 90)
    expected = shown[:, ::-1] if hflip else shown
    (first, *_) = await frames_of(path)
    upright = Frame.of(first.image).rgb()
    assert upright.shape == expected.shape
    assert levels(upright) == levels(expected)


@pytest.mark.parametrize("turned", [90, 180, 270])
async def test_opencv_turns_a_clip_by_itself(tmp_path: Path, turned: int) -> None:
    pytest.importorskip("cv2")
    path = write_video(tmp_path / "phone.mp4", [quarters()] * 2, turned=turned)
    (first, *_) = await frames_of(OpenCVSource(path))
    assert levels(first.image) == levels(np.rot90(quarters(), turned // 90))


@pytest.mark.parametrize(
    ("codec", "pix_fmt", "suffix", "full_range"),
    [
        ("mjpeg", "yuvj420p", "avi", True),
        ("mjpeg", "yuvj422p", "avi", True),
        ("ffv1", "yuv444p", "mkv", False),
        ("ffv1", "yuv420p10le", "mkv", False),
        ("ffv1", "bgr0", "mkv", True),
        ("ffv1", "gray", "mkv", False),
        ("rawvideo", "yuyv422", "nut", False),
        ("rawvideo", "nv12", "nut", False),
        ("rawvideo", "nv21", "nut", False),
    ],
)
async def test_every_layout_shows_the_same_picture(
    tmp_path: Path, codec: str, pix_fmt: str, suffix: str, full_range: bool
) -> None:
    path = write_video(tmp_path / f"clip.{suffix}", [quarters()] * 2, codec=codec, pix_fmt=pix_fmt)
    (first, *_) = await frames_of(path)
    assert first.image.full_range is full_range
    upright = Frame.of(first.image).rgb().astype(int)
    inner = np.s_[4:20, 4:28]  # away from the edges, where chroma mixes
    assert np.abs(upright[inner] - quarters()[inner]).max() <= 6


async def test_a_file_that_is_cut_gives_what_it_has(tmp_path: Path) -> None:
    noise = np.random.default_rng(1).integers(0, 255, (12, 48, 64, 3), np.uint8)
    whole = write_video(tmp_path / "whole.avi", list(noise), codec="mjpeg", pix_fmt="yuvj420p")
    cut = tmp_path / "cut.avi"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    assert 0 < len(await frames_of(cut)) < 12


async def test_what_is_no_video_is_refused_without_its_path(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no video", encoding="utf-8")
    with pytest.raises(ConfigurationError, match=r"^'notes.txt' cannot be opened as a video"):
        await frames_of(tmp_path / "notes.txt")


async def test_an_address_that_does_not_answer_is_told_without_its_password() -> None:
    address = "http://user:secret@127.0.0.1:1/camera"
    why = r"the http address cannot be opened as a video \(Connection refused\)"
    with pytest.raises(ConfigurationError, match=why) as caught:
        await frames_of(address)
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert "secret" not in repr(PyAVSource(address))


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no files of cameras")
@pytest.mark.parametrize("source", [PyAVSource, OpenCVSource])
def test_a_camera_that_is_not_there_is_told_by_its_name(
    source: type[PyAVSource] | type[OpenCVSource],
) -> None:
    with pytest.raises(ConfigurationError, match=r"^camera 63 .*there is no /dev/video63; 'ls "):
        source(63).open()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no files of cameras")
@pytest.mark.parametrize(("may", "why"), [(False, "the group 'video' may"), (True, "hold it")])
@pytest.mark.parametrize("source", [PyAVSource, OpenCVSource])
def test_why_a_camera_does_not_open_is_told(
    source: type[PyAVSource] | type[OpenCVSource],
    may: bool,
    why: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A driver says of it only that it failed."""
    monkeypatch.setattr(names.os.path, "exists", lambda _: True)
    monkeypatch.setattr(names.os, "access", lambda *_: may)
    with pytest.raises(ConfigurationError, match=why):
        source(63).open()


@pytest.mark.parametrize("source", [PyAVSource, OpenCVSource])
@pytest.mark.parametrize(
    "address",
    [
        "rtsp://user:secret@[camera/1",
        "rtsp://us\u2100er:secret@camera/1",
        "rtps://user:secret@camera",
        "rtsp//user:secret@camera",
        "nothing:secret@camera",
    ],
)
async def test_an_address_that_is_none_is_told_without_its_password(
    source: Any, address: str
) -> None:
    assert "secret" not in repr(source(address))
    for opening in (source(address), address):
        with pytest.raises(ConfigurationError) as caught:
            await frames_of(opening)
        assert "secret" not in str(caught.value)


@pytest.mark.parametrize("address", ["HTTP://127.0.0.1:1/", " http://127.0.0.1:1/\n"])
async def test_an_address_may_be_written_in_capitals_and_with_blanks(
    monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    asked: list[str] = []

    def refuse(name: str, **_options: Any) -> None:
        asked.append(name)
        raise OSError

    monkeypatch.setattr(pytest.importorskip("av"), "open", refuse)
    with pytest.raises(ConfigurationError, match="the http address"):
        await frames_of(PyAVSource(address))
    assert asked == ["http://127.0.0.1:1/"]


async def test_what_an_input_device_opens_need_be_no_file() -> None:
    av = pytest.importorskip("av")
    if "lavfi" not in av.formats_available:
        pytest.skip("this FFmpeg has no lavfi")
    source = PyAVSource("testsrc=size=64x48:rate=25:duration=0.2", format="lavfi")
    assert len(await frames_of(source)) == 5


@pytest.mark.parametrize("format", ["dshow", "x11grab", "v4l2"])
async def test_a_camera_of_any_system_is_live(
    monkeypatch: pytest.MonkeyPatch, clip: Path, format: str
) -> None:
    av = pytest.importorskip("av")
    opened = av.open

    def open_the_clip(_name: str, **_options: Any) -> Any:
        return opened(str(clip))

    monkeypatch.setattr(av, "open", open_the_clip)
    reader = PyAVSource("video=Integrated Camera", format=format).open()
    assert reader.is_live
    reader.close()


async def test_a_file_may_be_thinned_as_if_it_were_live(clip: Path) -> None:
    async with asyncio.timeout(LIMIT_S), open_source(clip, intent="freshest") as opened:
        assert opened.drops
        assert not opened.is_live
        given = [captured async for captured in opened]
        assert given[-1].index == 11
        assert len(given) + opened.dropped == 12
        assert sum(captured.dropped_before for captured in given) == opened.dropped
