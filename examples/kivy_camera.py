"""A Kivy app with a camera and the faces in it; mode and privacy are switched while it runs.

python examples/kivy_camera.py CAMERA

CAMERA is a camera's number, a video or an rtsp address (pip install 'hybrid-detect[camera,kivy]').
"""

import os
import sys

if len(sys.argv) != 2:
    sys.exit(__doc__)
os.environ["KIVY_NO_ARGS"] = "1"  # the argument is this script's

from kivy.app import App
from kivy.uix.boxlayout import BoxLayout

from hybrid_detect import ServiceConfig
from hybrid_detect.integrations.kivy import FaceCamera, FaceCameraControls


class FacesApp(App):
    """The window."""

    def build(self) -> BoxLayout:
        window = BoxLayout(orientation="vertical")
        faces = FaceCamera(camera=sys.argv[1], service={"config": ServiceConfig.from_env()})
        window.add_widget(faces)
        window.add_widget(FaceCameraControls(faces))
        return window


if __name__ == "__main__":
    FacesApp().run()
