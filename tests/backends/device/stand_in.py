"""A stand-in for MediaPipe inside the detector's process, through a ``sitecustomize`` on its path.

The first byte of a picture's pixels tells it how to misbehave, and so do some models. With ``dear
pictures``, an encoded one that is `DEAR_SIDE_PX` wide takes longer to decode than any test waits;
with ``tell the width``, a face's score is the width of what was looked at, in ten thousand pixels;
with ``slow``, a look takes 20 ms and finds nothing.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

__all__ = ["DEAR_SIDE_PX", "SITE", "install"]

FINE, SEGFAULT, ABORT, HANG, LEAK, EXIT, BREAK, PRINT, OPEN, FLOOD = range(10)

DEAR_SIDE_PX = 13

STAND_IN = f"""
import ctypes, os, signal, socket, sys, time, types
from hybrid_detect.errors import ModelError
from hybrid_detect.types import BoundingBox, Face
kept = []

def check_pixels(image):
    pass

class MediaPipeFaceDetector:
    runs_on = "a stand-in"
    def __init__(self, model, *, min_confidence, slim):
        self.tells_width = model == b"tell the width"
        self.is_slow = model == b"slow"
        if model == b"refuse":
            raise ModelError("it is no model")
        if model == b"exit":
            os._exit(3)
        if model == b"import":
            import no_such_module
        if model == b"hang":
            time.sleep(60)
        if model == b"illegal instruction":
            os.kill(os.getpid(), signal.SIGILL)
        if model == b"dear pictures":
            from hybrid_detect.frames.decoding import EncodedPicture
            decode = EncodedPicture.rgb
            def rgb(self, *, enough_px):
                if self.width == {DEAR_SIDE_PX}:
                    time.sleep(60)
                return decode(self, enough_px=enough_px)
            EncodedPicture.rgb = rgb

    def detect(self, image):
        how = int(image[0, 0, 0])
        if how == {SEGFAULT}:
            ctypes.string_at(0)
        elif how == {ABORT}:
            os.abort()
        elif how == {HANG}:
            time.sleep(60)
        elif how == {LEAK}:
            kept.append(b"x" * (30 * 2**20))
        elif how == {EXIT}:
            os._exit(7)
        elif how == {BREAK}:
            raise KeyError("a bug")
        elif how == {PRINT}:
            print("x" * 100_000, flush=True)
            os.write(2, b"x" * 100_000)
        elif how == {OPEN}:
            for attempt in (lambda: socket.socket(), lambda: open("/etc/hostname")):
                try:
                    attempt()
                except OSError:
                    continue
                os._exit(9)
        elif how == {FLOOD}:
            frame = sys._getframe()
            while "reply_fd" not in frame.f_locals:
                frame = frame.f_back
            os.write(frame.f_locals["reply_fd"], b"\\xff" * 8)  # a reply of 4 GiB
            while True:
                os.write(frame.f_locals["reply_fd"], bytes(65536))
        height, width = image.shape[:2]
        if self.is_slow:
            time.sleep(0.02)
            return ()
        if self.tells_width:
            return (Face(BoundingBox(0, 0, width, height), width / 10_000),)
        return (Face(BoundingBox(0, 0, width, height), float(image[-1, -1, -1]) / 255),)
"""

SITE = f"""
import sys, types
class Loader:
    def find_spec(self, name, path=None, target=None):
        if name == "hybrid_detect.backends.device.face_detector":
            from importlib.machinery import ModuleSpec
            return ModuleSpec(name, self)
    def create_module(self, spec):
        return None
    def exec_module(self, module):
        exec({STAND_IN!r}, module.__dict__)
sys.meta_path.insert(0, Loader())
"""


def install(folder: Path, monkeypatch: pytest.MonkeyPatch, *, site: str = SITE) -> None:
    """Put `site`, the stand-in's ``sitecustomize``, on the path of new processes, from `folder`."""
    (folder / "sitecustomize.py").write_text(site, encoding="utf-8")
    path = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path))
