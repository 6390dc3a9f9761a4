"""A Kivy widget that shows a camera with the faces in it."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybrid_detect.errors import HybridDetectError, MissingExtraError
from hybrid_detect.integrations.camera_feed import CameraFeed, FeedState, FeedStatus
from hybrid_detect.privacy.privacy_policy import FramePrivacy
from hybrid_detect.types import DetectionMode

try:
    from kivy.app import App
    from kivy.clock import Clock
    from kivy.core.window import Window
    from kivy.graphics.texture import Texture
    from kivy.metrics import dp
    from kivy.properties import (
        AliasProperty,
        BooleanProperty,
        DictProperty,
        NumericProperty,
        ObjectProperty,
        StringProperty,
    )
    from kivy.uix.boxlayout import BoxLayout
    from kivy.uix.image import Image
    from kivy.uix.label import Label
    from kivy.uix.spinner import Spinner
    from kivy.uix.togglebutton import ToggleButton
except ModuleNotFoundError as error:
    text = f"the Kivy widget needs {error.name}: pip install 'hybrid-detect[kivy]'"
    raise MissingExtraError(text, extra="kivy") from error

__all__ = ["FaceCamera", "FaceCameraControls"]

logger = logging.getLogger("hybrid_detect")

_NO_CAMERA = FeedStatus(state=FeedState.PAUSED, reason="no camera")


class FaceCamera(Image):  # type: ignore[misc]  # Kivy has no types
    """Shows a camera and the faces in it; Kivy's thread only uploads finished pictures.

    Reading, detecting and drawing are done in threads of their own. The camera is let go while
    the widget is in no window (its screen is not shown), the window is minimised or the app is
    paused, as a phone does; all is closed when the app stops, or the widget is dropped. What it is
    configured wrongly with is told in its own place, in the log and in `status`. Everything is a
    property, for Python and for ``kv`` alike::

        FaceCamera:
            camera: 0
            mode: "prefer_on_device"
            local_only: switch.active
    """

    camera = ObjectProperty(None, allownone=True)
    """Anything that `open_source` takes, such as ``0`` for the first camera; `None` for none yet.
    Another one may be chosen at any time. Kivy's own camera does not work with OpenCV 5."""
    service = DictProperty({})
    """What `HybridDetectionService` takes, such as ``endpoint`` and ``config``. Set it before the
    camera. Each camera gets a service of its own, which closes its backends: ``backends`` is best a
    function that makes them."""
    mode = StringProperty("")
    """The mode; may be changed at any time, and is what it was if that is refused, for which
    `status_text` tells why. Empty for the one in `service`."""
    local_only = BooleanProperty(False)
    """Whether every frame stays on the device; may be changed at any time."""
    playing = BooleanProperty(True)
    """Whether the camera is read and looked at; may be changed at any time."""
    max_fps = NumericProperty(10)
    """Most frames to look at in a second; all of them are shown. Set it before the camera."""
    mirror = BooleanProperty(False)
    """Whether the picture is shown mirrored, as a selfie is. Set it before the camera."""
    pixel_format = StringProperty("rgb")
    """The channels of arrays whose source does not tell them, such as ``bgr`` for your own
    ``cv2.VideoCapture``. Set it before the camera."""
    overlay = ObjectProperty(None, allownone=True)
    """The `Overlay` that draws the boxes; `None` for one as it comes. Set it before the camera."""
    fps = NumericProperty(0.0)
    """Frames in a second that a backend has answered lately."""
    status_text = StringProperty("")
    """A line for people: who looks and why, or what is wrong."""
    result = ObjectProperty(None, allownone=True)
    """The newest `DetectionResult`."""
    norm_image_size = AliasProperty(
        lambda self: self.get_norm_image_size() if self.texture else [0, 0],
        bind=("texture", "size", "image_ratio", "fit_mode"),
        cache=True,
    )
    """The size of the picture as it is shown; without one nothing is, where Kivy's own `Image` is
    white, and a white notice on it could not be read."""
    texture: Any

    def __init__(self, **properties: Any) -> None:
        self._feed: CameraFeed[NDArray[np.uint8]] | None = None
        self._status = _NO_CAMERA
        self._told: FeedStatus | None = None
        self._is_background = self._is_closed = self._is_reading = False
        self._app: App | None = None
        self._notice = Label(halign="center", valign="middle", outline_width=2)
        self._reopen = Clock.create_trigger(self._open)  # once all of kv's properties are there
        # A small camera fills a large window, as with Tk.
        super().__init__(**{"fit_mode": "contain", **properties})
        self.bind(pos=self._notice.setter("pos"), size=self._notice.setter("size"))
        self._notice.bind(size=self._notice.setter("text_size"))
        self._notice.pos, self._notice.size = self.pos, self.size
        self.add_widget(self._notice)
        self._ticks = Clock.schedule_interval(self._tick, 0)
        Window.bind(on_minimize=self._on_hidden, on_restore=self._on_shown)

    @property
    def status(self) -> FeedStatus:
        """How it stands: state, rate, backend and why, mode and privacy."""
        return self._feed.status if self._feed is not None else self._status

    def close(self) -> None:
        """End everything for good, without waiting for it. May be called more than once."""
        self._is_closed = True
        self._reopen.cancel()
        self._ticks.cancel()
        Window.unbind(on_minimize=self._on_hidden, on_restore=self._on_shown)
        if self._app is not None:
            self._app.unbind(
                on_pause=self._on_hidden, on_resume=self._on_shown, on_stop=self._on_stop
            )
        if self._feed is not None:
            self._feed.close()
            self._tell(self.status)

    def on_camera(self, *_arguments: object) -> None:
        """Kivy's hook for the property."""
        if not self._is_closed:
            self._reopen()

    def on_mode(self, *_arguments: object) -> None:
        """Kivy's hook for the property."""
        feed = self._feed
        if feed is None or not self.mode or self.mode == self._settled_mode():
            return
        try:
            feed.set_mode(self.mode)
        except HybridDetectError as error:  # an app must not end by a word in its layout
            _log("the mode cannot be changed", error)
            self._told = None  # the next tick puts back what holds; here others are still told

    def on_local_only(self, *_arguments: object) -> None:
        """Kivy's hook for the property."""
        if self._feed is not None:
            privacy = FramePrivacy.LOCAL_ONLY if self.local_only else FramePrivacy.DEFAULT
            self._feed.set_privacy(privacy)

    def on_playing(self, *_arguments: object) -> None:
        """Kivy's hook for the property."""
        self._play_or_pause()

    def on_size(self, *_arguments: object) -> None:
        """Kivy's hook for the property."""
        if self._feed is not None:
            self._feed.resize(round(self.width), round(self.height))

    def _open(self, *_arguments: object) -> None:
        if self._feed is not None:
            self._feed.close()
            self._feed = None
        self._status, self._is_reading = _NO_CAMERA, False
        self.texture = None  # it is of the camera before
        if self.camera is None:
            return
        options = dict(self.service)
        if self.mode:
            options["mode"] = self.mode
        try:
            self._feed = CameraFeed(
                self.camera,
                np.ascontiguousarray,
                max_fps=self.max_fps or None,
                pixel_format=self.pixel_format,
                mirror=self.mirror,
                overlay=self.overlay,
                is_paused=True,  # until it is known to be seen
                **options,
            )
        except HybridDetectError as error:
            _log("the camera cannot be shown", error)
            self._status = FeedStatus(state=FeedState.FAILED, reason=str(error))
            return
        self.mode = self._feed.status.mode.value
        if self.local_only:
            self.on_local_only()
        self.on_size()
        self._play_or_pause()

    def _settled_mode(self) -> str:
        """The mode that holds, if no other has been asked for."""
        status = self.status
        return "" if self._feed is None or status.is_changing else status.mode.value

    def _on_hidden(self, *_arguments: object) -> None:
        self._is_background = True
        self._play_or_pause()

    def _on_shown(self, *_arguments: object) -> None:
        self._is_background = False
        self._play_or_pause()

    def _on_stop(self, *_arguments: object) -> None:
        self.close()

    def _play_or_pause(self) -> None:
        app = App.get_running_app()
        if app is not None and self._app is None:
            self._app = app
            # They return None, so that the app's own answer to the system counts.
            app.bind(on_pause=self._on_hidden, on_resume=self._on_shown, on_stop=self._on_stop)
        if self._feed is None:
            return
        # Asked at each tick: of a screen or a tab around it that is hidden, no event tells.
        is_shown = self.get_root_window() is not None and not self._is_background
        if (self.playing and is_shown) != self._is_reading:
            self._is_reading = not self._is_reading
            (self._feed.resume if self._is_reading else self._feed.pause)()

    def _tick(self, _elapsed_s: float) -> None:
        self._play_or_pause()
        feed = self._feed
        if feed is not None and (pixels := feed.take()) is not None:
            self._show(pixels)
        if self.status is not self._told:
            self._tell(self.status)

    def _tell(self, status: FeedStatus) -> None:
        self._told = status
        self.fps, self.status_text = status.fps, str(status)
        self.result = self._feed.result if self._feed is not None else None
        self._notice.text = status.notice
        self.mode = self._settled_mode() or self.mode

    def _show(self, pixels: NDArray[np.uint8]) -> None:
        height, width = pixels.shape[:2]
        texture = self.texture
        if texture is None or tuple(texture.size) != (width, height):
            texture = Texture.create(size=(width, height), colorfmt="rgb")
            texture.flip_vertical()  # pictures begin at the top, textures at the bottom
            self.texture = texture
        texture.blit_buffer(pixels.reshape(-1), colorfmt="rgb", bufferfmt="ubyte")
        self.canvas.ask_update()


class FaceCameraControls(BoxLayout):  # type: ignore[misc]  # Kivy has no types
    """The rate and the reason, and switches for mode and privacy, of a `FaceCamera`."""

    def __init__(self, camera: FaceCamera, **properties: Any) -> None:
        super().__init__(orientation="vertical", size_hint_y=None, height=dp(88), **properties)
        status = Label(
            shorten=True, shorten_from="right", halign="left", valign="middle", padding=(dp(8), 0)
        )
        status.bind(size=status.setter("text_size"))
        camera.bind(status_text=status.setter("text"))
        mode = Spinner(text=camera.mode, values=list(DetectionMode))
        mode.bind(text=camera.setter("mode"))
        camera.bind(mode=mode.setter("text"))  # the service's own, once it is made
        stay = ToggleButton(text="stay on the device", state=_pressed(camera.local_only))
        stay.bind(state=lambda _stay, state: setattr(camera, "local_only", state == "down"))
        camera.bind(local_only=lambda _camera, stays: setattr(stay, "state", _pressed(stays)))
        switches = BoxLayout()
        for widget in (mode, stay):
            switches.add_widget(widget)
        for widget in (status, switches):
            self.add_widget(widget)


def _pressed(is_pressed: bool) -> str:
    return "down" if is_pressed else "normal"


def _log(what: str, error: HybridDetectError) -> None:
    # Its text alone: Kivy keeps what was logged, and an error would keep the widget.
    logger.error("%s: %s", what, str(error))
