"""Shared fixtures."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from hybrid_detect.backends.device.models import load_model
from hybrid_detect.errors import ModelError
from hybrid_detect.extras import is_installed

from .small_disk import SmallDisk
from .virtual_time import library_reads

if TYPE_CHECKING:
    from hybrid_detect.server.serving import ServerProcess

SERVER_TOKEN = "test-token"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests marked `hostile`, which take minutes, unless ``-m`` names the marker."""
    if "hostile" in config.getoption("markexpr"):
        return
    left_out = [item for item in items if item.get_closest_marker("hostile")]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if not item.get_closest_marker("hostile")]


@pytest.fixture
def anyio_backend() -> str:
    """The library is written for asyncio."""
    return "asyncio"


@pytest.fixture
async def virtual_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library reads the clock of the running loop; see `tests/virtual_time.py`."""
    library_reads(asyncio.get_running_loop().time, monkeypatch)


@pytest.fixture(scope="session")
def astronaut() -> np.ndarray:
    """A photo of 512 x 512 with one face, at (177, 82) to (272, 177); RGB, read-only."""
    picture = np.ascontiguousarray(pytest.importorskip("skimage.data").astronaut())
    picture.setflags(write=False)
    return picture


@pytest.fixture(scope="session")
def server() -> Iterator[ServerProcess]:
    """The reference server, once for the whole run; its token is ``test-token``."""
    for module in ("mediapipe", "starlette", "httptools"):
        if not is_installed(module):
            pytest.skip(f"{module} is not installed")
    try:
        load_model("full_range")
    except ModelError as error:
        pytest.skip(f"no model to be had: {error}")
    from hybrid_detect.server.serving import ServerProcess

    with ServerProcess(auth_token=SERVER_TOKEN) as process:
        yield process


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """A disk of 4 MiB to be filled."""
    disk = SmallDisk(tmp_path / "disk", 4 * 1024 * 1024)
    yield disk
    disk.close()
