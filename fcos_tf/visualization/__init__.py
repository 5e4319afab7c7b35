"""Pictures of what the data holds and what the model finds."""

from fcos_tf.visualization.detections import class_colour, draw_boxes, draw_detections
from fcos_tf.visualization.gallery import save_gallery

__all__ = ["class_colour", "draw_boxes", "draw_detections", "save_gallery"]
