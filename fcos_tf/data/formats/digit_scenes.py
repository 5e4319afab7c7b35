"""Draws scenes of handwritten digits on photo crops: the pictures behind `digits.py`.

The same numbers give the same bytes on every machine: random numbers are PCG64 doubles, glyphs are
sampled with integer arithmetic and the photo crops are resized by OpenCV's bit-exact kernel. But
another JPEG decoder inside Pillow may change a background, and with it a colour, by a grey level
(never a box or a label), and other glyphs in scikit-learn would be another data set.
"""

import math
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import cv2
import numpy as np

SCENE_SIZE = 128
MOST_GLYPHS = 6
GLYPH_HEIGHTS = (18.0, 72.0)  # pixels, log-uniform
ASPECTS = (0.85, 1.2)  # width over height of a glyph's cells
MAX_ANGLE = 20.0  # degrees
MAX_IOU = 0.35  # of two boxes
MAX_COVERED = 0.4  # of a box, by one other
MIN_CONTRAST = 90  # grey levels between a digit and what it is drawn on
MIN_COLOUR_DISTANCE = 130  # RGB distance between digits that touch, where possible
INK = 64  # alpha, of 255, from which a pixel belongs to the digit

_CELLS = 8  # of a glyph, each way
_BORDER = 2  # empty cells added around it
_UPSAMPLE = 8  # mask pixels per cell
_STRENGTH = (0.32, 0.66)  # ink of a cell where the stroke begins and where it is opaque
_TRIES = 12  # places, and colours, to try for one glyph

Random = Callable[..., float]  # the next number in [0, 1), or an array of them of a given shape
Box = tuple[int, int, int, int]  # xyxy


class Scene(NamedTuple):
    """One picture with its objects.

    Attributes:
        image: uint8 [SCENE_SIZE, SCENE_SIZE, 3] RGB.
        boxes: float32 [M, 4], xyxy pixels; the tight box of the pixels with alpha >= INK, also
            where another digit covers them.
        labels: int32 [M], the digits.
        glyphs: int32 [M], their indices in `load_digits`.
    """

    image: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    glyphs: np.ndarray


def draw_scene(pool: np.ndarray, key: list[int]) -> Scene:
    """Draws one scene with 1 to MOST_GLYPHS digits.

    Args:
        pool: The glyphs to choose from, indices into `load_digits`.
        key: Non-negative integers; the same ones give the same scene.
    """
    random = np.random.Generator(np.random.PCG64(np.random.SeedSequence(key))).random
    masks, digit_of = glyph_masks()
    canvas = draw_background(random).astype(np.int32)
    boxes, glyphs, colours = [], [], []
    for _ in range(1 + int(random() * MOST_GLYPHS)):
        glyph = pool[int(random() * len(pool))]
        height = GLYPH_HEIGHTS[0] * (GLYPH_HEIGHTS[1] / GLYPH_HEIGHTS[0]) ** random()
        aspect = ASPECTS[0] + (ASPECTS[1] - ASPECTS[0]) * random()
        alpha = draw_glyph(masks[glyph], height, aspect, MAX_ANGLE * (2.0 * random() - 1.0))
        ink = tight_box(alpha)
        box = _place(ink[2] - ink[0], ink[3] - ink[1], boxes, random)
        if box is None:
            continue
        touched = [c for c, other in zip(colours, boxes, strict=True) if _shared(box, other) > 0]
        colours.append(_paint(canvas, alpha, box[0] - ink[0], box[1] - ink[1], touched, random))
        boxes.append(box)
        glyphs.append(glyph)
    return Scene(
        canvas.astype(np.uint8),
        np.array(boxes, np.float32).reshape(-1, 4),
        digit_of[glyphs].astype(np.int32),
        np.array(glyphs, np.int32),
    )


@cache
def glyph_masks() -> tuple[np.ndarray, np.ndarray]:
    """Smooth masks of all glyphs, uint8 [1797, 96, 96], and their labels, int [1797]."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    side = _CELLS + 2 * _BORDER
    blur = (2 * np.eye(side) + np.eye(side, k=1) + np.eye(side, k=-1)) / 4
    # Cubic interpolation (Keys, a = -1/2). All weights are multiples of 2^-13 and all inks of
    # 2^-8, so sums in any order are exact in float64.
    position = (np.arange(side * _UPSAMPLE) + 0.5) / _UPSAMPLE - 0.5
    d = np.abs(position[:, None] - np.arange(side))
    near, far = 1.5 * d**3 - 2.5 * d**2 + 1, -0.5 * d**3 + 2.5 * d**2 - 4 * d + 2
    weights = np.where(d < 1, near, np.where(d < 2, far, 0.0))  # [96, 12]

    low, high = _STRENGTH
    masks = np.empty((len(digits.images), *[side * _UPSAMPLE] * 2), np.uint8)
    for i, cells in enumerate(digits.images):
        ink = np.pad(cells / 16.0, _BORDER)
        # Sharpened: thin strokes get stronger, the small holes of an 8 or a 9 open.
        blurred = blur @ ink @ blur.T
        ink = weights @ (2 * ink - blurred) @ weights.T
        t = np.clip((ink - low) / (high - low), 0.0, 1.0)
        masks[i] = np.round(255 * t * t * (3 - 2 * t))
    return masks, digits.target


@cache
def photos() -> tuple[np.ndarray, ...]:
    """scikit-learn's two sample photos, uint8 [427, 640, 3] RGB each."""
    from sklearn.datasets import load_sample_images

    return tuple(load_sample_images().images)


def draw_glyph(mask: np.ndarray, height: float, aspect: float, angle: float) -> np.ndarray:
    """Turns and scales a glyph mask.

    Args:
        mask: uint8 [96, 96], 0 on its border.
        height: Height of the glyph's 8 cells, in pixels, before turning.
        aspect: Its width over its height.
        angle: Degrees, clockwise on the screen.

    Returns:
        uint8 alpha [rows, columns], the glyph in the middle.
    """
    if height < _CELLS * _UPSAMPLE / 2:  # halve first: sampling alone would skip thin strokes
        quads = mask.reshape(mask.shape[0] // 2, 2, -1, 2).astype(np.uint16)
        mask = ((quads.sum((1, 3)) + 2) >> 2).astype(np.uint8)
    side = mask.shape[0]
    # Rounded: the last bit of another machine's sine makes no difference.
    cos = round(math.cos(math.radians(angle)), 9)
    sin = round(math.sin(math.radians(angle)), 9)
    tall = round(height / _CELLS, 6)  # pixels per cell
    wide = round(tall * aspect, 6)
    half = _CELLS / 2 + 1  # cells from the centre that can carry ink
    rows = math.ceil(half * (wide * abs(sin) + tall * cos))
    columns = math.ceil(half * (wide * cos + tall * abs(sin)))
    y = np.arange(-rows, rows)[:, None] + 0.5
    x = np.arange(-columns, columns)[None] + 0.5
    per_cell = side / (_CELLS + 2 * _BORDER)
    # Position in the mask, in 1/256 of its pixels; the border is empty, so clipping is harmless.
    u = (cos * x + sin * y) * (per_cell / wide) + (side / 2 - 0.5)
    v = (cos * y - sin * x) * (per_cell / tall) + (side / 2 - 0.5)
    limit = 256 * (side - 1) - 1
    u = np.clip((256 * u).astype(np.int32), 0, limit)
    v = np.clip((256 * v).astype(np.int32), 0, limit)
    corner = (v >> 8) * side + (u >> 8)
    u, v = u & 255, v & 255
    flat = mask.reshape(-1).astype(np.int32)
    top = flat[corner] * (256 - u) + flat[corner + 1] * u
    bottom = flat[corner + side] * (256 - u) + flat[corner + side + 1] * u
    return ((top * (256 - v) + bottom * v + (1 << 15)) >> 16).astype(np.uint8)


def tight_box(alpha: np.ndarray) -> Box:
    """The box of the pixels with alpha >= INK: (x1, y1, x2, y2), x2 = last column + 1."""
    rows = np.flatnonzero((alpha >= INK).any(axis=1))
    columns = np.flatnonzero((alpha >= INK).any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def draw_background(random: Random) -> np.ndarray:
    """A crop of a photo: scale, place, mirror, contrast and brightness at random.

    Returns:
        uint8 [SCENE_SIZE, SCENE_SIZE, 3] RGB.
    """
    choice = photos()
    photo = choice[int(random() * len(choice))]
    side = int(64 * 4 ** random())  # 64..255 pixels of the photo
    top = int(random() * (photo.shape[0] - side + 1))
    left = int(random() * (photo.shape[1] - side + 1))
    crop = photo[top : top + side, left : left + side]
    if random() < 0.5:
        crop = crop[:, ::-1]
    crop = cv2.resize(
        np.ascontiguousarray(crop), (SCENE_SIZE, SCENE_SIZE), interpolation=cv2.INTER_LINEAR_EXACT
    )
    gain = int(256 * (0.45 + 0.4 * random()))
    middle = int(crop.mean())
    shift = int(80 * random()) - 40
    table = ((np.arange(256) - middle) * gain >> 8) + middle + shift
    return np.clip(table, 0, 255).astype(np.uint8)[crop]


def _place(width: int, height: int, others: list[Box], random: Random) -> Box | None:
    """A box of this size inside the scene that leaves all boxes visible; None if none is found."""
    for _ in range(_TRIES):
        x1 = int(random() * (SCENE_SIZE - width + 1))
        y1 = int(random() * (SCENE_SIZE - height + 1))
        box = (x1, y1, x1 + width, y1 + height)
        if all(_may_overlap(box, other) for other in others):
            return box
    return None


def _may_overlap(a: Box, b: Box) -> bool:
    shared = _shared(a, b)
    areas = [(c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)]
    return shared <= MAX_IOU * (sum(areas) - shared) and shared <= MAX_COVERED * min(areas)


def _shared(a: Box, b: Box) -> int:
    """Area of the intersection of two boxes."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    return max(width, 0) * max(height, 0)


def _paint(canvas, alpha, x: int, y: int, touched: list[np.ndarray], random: Random) -> np.ndarray:
    """Paints a digit onto a canvas, in a colour that differs from those it touches.

    `canvas` is int32 [SCENE_SIZE, SCENE_SIZE, 3], `alpha` uint8 [rows, columns], cut off at the
    canvas; (x, y) is the pixel of the canvas under alpha's first, maybe negative. Returns the
    colour; colours are int32 [3].
    """
    alpha = alpha[max(0, -y) :, max(0, -x) :]
    y, x = max(0, y), max(0, x)
    alpha = alpha[: SCENE_SIZE - y, : SCENE_SIZE - x].astype(np.int32)
    patch = canvas[y : y + alpha.shape[0], x : x + alpha.shape[1]]
    covered = patch[alpha >= INK]
    best, best_distance = None, -1.0
    # All numbers are drawn at once: the later ones must not depend on any pixel.
    for numbers in random((_TRIES, 4)):
        colour = _contrasting_colour(covered, numbers)
        distance = min((float(((colour - c) ** 2).sum()) for c in touched), default=math.inf)
        if distance > best_distance:
            best, best_distance = colour, distance
        if distance >= MIN_COLOUR_DISTANCE**2:
            break
    patch += ((best - patch) * alpha[..., None] + 127) // 255
    return best


def _contrasting_colour(pixels: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """A colour int32 [3] whose luma differs from the mean of `pixels` [P, 3] by MIN_CONTRAST.

    At least; it is a function of four random `numbers` in [0, 1).
    """
    ground = int(pixels.sum(axis=0) @ (299, 587, 114)) / (1000 * len(pixels))
    if ground > 127.5:
        luma = (ground - MIN_CONTRAST) * numbers[3]
    else:
        luma = 255 - (255 - ground - MIN_CONTRAST) * numbers[3]
    colour = 255 * numbers[:3]
    own = float(colour[0] * 0.299 + colour[1] * 0.587 + colour[2] * 0.114)
    if own > luma:  # mix with black, else with white
        colour *= luma / own
    else:
        colour = 255 - (255 - colour) * ((255 - luma) / (255 - own))
    return np.round(colour).astype(np.int32)
