"""A matplotlib figure for notebooks: images, ground truth, detections."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from fcos_tf.visualization.gallery import draw_panel, panels_of, per_image, valid_part

_INCHES = 4.0  # width of a panel
_TITLE_INCHES = 0.35


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
    if len(images) == 0:
        raise ValueError("no images to draw")
    truths = per_image(ground_truth, len(images), "ground truth")
    found = per_image(detections, len(images), "detections")
    titles = ["original"]
    titles += ["ground truth: {}"] if ground_truth is not None else []
    titles += [f"score ≥ {score_threshold:g}: {{}}"] if detections is not None else []

    rows = []
    for image, truth, detection in zip(images, truths, found, strict=True):
        pixels = valid_part(image, truth)
        bare = draw_panel(pixels, np.zeros([0, 4]), np.zeros(0, int), None, None, panel_size)
        drawn = panels_of(pixels, truth, detection, class_names, score_threshold, panel_size)
        rows.append([(bare, ""), *drawn])

    heights = [_TITLE_INCHES + _INCHES * row[0][0].height / panel_size for row in rows]
    figure = GalleryFigure(figsize=(_INCHES * len(titles), sum(heights)), layout="constrained")
    axes = figure.subplots(len(rows), len(titles), squeeze=False, height_ratios=heights)
    for row_axes, row in zip(axes, rows, strict=True):
        for axis, title, (panel, caption) in zip(row_axes, titles, row, strict=True):
            axis.imshow(np.asarray(panel))
            axis.set_title(title.format(caption), fontsize=10)
            axis.set_axis_off()
    return figure
