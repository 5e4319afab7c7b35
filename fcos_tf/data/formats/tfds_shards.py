"""What the shards of a TFDS data set say, as columns of arrays; images stay where they are."""

import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from PIL import Image

from fcos_tf.data.formats.tfds_features import DetectionFeatures
from fcos_tf.data.formats.tfrecord import find_bytes, find_features, read_records

_THREADS = 8
_HEAD_BYTES = (1 << 12, 1 << 16)  # most images say their size at once, or after a preview


class Part(NamedTuple):
    """The images [skip, skip + take) of a shard that has `length` of them."""

    file: str
    skip: int
    take: int
    length: int


class Columns(NamedTuple):
    """n images with T objects.

    Attributes:
        ranges: int64 [n, 2], (offset, length) of the encoded image in its file.
        sizes: int32 [n, 2], (height, width) as the image itself says; 0 where it cannot be read.
        ids: int64 [n]; -1 = the data set has none.
        names: str [n], file names; empty = the data set has none.
        counts: int64 [n], objects of each image.
        boxes: float64 [T, 4], normalised (ymin, xmin, ymax, xmax).
        labels: int32 [T].
        areas: float64 [T]; NaN = the data set has none.
        ignored: bool [T].
        numbers: int64 [T], ids of the objects, else their places in their image, from 1.
    """

    ranges: np.ndarray
    sizes: np.ndarray
    ids: np.ndarray
    names: np.ndarray
    counts: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    areas: np.ndarray
    ignored: np.ndarray
    numbers: np.ndarray


def read_parts(parts: Sequence[Part], features: DetectionFeatures) -> Columns:
    """Reads parts of shards, several at once.

    Args:
        parts: At least one.
        features: What to read.

    Returns:
        The `Columns` of all parts, in their order.

    Raises:
        FileNotFoundError: A shard is not there.
        ValueError: A shard is broken; says which, and where.
    """
    with ThreadPoolExecutor(_THREADS) as pool:
        columns = list(pool.map(lambda part: _read_part(part, features), parts))
    return Columns(*map(np.concatenate, zip(*columns, strict=True)))


def _read_part(part: Part, features: DetectionFeatures) -> Columns:
    rows = []
    try:
        for number, (offset, example) in enumerate(read_records(part.file)):
            if number >= part.length:
                raise ValueError(
                    f"{part.file}: expected {part.length} records, as dataset_info.json says, "
                    "got more; is it of another data set?"
                )
            if len(rows) == part.take:
                break
            if number >= part.skip:
                try:
                    rows.append(_read_example(offset, example, features))
                except Exception as error:  # protobuf has its own
                    raise ValueError(f"{part.file}: record {number}: {error}") from error
    except FileNotFoundError:
        raise FileNotFoundError(
            f"no shard {part.file}, though dataset_info.json lists it"
        ) from None
    if len(rows) < part.take:
        raise ValueError(
            f"{part.file}: data loss: expected {part.length} records, as dataset_info.json says, "
            f"got fewer than {part.skip + part.take}"
        )
    ranges, sizes, ids, names, counts, *objects = zip(*rows, strict=True)
    return Columns(
        np.array(ranges, np.int64),
        np.array(sizes, np.int32),
        np.array(ids, np.int64),
        np.array(names),
        np.array(counts, np.int64),
        *map(np.concatenate, objects),
    )


def _read_example(offset: int, example: memoryview | bytes, features: DetectionFeatures) -> tuple:
    """One row of each column."""
    from tensorflow.train import Feature

    places = find_features(example, features.names)
    if features.image not in places:
        raise ValueError(f"has no feature {features.image}")
    start, end = find_bytes(example, *places.pop(features.image))
    stored = {name: Feature.FromString(bytes(example[a:b])) for name, (a, b) in places.items()}

    def values(name: str | None, default: np.ndarray) -> np.ndarray:
        """The values of a feature in the default's dtype; the default where it is not there."""
        kind = stored[name].WhichOneof("kind") if name in stored else None
        return np.array(getattr(stored[name], kind).value, default.dtype) if kind else default

    boxes = values(features.bbox, np.zeros(0)).reshape(-1, 4)
    count = len(boxes)
    objects = (
        values(features.label, np.full(count, 0 if features.label is None else -1, np.int32)),
        values(features.area, np.full(count, np.nan)),
        *(values(name, np.zeros(count, np.int64)) > 0 for name in features.ignored),
        values(features.object_id, np.arange(1, count + 1)),
    )
    if {len(found) for found in objects} != {count}:
        lengths = ", ".join(str(len(found)) for found in objects)
        raise ValueError(f"has {count} boxes, but {lengths} values that go with them")
    labels, areas, *flags, numbers = objects
    return (
        (offset + start, end - start),
        _image_size(example[start:end]),
        values(features.image_id, np.array([-1]))[0],
        values(features.file_name, np.array([b""], object))[0].decode(errors="replace"),
        count,
        boxes,
        labels,
        areas,
        np.any([np.zeros(count, bool), *flags], axis=0),
        numbers,
    )


def _image_size(data: memoryview | bytes) -> tuple[int, int]:
    for count in (*_HEAD_BYTES, len(data)):
        try:
            with Image.open(io.BytesIO(data[:count])) as image:
                return image.height, image.width
        except Exception:  # Pillow's plugins raise whatever they stumble over
            continue
    return 0, 0
