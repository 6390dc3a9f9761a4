"""The Tk widget, in a window on a display of its own."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from hybrid_detect.errors import ConfigurationError
from hybrid_detect.integrations.camera_feed import FeedState
from hybrid_detect.testing import FakeBackend
from hybrid_detect.types import BackendKind, BoundingBox, DetectionMode, Face

from .. import xvfb
from ..waiting import LIMIT_S, wait_until
from .cameras import SteadyCamera, is_still

tkinter = pytest.importorskip("tkinter")
pytestmark = pytest.mark.skipif(bool(xvfb.unavailable_reason()), reason=xvfb.unavailable_reason())

FACE = Face(BoundingBox(50, 100, 110, 160))


@pytest.fixture(scope="module")
def display() -> Iterator[str]:
    with xvfb.display() as name:
        yield name


class Window:
    """A Tk window whose loop a test turns."""

    def __init__(self, display: str) -> None:
        self.root = tkinter.Tk(screenName=display)
        self.errors: list[BaseException] = []
        self.root.report_callback_exception = lambda _type, error, _where: self.errors.append(error)

    def until(self, condition: Callable[[], object]) -> None:
        ends_s = time.monotonic() + LIMIT_S
        while not condition():
            assert time.monotonic() < ends_s, "still not so"
            self.root.update()
            time.sleep(0.002)
        assert not self.errors

    def view(self, camera: Any, *backends: FakeBackend, **options: Any) -> Any:
        from hybrid_detect.integrations.tk import FaceCameraView

        backends = backends or (FakeBackend("device", faces=[FACE]),)
        view = FaceCameraView(self.root, camera, max_fps=None, backends=backends, **options)
        view.pack(fill="both", expand=True)
        return view

    def close(self) -> None:
        self.root.destroy()
        assert not self.errors


@pytest.fixture
def window(display: str) -> Iterator[Window]:
    window = Window(display)
    yield window
    try:
        window.close()
    except tkinter.TclError:  # the test has closed it
        assert not window.errors
    del window
    gc.collect()  # a window without a view is to be freed in this thread


def test_a_window_without_a_size_of_its_own_keeps_the_widget_s(window: Window) -> None:
    from hybrid_detect.integrations.tk import FaceCameraControls

    camera = SteadyCamera(np.zeros((360, 640, 3), np.uint8))
    view = window.view(camera)
    FaceCameraControls(window.root, view).pack(side="bottom", fill="x")
    window.until(view.winfo_viewable)
    assert (view.winfo_width(), view.winfo_height()) == (640, 480)
    window.until(lambda: view.status.fps and view.winfo_height() == 360)  # as the camera's
    assert window.root.winfo_width() == 640  # however long the reason is


def pixel(view: Any, x: int, y: int) -> tuple[int, int, int]:
    """What Tk itself has at a place of the picture."""
    return tuple(view.tk.call(str(view.cget("image")), "get", x, y))


def test_it_shows_the_camera_in_its_colours_with_the_face(window: Window) -> None:
    view = window.view(SteadyCamera())
    window.until(lambda: view.result is not None and view.cget("image"))
    window.until(lambda: pixel(view, 100, 260)[1] > 200)  # twice as large as the camera's
    assert pixel(view, 5, 5) == (200, 30, 40)


def test_the_picture_follows_the_window_which_does_not_grow_by_itself(window: Window) -> None:
    view = window.view(SteadyCamera())
    for width, height in ((640, 500), (160, 300)):
        window.root.geometry(f"{width}x{height}")
        window.until(lambda width=width: view._photo and view._photo.width() == width)
        assert view._photo.height() == width * 3 // 4
        for _ in range(20):
            window.root.update()
        assert (view.winfo_width(), view.winfo_height()) == (width, height)


def test_controls_switch_mode_and_privacy_and_tell(window: Window) -> None:
    from hybrid_detect.integrations.tk import FaceCameraControls

    cloud, device = FakeBackend("cloud"), FakeBackend("device")
    view = window.view(
        SteadyCamera(), cloud, device, mode="prefer_cloud", endpoint="https://faces.test"
    )
    controls = FaceCameraControls(window.root, view)
    controls.pack()
    menu, stay, status = controls.winfo_children()
    window.until(lambda: status.cget("text").startswith("cloud, "))
    stay.invoke()
    window.until(lambda: status.cget("text").startswith("device, "))
    assert not view.status.may_leave
    stay.invoke()
    window.until(lambda: view.status.may_leave)
    menu["menu"].invoke(list(DetectionMode).index(DetectionMode.PREFER_ON_DEVICE))
    window.until(lambda: view.status.mode is DetectionMode.PREFER_ON_DEVICE)
    window.until(lambda: view.status.backend is BackendKind.DEVICE)


@pytest.mark.parametrize("what", ["the widget", "the window"])
def test_hidden_it_lets_the_camera_go(what: str, window: Window) -> None:
    camera = SteadyCamera()
    view = window.view(camera)
    window.until(lambda: view.result is not None)
    view.pack_forget() if what == "the widget" else window.root.withdraw()
    window.until(lambda: view.status.state is FeedState.PAUSED)
    wait_until(lambda: is_still(camera))
    view.pack() if what == "the widget" else window.root.deiconify()
    window.until(lambda: view.status.state is FeedState.RUNNING)


def test_never_shown_it_reads_no_camera_and_paused_by_the_app_it_stays_so(window: Window) -> None:
    camera = SteadyCamera()
    window.root.withdraw()
    window.until(lambda: not window.root.winfo_viewable())  # the server may take its time
    window.root.update()
    view = window.view(camera)
    for _ in range(50):
        window.root.update()
    assert camera.reads == 0
    window.root.deiconify()
    window.until(lambda: view.status.state is FeedState.RUNNING)
    view.pause()
    window.until(lambda: view.status.state is FeedState.PAUSED)
    window.root.withdraw()
    window.root.deiconify()
    for _ in range(50):
        window.root.update()
    assert view.status.state is FeedState.PAUSED
    view.resume()
    window.until(lambda: view.status.state is FeedState.RUNNING)


def test_a_lost_camera_is_shown(window: Window) -> None:
    camera = SteadyCamera()
    view = window.view(camera)
    window.until(lambda: view.result is not None and not view.cget("text"))
    camera.is_there = False
    window.until(lambda: "camera" in view.cget("text"))
    camera.is_there = True


def test_closing_the_window_ends_it(window: Window) -> None:
    camera = SteadyCamera()
    view = window.view(camera)
    window.until(lambda: view.result is not None)
    window.root.destroy()
    assert view.status.state is FeedState.CLOSED
    wait_until(lambda: is_still(camera))


def test_a_window_that_refers_to_itself_may_be_freed_in_any_thread(display: str) -> None:
    window: Any = Window(display)
    view = window.view(SteadyCamera())
    window.until(lambda view=view: view.result is not None)
    window.root.itself = window
    window.close()
    del view, window
    collecting = threading.Thread(target=gc.collect)
    collecting.start()
    collecting.join()  # Tcl would end the process


def test_what_is_refused_leaves_no_widget(window: Window) -> None:
    from hybrid_detect.integrations.tk import FaceCameraView

    with pytest.raises(ConfigurationError, match="no endpoint is configured"):
        FaceCameraView(window.root, SteadyCamera(), mode="cloud")
    assert not window.root.winfo_children()


def test_an_option_that_tk_refuses_leaves_nothing_running(window: Window) -> None:
    from hybrid_detect.integrations.tk import FaceCameraView

    device = FakeBackend("device")
    with pytest.raises(tkinter.TclError, match="nonsense"):
        FaceCameraView(window.root, SteadyCamera(), backends=[device], options={"nonsense": 1})
    wait_until(lambda: device._closed)


def test_a_listener_that_fails_is_reported_and_keeps_nothing_from_the_others(
    window: Window,
) -> None:
    view = window.view(SteadyCamera())
    told: list[Any] = []
    view.on_status(lambda _status: 1 / 0)
    view.on_status(told.append)
    with pytest.raises(AssertionError):
        window.until(lambda: told and window.errors)
    assert told
    assert {type(error) for error in window.errors} == {ZeroDivisionError}
    window.errors.clear()
    view.destroy()


def test_controls_show_what_holds_whoever_has_switched_it(
    window: Window, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hybrid_detect.integrations.tk import FaceCameraControls

    view = window.view(SteadyCamera())
    controls = FaceCameraControls(window.root, view)
    view.set_mode("on_device")
    view.set_privacy("local_only")
    window.until(lambda: controls._mode.get() == "on_device")
    window.until(lambda: controls._privacy.get() == "local_only")

    async def refuse(_mode: object) -> None:
        raise ConfigurationError("no such backend here")

    monkeypatch.setattr(view._feed._service, "set_mode", refuse)
    controls.winfo_children()[0]["menu"].invoke(list(DetectionMode).index(DetectionMode.CLOUD))
    assert controls._mode.get() == "cloud"
    window.until(lambda: controls._mode.get() == "on_device")
    assert view.status.trouble == "no such backend here"


def test_arrays_of_the_app_have_the_channels_that_it_names(window: Window) -> None:
    bgr = np.full((240, 320, 3), (40, 30, 200), np.uint8)
    view = window.view(SteadyCamera(bgr), pixel_format="bgr")
    window.until(lambda: view.result is not None and pixel(view, 5, 5) == (200, 30, 40))


def test_pixels_reach_tk_in_one_handing_over(window: Window) -> None:
    """The picture is made outside of the window's thread: that only pastes it."""
    view = window.view(SteadyCamera(np.zeros((240, 320, 3), np.uint8)))
    window.until(lambda: view._photo is not None)
    photo = view._photo
    window.until(lambda: view.status.fps > 0)
    assert view._photo is photo
