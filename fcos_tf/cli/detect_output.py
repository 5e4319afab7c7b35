"""What `tools/detect.py` gives out: pictures, detections as JSON, a window, a progress bar."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

import cv2
import numpy as np
from PIL import Image

from fcos_tf.cli.detect_backends import Classes, Found
from fcos_tf.cli.detect_inputs import CAMERA, IMAGE, Input
from fcos_tf.evaluation.records import detections_to_records
from fcos_tf.training.run import DETECTIONS_FILE
from fcos_tf.visualization import draw_detections

LINES_FILE = "detections.jsonl"
# Pictures smaller than this are enlarged before they are drawn on: on 32 pixels no label fits.
LEAST_SIDE = 320
_LOSSLESS = (".png", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm")


def draw(pixels: np.ndarray, found: Found, classes: Classes, score_threshold: float) -> np.ndarray:
    """Draws what was found; small pictures are enlarged by a whole factor.

    Returns:
        uint8 [H, W, 3], the long side at least `LEAST_SIDE`.
    """
    factor = -(-LEAST_SIDE // max(pixels.shape[:2]))
    enlarged = pixels.repeat(factor, axis=0).repeat(factor, axis=1)
    detections = {**found._asdict(), "boxes": found.boxes * factor}
    return draw_detections(enlarged, detections, classes.names, score_threshold=score_threshold)


def output_names(inputs: Sequence[Input]) -> dict[Path, str]:
    """A file name for the picture of each image and the video of each video, all different.

    It is that of the input, but for its ending: ".png", ".jpg" or ".mp4".
    """
    names: dict[Path, str] = {}
    taken = set()
    for kind, path in inputs:
        if kind == IMAGE:
            suffix = ".png" if path.suffix.lower() in _LOSSLESS else ".jpg"
        else:
            suffix = ".mp4"
        stem = f"camera_{path}" if kind == CAMERA else path.stem
        name, number = stem + suffix, 1
        while name.lower() in taken:  # not all file systems tell A.jpg from a.jpg
            number += 1
            name = f"{stem}_{number}{suffix}"
        taken.add(name.lower())
        names[path] = name
    return names


def save_picture(path: Path, pixels: np.ndarray) -> None:
    """Writes a picture; JPEG without loss of colour resolution, which would blur thin lines."""
    Image.fromarray(pixels).save(path, quality=95, subsampling=0)


def image_ids(files: Sequence[Path]) -> list[int]:
    """The number that each file's name is, as in COCO; else, if one is not, they are counted."""
    stems = [file.stem for file in files]
    if all(stem.isdecimal() and len(stem) <= 15 for stem in stems):
        ids = list(map(int, stems))
        if len(set(ids)) == len(ids):
            return ids
    return list(range(1, len(files) + 1))


class Results:
    """The result files in a folder: `detections.json` of images, `detections.jsonl` of frames.

    Each is made when the first image, or frame, is added. The former appears when all is done, the
    latter grows line by line. A context manager.
    """

    def __init__(self, folder: Path, classes: Classes):
        self._path, self._lines_path = folder / DETECTIONS_FILE, folder / LINES_FILE
        self._temporary = folder / f".{DETECTIONS_FILE}.writing"
        self._classes = classes
        self._array: TextIO | None = None
        self._lines: TextIO | None = None
        self._separator = "[\n"

    def add_image(self, image_id: int, file_name: str, found: Found) -> None:
        """Adds the COCO results of an image."""
        if self._array is None:
            self._array = open(self._temporary, "w", encoding="utf-8")  # noqa: SIM115
        for record in self._records(image_id, found):
            record = {"image_id": image_id, "file_name": file_name, **record}
            self._array.write(self._separator + json.dumps(record))
            self._separator = ",\n"

    def add_frame(self, file_name: str, frame: int, seconds: float, found: Found) -> None:
        """Adds the line of a frame of a video."""
        if self._lines is None:
            self._lines = open(self._lines_path, "w", encoding="utf-8")  # noqa: SIM115
        line = {"file_name": file_name, "frame": frame, "time": round(seconds, 6)}
        line["detections"] = self._records(0, found)
        self._lines.write(json.dumps(line) + "\n")
        self._lines.flush()

    def _records(self, image_id: int, found: Found) -> list[dict[str, Any]]:
        ids = self._classes.category_ids
        if ids is None:  # labels are ids
            ids = range(int(found.labels.max(initial=0)) + 1)
        records = detections_to_records(
            [image_id], [found.boxes], [found.scores], [found.labels], ids
        )
        for record in records:
            del record["image_id"]
        return records

    def __enter__(self) -> "Results":
        return self

    def __exit__(self, kind, error, trace) -> None:
        if self._lines is not None:
            self._lines.close()
        if self._array is None:
            return
        with self._array:
            self._array.write("[]\n" if self._separator == "[\n" else "\n]\n")
        if kind is None:
            os.replace(self._temporary, self._path)
        else:
            self._temporary.unlink()


class Stopped(Exception):  # noqa: N818 - nothing is wrong
    """The user wants no more."""


class Window:
    """A window that shows pictures.

    Raises:
        OSError: there is no display, or OpenCV was built without windows.
    """

    def __init__(self):
        # Without a display Qt ends the process, so another one has to try.
        attempt = "import cv2; cv2.namedWindow('fcos_tf'); cv2.destroyAllWindows()"
        done = subprocess.run([sys.executable, "-c", attempt], capture_output=True)
        if done.returncode != 0:
            raise OSError("--show: expected a display, and an OpenCV with windows; got none")

    def show(self, pixels: np.ndarray, *, wait: bool) -> None:
        """Shows a picture, until a key is pressed if `wait`.

        Raises:
            Stopped: the key was q or escape.
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
