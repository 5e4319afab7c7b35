"""Where prepared TFDS data sets lie: DATA_DIR/NAME/VERSION or DATA_DIR/NAME/CONFIG/VERSION.

TFDS' own search asks the builders that it knows, so it does not find a data set called `voc` that
has no configs. This one goes by the folders alone.
"""

import os
import re
from collections.abc import Iterator
from fnmatch import fnmatch
from typing import NamedTuple

_VERSION = re.compile(r"\d+\.\d+\.\d+")


class _Prepared(NamedTuple):
    name: str  # with the config
    version: str

    def __str__(self) -> str:
        return f"{self.name}:{self.version}"

    @property
    def numbers(self) -> tuple[int, ...]:
        return tuple(map(int, self.version.split(".")))


def find_builder_dir(name: str, data_dir: str | os.PathLike | None = None) -> str:
    """Finds the folder of a prepared data set, of its newest version if there are several.

    Args:
        name: NAME, NAME/CONFIG, NAME:VERSION or NAME/CONFIG:VERSION, where the version may have
            "*" in place of numbers. The config is needed where there are several.
        data_dir: Where to look; may be a URL. Default: TFDS' own, `$TFDS_DATA_DIR` or
            `~/tensorflow_datasets`.

    Returns:
        The folder, for `tfds.builder_from_directory`.

    Raises:
        FileNotFoundError: There is none; says what there is, and how TFDS prepares one.
        ValueError: Several configs and none was named.
    """
    if data_dir is None:
        from tensorflow_datasets.core.constants import DATA_DIR as data_dir  # noqa: N811
    root = os.path.expanduser(os.fspath(data_dir)).rstrip("/")
    wanted, _, version = name.partition(":")
    prepared = _prepared(root, wanted) if wanted else ()
    found = [p for p in prepared if fnmatch(p.version, version or "*")]
    found = [p for p in found if p.name == wanted] or found
    if not found:
        everything = (p for folder in _list(root) for p in _prepared(root, folder))
        raise FileNotFoundError(
            f"no prepared TFDS data set {name!r} in {root}; "
            f"there are: {', '.join(map(str, everything)) or 'none'}. One that TFDS knows is "
            f"prepared by: import tensorflow_datasets as tfds; tfds.load({name!r}, "
            f"data_dir={root!r})"
        )
    if len({p.name for p in found}) > 1:
        raise ValueError(
            f"tfds: {name!r} has several configs in {root}, expected one of: "
            f"{', '.join(map(str, found))}"
        )
    newest = max(found, key=lambda p: p.numbers)
    return f"{root}/{newest.name}/{newest.version}"


def _prepared(root: str, name: str) -> Iterator[_Prepared]:
    """The versions of a data set, and those of its configs if it has any."""
    import tensorflow as tf

    for entry in _list(f"{root}/{name}"):
        if not _VERSION.fullmatch(entry):
            if "/" not in name:
                yield from _prepared(root, f"{name}/{entry}")
        elif tf.io.gfile.exists(f"{root}/{name}/{entry}/features.json"):
            yield _Prepared(name, entry)


def _list(folder: str) -> list[str]:
    import tensorflow as tf

    try:
        return sorted(entry.rstrip("/") for entry in tf.io.gfile.listdir(folder))
    except tf.errors.OpError:  # not there, or a file
        return []
