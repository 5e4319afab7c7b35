"""One picture of many images: ground truth beside detections."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fcos_tf.visualization.detections import as_rgb, draw_boxes, select_detections
from fcos_tf.visualization.text import text_mask

_PAPER, _INK, _FAINT = (243, 243, 245), (30, 30, 30), (110, 110, 110)


def save_gallery(
    path: str | Path,
    images: Sequence[Any],
    ground_truth: Any,
    detections: Any = None,
    class_names: Sequence[str] | None = None,
    **options: Any,
) -> Path:
    """Writes the picture of `draw_gallery` as a PNG.

    Args:
        path: the file to write; missing folders are made.
        images: see `draw_gallery`, also for the other arguments.
        ground_truth: likewise.
        detections: likewise.
        class_names: likewise.
        **options: `columns`, `score_threshold` and `panel_size`.

    Returns:
        The path written.

    Raises:
        ValueError: no images, or different numbers of images, truths and detections.
    """
    picture = draw_gallery(images, ground_truth, detections, class_names, **options)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, format="PNG")
    return path


def draw_gallery(
    images: Sequence[Any],
    ground_truth: Any,
    detections: Any = None,
    class_names: Sequence[str] | None = None,
    *,
    columns: int = 2,
    score_threshold: float = 0.3,
    panel_size: int = 384,
) -> Image.Image:
    """Draws a panel of ground truth, and one of detections if given, for each image.

    Images are scaled to the panels before drawing, so that labels on small images are legible.

    Args:
        images: [B, H, W, 3], or B arrays [H, W, 3]; uint8, or float 0-255.
        ground_truth: the `targets` of a batch: `boxes` [B, M, 4] xyxy in pixels of `images`,
            `labels` [B, M] with -1 as padding, optionally `image_sizes` [B, 2] to crop the images
            to; or B such dictionaries of one image each.
        detections: `boxes` [B, D, 4], `scores` [B, D], `labels` [B, D], or B dictionaries; None:
            no panels of them.
        class_names: name of each label; None writes the label.
        columns: images side by side.
        score_threshold: detections below it are skipped.
        panel_size: long side of a panel in pixels.

    Returns:
        The picture, RGB.

    Raises:
        ValueError: no images, or different numbers of images, truths and detections.
    """
    if len(images) == 0:
        raise ValueError("no images to draw")
    truths = per_image(ground_truth, len(images), "ground truth")
    found = per_image(detections, len(images), "detections")
    columns = max(1, min(columns, len(images)))
    cells = [
        panels_of(
            valid_part(image, truth), truth, detection, class_names, score_threshold, panel_size
        )
        for image, truth, detection in zip(images, truths, found, strict=True)
    ]
    rows = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    heights = [max(panel.height for pair in row for panel, _ in pair) for row in rows]

    gap, head, foot = panel_size // 32, panel_size // 9, panel_size // 12
    titles = ["ground truth"]
    if detections is not None:
        titles.append(f"detections, score ≥ {score_threshold:g}")
    cell_width = len(titles) * (panel_size + gap) + 2 * gap
    size = (columns * cell_width, head + sum(heights) + len(rows) * (foot + gap))
    canvas = Image.new("RGB", size, _PAPER)
    for column in range(columns):
        for side, title in enumerate(titles):
            left = column * cell_width + 2 * gap + side * (panel_size + gap)
            _caption(canvas, (left, head // 2), title, panel_size // 20, _INK)
    top = head
    for row, height in zip(rows, heights, strict=True):
        for column, pair in enumerate(row):
            for side, (panel, caption) in enumerate(pair):
                left = column * cell_width + 2 * gap + side * (panel_size + gap)
                canvas.paste(panel, (left, top))
                place = (left, top + panel.height + foot // 2)
                _caption(canvas, place, caption, panel_size // 26, _FAINT)
        top += height + foot + gap
    return canvas


def panels_of(
    image: np.ndarray,
    truth: Mapping[str, Any] | None,
    detection: Mapping[str, Any] | None,
    class_names: Sequence[str] | None,
    score_threshold: float,
    panel_size: int,
) -> list[tuple[Image.Image, str]]:
    """Returns the given panels, ground truth and detections, each with its caption."""
    sides = []
    if truth is not None:
        labels = np.asarray(truth["labels"])
        kept = labels >= 0
        sides.append(("object", (np.asarray(truth["boxes"])[kept], labels[kept], None)))
    if detection is not None:
        sides.append(("detection", select_detections(detection, score_threshold)))
    return [
        (draw_panel(image, *found, class_names, panel_size), _count(len(found[0]), noun))
        for noun, found in sides
    ]


def draw_panel(
    image: np.ndarray,
    boxes: np.ndarray,
    labels: np.ndarray,
    scores: np.ndarray | None,
    class_names: Sequence[str] | None,
    panel_size: int,
) -> Image.Image:
    """Scales an image to a long side of `panel_size`, then draws on it."""
    height, width = image.shape[:2]
    factor = panel_size / max(height, width)
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    scaled = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))
    x_scale, y_scale = size[0] / width, size[1] / height
    drawn = draw_boxes(
        scaled,
        np.asarray(boxes, np.float64) * (x_scale, y_scale, x_scale, y_scale),
        labels,
        scores,
        class_names=class_names,
        line_width=max(1, round(panel_size / 150)),
        text_size=max(9, round(panel_size / 28)),
    )
    return Image.fromarray(drawn)


def per_image(values: Any, num_images: int, what: str) -> list[Mapping[str, Any] | None]:
    """Returns one dictionary per image, from a batched dictionary or a sequence of them.

    Raises:
        ValueError: another number of images.
    """
    if values is None:
        return [None] * num_images
    if isinstance(values, Mapping):
        arrays = {key: np.asarray(value) for key, value in values.items()}
        arrays = {key: array for key, array in arrays.items() if array.ndim}
        counts = {key: len(array) for key, array in arrays.items()}
        if set(counts.values()) != {num_images}:
            raise ValueError(f"expected {what} of {num_images} images, got {counts}")
        return [{key: array[i] for key, array in arrays.items()} for i in range(num_images)]
    if len(values) != num_images:
        raise ValueError(f"expected {what} of {num_images} images, got {len(values)}")
    return list(values)


def valid_part(image: Any, truth: Mapping[str, Any] | None) -> np.ndarray:
    """Returns the image as uint8 RGB, cropped to its `image_sizes` if given."""
    image = as_rgb(image)
    if truth is None or truth.get("image_sizes") is None:
        return image
    height, width = (max(1, round(float(side))) for side in truth["image_sizes"])
    return image[:height, :width]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _caption(canvas: Image.Image, place: tuple[int, int], text: str, size: int, ink: tuple) -> None:
    """Writes a line of text, left-aligned and vertically centred at `place`."""
    mask = text_mask(text, max(9, size))
    canvas.paste(ink, (place[0], place[1] - mask.height // 2), mask)
