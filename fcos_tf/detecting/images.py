"""Images to detect on: from files, folders, bytes or pixels. h, w: the size of an image."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from fcos_tf.image_suffixes import IMAGE_SUFFIXES


class Picture(NamedTuple):
    """One image to detect on.

    Attributes:
        name: its name in messages.
        pixels: uint8 [h, w, 3] RGB.
        data: the bytes of its file; None: no file, such as a frame of a video.
        file: the path of its file, if any.
        source: path, bytes or array to read it again from; None: `pixels` only.
    """

    name: str
    pixels: np.ndarray
    data: bytes | None = None
    file: str | None = None
    source: Any = None


def list_images(images: Any) -> list[Any]:
    """The single images, not read yet.

    Args:
        images: the path of a file or of a folder (its images, sorted by name); the bytes of a
            file; pixels uint8 [h, w, 3], or [B, h, w, 3] of several images; an image of Pillow;
            or several of these.

    Returns:
        Paths as text, bytes, arrays [h, w, 3] and images of Pillow.

    Raises:
        FileNotFoundError: a folder without images.
        ValueError: no image, another type, or pixels of another shape or dtype.
    """
    from fcos_tf.data.prepare import read_pixels

    found: list[Any] = []
    for item in [images] if _is_single(images) or not isinstance(images, Iterable) else images:
        if isinstance(item, str | os.PathLike):
            is_folder = os.path.isdir(item)
            files = files_in(Path(item), IMAGE_SUFFIXES) if is_folder else [item]
            if not files:
                raise FileNotFoundError(f"images: no image in the folder {os.fspath(item)}")
            found += map(os.fspath, files)
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
    """Reads one of the images of `list_images`.

    Args:
        source: the image.
        number: its index in the list, its name in messages if it is not a file.

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


def files_in(folder: Path, suffixes: Iterable[str]) -> list[Path]:
    """The files of a folder, without subfolders, with one of the suffixes; by name."""
    files = sorted(file for file in folder.iterdir() if file.is_file())
    return [file for file in files if file.suffix.lower() in suffixes]


def _is_single(item: Any) -> bool:
    is_known = isinstance(item, str | os.PathLike | bytes | Image.Image)
    return is_known or hasattr(item, "__array__")  # arrays and tensors
