"""From a name to the `tf.distribute` strategy that a model is built and trained under.

A replica is a copy of the model on one device, a host a process of the run with its replicas. Of
several hosts, number 0 is the chief: it alone writes files and prints.
"""

import contextlib
import signal
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from fcos_tf.models.train_steps import has_hosts
from fcos_tf.training.cluster import VARIABLE, read_cluster

# There whenever the driver of an NVIDIA GPU is loaded, whatever TensorFlow finds.
_NVIDIA_DRIVER = Path("/dev/nvidiactl")
STRATEGIES = ("auto", "one_device", "mirrored", "multi_worker", "tpu")


class Share(NamedTuple):
    """Which part of the work is this process's; as `fcos_tf.data.load` takes it.

    Attributes:
        num_hosts: Processes that share the work.
        host: Which of them this is, from 0.
    """

    num_hosts: int = 1
    host: int = 0

    @property
    def is_chief(self) -> bool:
        """Whether this is the process that writes files and prints."""
        return self.host == 0


ALONE = Share()


def make_strategy(
    strategy: str = "auto",
    *,
    tpu: str = "",
    one_host: bool = False,
    report: Callable[[str], None] = lambda line: None,
) -> tf.distribute.Strategy:
    """Makes the strategy; build and compile the model inside its `scope()`.

    To be called before TensorFlow runs its first operation. With several hosts it waits until all
    of them are there.

    Args:
        strategy: "one_device": the default one, which places a model on one GPU or on the CPU;
            "mirrored": every visible GPU holds a copy and takes its share of each batch;
            "multi_worker": the GPUs of all hosts in the environment variable `TF_CONFIG`; if that
            is one host, "auto" among its devices;
            "tpu": all cores of a TPU;
            "auto": multi_worker where `TF_CONFIG` names several hosts, mirrored where there are
            several GPUs, else one device.
        tpu: Name of the TPU, or "local" for that of this machine; with "tpu" only.
        one_host: Do without other hosts: "multi_worker" is then "auto" among the devices of this
            one.
        report: Takes a line that says which hosts are waited for.

    Returns:
        The strategy. Its `num_replicas_in_sync` is the number of devices that share a batch.

    Raises:
        ValueError: For another name, a wrong or missing `TF_CONFIG`, a TPU without a name, one
            that is not there or has several hosts.
        OSError: Another process listens where `TF_CONFIG` has this one.

    Example:
        >>> with make_strategy("one_device").scope():
        ...     model = keras.Sequential([keras.layers.Dense(1)])
    """
    if strategy not in STRATEGIES:
        raise ValueError(f"strategy: expected one of {', '.join(STRATEGIES)}, got {strategy!r}")
    if bool(tpu) != (strategy == "tpu"):
        raise ValueError(
            f"--tpu: expected with --strategy=tpu the name of a TPU, or local, and none with "
            f"others; got --strategy={strategy} and --tpu={tpu}"
        )
    if strategy == "tpu":
        return _tpu_strategy(tpu)
    cluster = read_cluster() if strategy in ("auto", "multi_worker") and not one_host else None
    if strategy == "multi_worker" and cluster is None and not one_host:
        raise ValueError(
            f"--strategy=multi_worker: expected the environment variable {VARIABLE}, got none"
        )
    if cluster is not None and len(cluster.addresses) > 1:
        report(f"waiting until all hosts are there: {', '.join(cluster.addresses)}")
        try:
            with _ended_by_sigint():
                return tf.distribute.MultiWorkerMirroredStrategy()
        except tf.errors.UnknownError as error:
            address = cluster.addresses[cluster.host]
            raise OSError(
                f"{VARIABLE}: expected {address} to be free for this process, got: {error.message}"
            ) from error
    several = len(tf.config.list_physical_devices("GPU")) > 1
    if strategy == "mirrored" or (strategy in ("auto", "multi_worker") and several):
        return tf.distribute.MirroredStrategy()
    return tf.distribute.get_strategy()


def share_of(strategy: tf.distribute.Strategy) -> Share:
    """Which part of the work under a strategy is this process's."""
    if not has_hosts(strategy):
        return ALONE
    cluster = read_cluster()
    return Share(len(cluster.addresses), cluster.host)


def agree(flag: bool, strategy: tf.distribute.Strategy) -> bool:
    """Whether `flag` is true on any host.

    All hosts have to call it at the same point of the program, as it waits for them; with one host
    it costs nothing.

    Args:
        flag: What this process thinks, such as whether to stop.
        strategy: Of the run; `model.distribute_strategy`.
    """
    if not has_hosts(strategy):
        return flag
    return bool(strategy.reduce("SUM", tf.constant(float(flag)), axis=None) > 0)


def numbers_of_hosts(numbers: Sequence[int], strategy: tf.distribute.Strategy) -> np.ndarray:
    """What several hosts have, on each of them; to be called by all of them, as `agree` is.

    Args:
        numbers: N whole numbers of this process.
        strategy: Of the run.

    Returns:
        [hosts, N] int64.
    """
    share = share_of(strategy)
    mine = np.zeros([share.num_hosts, len(numbers)], np.int64)
    mine[share.host] = numbers
    return strategy.reduce("SUM", tf.constant(mine), axis=None).numpy()


def check_same(values: Mapping[str, Any], strategy: tf.distribute.Strategy) -> None:
    """Checks that all hosts have the same values; to be called by all of them, as `agree` is.

    Args:
        values: What it is -> what this process has; what is the same has the same `str`.
        strategy: Of the run.

    Raises:
        ValueError: On every host, with its own value, if that of any host is another.
    """
    if not has_hosts(strategy):
        return
    everywhere = numbers_of_hosts([zlib.crc32(str(x).encode()) for x in values.values()], strategy)
    same = (everywhere == everywhere[0]).all(axis=0)
    differ = [
        f"{name} (here {value})"
        for (name, value), is_same in zip(values.items(), same, strict=True)
        if not is_same
    ]
    if differ:
        raise ValueError(
            f"expected the same on all hosts of {VARIABLE}, got other values on this one, "
            f"{share_of(strategy).host}, than elsewhere: {', '.join(differ)}"
        )


def distribute(
    dataset: tf.data.Dataset, strategy: tf.distribute.Strategy, *, batch_size: int
) -> Any:
    """Divides the training batches of this host between its replicas.

    Args:
        dataset: This host's share of every batch, without end, see `share_of`.
        strategy: Of the run.
        batch_size: Images per step over all replicas of all hosts; their number divides it.

    Returns:
        What `fit` takes.
    """
    replicas = strategy.num_replicas_in_sync
    if replicas == 1:
        return dataset
    parts = dataset.rebatch(batch_size // replicas, drop_remainder=True)
    # tf.data forgets that there is no end; TensorFlow then asks at every step if it is there.
    endless = tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY)
    return strategy.distribute_datasets_from_function(lambda context: parts.apply(endless))


def describe_devices(strategy: tf.distribute.Strategy) -> str:
    """What a strategy trains on, in words: "1 GPU", "4 GPUs", "CPU", "16 GPUs on 2 hosts".

    Says so where a GPU lies idle: TensorFlow itself only logs that it lacks a library.
    """
    replicas = strategy.num_replicas_in_sync
    if _is_tpu(strategy):
        return f"{replicas} TPU cores"
    kind = "GPU" if tf.config.list_logical_devices("GPU") else "CPU"
    if kind == "CPU" and replicas == 1:
        idle = " although there is an NVIDIA GPU (pip install 'fcos_tf[gpu]')"
        return kind + (idle if _NVIDIA_DRIVER.exists() else "")
    hosts = share_of(strategy).num_hosts
    where = f" on {hosts} hosts" if hosts > 1 else ""
    return f"{replicas} {kind}{'' if replicas == 1 else 's'}{where}"


@contextlib.contextmanager
def _ended_by_sigint() -> Iterator[None]:
    """SIGINT ends the process here; Python would hear of it only when the last host is there."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _tpu_strategy(tpu: str) -> tf.distribute.Strategy:
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu=tpu)
        if tpu != "local":
            tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
    except (tf.errors.OpError, ValueError, OSError) as error:
        text = " ".join(str(error).split())
        raise ValueError(f"--tpu={tpu}: expected a TPU that can be reached, got: {text}") from error
    strategy = tf.distribute.TPUStrategy(resolver)
    if strategy.extended.num_hosts > 1:
        # One process drives all hosts of a TPU, but images are read by Python in that process.
        raise ValueError(
            f"--tpu={tpu}: expected a TPU with one host, got one with {strategy.extended.num_hosts}"
        )
    return strategy


def _is_tpu(strategy: tf.distribute.Strategy) -> bool:
    return isinstance(strategy, tf.distribute.TPUStrategy)
