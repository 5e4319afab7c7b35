"""The result files of detection: pictures and their names, and detections as JSON."""

import json
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TextIO

import numpy as np
from PIL import Image

from fcos_tf.detecting.detections import Detections
from fcos_tf.detecting.inputs import CAMERA, IMAGE, Input

DETECTIONS_FILE = "detections.json"
LINES_FILE = "detections.jsonl"
_LOSSLESS = (".png", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm")


def output_names(inputs: Sequence[Input]) -> dict[Path, str]:
    """A unique file name for the picture of each image and the result of each video.

    It is that of the input, with the suffix ".png", ".jpg" or ".mp4".
    """
    names: dict[Path, str] = {}
    taken = set()
    for kind, path in inputs:
        picture_suffix = ".png" if path.suffix.lower() in _LOSSLESS else ".jpg"
        suffix = picture_suffix if kind == IMAGE else ".mp4"
        stem = f"camera_{path}" if kind == CAMERA else path.stem
        name, number = stem + suffix, 1
        while name.lower() in taken:  # some file systems ignore case
            number += 1
            name = f"{stem}_{number}{suffix}"
        taken.add(name.lower())
        names[path] = name
    return names


def save_picture(path: Path, pixels: np.ndarray) -> None:
    """Writes a picture; JPEG without chroma subsampling, which would blur thin lines."""
    Image.fromarray(pixels).save(path, quality=95, subsampling=0)


def image_ids(files: Sequence[Path]) -> list[int]:
    """The file names as numbers, as in COCO; 1..N if one is not a number or not unique."""
    stems = [file.stem for file in files]
    if all(stem.isdecimal() and len(stem) <= 15 for stem in stems):
        ids = list(map(int, stems))
        if len(set(ids)) == len(ids):
            return ids
    return list(range(1, len(files) + 1))


class Results(AbstractContextManager):
    """The result files in a folder: `detections.json` of images, `detections.jsonl` of frames.

    Each is created with the first image, or frame. The former is renamed into place at the end, the
    latter grows line by line. A context manager.
    """

    def __init__(self, folder: Path):
        self._path, self._lines_path = folder / DETECTIONS_FILE, folder / LINES_FILE
        self._temporary = folder / f".{DETECTIONS_FILE}.writing"
        self._array: TextIO | None = None
        self._lines: TextIO | None = None
        self._separator = "[\n"

    def add_image(self, image_id: int, file_name: str, found: Detections) -> None:
        """Adds the COCO results of an image."""
        if self._array is None:
            self._array = open(self._temporary, "w", encoding="utf-8")  # noqa: SIM115
        for record in found.to_coco(image_id):
            record = {"image_id": image_id, "file_name": file_name, **record}
            self._array.write(self._separator + json.dumps(record))
            self._separator = ",\n"

    def add_frame(self, file_name: str, frame: int, seconds: float, found: Detections) -> None:
        """Adds the line of a frame of a video."""
        if self._lines is None:
            self._lines = open(self._lines_path, "w", encoding="utf-8")  # noqa: SIM115
        records = found.to_coco()
        for record in records:
            del record["image_id"]
        place = {"file_name": file_name, "frame": frame, "time": round(seconds, 6)}
        line = {**place, "detections": records}
        self._lines.write(json.dumps(line) + "\n")
        self._lines.flush()

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
