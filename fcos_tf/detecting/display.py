"""Pictures in a window."""

import subprocess
import sys

import cv2
import numpy as np


class WindowClosed(Exception):  # noqa: N818 - not an error
    """The user has closed the window."""


class Window:
    """A window that shows pictures.

    Raises:
        OSError: there is no display, or OpenCV was built without windows.
    """

    def __init__(self):
        # Without a display Qt ends the process, so a subprocess tries.
        attempt = "import cv2; cv2.namedWindow('fcos_tf'); cv2.destroyAllWindows()"
        done = subprocess.run([sys.executable, "-c", attempt], capture_output=True)
        if done.returncode != 0:
            raise OSError("show: expected a display, and an OpenCV with windows; got none")

    def show(self, pixels: np.ndarray, *, wait: bool) -> None:
        """Shows a picture, until a key is pressed if `wait`.

        Raises:
            WindowClosed: q or escape was pressed.
        """
        cv2.imshow("fcos_tf", pixels[..., ::-1])
        if cv2.waitKey(0 if wait else 1) & 0xFF in (ord("q"), 27):
            raise WindowClosed
