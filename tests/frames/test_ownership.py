"""Copies are made of what someone else may write, and of nothing else."""

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hybrid_detect.frames.camera import CameraFormat, CameraImage, Plane
from hybrid_detect.frames.frame import Frame
from hybrid_detect.frames.ownership import owned, read_owned

ARRAY = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)


def shares(one: np.ndarray, other: np.ndarray) -> bool:
    return bool(np.shares_memory(one, other))


@pytest.mark.parametrize(
    "array", [ARRAY, ARRAY[:, ::-1], ARRAY[1:3, 1:], ARRAY.transpose(1, 0, 2)], ids=str
)
def test_an_array_is_copied_densely(array: np.ndarray) -> None:
    copy = owned(array)
    assert not shares(copy, ARRAY)
    assert copy.flags.c_contiguous
    assert (copy == array).all()


def test_what_cannot_change_is_not_copied() -> None:
    fixed = np.frombuffer(bytes(48), np.uint8).reshape(4, 4, 3)
    assert owned(fixed) is fixed
    data = b"encoded"
    assert owned(data) is data
    frame = Frame.of(ARRAY)
    assert owned(frame) is frame


def test_an_array_that_nothing_else_refers_to_is_not_copied() -> None:
    addresses = []

    def fresh() -> np.ndarray:
        array = np.zeros((4, 4, 3), np.uint8)
        addresses.append(array.__array_interface__["data"])
        return array

    assert read_owned(fresh).__array_interface__["data"] == addresses[0]
    assert not shares(read_owned(lambda: ARRAY), ARRAY)
    assert not shares(read_owned(lambda: ARRAY[:2]), ARRAY)


def test_read_only_is_no_promise_that_nothing_writes() -> None:
    view = ARRAY[:]
    view.setflags(write=False)
    assert not shares(owned(view), ARRAY)


def test_a_pillow_image_is_decoded_and_copied() -> None:
    encoded = io.BytesIO()
    Image.fromarray(ARRAY).save(encoded, "PNG")
    opened = Image.open(encoded)
    copy = owned(opened)
    opened.paste((255, 255, 255), (0, 0, 4, 4))
    assert (np.asarray(copy) == ARRAY).all()


def test_camera_planes_are_copied_where_they_can_be_written() -> None:
    luma, chroma = bytearray(16), bytes(8)
    image = CameraImage(
        format=CameraFormat.NV12, width=4, height=4, planes=(Plane(luma, 4), Plane(chroma, 4))
    )
    copy = owned(image)
    luma[:] = b"\xff" * 16
    assert bytes(copy.planes[0].data) == bytes(16)
    assert copy.planes[1].data is chroma


@pytest.mark.parametrize(
    "image",
    [np.zeros((4, 4), np.float32), np.array([object()]), None, 7, "path.jpg"],
    ids=["floats", "objects", "nothing", "number", "path"],
)
def test_what_a_frame_refuses_is_left_to_it(image: Any) -> None:
    assert owned(image) is image
