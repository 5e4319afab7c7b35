"""One step of training or inference on random images, ours and torchvision's."""

from collections.abc import Callable, Iterable

import numpy as np

from benchmarks.benchmark import fixed_size
from fcos_tf.config import Config

NUM_CLASSES = 3


def _random_batch(config: Config):
    rng = np.random.default_rng(config.seed)
    batch, (height, width), num_boxes = config.batch_size, fixed_size(config).canvas, 12
    images = rng.integers(0, 256, (batch, height, width, 3), dtype=np.uint8)
    corner = rng.uniform(0, 0.7, (batch, num_boxes, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(0.05, 0.3, corner.shape)], -1)
    boxes = (boxes * [width, height, width, height]).astype(np.float32)
    labels = rng.integers(0, NUM_CLASSES, (batch, num_boxes), dtype=np.int32)
    return images, {"boxes": boxes, "labels": labels}


def ours(config: Config, what: str) -> Callable[[], None]:
    """A function of one step of our model."""
    import tensorflow as tf

    from fcos_tf import build

    images, targets = _random_batch(config)
    model = build.make_model(config, [f"class {k}" for k in range(NUM_CLASSES)])
    build.compile_model(config, model, total_steps=10**6)
    if what == "inference":
        detect = tf.function(model.detect)
        return lambda: detect(images)["boxes"].numpy()
    train = model.make_train_function() or model.train_function
    batches: Iterable = iter(tf.data.Dataset.from_tensors((images, targets)).repeat())
    return lambda: [float(value) for value in train(batches).values()]


def torchvision(config: Config, what: str) -> Callable[[], None]:
    """A function of one step of torchvision's."""
    from benchmarks.torchvision_peer import Peer

    images, targets = _random_batch(config)
    peer = Peer(config, NUM_CLASSES, images.shape[1:3])
    if what == "inference":
        return lambda: peer.detect(images)
    return lambda: peer.train_step(images, targets)
