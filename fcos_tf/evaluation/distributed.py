"""Evaluation by several hosts: each detects on its share, then all gather all results.

Imported with several hosts only, so that scoring result files does not import TensorFlow.
"""

import functools
import io
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import tensorflow as tf


def join_hosts(
    num_rows: int,
    columns: Mapping[str, Sequence],
    *,
    host: int,
    strategy: tf.distribute.Strategy,
) -> tuple[int, dict[str, np.ndarray]]:
    """Joins the runs of all hosts over their shares of one data set.

    Args:
        num_rows: of this host's `_Run`.
        columns: likewise.
        host: index of this host.
        strategy: that of the hosts, a MultiWorkerMirroredStrategy.

    Returns:
        Both for all hosts, on every host, in the order of a run on one host.

    Raises:
        ValueError: an image is in two shares.
    """
    arrays = {name: np.stack(rows) for name, rows in columns.items() if len(rows)}
    count = len(arrays.get("image_ids", ()))
    arrays = {**arrays, "hosts": np.full(count, host), "num_rows": np.int64(num_rows)}
    parts = gather_arrays(arrays, strategy)
    num_rows = int(sum(part.pop("num_rows") for part in parts))
    parts = [part for part in parts if part["hosts"].size]
    if not parts:
        return num_rows, {"image_ids": np.zeros(0, np.int64)}
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    # Each batch holds the images of host 0, then those of host 1 ...
    order = np.lexsort((joined.pop("hosts"), joined["batches"]))
    joined = {name: rows[order] for name, rows in joined.items()}
    if len(np.unique(joined["image_ids"])) < len(order):
        raise ValueError("expected different images on each host, got an image on two hosts")
    return num_rows, joined


def gather_arrays(
    arrays: Mapping[str, np.ndarray], strategy: tf.distribute.Strategy
) -> list[dict[str, np.ndarray]]:
    """The arrays of all hosts, on every host, in no particular order.

    All hosts must call it at the same point of the program. Names and shapes may differ.
    """
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    content = buffer.getvalue()
    # int32 is the smallest integer type of collectives. The length in words comes first.
    words = np.frombuffer(content + bytes(-len(content) % 4), np.int32)
    message = np.concatenate([np.int32([len(words)]), words])
    received = np.asarray(_gather_function(strategy)(message))
    parts = []
    while received.size:
        words, received = np.split(received[1:], received[:1])
        # A zip file may have padding behind its end.
        with np.load(io.BytesIO(words.tobytes()), allow_pickle=False) as part:
            parts.append(dict(part))
    return parts


@functools.cache
def _gather_function(strategy: tf.distribute.Strategy) -> Callable[[np.ndarray], tf.Tensor]:
    """Concatenates the int32 arrays [N] of all hosts; N may differ."""
    # Traced once for all N: collectives of hosts that trace at different times do not match.
    any_length = tf.TensorSpec([None], tf.int32)
    return tf.function(lambda x: strategy.gather(x, axis=0), input_signature=[any_length])
