"""From the pixels of resized images back to those of the originals. NumPy only.

Shape shorthand: B images, D boxes of each.
"""

import numpy as np


def original_scale(image_sizes: np.ndarray, original_sizes: np.ndarray) -> np.ndarray:
    """The factors from resized to original pixels.

    Args:
        image_sizes: [B, 2] (height, width) after resizing, before padding.
        original_sizes: [B, 2] (height, width) on disk.

    Returns:
        float64 [B, 1, 4], to multiply boxes [B, D, 4] xyxy with. The sizes are whole pixels, so
        each axis has its own.
    """
    scale = original_sizes.astype(np.float64) / image_sizes.astype(np.float64)
    return np.tile(scale[:, ::-1], 2)[:, None]


def boxes_to_original(
    boxes: np.ndarray,
    image_sizes: np.ndarray,
    original_sizes: np.ndarray,
    *,
    inclusive_pixels: bool = False,
) -> np.ndarray:
    """Brings detected boxes to the original images, and clips them to those.

    Args:
        boxes: [B, D, 4] xyxy in pixels of the resized images.
        image_sizes: [B, 2] (height, width) after resizing, before padding.
        original_sizes: [B, 2] (height, width) on disk.
        inclusive_pixels: whether x2 and y2 name the last pixel inside, see `Detector`.

    Returns:
        float64 [B, D, 4] xyxy.

    Example:
        batch = prepare_batch(["a.jpg", "b.jpg"], model.image_size)
        original_sizes = batch.pop("original_sizes")
        found = model.predict(batch)
        boxes = boxes_to_original(found["boxes"], batch["image_sizes"], original_sizes)
    """
    last_pixel = [0, 0, 1, 1] if inclusive_pixels else [0, 0, 0, 0]
    limit = np.tile(original_sizes[:, ::-1].astype(np.float64), 2)[:, None]  # [B, 1, 4]
    return np.clip(boxes * original_scale(image_sizes, original_sizes) + last_pixel, 0.0, limit)
