"""From a name to the `tf.distribute` strategy that a model is built and trained under."""

from pathlib import Path

import tensorflow as tf

# There whenever the driver of an NVIDIA GPU is loaded, whatever TensorFlow finds.
_NVIDIA_DRIVER = Path("/dev/nvidiactl")
STRATEGIES = ("auto", "one_device", "mirrored")


def make_strategy(name: str = "auto") -> tf.distribute.Strategy:
    """Makes the strategy; build and compile the model inside its `scope()`.

    Args:
        name: "one_device": the default strategy, which places a model on one GPU or on the CPU;
            "mirrored": every visible GPU holds a copy and takes its share of each batch;
            "auto": mirrored where there are several GPUs, else one device.

    Returns:
        The strategy. Its `num_replicas_in_sync` is the number of devices that share a batch.

    Raises:
        ValueError: For another name.

    Example:
        >>> with make_strategy("one_device").scope():
        ...     model = keras.Sequential([keras.layers.Dense(1)])
    """
    if name not in STRATEGIES:
        raise ValueError(f"strategy: expected one of {', '.join(STRATEGIES)}, got {name!r}")
    several = len(tf.config.list_physical_devices("GPU")) > 1
    if name == "mirrored" or (name == "auto" and several):
        return tf.distribute.MirroredStrategy()
    return tf.distribute.get_strategy()


def describe_devices(strategy: tf.distribute.Strategy) -> str:
    """What a strategy trains on, in words: "1 GPU", "4 GPUs", "CPU".

    Says so where a GPU lies idle: TensorFlow itself only logs that it lacks a library.
    """
    replicas = strategy.num_replicas_in_sync
    kind = "GPU" if tf.config.list_logical_devices("GPU") else "CPU"
    if kind == "CPU" and replicas == 1:
        idle = " although there is an NVIDIA GPU (pip install 'fcos_tf[gpu]')"
        return kind + (idle if _NVIDIA_DRIVER.exists() else "")
    return f"{replicas} {kind}{'' if replicas == 1 else 's'}"
