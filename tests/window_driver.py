"""Runs an example that opens a window, until a face is in it; keeps a picture of it.

python -m tests.window_driver tk|kivy EXAMPLE PICTURE WIDTHxHEIGHT CAMERA [SERVER]
"""

from __future__ import annotations

import os
import runpy
import sys
from typing import Any

from hybrid_detect.frames.overlay import Overlay

LOOK_S = 0.1
"""Seconds between two looks at whether a face was found."""

SETTLED = 5
"""Looks after that: the picture with the box has been shown by then."""


def main(toolkit: str, example: str, picture: str, size: str, *arguments: str) -> None:
    width, height = map(int, size.split("x"))
    # A busy machine may answer so seldom that a box has faded away when it is looked for.
    Overlay.__init__.__kwdefaults__["hold_last_s"] = 60.0
    drive = {"tk": tk, "kivy": kivy}[toolkit]
    drive(picture, width, height)
    sys.argv = [example, *arguments]
    runpy.run_path(example, run_name="__main__")


class Looks:
    """Tells when a widget that has a `result` has shown its face for a while."""

    def __init__(self) -> None:
        self._left = SETTLED

    def are_over(self, widget: Any) -> bool:
        self._left -= widget.result is not None and bool(widget.result.faces)
        return self._left < 0


def tk(picture: str, width: int, height: int) -> None:
    import tkinter

    from PIL import ImageGrab

    class Root(tkinter.Tk):
        def __init__(self) -> None:
            super().__init__()
            self.geometry(f"{width}x{height}+0+0")
            self._looks = Looks()
            self.after(int(LOOK_S * 1000), self._look)

        def _look(self) -> None:
            (view,) = (child for child in self.winfo_children() if hasattr(child, "result"))
            if not self._looks.are_over(view):
                self.after(int(LOOK_S * 1000), self._look)
                return
            ImageGrab.grab((0, 0, width, height), xdisplay="").save(picture)
            sys.stdout.write(f"{view.status}\n")
            self.destroy()

    tkinter.Tk = Root  # type: ignore[misc]


def kivy(picture: str, width: int, height: int) -> None:
    os.environ |= {"KIVY_NO_ARGS": "1", "KIVY_NO_CONSOLELOG": "1", "KIVY_NO_FILELOG": "1"}
    from kivy.config import Config

    Config.set("graphics", "width", str(width))
    Config.set("graphics", "height", str(height))
    from kivy.app import App
    from kivy.clock import Clock
    from kivy.core.window import Window

    looks = Looks()

    def look(_elapsed_s: float) -> None:
        app = App.get_running_app()
        (view,) = (child for child in app.root.children if hasattr(child, "result"))
        if looks.are_over(view):
            os.replace(Window.screenshot(picture), picture)
            sys.stdout.write(f"{view.status}\n")
            app.stop()

    Clock.schedule_interval(look, LOOK_S)


if __name__ == "__main__":
    main(*sys.argv[1:])
