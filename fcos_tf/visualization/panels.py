"""Panels of an image with points, boxes, arrows or a heat map, and sheets of them.

A panel is an image enlarged to a long side of `PANEL` pixels, or as it is. Coordinates are in
pixels of the image.

Shape shorthand: an image of H x W pixels, n points, K boxes.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from PIL import Image, ImageDraw

from fcos_tf.visualization.detections import as_rgb, draw_boxes
from fcos_tf.visualization.text import text_mask

PANEL = 512  # least long side in pixels
_GAP, _TEXT = 14, 17
_PAPER, _INK = (243, 243, 245), (30, 30, 30)
_TICKS = (0, 0.05, 0.25, 0.5, 1)


class Level(NamedTuple):
    """The points of a level.

    Attributes:
        stride: in pixels.
        points: [n, 2] float32, (x, y) pixels, row by row.
        rows: their place among all N points.
    """

    stride: float
    points: np.ndarray
    rows: slice


def factor_of(image: np.ndarray) -> float:
    """Pixels of a panel for each of the image."""
    return max(1.0, PANEL / max(image.shape[:2]))


def scale_image(image: np.ndarray) -> np.ndarray:
    """The image as a panel, uint8."""
    height, width = (max(1, round(side * factor_of(image))) for side in image.shape[:2])
    resized = Image.fromarray(as_rgb(image)).resize((width, height), Image.Resampling.BICUBIC)
    return np.array(resized)


def boxes_panel(image: np.ndarray, boxes: np.ndarray, *columns: Any, **options: Any) -> np.ndarray:
    """The scaled image with boxes, see `draw_boxes`."""
    options = {"line_width": 2, "text_size": _TEXT - 3, **options}
    return draw_boxes(scale_image(image), boxes * factor_of(image), *columns, **options)


def dim_image(pixels: np.ndarray) -> np.ndarray:
    """Dark grey, on which colours stand out."""
    grey = np.asarray(Image.fromarray(pixels).convert("L"))
    return np.repeat((0.5 * grey).astype(np.uint8)[..., None], 3, axis=-1)


def draw_dots(
    pixels: np.ndarray, points: np.ndarray, colours: Any, scale: float, *, stride: float
) -> None:
    """Draws a square on each of [n, 2] points, smaller where points are closer.

    Args:
        pixels: the panel, changed in place.
        points: [n, 2] (x, y).
        colours: [n, 3] or one.
        scale: of the panel.
        stride: between the points; 0: single pixels.
    """
    reach = int(min(0.18 * stride * scale, 4))
    edges = [(1, np.zeros(3)), (0, None)] if reach > 1 else [(0, None)]
    for (x, y), colour in zip(
        points * scale, np.broadcast_to(colours, (len(points), 3)), strict=True
    ):
        column, row = int(x), int(y)
        for extra, edge in edges:
            first, last = reach + extra, reach + extra + 1
            area = pixels[max(row - first, 0) : row + last, max(column - first, 0) : column + last]
            area[:] = colour if edge is None else edge


def heat_panel(
    pixels: np.ndarray, level: Level, values: np.ndarray, scale: float, shown: Any = None
) -> np.ndarray:
    """Colours the cell of each point by its value, 0 to 1; other cells are dark grey."""
    nearest = [
        np.abs(
            (np.arange(length)[:, None] + 0.5) / scale - np.unique(level.points[:, axis])
        ).argmin(1)
        for axis, length in ((1, pixels.shape[0]), (0, pixels.shape[1]))
    ]
    cell = nearest[0][:, None] * (nearest[1].max() + 1) + nearest[1]  # [H, W], index of a point
    dim = dim_image(pixels)
    mixed = (0.4 * dim + 0.8 * _heat_colours(values)[cell]).round()
    shown = np.ones(len(values), bool) if shown is None else shown
    return np.where(shown[cell][..., None], np.minimum(mixed, 255), dim).astype(np.uint8)


def _heat_colours(values: Any) -> np.ndarray:
    """[..., 3], 0 to 255; by the root, so that low scores differ."""
    return 255 * matplotlib.colormaps["inferno"](np.sqrt(values))[..., :3]


def draw_arrows(
    pixels: np.ndarray, point: np.ndarray, ltrb: np.ndarray, stride: float, scale: float
) -> np.ndarray:
    """Draws the four distances [4], in strides, from a point to the sides of its box."""
    picture = Image.fromarray(pixels)
    draw = ImageDraw.Draw(picture)
    directions = np.float32([(-1, 0), (0, -1), (1, 0), (0, 1)])
    start = point * scale
    for name, distance, direction in zip("ltrb", ltrb, directions, strict=True):
        end = start + direction * distance * stride * scale
        side = direction[::-1] * 4
        draw.line([*start, *end], fill=(255, 255, 255), width=2)
        head = [end, end - direction * 8 + side, end - direction * 8 - side]
        draw.polygon([tuple(corner) for corner in head], fill=(255, 255, 255))
        text = text_mask(f"{name} {distance:.1f}", _TEXT - 3)
        # l above, t right, r below, b left of its arrow: each in a quadrant of its own.
        middle, (width, height) = (start + end) / 2, text.size
        corner = {"l": (-width, -height - 4), "t": (4, -height), "r": (0, 4), "b": (-width - 4, 0)}
        place = np.clip(middle + corner[name], 0, np.subtract(picture.size, text.size)).astype(int)
        picture.paste((0, 0, 0), (*place, *(place + text.size)))
        picture.paste((255, 255, 255), tuple(place), text)
    return np.array(picture)


def make_sheet(
    rows: Sequence[Sequence[tuple[np.ndarray, str]]], *, bar: bool = False
) -> Image.Image:
    """Rows of panels, each under its caption; a scale of the heat maps' colours at the end."""
    height, width = rows[0][0][0].shape[:2]
    line = 2 * _TEXT
    masks = [[text_mask(caption, _TEXT) for _, caption in row] for row in rows]
    column = max(width, *(mask.width for row in masks for mask in row)) + _GAP
    foot = 3 * _TEXT if bar else 0
    size = (_GAP + column * max(map(len, rows)), len(rows) * (height + line) + _GAP + foot)
    canvas = Image.new("RGB", size, _PAPER)
    for i, row in enumerate(rows):
        for j, (pixels, _) in enumerate(row):
            left, top = _GAP + j * column, i * (height + line)
            canvas.paste(_INK, (left, top + (line - masks[i][j].height) // 2), masks[i][j])
            canvas.paste(Image.fromarray(pixels), (left, top + line))
    if bar:
        ramp = _heat_colours(np.linspace(0, 1, width) ** 2).round().astype(np.uint8)  # [width, 3]
        top = size[1] - foot
        canvas.paste(Image.fromarray(np.repeat(ramp[None], _TEXT, axis=0)), (_GAP, top))
        for tick in _TICKS:
            mask = text_mask(f"{tick:g}", _TEXT - 3)
            left = _GAP + round(tick**0.5 * width - mask.width * tick**0.5)
            canvas.paste(_INK, (left, top + _TEXT + 2), mask)
    return canvas
