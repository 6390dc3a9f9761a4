"""Shared fixtures."""

from __future__ import annotations

import gc
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from hybrid_detect.backends.device import model_choice
from hybrid_detect.backends.device.models import load_model
from hybrid_detect.errors import ModelError
from hybrid_detect.extras import is_installed

from . import fuzzing
from .small_disk import SmallDisk
from .virtual_time import VIRTUAL_TIME, library_reads, reading_takes_no_time, virtual_now_s

if TYPE_CHECKING:
    from hybrid_detect.server.serving import ServerProcess

SERVER_TOKEN = "test-token"

# The suite tries the same examples in every run, so that a failure comes with the change that made
# it; `nox -s fuzz` looks for new ones. How fast an example runs is no matter in either: a machine
# may be busy.
settings.register_profile(
    "fuzz", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.register_profile("suite", settings.get_profile("fuzz"), derandomize=True, database=None)
settings.load_profile("fuzz" if fuzzing.ASKED else "suite")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests marked `hostile` or `live`, which take minutes or other software, unless
    ``-m`` names the marker.

    Tests whose names change from process to process are refused: pytest-xdist could not share them
    out.
    """
    for item in items:
        if re.search("0x[0-9a-f]{6}", item.nodeid):
            msg = f"{item.nodeid}: an address is in the name of the test: give it an id"
            raise pytest.UsageError(msg)
    wanted = config.getoption("markexpr")
    unwanted = [marker for marker in ("hostile", "live") if marker not in wanted]
    left_out = [item for item in items if any(map(item.get_closest_marker, unwanted))]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@pytest.fixture(autouse=True)
def same_on_a_desktop(monkeypatch: pytest.MonkeyPatch) -> None:
    """``model="auto"`` stands for the same models on every machine that runs the tests."""
    monkeypatch.setattr(model_choice, "has_time_to_spare", lambda: False)


@pytest.fixture
def anyio_backend(request: pytest.FixtureRequest) -> object:
    """The library is written for asyncio; a test marked `virtual_time` waits for no time."""
    return VIRTUAL_TIME if request.node.get_closest_marker("virtual_time") else "asyncio"


@pytest.fixture(autouse=True)
def _the_library_reads_virtual_time(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    if request.node.get_closest_marker("virtual_time"):
        library_reads(virtual_now_s, monkeypatch)
        reading_takes_no_time(monkeypatch)


@pytest.fixture(scope="module")
def small_heap_to_search() -> Iterator[None]:
    """A memory budget searches the heap for garbage; leave out what a thousand tests have left."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


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

    with ServerProcess(auth_token=SERVER_TOKEN, model="full_range") as process:
        yield process


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """A disk of 4 MiB to be filled."""
    disk = SmallDisk(tmp_path / "disk", 4 * 1024 * 1024)
    yield disk
    disk.close()
