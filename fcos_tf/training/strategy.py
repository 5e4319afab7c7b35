"""From a name to the `tf.distribute` strategy of a run.

A replica is a copy of the model on one device, a host a process of the run with its replicas. Host
0 is the chief: it alone writes files and prints.
"""

import contextlib
import os
import secrets
import signal
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from fcos_tf.atomic_files import TEMPORARY_PREFIX, naming
from fcos_tf.models.train_steps import has_hosts
from fcos_tf.training.cluster import VARIABLE, read_cluster

# Exists if the driver of an NVIDIA GPU is loaded, even if TensorFlow finds no GPU.
_NVIDIA_DRIVER = Path("/dev/nvidiactl")
_PATIENCE = 5.0  # seconds that a host looks for a file, which network file systems may delay
STRATEGIES = ("auto", "one_device", "mirrored", "multi_worker", "tpu")


class Share(NamedTuple):
    """The share of this process in the work, as in `fcos_tf.data.load`."""

    num_hosts: int = 1
    host: int = 0  # index of this process

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

    Call it before TensorFlow runs its first operation. With several hosts it waits for all.

    Args:
        strategy: "one_device": TensorFlow's default, one GPU or the CPU;
            "mirrored": a replica on every visible GPU, each with its share of a batch;
            "multi_worker": the GPUs of all hosts in the environment variable `TF_CONFIG`; with one
            host there, "auto" among its devices;
            "tpu": all cores of a TPU;
            "auto": multi_worker if `TF_CONFIG` has several hosts, mirrored with several GPUs, else
            one device.
        tpu: Name of the TPU, or "local" for that of this machine; with "tpu" only.
        one_host: Use this host only: "multi_worker" is then "auto" among its devices.
        report: Receives a line with the hosts it waits for.

    Raises:
        ValueError: Another name, a wrong or missing `TF_CONFIG`, a TPU without a name, unreachable
            or with several hosts.
        OSError: The address of this host in `TF_CONFIG` is in use by another process.

    Example:
        >>> with make_strategy("one_device").scope():
        ...     model = keras.Sequential([keras.layers.Dense(1)])
    """
    if strategy not in STRATEGIES:
        raise ValueError(f"strategy: expected one of {', '.join(STRATEGIES)}, got {strategy!r}")
    if bool(tpu) != (strategy == "tpu"):
        got = f"got --strategy={strategy} and --tpu={tpu}"
        raise ValueError(f"--tpu: expected a TPU's name, or local, with --strategy=tpu only; {got}")
    if strategy == "tpu":
        return _tpu_strategy(tpu)
    may_have_hosts = strategy in ("auto", "multi_worker") and not one_host
    cluster = read_cluster() if may_have_hosts and os.environ.get(VARIABLE) else None
    if strategy == "multi_worker" and may_have_hosts and cluster is None:
        expected = f"expected the environment variable {VARIABLE}"
        raise ValueError(f"--strategy=multi_worker: {expected}, got none")
    if cluster is not None and len(cluster.addresses) > 1:
        report(f"waiting until all hosts are there: {', '.join(cluster.addresses)}")
        try:
            with _ended_by_sigint():
                return tf.distribute.MultiWorkerMirroredStrategy()
        except tf.errors.UnknownError as error:
            expected = f"expected {cluster.addresses[cluster.host]} to be free for this process"
            raise OSError(f"{VARIABLE}: {expected}, got: {error.message}") from error
    several = len(tf.config.list_physical_devices("GPU")) > 1
    if strategy == "mirrored" or (strategy in ("auto", "multi_worker") and several):
        return tf.distribute.MirroredStrategy()
    return tf.distribute.get_strategy()


def share_of(strategy: tf.distribute.Strategy) -> Share:
    """The share of this process in the work under a strategy."""
    if not has_hosts(strategy):
        return ALONE
    cluster = read_cluster()
    return Share(len(cluster.addresses), cluster.host)


def any_host(flag: bool, strategy: tf.distribute.Strategy) -> bool:
    """Whether `flag` is true on any host.

    All hosts must call it at the same point of the program: it waits for them.

    Args:
        flag: The value of this host, such as whether to stop.
        strategy: That of the run.
    """
    if not has_hosts(strategy):
        return flag
    return bool(strategy.reduce("SUM", tf.constant(float(flag)), axis=None) > 0)


def _numbers_of_hosts(numbers: Sequence[int], strategy: tf.distribute.Strategy) -> np.ndarray:
    """N whole numbers of each host, int64 [hosts, N]; all hosts must call it, as `any_host`."""
    share = share_of(strategy)
    mine = np.zeros([share.num_hosts, len(numbers)], np.int64)
    mine[share.host] = numbers
    return strategy.reduce("SUM", tf.constant(mine), axis=None).numpy()


def check_same(values: Mapping[str, Any], strategy: tf.distribute.Strategy) -> None:
    """Checks that all hosts have the same values; all hosts must call it, as `any_host`.

    Args:
        values: Name -> value of this host; values are compared by their `str`.
        strategy: Of the run.

    Raises:
        ValueError: On every host, with its own value, if any host differs.
    """
    if not has_hosts(strategy):
        return
    checksums = [zlib.crc32(str(value).encode()) for value in values.values()]
    everywhere = _numbers_of_hosts(checksums, strategy)
    names = np.array(list(values))[(everywhere != everywhere[0]).any(axis=0)]
    if names.size:
        raise ValueError(
            f"expected the same on all hosts of {VARIABLE}, got other values on host "
            f"{share_of(strategy).host} than elsewhere: "
            + ", ".join(f"{name} (here {values[name]})" for name in names)
        )


def distribute(
    dataset: tf.data.Dataset, strategy: tf.distribute.Strategy, *, batch_size: int
) -> Any:
    """Divides the training batches of this host between its replicas.

    Args:
        dataset: This host's share of every batch, endless, see `share_of`.
        strategy: Of the run.
        batch_size: Images per step over all replicas of all hosts; a multiple of their number.
    """
    replicas = strategy.num_replicas_in_sync
    if replicas == 1:
        return dataset
    parts = dataset.rebatch(batch_size // replicas, drop_remainder=True)
    # `rebatch` loses the infinite cardinality; TensorFlow would check for an end at each step.
    endless = tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY)
    return strategy.distribute_datasets_from_function(lambda context: parts.apply(endless))


def describe_devices(strategy: tf.distribute.Strategy) -> str:
    """The devices of a strategy in words: "1 GPU", "4 GPUs", "CPU", "16 GPUs on 2 hosts".

    Mentions an idle GPU: TensorFlow itself only logs that it lacks a library.
    """
    replicas = strategy.num_replicas_in_sync
    if isinstance(strategy, tf.distribute.TPUStrategy):
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
    """SIGINT ends the process here; Python would handle it only when the last host has joined."""
    is_main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGINT, signal.SIG_DFL) if is_main else None
    try:
        yield
    finally:
        if is_main:
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
    hosts = strategy.extended.num_hosts
    if hosts > 1:
        # One process drives all hosts of a TPU, and would have to read the images of all.
        raise ValueError(f"--tpu={tpu}: expected a TPU with one host, got one with {hosts}")
    return strategy


def check_shared(folder: str | Path, strategy: tf.distribute.Strategy) -> None:
    """The chief writes a file, which all hosts look for; all hosts must call it, as `any_host`.

    Args:
        folder: The run's folder on this host; the chief creates it if missing.
        strategy: That of the run.

    Raises:
        ValueError: On every host, if any host does not find the file.
        OSError: The chief cannot write it.
    """
    share = share_of(strategy)
    if share.num_hosts == 1:
        return
    folder = Path(folder)
    # A new name each time, so that a file of an older run does not match.
    number = _numbers_of_hosts([secrets.randbits(31)], strategy)[0, 0]  # the chief's
    path = folder / f"{TEMPORARY_PREFIX}for_all_hosts_{number}"
    try:
        if share.is_chief:
            with naming(path):
                folder.mkdir(parents=True, exist_ok=True)
                path.touch()
        any_host(True, strategy)  # the file is written
        lacking = np.flatnonzero(_numbers_of_hosts([not _appears(path)], strategy))
    finally:
        if share.is_chief:
            path.unlink(missing_ok=True)
    if lacking.size:
        raise ValueError(
            f"--model_dir: expected one folder shared by all hosts of {VARIABLE}, got {folder} on "
            f"host {share.host}; no file of the chief on host {', '.join(map(str, lacking))}"
        )


def _appears(path: Path) -> bool:
    deadline = time.monotonic() + _PATIENCE
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    return path.exists()
