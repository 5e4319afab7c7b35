"""Detection on several devices of this host, each on its part of a batch. TensorFlow only."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf


def detect_on_replicas(
    detect: Callable[..., Mapping[str, tf.Tensor]], strategy: tf.distribute.Strategy
) -> Callable[..., dict[str, np.ndarray]]:
    """Returns a function that divides a batch between the replicas of this host.

    Args:
        detect: (images [B, H, W, 3], image_sizes [B, 2], options ...) -> tensors [B, ...]; options
            are the same for all replicas.
        strategy: That of the variables in it.
    """

    @tf.function(reduce_retracing=True, autograph=False)
    def on_replicas(*inputs):
        return strategy.run(detect, args=inputs)

    def detect_all(images: Any, image_sizes: Any, *options: Any) -> dict[str, np.ndarray]:
        num_images, replicas = len(image_sizes), len(strategy.extended.worker_devices)
        # Padded to a multiple of the replicas with copies of the last image.
        rows = np.minimum(np.arange(-(-num_images // replicas) * replicas), num_images - 1)
        with tf.device("CPU:0"):  # else all parts would be copied to the first replica's device
            parts = [
                (tf.gather(images, part), tf.gather(image_sizes, part))
                for part in np.split(rows, replicas)
            ]
        following = iter(parts)  # the function is called once for each replica
        inputs = strategy.experimental_distribute_values_from_function(lambda _: next(following))
        return {
            name: np.concatenate(strategy.experimental_local_results(value))[:num_images]
            for name, value in on_replicas(*inputs, *options).items()
        }

    return detect_all
