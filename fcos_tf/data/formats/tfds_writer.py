"""Writes data sets in the form of TensorFlow Datasets (TFDS), for `read_tfds` and `tfds.load`.

That is a folder of TFRecord shards and JSON files: few large files, for buckets and many hosts.
"""

import io
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import PurePath

import numpy as np
import tensorflow as tf
from PIL import Image

from fcos_tf.data.annotations import Annotations
from fcos_tf.data.images import (
    ImageError,
    decode_image,
    read_bytes,
    read_header,
    size_mismatch,
)

_JPEG_OR_PNG = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")


def write_tfds(
    splits: Mapping[str, Annotations],
    output_dir: str | os.PathLike,
    *,
    name: str,
    version: str = "1.0.0",
    images_per_shard: int = 1000,
    read_bytes: Callable[..., bytes] = read_bytes,
) -> str:
    """Writes splits with their images; the same input gives the same files.

    JPEG and PNG images are stored as they are, byte for byte, others, and those that `apply_exif`
    turns, as PNG with the same pixels.
    Features: `image`, `image/id`, `image/filename`, and of `objects` `bbox`, `label`, `area` (of
    the box where annotations have none), `is_crowd` (`ignored`) and `id`. The category ids are in
    `metadata.json`.

    `read_tfds` gives the same annotations back: boxes as normalised float32 are exact to
    thousandths of a pixel up to 16,000 pixels (a value under 1 is off by up to 2^-25, times 16,000
    is .00048).

    Args:
        splits: Name of each split -> annotations; all with the same classes.
        output_dir: `data_dir` of `tfds.load` and `read_tfds`; may be a URL such as gs://bucket.
        name: Of the data set: small letters, digits and "_".
        version: Of the data set.
        images_per_shard: The maximum in one file.
        read_bytes: (file, offset, number of bytes or None) -> bytes of an image.

    Returns:
        The folder of the data set, OUTPUT_DIR/NAME/VERSION.

    Raises:
        FileExistsError: A data set of that name and version exists.
        ImageError: An image cannot be read; TFDS then sees no data set.
        ValueError: No split, an empty one, different classes, a bad name or version.

    Example:
        >>> write_tfds({"train": train, "val": val}, "gs://bucket/data", name="cells")
        >>> fcos_tf.data.load("tfds:cells", data_dir="gs://bucket/data", split="val", batch_size=8)
    """
    import tensorflow_datasets as tfds

    first = _check(splits, name, version, images_per_shard)
    root = os.path.expanduser(os.fspath(output_dir)).rstrip("/")
    folder = f"{root}/{name}/{version}"
    if tf.io.gfile.exists(f"{folder}/dataset_info.json"):
        raise FileExistsError(f"{folder} holds a data set; delete it or choose another name")
    tf.io.gfile.makedirs(folder)

    objects = {
        "bbox": tfds.features.BBoxFeature(),
        "label": tfds.features.ClassLabel(names=first.class_names),
        "area": np.float32,
        "is_crowd": np.bool_,
        "id": np.int64,
    }
    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(),
            "image/id": np.int64,
            "image/filename": tfds.features.Text(),
            "objects": tfds.features.Sequence(objects),
        }
    )
    infos = []
    for split, annotations in splits.items():
        annotations = replace(annotations, areas=annotations.known_areas())
        template = tfds.core.ShardedFileTemplate(
            data_dir=folder, dataset_name=name, split=split, filetype_suffix="tfrecord"
        )
        starts = range(0, annotations.num_images, images_per_shard)
        lengths, num_bytes = [], 0
        for shard, start in enumerate(starts):
            file = template.sharded_filepath(shard_index=shard, num_shards=len(starts))
            indices = range(start, min(start + images_per_shard, annotations.num_images))
            with tf.io.TFRecordWriter(os.fspath(file)) as writer:
                for index in indices:
                    record = features.serialize_example(_example(annotations, index, read_bytes))
                    # TFDS leaves the order of features to protobuf, which has none.
                    record = tf.train.Example.FromString(record)
                    record = record.SerializeToString(deterministic=True)
                    writer.write(record)
                    num_bytes += len(record)
            lengths.append(len(indices))
        infos.append(
            tfds.core.SplitInfo(
                name=split, shard_lengths=lengths, num_bytes=num_bytes, filename_template=template
            )
        )
    info = tfds.core.DatasetInfo(
        builder=tfds.core.DatasetIdentity(
            name=name, version=tfds.core.Version(version), data_dir=folder, module_name=__name__
        ),
        description=f"Object detection, {len(first.class_names)} classes, written by fcos_tf.",
        features=features,
        disable_shuffling=True,
        metadata=tfds.core.MetadataDict(category_ids=list(map(int, first.category_ids))),
    )
    info.set_file_format("tfrecord")
    info.set_splits(tfds.core.SplitDict(infos))
    info.write_to_directory(folder)  # last: without it TFDS sees no data set
    return folder


def _check(splits: Mapping[str, Annotations], name: str, version: str, images_per_shard: int):
    """The first split, whose classes are those of all."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise ValueError(f"name: expected small letters, digits and '_', got {name!r}")
    if not re.fullmatch(r"\d+\.\d+\.\d+", version):
        raise ValueError(f"version: expected three numbers such as 1.0.0, got {version!r}")
    if images_per_shard < 1:
        raise ValueError(f"images_per_shard: expected at least 1, got {images_per_shard}")
    if not splits:
        raise ValueError(f"{name}: expected at least one split")
    first = next(iter(splits.values()))
    for split, annotations in splits.items():
        if not re.fullmatch(r"[A-Za-z0-9_]+", split):
            raise ValueError(f"{name}: expected a split of letters, digits and '_', got {split!r}")
        if split == "all":
            raise ValueError(
                f"{name}: expected another split than 'all', by which TFDS reads every split"
            )
        if not annotations.num_images:
            raise ValueError(f"{name}: split {split!r} has no images")
        for what in ("class_names", "category_ids"):
            expected, got = tuple(getattr(first, what)), tuple(getattr(annotations, what))
            if got != expected:
                where = f"{name}: {what} of split {split!r}"
                raise ValueError(f"{where}: expected {expected}, as of the first split, got {got}")
    return first


def _example(annotations: Annotations, index: int, read: Callable[..., bytes]) -> dict:
    """One example for TFDS' features to encode."""
    file, offset, num_bytes = annotations.place_of(index)
    is_whole = num_bytes is None  # else the file holds many images
    data, (height, width) = _encoded(read(file, offset, num_bytes), file, annotations.apply_exif)
    annotated = tuple(annotations.sizes[index].tolist())
    if min(annotated) > 0 and annotated != (height, width):
        what = size_mismatch(annotated, (height, width), io.BytesIO(data))
        raise ImageError(f"{file}: {what}")
    rows = slice(*np.searchsorted(annotations.owners, [index, index + 1]))
    normalised = annotations.boxes[rows][:, [1, 0, 3, 2]] / (height, width, height, width)
    return {
        "image": data,
        "image/id": annotations.image_ids[index],
        "image/filename": PurePath(file).name if is_whole else str(annotations.image_ids[index]),
        "objects": {
            "bbox": list(normalised.clip(0.0, 1.0)),
            "label": annotations.labels[rows].tolist(),
            "area": annotations.areas[rows],
            "is_crowd": annotations.ignored[rows],
            "id": annotations.numbers[rows],
        },
    }


def _encoded(data: bytes, file: str, apply_exif: bool) -> tuple[bytes, tuple[int, int]]:
    """JPEG or PNG bytes of an image, upright with `apply_exif`, and their (height, width)."""
    size, orientation = read_header(io.BytesIO(data), with_exif=apply_exif) or (None, 1)
    if size and orientation == 1 and data.startswith(_JPEG_OR_PNG):
        return data, size
    return as_png(data, file, apply_exif)


def as_png(data: bytes, file: str, apply_exif: bool) -> tuple[bytes, tuple[int, int]]:
    """An image as PNG with the pixels that `decode_image` gives, and its (height, width).

    Raises:
        ImageError: It cannot be decoded.
    """
    pixels, size = decode_image(data, file, lambda height, width: (height, width), apply_exif)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue(), size
