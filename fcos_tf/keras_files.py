"""`.keras` files: whole, corrupt, or larger in memory than on disk."""

import contextlib
import copy
import functools
import io
import json
import math
import shutil
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np

from fcos_tf.atomic_files import replacing
from fcos_tf.published import DETECTORS

# The members of a `.keras` file; checksums do not reveal a missing one.
MEMBERS = ("metadata.json", "config.json", "model.weights.h5")

MAX_JSON_BYTES = 1 << 24  # of a config; Keras' own are below a megabyte

NOT_SAVED = 1000  # numbers in variables that a file may lack, such as counters of metrics

HDF5 = b"\x89HDF\r\n\x1a\n"  # the first bytes of such a file


def check_whole(path: str | Path) -> None:
    """Refuses a `.keras` file that is missing (FileNotFoundError) or corrupt (ValueError)."""
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"no weights file {path}; expected a .keras file or one of {', '.join(DETECTORS)}"
        )
    with open(path, "rb") as file:
        if file.read(len(HDF5)) == HDF5:
            raise ValueError(
                f"{path}: expected a .keras file, got an HDF5 file, which Keras saves but "
                "cannot load for models of this package; save the model as .keras"
            )
    if damage := find_damage(path):
        raise ValueError(f"{path} is corrupt ({damage}); expected a .keras file")
    with zipfile.ZipFile(path) as archive:
        if archive.getinfo("config.json").file_size > MAX_JSON_BYTES:
            raise ValueError(f"{path}: expected a config of at most {MAX_JSON_BYTES} bytes")
    try:
        with open_weights(path) as weights:
            _check_links("/", weights)
            weights.visititems(_check_links)
    except Exception as error:  # of HDF5, which raises anything
        raise ValueError(f"{path}: model.weights.h5 in it: {first_lines(error)}") from error


def read_config(path: str | Path) -> dict[str, Any]:
    """The config of the model in a `.keras` file, as Keras saves it."""
    with zipfile.ZipFile(path) as archive:
        return json.loads(archive.read("config.json"))


def replace_settings(path: str | Path, **settings: Any) -> None:
    """Replaces arguments of the model in a `.keras` file, at once; all else stays as it is.

    Raises:
        OSError: It cannot be written.
    """
    saved = read_config(path)
    saved["config"] |= settings
    with (
        replacing(path) as temporary,
        zipfile.ZipFile(path) as source,
        zipfile.ZipFile(temporary, "w") as target,
    ):
        for member in source.infolist():
            if member.filename == "config.json":
                target.writestr(member.filename, json.dumps(saved))
                continue
            with source.open(member) as old, target.open(copy.copy(member), "w") as new:
                shutil.copyfileobj(old, new, 1 << 20)


@contextlib.contextmanager
def open_weights(path: str | Path) -> Iterator[h5py.File]:
    """Opens the HDF5 file in a `.keras` file, in place: a seek in zipfile reads all before it."""
    with zipfile.ZipFile(path) as archive, open(path, "rb") as file:
        info = archive.getinfo("model.weights.h5")
        file.seek(info.header_offset + 26)  # its local header has 30 bytes, a name and extra fields
        start = info.header_offset + 30 + sum(struct.unpack("<HH", file.read(4)))
        with h5py.File(_Part(file, start, info.file_size), "r") as weights:
            yield weights


class _Part(io.RawIOBase):
    """A part of an open file, as a file."""

    def __init__(self, file: BinaryIO, start: int, size: int):
        self._file, self._start, self._size, self._at = file, start, size, 0

    def tell(self):
        return self._at

    def seek(self, offset, whence=io.SEEK_SET):
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def readinto(self, buffer):
        self._file.seek(self._start + self._at)
        count = self._file.readinto(memoryview(buffer)[: max(0, self._size - self._at)])
        self._at += count
        return count


@contextlib.contextmanager
def no_larger_than(path: str | Path, config: dict, *, times: int = 1) -> Iterator[None]:
    """A context in which a model is built with no more weights than a file holds, all of them 0.

    Under TensorFlow only, which tells of a variable before it takes memory. Random numbers, which
    the file overwrites, would take a third of the time of loading a ResNet-50.

    Args:
        path: The `.keras` file.
        config: Of the model in it.
        times: How often a weight may be made.

    Raises:
        ValueError: the config asks for more.
    """
    import keras

    held: list[int] = []
    with open_weights(path) as weights:
        weights.visititems(lambda _, item: held.append(getattr(item, "size", None) or 0))
    if int(config.get("head_convs") or 0) > len(held):  # objects take memory, too
        raise ValueError(f"head_convs {config['head_convs']}, of which it holds no weights")
    if keras.backend.backend() != "tensorflow":
        yield
        return
    import tensorflow as tf

    left, shapes = times * sum(held) + NOT_SAVED, tf.Graph()

    def create(next_creator, **kwargs):
        nonlocal left
        value = kwargs["initial_value"]
        if callable(value):
            with shapes.as_default():  # without the numbers
                value = value()
            if value.dtype.is_floating:  # other variables are states, such as seeds
                kwargs["initial_value"] = functools.partial(tf.zeros, value.shape, value.dtype)
        left -= math.prod(np.shape(value))
        if left < 0:
            raise ValueError(f"one with more than the {sum(held)} weights in the file")
        return next_creator(**kwargs)

    with tf.variable_creator_scope(create):
        yield


def _check_links(name: str, item: h5py.Group | h5py.Dataset) -> None:
    """Refuses arrays that are elsewhere, or are larger in memory than in the file."""
    if isinstance(item, h5py.Group):
        kinds = {key: item.get(key, getlink=True) for key in item}
        if links := [key for key, kind in kinds.items() if not isinstance(kind, h5py.HardLink)]:
            raise ValueError(f"{name}: expected arrays and groups, got the link {links[0]}")
    elif item.external or item.is_virtual or item.id.get_storage_size() < (item.nbytes or 0):
        raise ValueError(f"{name}: expected an array stored whole and uncompressed in the file")


def find_damage(path: str | Path) -> str | None:
    """The damage of a `.keras` file; None if its members and checksums are right."""
    try:
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():  # Keras never compresses; a bomb does
                if info.compress_type != zipfile.ZIP_STORED:
                    return f"{info.filename} in it is compressed"
            bad_member, names = archive.testzip(), archive.namelist()
    except Exception as error:
        # Wrong headers (encryption, compression, length) make zipfile raise errors of any kind.
        return f"not a whole zip file: {error or type(error).__name__}"
    if bad_member is not None:
        return f"wrong checksum of {bad_member}"
    missing = [name for name in MEMBERS if name not in names]
    return f"no {' and no '.join(missing)} in it" if missing else None


def first_lines(error: Exception, length: int = 300) -> str:
    """The text of an error, which may be a page, as one line of at most `length`."""
    text = " ".join(str(error).split())
    return text if len(text) <= length else text[: length - 3] + "..."
