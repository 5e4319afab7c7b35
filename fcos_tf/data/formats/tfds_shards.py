"""The shards of a TFDS data set as columns of arrays; images stay where they are.

A TFRecord file is a sequence of records: 8 bytes of length (little endian), 4 of its checksum, the
data, 4 of the data's checksum (the TFRecord guide of tensorflow.org). The data, a
`tf.train.Example`, holds the encoded image in one piece: offset and length suffice to read it.
"""

import io
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import tensorflow as tf

from fcos_tf.data.formats.tfds_features import DetectionFeatures
from fcos_tf.data.images import stored_size

_HEADER_BYTES, _FOOTER_BYTES = 12, 4


def read_shards(
    instructions: Sequence[Any], features: DetectionFeatures, *, apply_exif: bool = False
) -> dict[str, np.ndarray]:
    """Reads shards, several at once: at least one `FileInstruction` of TFDS.

    Returns:
        Columns of n images with T objects, named as those of `Annotations`: `ranges`, `sizes`,
        `boxes` (float64 [T, 4], normalised (ymin, xmin, ymax, xmax)), `labels`, `areas`, `ignored`
        and `numbers` (places in the image, from 1, where objects have no ids). Also `ids` int64
        [n], -1 = none; `names` str [n] of files, empty = none; `counts` [n] of objects.

    Raises:
        FileNotFoundError: A shard is missing.
        ValueError: A shard is corrupt.
    """
    with ThreadPoolExecutor(8) as pool:
        read = partial(_read_shard, features=features, apply_exif=apply_exif)
        return _concatenate(pool.map(read, instructions))


def _concatenate(columns: Iterable[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    columns = list(columns)
    return {name: np.concatenate([each[name] for each in columns]) for name in columns[0]}


def _read_shard(shard: Any, features: DetectionFeatures, apply_exif: bool) -> dict[str, np.ndarray]:
    file, rows = shard.filename, []
    listed = f"expected {shard.examples_in_shard} records, as dataset_info.json says"
    try:
        with tf.io.gfile.GFile(file, "rb") if "://" in file else open(file, "rb") as stream:
            for number, (offset, length) in enumerate(_records(stream, file)):
                if number >= shard.examples_in_shard:
                    raise ValueError(f"{file}: {listed}, got more; is it of another data set?")
                if len(rows) == shard.take:
                    break
                if number >= shard.skip:
                    try:
                        record = stream.read(length)
                        rows.append(_read_example(record, offset, features, apply_exif))
                    except Exception as error:  # of NumPy, or of protobuf
                        raise ValueError(f"{file}: record {number}: {error}") from error
    except (FileNotFoundError, tf.errors.NotFoundError):
        raise FileNotFoundError(f"no shard {file}, though dataset_info.json lists it") from None
    if len(rows) < shard.take:
        raise ValueError(f"{file}: data loss: {listed}, got fewer than {shard.skip + shard.take}")
    return _concatenate(rows)


def _records(stream: Any, file: str) -> Iterator[tuple[int, int]]:
    """(offset, length) of the data of each record; leaves `stream` at it. Ignores checksums."""
    stream.seek(0, 2)
    size, offset = stream.tell(), 0
    while offset < size:
        stream.seek(offset)
        length = int.from_bytes(stream.read(_HEADER_BYTES)[:8], "little")
        end = offset + _HEADER_BYTES + length + _FOOTER_BYTES
        if end > size:
            raise ValueError(
                f"{file}: data loss: the record at byte {offset} has {length} bytes, the file ends "
                f"at {size}; it is truncated, compressed or no TFRecord file"
            )
        yield offset + _HEADER_BYTES, length
        offset = end


def _read_example(
    record: bytes, offset: int, features: DetectionFeatures, apply_exif: bool
) -> dict:
    """The columns of one image."""
    stored = tf.train.Example.FromString(record).features.feature

    def values(name: str | None, default: np.ndarray) -> np.ndarray:
        """The values of a feature in the dtype of `default`, which stands for an absent one."""
        kind = stored[name].WhichOneof("kind") if name and name in stored else None
        return np.array(getattr(stored[name], kind).value, default.dtype) if kind else default

    images = values(features.image, np.zeros(0, object))
    if len(images) != 1:
        raise ValueError(f"expected one image in {features.image}, got {len(images)}")
    boxes = values(features.bbox, np.zeros(0)).reshape(-1, 4)
    count = len(boxes)
    labels = values(features.label, np.full(count, 0 if features.label is None else -1, np.int32))
    areas = values(features.area, np.full(count, np.nan))
    flags = [values(name, np.zeros(count, np.int64)) > 0 for name in features.ignored]
    numbers = values(features.object_id, np.arange(1, count + 1))
    lengths = [len(found) for found in (labels, areas, *flags, numbers)]
    if set(lengths) != {count}:
        raise ValueError(f"has {count} boxes, but {str(lengths)[1:-1]} values that go with them")
    ids = values(features.image_id, np.array([-1]))
    if len(ids) != 1:
        raise ValueError(f"expected one number in {features.image_id}, got {len(ids)}")
    size = stored_size(io.BytesIO(images[0]), apply_exif)
    name = values(features.file_name, np.array([b""], object))[0].decode(errors="replace")
    return {
        "ranges": np.array([(offset + _find(images[0], record), len(images[0]))]),
        "sizes": np.array([size or (0, 0)], np.int32),
        "boxes": boxes,
        "labels": labels,
        "areas": areas,
        "ignored": np.any([np.zeros(count, bool), *flags], axis=0),
        "numbers": numbers,
        "ids": ids,
        "names": np.array([name]),
        "counts": np.array([count]),
    }


def _find(image: bytes, record: bytes) -> int:
    """Offset of the image in its record; searches its first bytes, which is much faster."""
    at = record.index(image[:64])
    while not record.startswith(image, at):
        at = record.index(image[:64], at + 1)
    return at
