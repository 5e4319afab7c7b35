"""Evaluation by several hosts: each detects on its share, then all know everything.

TensorFlow only, and imported only where there are several: scoring bare result files does not wait
for TensorFlow.
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
        num_rows: Rows of all batches, those without an image included.
        columns: A row for each image of this host; among them `image_ids`, and `batches`, the
            number of the batch that an image came in.
        host: The number of this host.
        strategy: That of the hosts, a MultiWorkerMirroredStrategy.

    Returns:
        The same of all hosts, on every host, in the order in which one alone would have them.

    Raises:
        ValueError: An image is there twice.
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
        raise ValueError("images of a host are those of another, too; expected different shares")
    return num_rows, joined


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
