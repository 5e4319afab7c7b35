"""Where prepared TFDS data sets lie: DATA_DIR/NAME/VERSION or DATA_DIR/NAME/CONFIG/VERSION.

TFDS' own search asks the builders that it knows, so it does not find a data set called `voc` that
has no configs. This one goes by the folders alone.
"""

import glob
import os
import re
from fnmatch import fnmatch


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
    wanted, _, pattern = name.partition(":")
    found = [p for p in _prepared(root, wanted) if wanted and fnmatch(p[1], pattern or "*")]
    found = [p for p in found if p[0] == wanted] or found
    if not found:
        there = ", ".join(map(":".join, _prepared(root, "*"))) or "none"
        raise FileNotFoundError(
            f"no prepared TFDS data set {name!r} in {root}; there are: {there}. One that TFDS "
            f"knows is prepared by: import tensorflow_datasets as tfds; tfds.load({name!r}, "
            f"data_dir={root!r})"
        )
    if len({full_name for full_name, _ in found}) > 1:
        there = ", ".join(map(":".join, found))
        raise ValueError(f"tfds: {name!r} has several configs in {root}, expected one of: {there}")
    newest = max(found, key=lambda p: [int(number) for number in p[1].split(".")])
    return "/".join((root, *newest))


def _prepared(root: str, name: str) -> list[tuple[str, str]]:
    """(NAME or NAME/CONFIG, VERSION) of the prepared data sets of a name."""
    import tensorflow as tf

    folder = f"{glob.escape(root)}/{name}"
    files = tf.io.gfile.glob([f"{folder}/*/features.json", f"{folder}/*/*/features.json"])
    found = [file.removeprefix(f"{root}/").rsplit("/", 2)[:2] for file in sorted(files)]
    return [tuple(p) for p in found if re.fullmatch(r"\d+\.\d+\.\d+", p[1])]
