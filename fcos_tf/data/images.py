"""Images: decode, resize, and with their boxes scale, crop, flip and pad.

Python, Pillow, OpenCV and NumPy only: it all runs in one Python call, in the threads of tf.data
(see `input.pipeline`); for a 512x512 image TensorFlow's own reverse and pad cost as much as the
decoding. Every function is pure, chance included: it is an argument.

Pillow reads every usual format and names the error of a corrupt file. OpenCV decodes whole JPEGs:
the same pixels, a quarter faster. Both use the accurate DCT, as PyTorch's loaders do (TensorFlow's
default differs by up to 18 grey levels). EXIF orientation is applied only when asked: the boxes of
COCO and VOC refer to the stored pixels.

h, w: the size of an image. H, W: the size of the canvas it is padded to. M boxes.
"""

import io
import math
from collections.abc import Callable

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from fcos_tf.image_files import check_regular
from fcos_tf.tensorflow_words import escaped

# tf.data keeps a thread for every core busy; several for one image compete.
cv2.setNumThreads(1)

# A JPEG is decoded at 1/2, 1/4 or 1/8 if that leaves this multiple of the size it is resized to.
# With 2, the result hardly differs from that of the whole image.
REDUCTION_MARGIN = 2

# The only formats that Pillow may try: of others some start programs (PostScript).
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM")

MAX_PIXELS = 1 << 27  # of a decoded image, 400 MB: a few bytes can claim any size

LEAST_SIDE = 1.0  # pixels; of a box that a crop cuts to less there is nothing left to learn

# (height, width) of the stored image -> (height, width) to resize to
SizeRule = Callable[[int, int], tuple[int, int]]


class ImageError(ValueError):
    """An image that cannot be read; the message, one line, names the file and the error."""

    def __init__(self, message: str):
        super().__init__(escaped(message))


def read_bytes(file: str, offset: int = 0, num_bytes: int | None = None) -> bytes:
    """The bytes of a file from `offset` on; `num_bytes` None: up to the end.

    `file` is a path, or a URL such as gs://bucket/file that TensorFlow can open.

    Raises:
        ImageError: The file is missing, cannot be read, or is too short.
    """
    try:
        if "://" in file:
            import tensorflow as tf

            with tf.io.gfile.GFile(file, "rb") as remote:
                remote.seek(offset)
                data = remote.read(-1 if num_bytes is None else num_bytes)
        else:
            check_regular(file)
            with open(file, "rb") as local:
                local.seek(offset)
                data = local.read(-1 if num_bytes is None else num_bytes)
    except FileNotFoundError:
        raise ImageError(f"no image file {file}") from None
    except Exception as error:  # a file system's own errors
        raise ImageError(f"cannot read {file}: {error}") from error
    if num_bytes is not None and len(data) < num_bytes:
        raise ImageError(
            f"cannot read {file}: expected {num_bytes} bytes from {offset} on, got {len(data)}"
        )
    return data


def read_header(
    file: str | io.BytesIO, *, with_exif: bool = True
) -> tuple[tuple[int, int], int] | None:
    """The (height, width) of an image as stored, and its EXIF orientation, 1 if not asked for.

    None: it cannot be read.
    """
    try:
        with Image.open(file, formats=FORMATS) as image:
            return image.size[::-1], orientation_of(image) if with_exif else 1
    except Exception:  # Pillow's plugins raise anything; decoding names the error
        return None


def stored_size(file: str | io.BytesIO, apply_exif: bool = False) -> tuple[int, int] | None:
    """(height, width) in an image's header, or as EXIF turns it; None: it cannot be read."""
    header = read_header(file, with_exif=apply_exif)
    return header and header[0][:: -1 if header[1] > 4 else 1]


def orientation_of(image: Image.Image) -> int:
    """The EXIF orientation of a Pillow image, 1 to 8, of which 5 to 8 exchange the sides."""
    if image.format == "TIFF":  # Pillow applies it
        return 1
    try:
        value = image.getexif().get(0x0112)
    except Exception:  # a corrupt EXIF block
        return 1
    return value if value in range(2, 9) else 1


def turn_upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Pixels [h, w, 3] as viewers show them, by their EXIF orientation (TIFF 6.0, tag 274)."""
    if orientation > 4:
        pixels = pixels.swapaxes(0, 1)
    rows = slice(None, None, -1 if orientation in (3, 4, 7, 8) else 1)
    columns = slice(None, None, -1 if orientation in (2, 3, 6, 7) else 1)
    return np.ascontiguousarray(pixels[rows, columns])


def size_mismatch(
    annotated: tuple[int, int], stored: tuple[int, int], image: str | io.BytesIO
) -> str:
    """The message about an image whose (height, width) is not the annotated one."""
    text = "expected an image of {1}x{0} pixels, as annotated, got {3}x{2}"
    text = text.format(*annotated, *stored)
    _, orientation = read_header(image) or ((), 1)
    if orientation > 4 and stored == annotated[::-1]:
        return f"{text}; viewers turn it by EXIF orientation {orientation}, as --apply_exif does"
    return f"{text}; for photos resized after annotation there is --scale_boxes"


def decode_image(
    data: bytes, name: str, size_for: SizeRule, apply_exif: bool = False
) -> tuple[np.ndarray, tuple[int, int]]:
    """Decodes an image and resizes it.

    Alpha channels are left out, palettes and grey levels become RGB, 16 bits become 8, and an
    animation is its first picture.

    Args:
        data: The content of a file of one of the `FORMATS`.
        name: For messages.
        size_for: Stored (height, width) -> (height, width) to resize to.
        apply_exif: Turn the image upright; the stored size is then that of the turned image.

    Returns:
        uint8 [h, w, 3] RGB, and the stored (height, width).

    Raises:
        ImageError: It cannot be decoded, or has more than `MAX_PIXELS` to decode.
    """
    if not data:
        raise ImageError(f"cannot decode image {name}: the file is empty")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            orientation = orientation_of(image) if apply_exif else 1
            whole, step = image.size, 1 if orientation > 4 else -1
            stored = whole[::step]
            height, width = size_for(*stored)
            draft = np.array([height, width][::step]) * REDUCTION_MARGIN
            image.draft(None, tuple(draft.tolist()))
            if math.prod(image.size) > MAX_PIXELS:
                got = f"{image.size[0]} x {image.size[1]}"
                raise ValueError(f"expected at most {MAX_PIXELS} pixels, got {got}")
            # The interpreter lock is free while pixels are decoded.
            pixels = _decode_whole_jpeg(image, data, whole)
            if pixels is None:
                pixels = to_rgb(image)
            if orientation > 1:
                pixels = turn_upright(pixels, orientation)
    except UnidentifiedImageError as error:
        raise ImageError(f"cannot decode image {name}: it is of no known format") from error
    except Exception as error:  # Pillow's plugins raise anything
        raise ImageError(f"cannot decode image {name}: {error or type(error).__name__}") from error
    return resize_image(pixels, height, width), stored


def resize_image(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resizes uint8 or float32 [h, w, 3] to [height, width, 3] of the same dtype.

    Bilinear interpolation, half-pixel centres, no antialiasing: the rule of `tf.image.resize` and
    of torchvision's detectors. uint8 is several times faster, and within one grey level of the
    exact result.
    """
    if image.shape[:2] == (height, width):
        return image
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)


def _decode_whole_jpeg(image: Image.Image, data: bytes, whole: tuple[int, int]):
    """The pixels of a JPEG that is to be decoded in full size, None of anything else."""
    is_plain = image.format == "JPEG" and image.mode in ("RGB", "L") and image.size == whole
    # OpenCV silently fills up a truncated file, which lacks the end marker.
    if not is_plain or not data.endswith(b"\xff\xd9"):
        return None
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    return cv2.imdecode(np.frombuffer(data, np.uint8), flags)


def to_rgb(image: Image.Image) -> np.ndarray:
    """The pixels of a Pillow image, uint8 [h, w, 3] RGB, as from `decode_image`.

    Raises:
        ValueError: Its grey levels have more than 16 bits, or are fractions.
    """
    if image.mode == "RGB":
        return np.asarray(image)
    if image.mode.startswith("I") or image.mode == "F":
        # Pillow would cut 16-bit grey levels off at 255. 32-bit ones have no agreed range.
        values = np.asarray(image)
        is_wide = image.mode == "F" or (image.format, image.mode) == ("TIFF", "I")
        if is_wide or values.min() < 0 or values.max() > 65535:
            raise ValueError(f"expected grey levels of 8 or 16 bits, got mode {image.mode}")
        return np.repeat((values >> 8).astype(np.uint8)[..., None], 3, axis=-1)
    return np.asarray(image.convert("RGB"))


def scale_boxes(boxes: np.ndarray, before: tuple[int, int], after: tuple[int, int]) -> np.ndarray:
    """Brings boxes [M, 4] of an image of (height, width) `before` to its size `after`; float32.

    The sizes are whole pixels, so each axis has its own ratio, which is a little off the one scale
    that was aimed at.
    """
    before, after = (np.array([w, h, w, h], np.float32) for h, w in (before, after))
    # Multiplied first: a box that ends at the border, at w, ends exactly at w * w' / w = w'.
    return boxes.astype(np.float32) * after / before


def crop_to_canvas(
    image: np.ndarray,
    boxes: np.ndarray,
    labels: np.ndarray,
    canvas: tuple[int, int],
    chances: tuple[float, float],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cuts a random window of at most a canvas out of an image; the second half of scale jitter.

    Large-scale jitter (arXiv:2012.07177): the image was resized to a random size, larger or
    smaller than the canvas. Every place of the window is equally likely.

    Args:
        image: [h, w, 3].
        boxes: float32 [M, 4], xyxy in pixels of `image`.
        labels: int32 [M].
        canvas: (H, W).
        chances: Two numbers in [0, 1), for the place along (y, x).

    Returns:
        The window, at most (H, W); an image that fits is returned whole. And the boxes and labels
        of what is seen in it: boxes are cut at its border, and those of which less than
        `LEAST_SIDE` is left are gone.
    """
    free = [max(0, side - most) for side, most in zip(image.shape[:2], canvas, strict=True)]
    top, left = (int(chance * (n + 1)) for chance, n in zip(chances, free, strict=True))
    image = image[top : top + canvas[0], left : left + canvas[1]]
    height, width = image.shape[:2]
    boxes = boxes - np.array([left, top, left, top], np.float32)
    boxes = np.clip(boxes, 0, np.array([width, height, width, height], np.float32))
    seen = (boxes[:, 2:] - boxes[:, :2] >= LEAST_SIDE).all(axis=1)
    return image, boxes[seen], labels[seen]


def flip_horizontal(image: np.ndarray, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """An image [h, w, 3], not padded yet, and its boxes [M, 4], mirrored: x becomes w - x."""
    return cv2.flip(image, 1), flip_boxes(boxes, image.shape[1])


def flip_boxes(boxes: np.ndarray, width: int) -> np.ndarray:
    """The boxes [M, 4] of an image of that width, mirrored: x1 and x2 change places."""
    mirrored = boxes.copy()
    mirrored[:, [0, 2]] = width - boxes[:, [2, 0]]
    return mirrored


def pad_image(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Pads [h, w, 3] with zeros, right and bottom, to [H, W, 3]; boxes keep their coordinates."""
    if image.shape[:2] == (height, width):
        return np.ascontiguousarray(image)
    canvas = np.zeros([height, width, 3], image.dtype)
    canvas[: image.shape[0], : image.shape[1]] = image
    return canvas


def pad_rows(values: np.ndarray, count: int, padding: int = 0) -> np.ndarray:
    """[M, ...] -> [count, ...] of the same dtype; M <= count."""
    padded = np.full([count, *values.shape[1:]], padding, values.dtype)
    padded[: len(values)] = values
    return padded
