"""A window with a camera and the faces in it; mode and privacy are switched while it runs.

python examples/desktop_camera.py CAMERA

CAMERA is a camera's number, a video or an rtsp address (pip install 'hybrid-detect[camera]').
"""

import sys
import tkinter

from hybrid_detect import HybridDetectError, ServiceConfig
from hybrid_detect.integrations.tk import FaceCameraControls, FaceCameraView


def main(camera: str) -> None:
    root = tkinter.Tk()
    root.title("Faces")
    view = FaceCameraView(root, camera, config=ServiceConfig.from_env())
    FaceCameraControls(root, view).pack(side="bottom", fill="x")
    view.pack(fill="both", expand=True)
    root.mainloop()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    try:
        main(sys.argv[1])
    except HybridDetectError as error:
        sys.exit(f"desktop_camera: {error}")
