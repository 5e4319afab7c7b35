"""What a model's metrics have added up, which Keras does not save and resets with every epoch.

Of a detector's training steps that is the same on all replicas, so any of them can speak for all:
reading here asks no other device and no other host.
"""

from collections.abc import Mapping

import keras
import numpy as np


def read(model: keras.Model) -> dict[str, np.ndarray]:
    """The state of the metrics, by names that are the same in every such model.

    Args:
        model: A detector, or a model on one device.

    Example:
        >>> sorted(read(detector))
        ['metric_box_loss_0', 'metric_box_loss_1', ...]
    """
    return {
        name: keras.ops.convert_to_numpy(copies[0]) for name, copies in _variables(model).items()
    }


def write(model: keras.Model, values: Mapping[str, np.ndarray]) -> None:
    """Puts back what `read` gave; metrics that `values` does not know stay as they are."""
    for name, copies in _variables(model).items():
        if name in values:
            # One by one: together they would have to share a sum.
            for copy in copies:
                copy.assign(np.asarray(values[name]))


def _variables(model) -> dict:
    """Name -> the variable, or its copy on each device of this host."""
    strategy = getattr(model, "distribute_strategy", None)
    return {
        f"metric_{metric.name}_{i}": (
            [variable] if strategy is None else strategy.experimental_local_results(variable.value)
        )
        for metric in model.metrics
        for i, variable in enumerate(metric.variables)
    }
