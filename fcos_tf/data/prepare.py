"""Images for a detector's `predict`, resized exactly as in evaluation.

h, w: the size of an image on disk. H, W: the size of the canvas of a batch of B images.
"""

import os
from collections.abc import Sequence

import numpy as np
from PIL import Image

from fcos_tf.data.images import (
    ImageError,
    decode_image,
    orientation_of,
    pad_image,
    read_bytes,
    resize_image,
    to_rgb,
    turn_upright,
)
from fcos_tf.image_size import MULTIPLE, ImageSize, parse_image_size

# A path, the bytes of an image file, pixels uint8 [h, w, 3] RGB, or a Pillow image.
ImageSource = str | os.PathLike | bytes | np.ndarray | Image.Image


def read_pixels(source: ImageSource, *, name: str = "", apply_exif: bool = False) -> np.ndarray:
    """The stored pixels of an image, uint8 [h, w, 3] RGB.

    Args:
        source: A path, the bytes of an image file, pixels uint8 [h, w, 3] RGB, or a Pillow image,
            which is converted as a file is, see `decode_image`.
        name: For messages about an image that is no path.
        apply_exif: Turn it upright by its EXIF orientation.

    Raises:
        ImageError: It cannot be read or decoded; names it.
        ValueError: Pixels of another shape or dtype.
    """
    if isinstance(source, Image.Image):
        try:
            orientation = orientation_of(source) if apply_exif else 1
            source = turn_upright(to_rgb(source), orientation)
        except Exception as error:  # Pillow reads late, and raises anything
            raise ImageError(f"cannot read image{name and ' ' + name}: {error}") from error
    if isinstance(source, np.ndarray):
        is_rgb = source.dtype == np.uint8 and source.ndim == 3 and source.shape[2] == 3
        if not is_rgb or not source.size:
            raise ValueError(
                f"image{name and ' ' + name}: expected pixels uint8 [h, w, 3], "
                f"got {source.dtype} {list(source.shape)}"
            )
        return source
    if not isinstance(source, bytes):
        name = os.fspath(source)
        source = read_bytes(name)
    pixels, _ = decode_image(source, name or "from bytes", lambda h, w: (h, w), apply_exif)
    return pixels


def prepare_batch(
    sources: Sequence[ImageSource], image_size: str | tuple[int, int] | ImageSize
) -> dict[str, np.ndarray]:
    """Reads images and resizes them for a detector, padded to one canvas.

    Args:
        sources: B images, each as for `read_pixels`.
        image_size: The rule, such as `model.image_size`; of a random one the largest size.

    Returns:
        `images` float32 [B, H, W, 3] RGB, 0-255 and not rounded, padded with zeros right and bottom
        to the fixed canvas, or to the least multiple of 32 that holds all; `image_sizes` and
        `original_sizes` float32 [B, 2], (height, width) before padding, and on disk.
        `model.predict` takes the first two.

    Raises:
        ImageError: A file cannot be read or decoded; names it.
        ValueError: No images, pixels of another shape or dtype, or an invalid image size.

    Example:
        batch = prepare_batch(["a.jpg", "b.jpg"], model.image_size)
        sizes = batch.pop("original_sizes")
        detections = model.predict(batch)
    """
    rule = parse_image_size(image_size).fixed()
    resized, originals = [], []
    for number, source in enumerate(sources):
        pixels = read_pixels(source, name=f"{number} of the batch")
        originals.append(pixels.shape[:2])
        resized.append(resize_image(pixels.astype(np.float32), *rule.resized(*originals[-1])))
    if not resized:
        raise ValueError("expected at least one image, got none")
    sizes = np.array([image.shape[:2] for image in resized])
    canvas = rule.canvas or tuple(-(-sizes.max(axis=0) // MULTIPLE) * MULTIPLE)
    return {
        "images": np.stack([pad_image(image, *canvas) for image in resized]),
        "image_sizes": sizes.astype(np.float32),
        "original_sizes": np.array(originals, np.float32),
    }
