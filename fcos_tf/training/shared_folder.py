"""Checks that the hosts of a run share one folder for its files."""

import secrets
import time
from pathlib import Path

import numpy as np
import tensorflow as tf

from fcos_tf.training import atomic
from fcos_tf.training.cluster import VARIABLE
from fcos_tf.training.strategy import any_host, numbers_of_hosts, share_of


def check_shared(
    folder: str | Path, strategy: tf.distribute.Strategy, *, patience: float = 5.0
) -> None:
    """The chief writes a file, which all hosts look for; with one host it does nothing.

    All hosts must call it at the same point of the program: it waits for them.

    Args:
        folder: The run's folder on this host; the chief creates it if missing.
        strategy: Of the run.
        patience: Seconds that a host looks; network file systems may delay a file.

    Raises:
        ValueError: On every host, if any host does not find the file.
        OSError: The chief cannot write it.
    """
    share = share_of(strategy)
    if share.num_hosts == 1:
        return
    folder = Path(folder)
    # A new name each time, so that a file of an older run does not match.
    number = numbers_of_hosts([secrets.randbits(31)], strategy)[0, 0]  # the chief's
    path = folder / f"{atomic.TEMPORARY_PREFIX}for_all_hosts_{number}"
    try:
        if share.is_chief:
            with atomic.naming(path):
                folder.mkdir(parents=True, exist_ok=True)
                path.touch()
        any_host(True, strategy)  # the file is written
        lacking = np.flatnonzero(numbers_of_hosts([not _appears(path, patience)], strategy))
    finally:
        if share.is_chief:
            path.unlink(missing_ok=True)
    if lacking.size:
        raise ValueError(
            f"--model_dir: expected one folder shared by all hosts of {VARIABLE}, got {folder} on "
            f"host {share.host}; no file of the chief on host {', '.join(map(str, lacking))}"
        )


def _appears(path: Path, patience: float) -> bool:
    deadline = time.monotonic() + patience
    while not path.exists():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True
