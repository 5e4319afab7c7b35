"""Boxes, labels and scores drawn on an image."""

import bisect
import colorsys
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from fcos_tf.visualization.text import text_mask

# Hand-picked, as many as VOC has classes: neighbours differ in hue and lightness, and all stand out
# from photos. Further labels step through the hues by the golden ratio.
_PALETTE = (
    (230, 57, 70), (29, 145, 255), (255, 209, 0), (0, 168, 107), (255, 122, 0),
    (160, 84, 255), (0, 210, 230), (255, 92, 190), (150, 220, 0), (150, 90, 40),
    (34, 34, 136), (204, 221, 136), (0, 0, 255), (0, 255, 119), (136, 34, 85),
    (255, 0, 238), (187, 136, 221), (255, 187, 102), (17, 102, 153), (255, 0, 0),
)  # fmt: skip
_GOLDEN_RATIO = 0.6180339887498949

LONGEST_NAME = 200  # characters of a label that are tried
MOST_TAGS = 300  # labels of a picture: each is placed beside all others

Tag = tuple[int, int, int, int]  # left, top, right, bottom of a label in pixels


def class_colour(label: int) -> tuple[int, int, int]:
    """Returns the RGB colour (0-255) of a class; the same in every picture."""
    label = int(label)
    if 0 <= label < len(_PALETTE):
        return _PALETTE[label]
    lightness = (0.5, 0.68, 0.4)[label % 3]
    red, green, blue = colorsys.hls_to_rgb((label * _GOLDEN_RATIO) % 1.0, lightness, 0.9)
    return round(255 * red), round(255 * green), round(255 * blue)


def draw_detections(
    image: Any,
    detections: Mapping[str, Any],
    class_names: Sequence[str] | None = None,
    *,
    score_threshold: float = 0.3,
    line_width: int | None = None,
    text_size: int | None = None,
) -> np.ndarray:
    """Draws the detections of one image.

    Args:
        image: [H, W, 3] RGB, or [H, W] grey; uint8, or float 0-255.
        detections: `boxes` [D, 4] xyxy in pixels of `image`, `scores` [D], `labels` [D] (negative:
            padding); or the same with a leading axis of one image.
        class_names: name of each label; None writes the label.
        score_threshold: detections below it are skipped.
        line_width: in pixels; None: by the size of the image.
        text_size: in pixels; None: by the size of the image; 0: no text.

    Returns:
        [H, W, 3] uint8, a new array.

    Raises:
        ValueError: a wrong shape, or more than one image.

    Example:
        picture = draw_detections(image, model.predict(image[None]), model.class_names)
    """
    found = select_detections(detections, score_threshold)
    return draw_boxes(
        image, *found, class_names=class_names, line_width=line_width, text_size=text_size
    )


def select_detections(
    detections: Mapping[str, Any], score_threshold: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns boxes [K, 4], labels [K], scores [K] of one image without padding and low scores."""
    arrays = [np.asarray(detections[key]) for key in ("boxes", "labels", "scores")]
    if arrays[0].ndim == 3:
        if len(arrays[0]) != 1:
            raise ValueError(f"expected the detections of one image, got {len(arrays[0])} images")
        arrays = [array[0] for array in arrays]
    boxes, labels, scores = arrays
    kept = (labels >= 0) & (scores >= score_threshold)
    return boxes[kept], labels[kept], scores[kept]


def draw_boxes(
    image: Any,
    boxes: Any,
    labels: Any = None,
    scores: Any = None,
    *,
    class_names: Sequence[str] | None = None,
    texts: Sequence[str] | None = None,
    line_width: int | None = None,
    text_size: int | None = None,
) -> np.ndarray:
    """Draws boxes in the colours of their classes, each with its name and score.

    Args:
        image: [H, W, 3] RGB, or [H, W] grey; uint8, or float 0-255.
        boxes: [K, 4] xyxy in pixels of `image`; clipped to it.
        labels: [K]; None: one colour, no text. Boxes after the `MOST_TAGS` best have none either.
        scores: [K] in 0..1; None: names only.
        class_names: name of each label; None writes the label.
        texts: [K], in place of the names and scores.
        line_width: in pixels; None: by the size of the image.
        text_size: in pixels; None: by the size of the image; 0: no text.

    Returns:
        [H, W, 3] uint8, a new array.

    Raises:
        ValueError: a wrong shape, or a box that is not finite.
    """
    pixels = as_rgb(image)
    boxes, labels, scores = _checked(boxes, labels, scores)
    height, width = pixels.shape[:2]
    if line_width is None:
        line_width = max(1, round(min(height, width) / 150))
    if text_size is None:
        text_size = max(10, round(0.026 * (height * width) ** 0.5))

    # The highest score is drawn last, on top, and its label is placed first.
    order = np.arange(len(boxes)) if scores is None else np.argsort(-scores, kind="stable")
    rectangles = [_covered(box, (width, height)) for box in boxes]
    for i in order[::-1]:
        colour = class_colour(0 if labels is None else labels[i])
        _outline(pixels, rectangles[i], colour, line_width)
    if labels is None or text_size == 0 or len(boxes) == 0:
        return pixels
    pad = max(1, text_size // 6)
    tags: list[Tag] = []
    masks = []
    order = order[:MOST_TAGS]
    for i in order:
        name = texts[i] if texts is not None else class_name(int(labels[i]), class_names)
        text = name if scores is None or texts is not None else f"{name} {scores[i]:.2f}"
        masks.append(_label_mask(text, name, text_size, width - 2 * pad))
        tag_size = masks[-1].width + 2 * pad, masks[-1].height + pad
        tags.append(_place(rectangles[i], tag_size, (width, height), tags))
    picture = Image.fromarray(pixels)
    for i, tag, mask in reversed(list(zip(order, tags, masks, strict=True))):
        _write(picture, tag, mask, class_colour(labels[i]))
    return np.array(picture)


def as_rgb(image: Any) -> np.ndarray:
    """Returns an image [H, W, 3], [H, W, 1] or [H, W], 0-255, as a new [H, W, 3] uint8 array."""
    array = np.asarray(image)
    array = array[..., None] if array.ndim == 2 else array
    if array.ndim != 3 or array.shape[-1] not in (1, 3) or array.size == 0:
        raise ValueError(f"expected an image [H, W, 3] or [H, W], got shape {np.shape(image)}")
    if array.dtype != np.uint8:
        array = np.clip(np.round(np.nan_to_num(array.astype(np.float32))), 0, 255)
    return np.broadcast_to(array, (*array.shape[:2], 3)).astype(np.uint8, order="C")


def _checked(boxes: Any, labels: Any, scores: Any):
    boxes = np.asarray(boxes, np.float64)
    boxes = boxes.reshape(0, 4) if boxes.size == 0 else boxes
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"expected boxes [K, 4], got shape {boxes.shape}")
    for i in np.flatnonzero(~np.isfinite(boxes).all(axis=1)):
        raise ValueError(f"expected finite boxes, got {boxes[i].tolist()} in row {i}")
    columns = []
    for name, values in (("labels", labels), ("scores", scores)):
        values = None if values is None else np.asarray(values)
        if values is not None and values.shape != (len(boxes),):
            raise ValueError(f"expected {name} [{len(boxes)}], got shape {values.shape}")
        columns.append(values)
    return boxes, *columns


def _covered(box: np.ndarray, size: tuple[int, int]) -> Tag:
    """Returns the pixels (left, top, right, bottom) of a box inside the image, at least one."""
    width, height = size
    x1, y1, x2, y2 = np.round(box)
    left, top = np.clip((min(x1, x2), min(y1, y2)), 0, (width - 1, height - 1))
    last = max(x1, x2) - 1, max(y1, y2) - 1
    right, bottom = np.clip(last, (left, top), (width - 1, height - 1))
    return int(left), int(top), int(right), int(bottom)


def _outline(pixels: np.ndarray, rectangle: Tag, colour: tuple, line_width: int) -> None:
    """Draws a frame inside the rectangle, with a thin shade on both sides."""
    left, top, right, bottom = rectangle
    if line_width > 1:
        edge = max(1, line_width // 3)
        for offset in (-edge, line_width):
            shade = (left + offset, top + offset, right - offset, bottom - offset)
            _frame(pixels, shade, (0, 0, 0), edge, opacity=0.28)
    _frame(pixels, rectangle, colour, line_width)


def _frame(
    pixels: np.ndarray, rectangle: Tag, colour: tuple, line_width: int, opacity: float = 1.0
) -> None:
    """Blends `colour` into a frame inside the rectangle, clipped to the image."""
    left, top, right, bottom = rectangle
    if right < left or bottom < top:
        return
    # Four disjoint strips (x1, y1, x2, y2), ends excluded.
    upper, near = min(top + line_width, bottom + 1), min(left + line_width, right + 1)
    lower, far = max(bottom + 1 - line_width, upper), max(right + 1 - line_width, near)
    for x1, y1, x2, y2 in (
        (left, top, right + 1, upper),
        (left, lower, right + 1, bottom + 1),
        (left, upper, near, lower),
        (far, upper, right + 1, lower),
    ):
        strip = pixels[max(y1, 0) : max(y2, 0), max(x1, 0) : max(x2, 0)]
        strip[:] = np.round((1 - opacity) * strip + opacity * np.array(colour))


def class_name(label: int, class_names: Sequence[str] | None) -> str:
    """Returns the name of a class, the label itself if it is unknown."""
    known = class_names is not None and 0 <= label < len(class_names)
    # Without line breaks, which would not fit the background.
    return " ".join(str(class_names[label] if known else label).split())


def _label_mask(text: str, name: str, text_size: int, most: int) -> Image.Image:
    """The text as a mask; wider than `most` pixels, it loses the score, then letters."""
    for attempt in (text, name) if len(text) <= LONGEST_NAME else ():
        mask = text_mask(attempt, text_size)
        if mask.width <= most:
            return mask
    if len(name) == 1:
        return mask
    lengths = range(1, min(len(name), LONGEST_NAME))
    kept = bisect.bisect(lengths, most, key=lambda n: text_mask(f"{name[:n]}…", text_size).width)
    return text_mask(f"{name[: max(kept, 1)]}…", text_size)


def _place(
    rectangle: Tag, tag_size: tuple[int, int], size: tuple[int, int], taken: Sequence[Tag]
) -> Tag:
    """Returns the place of a label: at a corner of its box, in the image, with least overlap.

    Of equal places above the box comes first, then inside at the top, below, inside at the bottom.
    """
    width, height = tag_size
    left, top, right, bottom = rectangle
    columns = left, right + 1 - width
    rows = top - height, top, bottom + 1, bottom + 1 - height
    corners = itertools.product(
        [max(0, min(x, size[0] - width)) for x in columns],
        [max(0, min(y, size[1] - height)) for y in rows],
    )
    places = [(x, y, x + width, y + height) for x, y in corners]
    return min(places, key=lambda place: sum(_overlap(place, other) for other in taken))


def _overlap(a: Tag, b: Tag) -> int:
    """Returns the number of common pixels."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return max(width, 0) * max(height, 0)


def _write(picture: Image.Image, tag: Tag, mask: Image.Image, colour: tuple) -> None:
    """Writes the text in black or white on a filled background, by its luminance."""
    picture.paste(colour, tag)
    red, green, blue = colour
    ink = (0, 0, 0) if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else (255, 255, 255)
    left = tag[0] + (tag[2] - tag[0] - mask.width) // 2
    top = tag[1] + (tag[3] - tag[1] - mask.height) // 2
    picture.paste(ink, (left, top), mask)
