"""What a person sees of a long run: pictures in a window, and a bar on the terminal."""

import subprocess
import sys
import time

import cv2
import numpy as np


class Stopped(Exception):  # noqa: N818 - not an error
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
            Stopped: q or escape was pressed.
        """
        cv2.imshow("fcos_tf", pixels[..., ::-1])
        if cv2.waitKey(0 if wait else 1) & 0xFF in (ord("q"), 27):
            raise Stopped


class Progress:
    """A bar on the standard error, if that is a terminal; a context manager.

    Args:
        title: of what.
        total: how many there will be; None: nobody knows.
    """

    _WIDTH = 30

    def __init__(self, title: str, total: int | None):
        self._title, self._total = title, total
        self._start = time.monotonic()
        self._is_shown = sys.stderr.isatty()

    def show(self, done: int) -> None:
        """Says that `done` are done."""
        if not self._is_shown:
            return
        bar = str(done)
        if self._total:
            full = min(self._WIDTH * done // self._total, self._WIDTH)
            bar = f"[{'=' * full}{' ' * (self._WIDTH - full)}] {done}/{self._total}"
        rate = done / max(time.monotonic() - self._start, 1e-9)
        text = f"\r{bar} {self._title}, {rate:.1f}/s "
        print(text, end="", file=sys.stderr, flush=True)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *error) -> None:
        if self._is_shown:
            print(file=sys.stderr)
