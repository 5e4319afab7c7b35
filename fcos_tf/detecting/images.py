"""What is given to detect on: files, folders, bytes, pixels; and one image of it, read.

h, w: the size of an image.
"""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

# Of a folder these count; a file that is named itself may have any suffix.
IMAGE_SUFFIXES = {
    ".bmp", ".gif", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff",
    ".webp",
}  # fmt: skip


class Picture(NamedTuple):
    """One image to detect on.

    Attributes:
        name: what messages call it.
        pixels: uint8 [h, w, 3] RGB.
        data: the bytes of its file; None: there is no file, as of the frame of a video.
        file: the path of its file, where there is one.
        source: what it can be read from again without keeping the pixels; None: from them alone.
    """

    name: str
    pixels: np.ndarray
    data: bytes | None = None
    file: str | None = None
    source: Any = None


def list_images(images: Any) -> list[Any]:
    """The single images that are meant, none of them read yet.

    Args:
        images: a path, of a file or of a folder, whose images count, sorted by name; the bytes of
            a file; pixels uint8 [h, w, 3], or [B, h, w, 3] of several images; an image of Pillow;
            or several of any of these.

    Returns:
        Paths as text, bytes, arrays [h, w, 3] and images of Pillow.

    Raises:
        FileNotFoundError: a folder without images.
        ValueError: none at all, something else than these, or pixels of another shape or dtype.
    """
    from fcos_tf.data.prepare import read_pixels

    found: list[Any] = []
    for item in [images] if _is_single(images) or not isinstance(images, Iterable) else images:
        if isinstance(item, str | os.PathLike):
            path = Path(item)
            found += _images_in(path) if path.is_dir() else [os.fspath(item)]
        elif isinstance(item, bytes | Image.Image):
            found.append(item)
        elif _is_single(item):
            pixels = np.asarray(item)
            for one in pixels if pixels.ndim == 4 and len(pixels) else [pixels]:
                found.append(read_pixels(one, name=f"images[{len(found)}]"))
        else:
            raise ValueError(
                f"images[{len(found)}]: expected a path, the bytes of a file, pixels uint8 "
                f"[h, w, 3] or an image of Pillow; got a {type(item).__name__}"
            )
    if not found:
        raise ValueError("images: expected at least one, got none")
    return found


def read_picture(source: Any, number: int = 0) -> Picture:
    """Reads one of the images that `list_images` gave.

    Args:
        source: the image.
        number: its place in the list, for messages about what is no file.

    Raises:
        ImageError: it cannot be read or decoded; names it.
    """
    from fcos_tf.data.images import read_bytes
    from fcos_tf.data.prepare import read_pixels

    if isinstance(source, str):
        data = read_bytes(source)
        return Picture(source, read_pixels(data, name=source), data, source, source)
    name = f"images[{number}]"
    data = source if isinstance(source, bytes) else None
    return Picture(name, read_pixels(source, name=name), data, source=source)


def files_in(folder: Path, suffixes: set[str]) -> list[Path]:
    """The files of a folder, not of those in it, that have one of the suffixes; by name."""
    files = sorted(file for file in folder.iterdir() if file.is_file())
    return [file for file in files if file.suffix.lower() in suffixes]


def _is_single(item: Any) -> bool:
    is_known = isinstance(item, str | os.PathLike | bytes | Image.Image)
    return is_known or hasattr(item, "__array__")  # a tensor has it, too


def _images_in(folder: Path) -> list[str]:
    files = files_in(folder, IMAGE_SUFFIXES)
    if not files:
        raise FileNotFoundError(f"images: no image in the folder {folder}")
    return list(map(str, files))
