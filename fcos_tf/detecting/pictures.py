"""The images of `fcos_tf.detect`: listed, then read one by one. h, w: the size of an image."""

import io
import os
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from fcos_tf.data.images import orientation_of, read_bytes
from fcos_tf.data.prepare import read_pixels
from fcos_tf.detecting.detections import Upright


class Picture(NamedTuple):
    """One image to detect on.

    Attributes:
        name: its name in messages.
        pixels: uint8 [h, w, 3] RGB.
        data: the bytes of its file; None: no file, such as a frame of a video.
        file: the path of its file, if any.
        source: what `Detections.image` is to be read again from; None: `pixels` only.
    """

    name: str
    pixels: np.ndarray
    data: bytes | None = None
    file: str | None = None
    source: Any = None


def list_images(images: Any) -> list[Any]:
    """The images of `detect`, not read yet: paths as text, bytes, [h, w, 3], images of Pillow.

    Raises:
        FileNotFoundError: a folder without images.
        ValueError: no image, another type, or pixels of another shape or dtype.
    """
    from fcos_tf.detecting.files import files_in
    from fcos_tf.image_files import IMAGE_SUFFIXES

    def is_single(item):
        is_known = isinstance(item, str | os.PathLike | bytes | Image.Image)
        return is_known or hasattr(item, "__array__")  # arrays and tensors

    found: list[Any] = []
    for item in [images] if is_single(images) or not isinstance(images, Iterable) else images:
        if isinstance(item, str | os.PathLike):
            files = files_in(item, IMAGE_SUFFIXES) if os.path.isdir(item) else [item]
            if not files:
                raise FileNotFoundError(f"images: no image in the folder {os.fspath(item)}")
            found += map(os.fspath, files)
        elif isinstance(item, bytes | Image.Image):
            found.append(item)
        elif is_single(item):
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


def read_picture(source: Any, number: int = 0, *, apply_exif: bool = False) -> Picture:
    """Reads an image of `list_images`; `number`, its index, names it unless it is a file.

    One that EXIF turns has no `data`, as its bytes are not the turned image.
    """
    file = source if isinstance(source, str) else None
    name = file or f"images[{number}]"
    data = read_bytes(file) if file else source if isinstance(source, bytes) else None
    stored = source if data is None else data
    pixels = read_pixels(stored, name=name, apply_exif=apply_exif)
    if apply_exif and not isinstance(stored, np.ndarray):
        stored = stored if data is None else Image.open(io.BytesIO(data))
        if orientation_of(stored) > 1:
            return Picture(name, pixels, file=file, source=Upright(source))
    return Picture(name, pixels, data, file, source)
