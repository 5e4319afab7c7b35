"""Files of a run of detection: its inputs by name, and its results, pictures and JSON."""

import glob
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple, TextIO

import numpy as np
from absl import logging
from PIL import Image

from fcos_tf.atomic_files import put_in_place
from fcos_tf.detecting.detections import Detections
from fcos_tf.image_files import IMAGE_SUFFIXES, files_below

_VIDEO_SUFFIXES = (
    ".3gp", ".avi", ".flv", ".m4v", ".mjpeg", ".mjpg", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg",
    ".mts", ".ogv", ".ts", ".webm", ".wmv",
)  # fmt: skip
_LOSSLESS = (".png", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm")
IMAGE, VIDEO, CAMERA = "image", "video", "camera"
DETECTIONS_FILE = "detections.json"
LINES_FILE = "detections.jsonl"


class Input(NamedTuple):
    """An `IMAGE`, `VIDEO` or `CAMERA` to detect on; the path of a camera is its number."""

    kind: str
    path: Path


def find_inputs(names: str | Sequence[str]) -> list[Input]:
    """Finds the inputs, in the order of the names, folders and patterns sorted by name.

    Args:
        names: each an image or video file, a folder (its images and videos, without subfolders),
            a pattern such as "photos/**/*.jpg", or the number of a camera; a text is divided at
            its commas.

    Raises:
        FileNotFoundError: a file does not exist, or a folder or pattern has no files.
        ValueError: an empty name.
    """
    text = names if isinstance(names, str) else ",".join(names)
    # A file name may contain a comma.
    parts = [text] if os.path.exists(text) else names  # False for a text of any length
    if isinstance(parts, str):
        parts = [part.strip() for part in text.split(",")]
    if not all(parts):
        raise ValueError(f"input: expected files, folders, patterns or a camera, got {text!r}")
    return list(dict.fromkeys(item for part in parts for item in _expand(part)))  # each once


def _expand(part: str) -> Iterator[Input]:
    path = Path(part)
    if path.is_dir():
        files = files_in(path, IMAGE_SUFFIXES + _VIDEO_SUFFIXES)
        problem = "no images or videos in the folder"
    elif path.exists():
        files = [path]
    elif part.isdecimal():
        yield Input(CAMERA, path)
        return
    else:
        files = sorted(_matches(part))
        problem = "no file matches" if glob.has_magic(part) else "no file or folder"
    if not files:
        raise FileNotFoundError(f"input: {problem} {part}")
    for file in files:
        yield Input(VIDEO if file.suffix.lower() in _VIDEO_SUFFIXES else IMAGE, file)


def _matches(pattern: str) -> Iterator[Path]:
    """The files that match; with `**` also below links, without going in circles."""
    parts = Path(pattern).parts
    start = parts.index("**") if "**" in parts else len(parts)
    for found in map(Path, glob.glob(os.path.join(*parts[:start]) if start else ".")):
        if found.is_file() and start == len(parts):
            yield found
        elif found.is_dir() and start < len(parts):
            names = (name.split("/") for name in files_below(found, ""))
            yield from (found.joinpath(*name) for name in names if _fits(name, parts[start:]))


def _fits(names: Sequence[str], patterns: Sequence[str]) -> bool:
    """Whether the parts of a path match those of a pattern, `**` any number of them."""
    if not patterns or patterns[0] == "**":
        lengths = range(len(names) + 1) if patterns else ()
        return not (names or patterns) or any(_fits(names[n:], patterns[1:]) for n in lengths)
    is_first = bool(names) and fnmatch(names[0], patterns[0])
    return is_first and _fits(names[1:], patterns[1:])


def files_in(folder: str | Path, suffixes: Sequence[str]) -> list[Path]:
    """The files of a folder, without subfolders, with one of the suffixes; by name.

    A warning counts the other ones, but for hidden files.
    """
    # A broken link is a fault when it is read. Hidden files are often metadata of another program.
    there = sorted(file for file in Path(folder).iterdir() if not file.name.startswith("."))
    files = [file for file in there if file.is_file() or (file.is_symlink() and not file.exists())]
    found = [file for file in files if file.suffix.lower() in suffixes]
    others = [each.name for each in files if each.suffix.lower() not in suffixes]
    if others:
        logging.warning(
            "%s: skipped %d files by their endings: %s%s",
            folder, len(others), ", ".join(others[:10]), " ..." if len(others) > 10 else "",
        )  # fmt: skip
    return found


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


def image_ids(files: Sequence[Path]) -> list[int]:
    """The file names as numbers, as in COCO; 1..N if one is not a number or not unique."""
    stems = [file.stem for file in files]
    if all(stem.isdecimal() and len(stem) <= 15 for stem in stems):
        ids = list(map(int, stems))
        if len(set(ids)) == len(ids):
            return ids
    return list(range(1, len(files) + 1))


def save_picture(path: Path, pixels: np.ndarray) -> None:
    """Writes a picture; JPEG without chroma subsampling, which would blur thin lines."""
    Image.fromarray(pixels).save(path, quality=95, subsampling=0)


class Results(AbstractContextManager):
    """The result files in a folder: `detections.json` of images, `detections.jsonl` of frames.

    Each is created with the first image, or frame. The former is renamed into place at the end, be
    it an interrupt or an error; the latter grows line by line. A context manager.
    """

    def __init__(self, folder: Path):
        self._path, self._lines_path = folder / DETECTIONS_FILE, folder / LINES_FILE
        self._temporary = folder / f".{DETECTIONS_FILE}.{os.getpid()}.writing"
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
            self._lines = open(self._lines_path, "w", encoding="utf-8", buffering=1)  # noqa: SIM115
        records = found.to_coco()
        for record in records:
            del record["image_id"]
        place = {"file_name": file_name, "frame": frame, "time": round(seconds, 6)}
        self._lines.write(json.dumps({**place, "detections": records}) + "\n")

    def __exit__(self, kind, error, trace) -> None:
        if self._lines is not None:
            self._lines.close()
        if self._array is None:
            return
        with self._array:
            self._array.write("[]\n" if self._separator == "[\n" else "\n]\n")
        put_in_place(self._temporary, self._path)
