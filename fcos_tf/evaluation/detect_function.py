"""A detector as one compiled function of images, on one device or several."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

# (images [B, H, W, 3], image_sizes [B, 2]) -> detections
DetectFunction = Callable[[Any, Any], Mapping[str, Any]]


def compile_detect(model: Any, class_names: Sequence[str] | None = None) -> DetectFunction:
    """Returns `model.detect` as one compiled function of `(images, image_sizes)`.

    On TensorFlow it is traced once per canvas at most; the trace holds thresholds and whatever
    else is a plain attribute of the model, but reads the weights afresh on every call. Under a
    strategy with several replicas on this host each of them detects on its part of the batch.

    Args:
        model: a detector.
        class_names: the classes of a data set. Where the model's are others, or in another order,
            its labels are brought to those of the data set by name; what the data set has no class
            for becomes padding, label -1.

    Raises:
        ValueError: the data set has a class that the model does not know.
    """
    table = _label_table(getattr(model, "class_names", None), class_names)
    strategy = getattr(model, "distribute_strategy", None)
    on_tpu = type(strategy).__name__.startswith("TPU")  # it runs nothing but what XLA compiles
    options = {"jit_compile": True} if on_tpu else {}

    def detect(images, image_sizes):
        from keras import ops

        found = model.detect(images, image_sizes, **options)
        if table is None:
            return found
        return {**found, "labels": ops.take(ops.convert_to_tensor(table), found["labels"] + 1)}

    several = strategy is not None and strategy.num_replicas_in_sync > 1
    if not on_tpu and not (several and len(strategy.extended.worker_devices) > 1):
        return compiled(detect)
    from fcos_tf.evaluation.distributed import detect_on_replicas

    return detect_on_replicas(detect, strategy)


def _label_table(
    model_names: Sequence[str] | None, class_names: Sequence[str] | None
) -> np.ndarray | None:
    """A data set's label for the model's labels from -1 on, int32 [C + 1]; None: the same."""
    if not model_names or not class_names or tuple(model_names) == tuple(class_names):
        return None
    unknown = [name for name in class_names if name not in model_names]
    if unknown:
        raise ValueError(
            f"expected a model of the data set's classes; it does not know {', '.join(unknown)}"
        )
    label_of = {name: label for label, name in enumerate(class_names)}
    return np.array([-1, *(label_of.get(name, -1) for name in model_names)], np.int32)


def compiled(function: Callable) -> Callable:
    """Returns a function of tensors as a graph, where TensorFlow is the backend.

    It is traced again for new shapes only.
    """
    # Imported here so that scoring bare result files does not wait for TensorFlow.
    import keras

    if keras.config.backend() != "tensorflow":
        return lambda *inputs: function(*(np.asarray(each) for each in inputs))
    import tensorflow as tf

    # There is no Python control flow on tensors to convert, and tracing is faster without.
    return tf.function(function, reduce_retracing=True, autograph=False)
