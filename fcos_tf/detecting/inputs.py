"""The inputs named in a text: image files, video files and cameras."""

import glob
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from fcos_tf.detecting.images import files_in
from fcos_tf.image_suffixes import IMAGE_SUFFIXES

IMAGE, VIDEO, CAMERA = "image", "video", "camera"
_VIDEO_SUFFIXES = {
    ".3gp", ".avi", ".flv", ".m4v", ".mjpeg", ".mjpg", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg",
    ".mts", ".ogv", ".ts", ".webm", ".wmv",
}  # fmt: skip


class Input(NamedTuple):
    """One thing to detect on.

    Attributes:
        kind: `IMAGE`, `VIDEO` or `CAMERA`.
        path: the file; of a camera its number.
    """

    kind: str
    path: Path


def find_inputs(text: str) -> list[Input]:
    """Finds the inputs, in the order of the text, folders and patterns sorted by name.

    Args:
        text: an image or video file, a folder (its images and videos, without subfolders), a
            pattern such as "photos/**/*.jpg", the number of a camera, or several of these with
            commas.

    Raises:
        FileNotFoundError: a file does not exist, or a folder or pattern has no files.
        ValueError: an empty name.
    """
    # A file name may contain a comma.
    parts = [text] if Path(text).exists() else [part.strip() for part in text.split(",")]
    if not all(parts):
        raise ValueError(f"input: expected files, folders, patterns or a camera, got {text!r}")
    found = {item: None for part in parts for item in _expand(part)}  # each once
    return list(found)


def _expand(part: str) -> Iterator[Input]:
    path = Path(part)
    if path.is_dir():
        files = files_in(path, (*IMAGE_SUFFIXES, *_VIDEO_SUFFIXES))
        problem = "no images or videos in the folder"
    elif path.exists():
        files = [path]
    elif part.isdecimal():
        yield Input(CAMERA, path)
        return
    else:
        found = map(Path, sorted(glob.glob(part, recursive=True)))
        files = [file for file in found if file.is_file()]
        problem = "no file matches" if glob.has_magic(part) else "no file or folder"
    if not files:
        raise FileNotFoundError(f"input: {problem} {part}")
    for file in files:
        yield Input(VIDEO if file.suffix.lower() in _VIDEO_SUFFIXES else IMAGE, file)
