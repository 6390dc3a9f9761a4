"""Memory that two processes see."""

from __future__ import annotations

import errno
import mmap
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_detect.backends.device import shared_slot
from hybrid_detect.backends.device.shared_slot import CAPACITY, SharedSlot

POSIX = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no file descriptors here")


def content(slot: SharedSlot, size: int) -> bytes:
    with mmap.mmap(int(slot.handle), slot.capacity) as other:
        return other[:size]


def open_fds() -> int:
    return len(os.listdir("/dev/fd"))


@POSIX
@given(data=st.binary(min_size=1, max_size=5000))
def test_other_side_reads_what_was_put(data: bytes) -> None:
    slot = SharedSlot(5000)
    slot.put(data)
    assert content(slot, len(data)) == data
    slot.close()


@POSIX
def test_pictures_of_every_layout_arrive_in_order() -> None:
    picture = np.arange(6 * 4 * 3, dtype=np.uint8).reshape(6, 4, 3)
    slot = SharedSlot(picture.nbytes)
    for view in (picture, picture[:, ::-1], picture[1:5, 1:3], np.asfortranarray(picture)):
        slot.put(view)
        assert content(slot, view.nbytes) == view.tobytes()
    slot.close()


@POSIX
def test_child_process_reads_it() -> None:
    slot = SharedSlot(100)
    slot.put(b"across")
    code = f"import mmap; print(mmap.mmap({slot.handle}, 100)[:6].decode())"
    done = subprocess.run(
        [sys.executable, "-c", code], pass_fds=slot.inherited, capture_output=True, text=True
    )
    assert done.stdout.strip() == "across", done.stderr
    slot.close()


@POSIX
def test_closing_gives_everything_back() -> None:
    before = open_fds()
    for _ in range(20):
        slot = SharedSlot()
        slot.put(b"x")
        slot.close()
        slot.close()
        assert slot.inherited == ()
    assert open_fds() == before


@POSIX
def test_failure_leaves_no_descriptor(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    before = open_fds()
    monkeypatch.setattr(shared_slot.mmap, "mmap", refuse)
    with pytest.raises(OSError, match="full"):
        SharedSlot(10)
    assert open_fds() == before


@pytest.mark.skipif(sys.platform != "linux", reason="memory files are Linux's")
def test_linux_uses_neither_dev_shm_nor_a_disk() -> None:
    slot = SharedSlot()
    assert os.readlink(f"/proc/self/fd/{slot.handle}") == "/memfd:hybrid-detect (deleted)"
    assert os.fstat(int(slot.handle)).st_blocks == 0, "only what is written to takes memory"
    assert os.fstat(int(slot.handle)).st_size == CAPACITY + 1  # the mark
    slot.close()


@POSIX
def test_other_posix_systems_get_a_file_without_a_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(sys, "platform", "darwin")
    slot = SharedSlot(10_000)
    assert not list(tmp_path.iterdir())
    assert os.fstat(int(slot.handle)).st_blocks * 512 >= 10_000, "its place on the disk is taken"
    slot.put(b"across")
    assert content(slot, 6) == b"across"
    slot.close()
