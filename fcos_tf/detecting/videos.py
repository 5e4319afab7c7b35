"""Frames of videos and cameras, and a window to show them, through OpenCV."""

import math
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import cv2
import numpy as np

from fcos_tf.data.images import ImageError
from fcos_tf.detecting.files import CAMERA, Input

_CODEC = "mp4v"  # MPEG-4 part 2: in every build of OpenCV that writes videos
_LONGEST_SIDE = 8190  # of its frames, in pixels
_MOST_TICKS = 65535  # a second: its rates are fractions of 16-bit numbers
_UNKNOWN_RATE = 25.0


class VideoReader(AbstractContextManager):
    """Reads the frames of a video file or of a camera; a context manager.

    Attributes:
        rate: frames per second.
        num_frames: according to the file; None: unknown, or a camera.

    Raises:
        ImageError: it cannot be opened.
    """

    def __init__(self, item: Input):
        # Else OpenCV and FFmpeg print long messages about a file they cannot open.
        os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
        is_camera = item.kind == CAMERA
        if not (is_camera or item.path.is_file()):
            raise ImageError(f"cannot read {item.path}: expected a regular file")
        self._capture = cv2.VideoCapture(int(str(item.path)) if is_camera else str(item.path))
        if not self._capture.isOpened():
            what = f"camera {item.path}" if is_camera else f"{item.path} as a video"
            raise ImageError(f"cannot open {what}")
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        self.rate = rate if math.isfinite(rate) and rate > 0 else _UNKNOWN_RATE
        count = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        self.num_frames = None if is_camera or count <= 0 else count

    def __iter__(self) -> Iterator[np.ndarray]:
        """Frames, uint8 [h, w, 3] RGB."""
        while (frame := self._capture.read()[1]) is not None:
            yield np.ascontiguousarray(frame[..., ::-1])

    def __exit__(self, *error) -> None:
        self._capture.release()


def writable_rate(rate: float) -> float:
    """The nearest frames per second that OpenCV can write, as a fraction of a power of ten.

    MPEG-4 holds 21122 / 100, but not 211222 / 1000.
    """
    rate = min(max(rate, 0.01), _MOST_TICKS)
    return round(rate, next(n for n in (3, 2, 1, 0) if rate * 10**n <= _MOST_TICKS))


class VideoWriter(AbstractContextManager):
    """Writes frames of one size to an .mp4 file, created with the first; a context manager.

    Frames larger than MPEG-4 holds are made smaller.

    Raises:
        OSError: at the end, if the file cannot be read back, as on a full disk.
    """

    def __init__(self, path: Path, rate: float):
        self._path, self._rate = path, writable_rate(rate)
        self._writer: cv2.VideoWriter | None = None

    def write(self, pixels: np.ndarray) -> None:
        """Writes a frame, uint8 [h, w, 3] RGB.

        Raises:
            OSError: the file cannot be written; without an `errno`, OpenCV lacks the codec, or it
                does not take such frames.
        """
        longest = max(pixels.shape[:2])
        if longest > _LONGEST_SIDE:
            scale = _LONGEST_SIDE / longest
            pixels = cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        if self._writer is None:
            size = pixels.shape[1], pixels.shape[0]
            codec = cv2.VideoWriter_fourcc(*_CODEC)
            self._path.touch()  # OpenCV does not say why it cannot open a file
            writer = cv2.VideoWriter(str(self._path), codec, self._rate, size)
            if not writer.isOpened():
                self._path.unlink()
                raise OSError(
                    f"expected an OpenCV with the codec {_CODEC} for {size[0]}x{size[1]} pixels at "
                    f"{self._rate:g} frames a second"
                )
            self._writer = writer
        self._writer.write(np.ascontiguousarray(pixels[..., ::-1]))

    def __exit__(self, kind, error, trace) -> None:
        if self._writer is None:
            return
        self._writer.release()
        if kind is None and not cv2.VideoCapture(str(self._path)).isOpened():  # OpenCV says nothing
            free = shutil.disk_usage(self._path.parent).free // 2**20
            raise OSError(f"cannot write {self._path}: it is not complete; {free} MiB are free")


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
