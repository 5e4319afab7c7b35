"""What a text names: image files, video files and cameras."""

import glob
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from fcos_tf.detecting.images import IMAGE_SUFFIXES, files_in

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
    """Finds what is named, in its order, folders and patterns sorted by name.

    Args:
        text: an image or video file, a folder (its images and videos, not those of folders in it),
            a pattern such as "photos/**/*.jpg", the number of a camera, or several of these with
            commas.

    Raises:
        FileNotFoundError: one of them does not exist, or there is nothing in it.
        ValueError: nothing is named.
    """
    # A comma may belong to a name.
    parts = [text] if Path(text).exists() else [part.strip() for part in text.split(",")]
    if not all(parts):
        raise ValueError(f"input: expected files, folders, patterns or a camera, got {text!r}")
    found = {item: None for part in parts for item in _expand(part)}  # each once
    return list(found)


def _expand(part: str) -> Iterator[Input]:
    path = Path(part)
    if path.is_dir():
        files = files_in(path, IMAGE_SUFFIXES | _VIDEO_SUFFIXES)
        if not files:
            raise FileNotFoundError(f"input: no images or videos in the folder {part}")
    elif path.exists():
        files = [path]
    elif part.isdecimal():
        yield Input(CAMERA, Path(part))
        return
    elif glob.has_magic(part):
        files = [Path(name) for name in sorted(glob.glob(part, recursive=True))]
        files = [file for file in files if file.is_file()]
        if not files:
            raise FileNotFoundError(f"input: no file matches {part}")
    else:
        raise FileNotFoundError(f"input: no file or folder {part}")
    for file in files:
        yield Input(VIDEO if file.suffix.lower() in _VIDEO_SUFFIXES else IMAGE, file)
