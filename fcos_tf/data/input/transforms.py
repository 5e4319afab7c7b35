"""Scale, crop, flip and pad: image and boxes together.

NumPy, since it runs in the same Python call that decodes the image, in the threads of tf.data (see
`pipeline`): for a 512x512 image TensorFlow's own reverse and pad cost as much as the decoding.

h, w: the size of one image. H, W: the size of the canvas it is padded to. M boxes.
Every function is pure, chance included: it is an argument.
"""

import cv2
import numpy as np

LEAST_SIDE = 1.0  # pixels; of a box that a crop cuts to less there is nothing left to learn


def scale_boxes(boxes: np.ndarray, before: tuple[int, int], after: tuple[int, int]) -> np.ndarray:
    """Brings boxes from the pixels of an image to those of the resized one.

    The sizes are whole pixels, so each axis has its own ratio, which is a little off the one scale
    that was aimed at.

    Args:
        boxes: [M, 4], xyxy in pixels of the image before.
        before: Its (height, width).
        after: (height, width) that it was resized to.

    Returns:
        float32 [M, 4] in pixels of the resized image.
    """
    before, after = (np.array([w, h, w, h], np.float32) for h, w in (before, after))
    # Multiplied first: a box that ends at the border, at w, ends exactly at w * w' / w = w'.
    return boxes.astype(np.float32) * after / before


def crop(
    image: np.ndarray,
    boxes: np.ndarray,
    labels: np.ndarray,
    corner: tuple[int, int],
    size: tuple[int, int],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cuts a window out of an image; where it reaches over the border it is smaller.

    Args:
        image: [h, w, 3].
        boxes: float32 [M, 4], xyxy in pixels of `image`.
        labels: int32 [M].
        corner: (first row, first column) of the window, inside the image.
        size: (rows, columns) of the window.

    Returns:
        The window, and the boxes and labels of what is seen in it: boxes are cut at its border,
        and those of which less than `LEAST_SIDE` is left are gone.
    """
    top, left = corner
    image = image[top : top + size[0], left : left + size[1]]
    height, width = image.shape[:2]
    boxes = boxes - np.array([left, top, left, top], np.float32)
    boxes = np.clip(boxes, 0, np.array([width, height, width, height], np.float32))
    seen = (boxes[:, 2:] - boxes[:, :2] >= LEAST_SIDE).all(axis=1)
    return image, boxes[seen], labels[seen]


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
        What `crop` returns, at most (H, W); an image that fits is returned whole.
    """
    free = [max(0, side - most) for side, most in zip(image.shape[:2], canvas, strict=True)]
    corner = tuple(int(chance * (n + 1)) for chance, n in zip(chances, free, strict=True))
    return crop(image, boxes, labels, corner, canvas)


def flip_horizontal(image: np.ndarray, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mirrors an image that is not padded yet: x becomes w - x, so x1 and x2 change places.

    Args:
        image: uint8 [h, w, 3].
        boxes: float32 [M, 4], xyxy in pixels of `image`.

    Returns:
        The mirrored image and boxes.
    """
    return cv2.flip(image, 1), flip_boxes(boxes, image.shape[1])


def flip_boxes(boxes: np.ndarray, width: int) -> np.ndarray:
    """The boxes [M, 4] of an image of that width, mirrored with it."""
    mirrored = boxes.copy()
    mirrored[:, [0, 2]] = width - boxes[:, [2, 0]]
    return mirrored


def pad_image(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Pads an image with zeros, right and bottom; boxes keep their coordinates.

    Args:
        image: [h, w, 3], no larger than the canvas.
        height: H.
        width: W.

    Returns:
        [H, W, 3] of the same dtype.
    """
    if image.shape[:2] == (height, width):
        return np.ascontiguousarray(image)
    canvas = np.zeros([height, width, 3], image.dtype)
    canvas[: image.shape[0], : image.shape[1]] = image
    return canvas


def pad_boxes(boxes: np.ndarray, labels: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Brings ground truth to a fixed length.

    Args:
        boxes: float32 [M, 4], M <= count.
        labels: int32 [M].
        count: The length to pad to.

    Returns:
        float32 [count, 4] padded with 0 and int32 [count] padded with -1.
    """
    return pad_rows(boxes.astype(np.float32), count), pad_rows(labels.astype(np.int32), count, -1)


def pad_rows(values: np.ndarray, count: int, padding: int = 0) -> np.ndarray:
    """[M, ...] -> [count, ...] of the same dtype; M <= count."""
    padded = np.full([count, *values.shape[1:]], padding, values.dtype)
    padded[: len(values)] = values
    return padded
