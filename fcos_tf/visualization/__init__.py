"""Pictures of ground truth and detections."""

from fcos_tf.visualization.detections import class_colour, draw_boxes, draw_detections
from fcos_tf.visualization.gallery import (
    GalleryFigure,
    draw_gallery,
    plot_gallery,
    save_gallery,
)

__all__ = [
    "GalleryFigure",
    "class_colour",
    "draw_boxes",
    "draw_detections",
    "draw_gallery",
    "plot_gallery",
    "save_gallery",
]
