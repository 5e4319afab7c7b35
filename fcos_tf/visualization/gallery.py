"""Many images, ground truth beside detections: one picture, or a matplotlib figure."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
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
        **options: `columns`, `score_threshold`, `panel_size` and `noun`.

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
    noun: str = "detection",
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
        noun: the word for `detections` in the picture.

    Returns:
        The picture, RGB.

    Raises:
        ValueError: no images, or different numbers of images, truths and detections.
    """
    columns = max(1, min(columns, len(images)))
    given = (images, ground_truth, detections, class_names, score_threshold, panel_size)
    cells = [panels for _, panels in _panels_of(*given, noun)]
    rows = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    heights = [max(panel.height for pair in row for panel, _ in pair) for row in rows]

    gap, head, foot = panel_size // 32, panel_size // 9, panel_size // 12
    titles = ["ground truth"]
    if detections is not None:
        titles.append(f"{noun}s, score ≥ {score_threshold:g}")
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


class GalleryFigure(Figure):
    """A figure that notebooks show without pyplot."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png")
        return buffer.getvalue()


def plot_gallery(
    images: Sequence[Any],
    ground_truth: Any = None,
    detections: Any = None,
    class_names: Sequence[str] | None = None,
    *,
    score_threshold: float = 0.3,
    panel_size: int = 512,
) -> Figure:
    """Draws a row for each image: the original, the ground truth, the detections.

    Args:
        images: [B, H, W, 3], or B arrays [H, W, 3]; uint8, or float 0-255.
        ground_truth: see `draw_gallery`; None: no panels of it.
        detections: likewise.
        class_names: name of each label; None writes the label.
        score_threshold: detections below it are skipped.
        panel_size: long side of a panel in pixels, to which images are scaled.

    Returns:
        A figure, which a notebook shows as the last line of a cell; `savefig` writes it.

    Raises:
        ValueError: no images, or different numbers of images, truths and detections.

    Example:
        images, targets = next(iter(val))
        plot_gallery(images, targets, model.predict(images), val.class_names)
    """
    titles = ["original"]
    titles += ["ground truth: {}"] if ground_truth is not None else []
    titles += [f"score ≥ {score_threshold:g}: {{}}"] if detections is not None else []
    given = (images, ground_truth, detections, class_names, score_threshold, panel_size)
    rows = [
        [(_draw_panel(pixels, np.zeros([0, 4]), None, None, None, panel_size), ""), *panels]
        for pixels, panels in _panels_of(*given)
    ]
    width, title_height = 4.0, 0.35  # inches
    heights = [title_height + width * row[0][0].height / panel_size for row in rows]
    figure = GalleryFigure(figsize=(width * len(titles), sum(heights)), layout="constrained")
    axes = figure.subplots(len(rows), len(titles), squeeze=False, height_ratios=heights)
    for row_axes, row in zip(axes, rows, strict=True):
        for axis, title, (panel, caption) in zip(row_axes, titles, row, strict=True):
            axis.imshow(np.asarray(panel))
            axis.set_title(title.format(caption), fontsize=10)
            axis.set_axis_off()
    return figure


def _panels_of(
    images: Sequence[Any],
    ground_truth: Any,
    detections: Any,
    class_names: Sequence[str] | None,
    score_threshold: float,
    panel_size: int,
    noun_of_detections: str = "detection",
) -> list[tuple[np.ndarray, list[tuple[Image.Image, str]]]]:
    """For each image its pixels, and the given panels, truth and detections, with their captions.

    Raises:
        ValueError: no images, or different numbers of images, truths and detections.
    """
    if len(images) == 0:
        raise ValueError("no images to draw")
    truths = _per_image(ground_truth, len(images), "ground truth")
    found = _per_image(detections, len(images), "detections")
    rows = []
    for image, truth, detection in zip(images, truths, found, strict=True):
        pixels = as_rgb(image)
        sides = []
        if truth is not None:
            if truth.get("image_sizes") is not None:
                height, width = (max(1, round(float(side))) for side in truth["image_sizes"])
                pixels = pixels[:height, :width]
            labels = np.asarray(truth["labels"])
            kept = labels >= 0
            sides.append(("object", np.asarray(truth["boxes"])[kept], labels[kept], None))
        if detection is not None:
            sides.append((noun_of_detections, *select_detections(detection, score_threshold)))
        panels = [
            (
                _draw_panel(pixels, *objects, class_names, panel_size),
                f"{len(objects[0])} {noun}{'' if len(objects[0]) == 1 else 's'}",
            )
            for noun, *objects in sides
        ]
        rows.append((pixels, panels))
    return rows


def _draw_panel(
    image: np.ndarray,
    boxes: np.ndarray,
    labels: np.ndarray | None,
    scores: np.ndarray | None,
    class_names: Sequence[str] | None,
    panel_size: int,
) -> Image.Image:
    """Scales an image to a long side of `panel_size`, then draws on it."""
    height, width = image.shape[:2]
    factor = panel_size / max(height, width)
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    scaled = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))
    scale = np.tile(np.divide(size, (width, height)), 2)
    drawn = draw_boxes(
        scaled,
        np.asarray(boxes, np.float64) * scale,
        labels,
        scores,
        class_names=class_names,
        line_width=max(1, round(panel_size / 150)),
        text_size=max(9, round(panel_size / 28)),
    )
    return Image.fromarray(drawn)


def _per_image(values: Any, num_images: int, what: str) -> list[Mapping[str, Any] | None]:
    """One dictionary per image, from a batched dictionary or a sequence of them."""
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


def _caption(canvas: Image.Image, place: tuple[int, int], text: str, size: int, ink: tuple) -> None:
    """Writes a line of text, left-aligned and vertically centred at `place`."""
    mask = text_mask(text, max(9, size))
    canvas.paste(ink, (place[0], place[1] - mask.height // 2), mask)
