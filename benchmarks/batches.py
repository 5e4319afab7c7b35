"""Random batches, whose contents do not affect the time of a step."""

import numpy as np

from fcos_tf.config import Config

NUM_CLASSES = 3


def random_batch(
    config: Config, *, num_boxes: int = 12, num_classes: int = NUM_CLASSES
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Images [B, H, W, 3] uint8, and `boxes` and `labels` for training, always the same."""
    rng = np.random.default_rng(config.seed)
    batch, (height, width) = config.batch_size, fixed_size(config).canvas
    images = rng.integers(0, 256, (batch, height, width, 3), dtype=np.uint8)
    corner = rng.uniform(0, 0.7, (batch, num_boxes, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(0.05, 0.3, corner.shape)], -1)
    boxes = (boxes * [width, height, width, height]).astype(np.float32)
    labels = rng.integers(0, num_classes, (batch, num_boxes), dtype=np.int32)
    return images, {"boxes": boxes, "labels": labels}


def fixed_size(config: Config):
    """The image size of a config, an `ImageSize` with a canvas; refuses others."""
    from fcos_tf.image_size import parse_image_size

    size = parse_image_size(config.image_size)
    if size.canvas is None:
        raise ValueError(
            f"--image_size: expected a fixed canvas like 512x512, got {config.image_size!r}"
        )
    return size
