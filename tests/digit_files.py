"""The embedded digits as files, for tests that read some."""

import os
from collections.abc import Mapping
from pathlib import Path

from fcos_tf.data.formats import digits
from fcos_tf.data.formats.writing import write_dataset


def write_digits(
    data_format: str, output_dir: str | os.PathLike, counts: Mapping[str, int]
) -> Path:
    """Writes the first scenes of each split, so many of it; returns the `data_dir` of the files."""
    splits = {split: digits.read_digits(split, limit=n).annotations for split, n in counts.items()}
    return write_dataset(
        data_format, splits, output_dir, name="digits", read_bytes=digits.read_scene_bytes
    )
