"""A Tk widget that shows a camera with the faces in it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from PIL import Image

from hybrid_detect.errors import MissingExtraError
from hybrid_detect.frames.frame import PixelFormat
from hybrid_detect.frames.overlay import Overlay
from hybrid_detect.integrations.camera_feed import CameraFeed, FeedState, FeedStatus
from hybrid_detect.privacy.privacy_policy import FramePrivacy, PrivacyPolicy
from hybrid_detect.sources.sources import FrameSource
from hybrid_detect.types import DetectionMode, DetectionResult

try:
    import tkinter

    from PIL import ImageTk
except ImportError as error:  # Debian and Homebrew leave it out of their Python
    text = (
        "the Tk widget needs tkinter, which is not installed: apt-get install python3-tk (Debian), "
        "brew install python-tk (macOS)"
    )
    raise MissingExtraError(text, extra="") from error

__all__ = ["FaceCameraControls", "FaceCameraView"]

TICK_MS = 15
"""Milliseconds between two looks for a new picture: twice as often as a camera of 30 fps gives one,
so that none waits for long. A look without one takes microseconds."""

_OPTIONS: dict[str, Any] = {
    "background": "black",
    "foreground": "white",
    "compound": "center",
    "borderwidth": 0,
    "padx": 0,
    "pady": 0,
}
"""Without margins: the picture is made as large as the widget, which asks for the size of the
picture and its margins, and would grow without end. A notice lies on the picture."""

FIRST_SIZE_PX = (640, 480)
"""What the widget asks for before its first picture, so that a window without a size of its own
becomes no stamp: what most cameras give when nothing else is asked of them."""

_interpreters: set[Any] = set()
"""Tcl interpreters that are kept until the program ends. Python's search for garbage runs in any
thread, and an interpreter that is freed in another one than its own ends the process (Tcl: "async
handler deleted by the wrong thread"): a window of the app that refers to itself would do."""


class FaceCameraView(tkinter.Label):
    """Shows a camera and the faces in it; the window's thread only shows finished pictures.

    Reading, detecting and drawing are done in threads of their own. The camera is let go while
    the widget is hidden, and everything is closed when it is destroyed.

    Args:
        master: The widget it lies in.
        camera: Anything that `open_source` takes, such as ``0`` for the first camera; or an
            `open_source`, with settings of its own.
        max_fps: Most frames to look at in a second; all of them are shown.
        pixel_format: The channels of arrays whose source does not tell them, such as ``"bgr"`` for
            your own ``cv2.VideoCapture``.
        mirror: Whether the picture is shown mirrored, as a selfie is.
        overlay: Draws the boxes; `None` for one as it comes.
        options: Options of ``tkinter.Label``, such as ``background``.
        **service: What `HybridDetectionService` takes, such as ``mode="prefer_on_device"``.
            ``backends`` may also be a function that makes them, for options that are used again.

    Raises:
        ConfigurationError: If the service cannot work as configured.
        InvalidFrameError: If there is no such pixel format.
    """

    def __init__(
        self,
        master: tkinter.Misc | None = None,
        camera: FrameSource = 0,
        *,
        max_fps: float | None = 10,
        pixel_format: PixelFormat | str = PixelFormat.RGB,
        mirror: bool = False,
        overlay: Overlay | None = None,
        options: dict[str, Any] | None = None,
        **service: Any,
    ) -> None:
        # First: what is refused must leave no half-made widget in the window.
        self._feed: CameraFeed[Image.Image] = CameraFeed(
            camera,
            Image.fromarray,
            max_fps=max_fps,
            pixel_format=pixel_format,
            mirror=mirror,
            overlay=overlay,
            enlarges=True,
            is_paused=True,  # until it is seen
            **service,
        )
        self._feed.resize(*FIRST_SIZE_PX)  # or the first picture would have its camera's size
        try:
            super().__init__(master, **{**_OPTIONS, **(options or {})})
        except BaseException:  # such as of an option that Tk does not know
            self._feed.close()
            raise
        _interpreters.add(self.tk)
        self._on_status: list[Callable[[FeedStatus], object]] = []
        self._told: FeedStatus | None = None
        self._photo: ImageTk.PhotoImage | None
        self._photo = ImageTk.PhotoImage(Image.new("RGB", FIRST_SIZE_PX), master=self)
        self.configure(image=self._photo)
        self.bind("<Configure>", lambda event: self._feed.resize(event.width, event.height))
        self._is_playing, self._is_viewable = True, False
        self.bind("<Destroy>", lambda _event: self.close())
        self._ticking = self.after(TICK_MS, self._tick)

    @property
    def status(self) -> FeedStatus:
        """How it stands: state, rate, backend and why, mode and privacy."""
        return self._feed.status

    @property
    def result(self) -> DetectionResult | None:
        """The newest result."""
        return self._feed.result

    def on_status(self, tell: Callable[[FeedStatus], object]) -> None:
        """Have `tell` called with the status whenever it has changed, in the window's thread."""
        self._on_status.append(tell)

    def set_mode(self, mode: DetectionMode | str) -> None:
        """Go on with another mode; returns at once, and `status` tells when it holds.

        Raises:
            ConfigurationError: If there is no such mode.
        """
        self._feed.set_mode(mode)

    def set_privacy(self, privacy: PrivacyPolicy | FramePrivacy | str) -> None:
        """Go on with another privacy policy; returns at once, and `status` tells when it holds.

        Args:
            privacy: As in `HybridDetectionService.set_privacy`: ``local_only`` keeps every frame
                on the device.

        Raises:
            ConfigurationError: If it is no privacy.
        """
        self._feed.set_privacy(privacy)

    def pause(self) -> None:
        """Let the camera go until `resume`. The last picture stays."""
        self._is_playing = False
        self._feed.pause()

    def resume(self) -> None:
        """Go on after `pause`."""
        self._is_playing = True
        self._is_viewable = False  # the next tick looks

    def close(self) -> None:
        """End everything, without waiting for it. May be called more than once."""
        if self._feed.status.state is FeedState.CLOSED:
            return
        self.after_cancel(self._ticking)
        self._photo = None  # in Tk's own thread
        self._feed.close()

    def _tick(self) -> None:
        self._ticking = self.after(TICK_MS, self._tick)
        # Asked each time: of a parent that is hidden, a tab or the window, no event tells.
        if self._is_playing and bool(self.winfo_viewable()) != self._is_viewable:
            self._is_viewable = not self._is_viewable
            (self._feed.resume if self._is_viewable else self._feed.pause)()
        if (picture := self._feed.take()) is not None:
            self._show(picture)
        if (status := self._feed.status) is not self._told:
            self._tell(status)

    def _tell(self, status: FeedStatus) -> None:
        if self._told is None or status.notice != self._told.notice:
            self.configure(text=status.notice, wraplength=max(self.winfo_width(), 200))
        self._told = status
        for tell in self._on_status:
            try:
                tell(status)
            except Exception:  # one that fails keeps nothing from the others
                self.nametowidget(".").report_callback_exception(*sys.exc_info())

    def _show(self, picture: Image.Image) -> None:
        photo = self._photo
        if photo is None or (photo.width(), photo.height()) != picture.size:
            self._photo = ImageTk.PhotoImage(picture, master=self)
            self.configure(image=self._photo)
        else:
            photo.paste(picture)


class FaceCameraControls(tkinter.Frame):
    """The rate and the reason, and switches for mode and privacy, of a `FaceCameraView`.

    Args:
        master: The widget it lies in.
        view: The view.
    """

    def __init__(self, master: tkinter.Misc | None, view: FaceCameraView) -> None:
        super().__init__(master)
        self._mode = tkinter.StringVar(self)
        self._privacy = tkinter.StringVar(self)
        self._text = tkinter.StringVar(self)
        menu = tkinter.OptionMenu(self, self._mode, *DetectionMode, command=view.set_mode)
        stay = tkinter.Checkbutton(
            self,
            text="stay on the device",
            variable=self._privacy,
            onvalue=FramePrivacy.LOCAL_ONLY.value,
            offvalue=FramePrivacy.DEFAULT.value,
            command=lambda: view.set_privacy(self._privacy.get()),
        )
        # It asks for no width, or the window would grow and shrink with each reason.
        status = tkinter.Label(self, textvariable=self._text, anchor="w", width=1)
        status.pack(side="top", fill="x")  # a row of its own: it is cut where the window is narrow
        for widget in (menu, stay):
            widget.pack(side="left")
        self._show(view.status)
        view.on_status(self._show)

    def _show(self, status: FeedStatus) -> None:
        self._text.set(str(status))
        if not status.is_changing:  # what holds: also what the app has switched, or was refused
            self._mode.set(status.mode.value)
            stays = FramePrivacy.DEFAULT if status.may_leave else FramePrivacy.LOCAL_ONLY
            self._privacy.set(stays.value)
