"""Evaluation by several devices and hosts: each detects on its share, then all know everything.

TensorFlow only, and imported only where a model has a strategy: scoring bare result files does not
wait for TensorFlow.
"""

import functools
import io
from collections.abc import Callable, Mapping

import numpy as np
import tensorflow as tf


def detect_on_replicas(
    detect: Callable[..., Mapping[str, tf.Tensor]], strategy: tf.distribute.Strategy
) -> Callable[..., dict[str, np.ndarray]]:
    """Returns a function that divides a batch between the replicas of this host.

    Args:
        detect: (images [B, H, W, 3], image_sizes [B, 2]) -> tensors [B, ...].
        strategy: That of the variables in it.
    """

    @tf.function(reduce_retracing=True, autograph=False)
    def on_replicas(*inputs):
        return strategy.run(detect, args=inputs)

    def detect_all(images, image_sizes):
        num_images, replicas = len(image_sizes), len(strategy.extended.worker_devices)
        # Copies of the last image where their number does not divide.
        rows = np.minimum(np.arange(-(-num_images // replicas) * replicas), num_images - 1)
        with tf.device("CPU:0"):  # else all parts would go to the first replica's device
            parts = [
                (tf.gather(images, part), tf.gather(image_sizes, part))
                for part in np.split(rows, replicas)
            ]
        following = iter(parts)  # the function is called once for each replica
        inputs = strategy.experimental_distribute_values_from_function(lambda _: next(following))
        return {
            name: np.concatenate(strategy.experimental_local_results(value))[:num_images]
            for name, value in on_replicas(*inputs).items()
        }

    return detect_all


def gather_arrays(
    arrays: Mapping[str, np.ndarray], strategy: tf.distribute.Strategy
) -> list[dict[str, np.ndarray]]:
    """The arrays of all hosts, on every host, in no particular order.

    All hosts have to call it at the same point of the program.

    Args:
        arrays: Of this host; other hosts may have other names and shapes.
        strategy: That of the hosts, a MultiWorkerMirroredStrategy.
    """
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    content = buffer.getvalue()
    # Of whole numbers, collectives take no smaller ones. The length comes first, in such numbers.
    words = np.frombuffer(content + bytes(-len(content) % 4), np.int32)
    message = np.concatenate([np.int32([len(words)]), words])
    received = np.asarray(_gather_function(strategy)(message))
    parts = []
    while received.size:
        words, received = np.split(received[1:], received[:1])
        # A zip file may have a few bytes behind its end.
        with np.load(io.BytesIO(words.tobytes()), allow_pickle=False) as part:
            parts.append(dict(part))
    return parts


@functools.cache
def _gather_function(strategy: tf.distribute.Strategy) -> Callable[[np.ndarray], tf.Tensor]:
    """Joins the whole numbers [N], N of its own, of each host."""
    # Traced once for all N: hosts that trace at different times no longer understand each other.
    any_length = tf.TensorSpec([None], tf.int32)
    return tf.function(lambda x: strategy.gather(x, axis=0), input_signature=[any_length])
