"""Where the features of each example lie in a TFRecord file.

A TFRecord file is a row of records: 8 bytes of length (little endian), 4 of its checksum, the data,
4 of the data's checksum. The data is a serialized `tf.train.Example`, in which every value of a
bytes feature, an encoded image for one, lies in one piece. So (offset, length) of an image is all
that it takes to read it later, in any order, without the rest of the file.

Source: the TFRecord guide of tensorflow.org and the encoding guide of protobuf.dev.
"""

import mmap
from collections.abc import Collection, Iterator

_HEADER_BYTES = 12
_FOOTER_BYTES = 4
_LENGTH_DELIMITED = 2  # the wire type of strings, bytes and messages


def read_records(file: str) -> Iterator[tuple[int, memoryview | bytes]]:
    """Goes through the records of a file, holding no more than one of them.

    A local file is mapped into memory, so what nobody looks at is not copied, nor read from disk
    beyond what the system reads ahead. The checksums are not computed.

    Args:
        file: A path, or a URL such as gs://bucket/file that TensorFlow can open.

    Yields:
        The offset of the record's data in the file, and the data.

    Raises:
        FileNotFoundError: No such file.
        ValueError: A record reaches over the end of the file: it is cut off, compressed, or no
            TFRecord file at all.
    """
    stream, size = _open(file)
    offset = 0
    while offset < size:
        header = stream.read(_HEADER_BYTES)
        start = offset + _HEADER_BYTES
        length = int.from_bytes(header[:8], "little")
        if start + length + _FOOTER_BYTES > size:
            raise ValueError(
                f"{file}: data loss: the record at byte {offset} has {length} bytes, the file ends "
                f"at {size}; it is truncated, compressed or no TFRecord file"
            )
        yield start, stream.read(length)
        stream.read(_FOOTER_BYTES)
        offset = start + length + _FOOTER_BYTES


def find_features(
    example: memoryview | bytes, names: Collection[str]
) -> dict[str, tuple[int, int]]:
    """Finds features of a serialized `tf.train.Example` without parsing the others.

    Args:
        example: Data of a record.
        names: Of the features that are wanted.

    Returns:
        Name -> (start, end) of the serialized `tf.train.Feature`; without those that are not there.

    Raises:
        ValueError: It is no `tf.train.Example`.
    """
    wanted = {name.encode(): name for name in names}
    found = {}
    for _, *features in _fields(example, 0, len(example)):
        for _, *entry in _fields(example, *features):
            parts = {number: (start, end) for number, start, end in _fields(example, *entry)}
            key_start, key_end = parts.get(1, (0, 0))
            name = wanted.get(bytes(example[key_start:key_end]))
            if name is not None:
                found[name] = parts.get(2, (key_end, key_end))
    return found


def find_bytes(example: memoryview | bytes, start: int, end: int) -> tuple[int, int]:
    """Finds the one value of a bytes feature.

    Args:
        example: Data of a record.
        start: Of the serialized `tf.train.Feature`, see `find_features`.
        end: Of the same.

    Returns:
        (start, end) of the value.

    Raises:
        ValueError: The feature has not exactly one bytes value.
    """
    values = [
        place
        for kind, *bytes_list in _fields(example, start, end)
        if kind == 1  # field 2 holds floats, 3 integers
        for _, *place in _fields(example, *bytes_list)
    ]
    if len(values) != 1:
        raise ValueError(f"expected one bytes value, got {len(values)}")
    return tuple(values[0])


class _Mapped:
    """A local file, mapped into memory."""

    def __init__(self, file: str):
        with open(file, "rb") as opened:
            size = opened.seek(0, 2)
            mapped = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) if size else b""
        self._view = memoryview(mapped)
        self._at = 0

    def __len__(self) -> int:
        return len(self._view)

    def read(self, count: int) -> memoryview:
        self._at += count
        return self._view[self._at - count : self._at]


def _open(file: str):
    """A stream and the number of bytes in it."""
    if "://" not in file:
        mapped = _Mapped(file)
        return mapped, len(mapped)
    import tensorflow as tf

    if not tf.io.gfile.exists(file):
        raise FileNotFoundError(f"no file {file}")
    return tf.io.gfile.GFile(file, "rb"), tf.io.gfile.stat(file).length


def _fields(data: memoryview | bytes, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """(field number, start, end of the content) of each field of a protobuf message."""
    at = start
    while at < end:
        tag, at = _varint(data, at, end)
        length, at = _varint(data, at, end)
        if tag & 7 != _LENGTH_DELIMITED or at + length > end:
            raise ValueError("is not a tf.train.Example")
        yield tag >> 3, at, at + length
        at += length


def _varint(data: memoryview | bytes, at: int, end: int) -> tuple[int, int]:
    """The base-128 number at a place, and the place after it."""
    value = shift = 0
    while at < end:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise ValueError("is not a tf.train.Example")
