"""Images for a detector's `predict`, brought to its size exactly as evaluation does it.

h, w: the size of an image on disk. H, W: the size of the canvas of a batch of B images.
"""

import os
from collections.abc import Sequence

import numpy as np
from PIL import Image

from fcos_tf.data.images import ImageError, decode_image, read_bytes, resize_image, to_rgb
from fcos_tf.data.input.transforms import pad_image
from fcos_tf.image_size import MULTIPLE, ImageSize, parse_image_size

# A path, the bytes of an image file, uint8 [h, w, 3] RGB, or an image of Pillow.
ImageSource = str | os.PathLike | bytes | np.ndarray | Image.Image


def prepare_image(
    source: ImageSource, image_size: str | tuple[int, int] | ImageSize, *, name: str = ""
) -> tuple[np.ndarray, tuple[int, int]]:
    """Reads an image and resizes it for a detector.

    Args:
        source: What `read_pixels` takes.
        image_size: The rule, such as `model.image_size`; of a random one the largest size counts.
        name: What messages call an image that is no path.

    Returns:
        float32 [height, width, 3] RGB, 0-255 and not rounded, and the (h, w) it had.

    Raises:
        ImageError: The file cannot be read or decoded; names it.
        ValueError: Pixels of another shape or dtype, or an image size that is none.
    """
    rule = parse_image_size(image_size).fixed()
    pixels = read_pixels(source, name=name)
    size = pixels.shape[:2]
    return resize_image(pixels.astype(np.float32), *rule.resized(*size)), size


def read_pixels(source: ImageSource, *, name: str = "") -> np.ndarray:
    """The pixels of an image, whatever it comes as.

    They are those stored: EXIF orientation is not applied. An image of Pillow is converted as a
    file is: alpha is left out, palettes and grey levels become RGB, 16 bits become 8.

    Args:
        source: A path, the bytes of an image file, pixels: uint8 [h, w, 3] RGB, or an image of
            Pillow.
        name: What messages call an image that is no path.

    Returns:
        uint8 [h, w, 3] RGB.

    Raises:
        ImageError: It cannot be read or decoded; names it.
        ValueError: Pixels of another shape or dtype.
    """
    if isinstance(source, Image.Image):
        try:
            source = to_rgb(source)
        except Exception as error:  # Pillow reads late, and raises whatever it stumbles over
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
    pixels, _ = decode_image(source, name or "from bytes", lambda h, w: (h, w))
    return pixels


def prepare_batch(
    sources: Sequence[ImageSource], image_size: str | tuple[int, int] | ImageSize
) -> dict[str, np.ndarray]:
    """Reads images and resizes them for a detector, padded to one canvas.

    Args:
        sources: B images, each as in `prepare_image`.
        image_size: The rule, such as `model.image_size`.

    Returns:
        `images` float32 [B, H, W, 3], padded with zeros right and bottom to the fixed canvas, or
        to the least multiple of 32 that holds all; `image_sizes` and `original_sizes` float32
        [B, 2], (height, width) before padding, and on disk. The first two are what
        `model.predict` takes, as a dict.

    Raises:
        ImageError: A file cannot be read or decoded; names it.
        ValueError: No images, pixels of another shape or dtype, or an image size that is none.

    Example:
        batch = prepare_batch(["a.jpg", "b.jpg"], model.image_size)
        sizes = batch.pop("original_sizes")
        detections = model.predict(batch)
    """
    rule = parse_image_size(image_size)
    prepared = [
        prepare_image(source, rule, name=f"{i} of the batch") for i, source in enumerate(sources)
    ]
    return pad_batch(prepared, rule)


def pad_batch(
    prepared: Sequence[tuple[np.ndarray, tuple[int, int]]],
    image_size: str | tuple[int, int] | ImageSize,
) -> dict[str, np.ndarray]:
    """The second half of `prepare_batch`: one canvas for what `prepare_image` gave.

    Raises:
        ValueError: No images.
    """
    if not prepared:
        raise ValueError("expected at least one image, got none")
    sizes = np.array([image.shape[:2] for image, _ in prepared])
    canvas = parse_image_size(image_size).canvas
    canvas = canvas or tuple(-(-sizes.max(axis=0) // MULTIPLE) * MULTIPLE)
    return {
        "images": np.stack([pad_image(image, *canvas) for image, _ in prepared]),
        "image_sizes": sizes.astype(np.float32),
        "original_sizes": np.array([size for _, size in prepared], np.float32),
    }
