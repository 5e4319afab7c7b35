"""Writes any split as a COCO, VOC or TFDS data set, images included."""

import io
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from fcos_tf.data.annotations import Annotations, ImageFaults
from fcos_tf.data.formats.coco import write_coco
from fcos_tf.data.formats.listing import image_ids_of
from fcos_tf.data.formats.tfds_writer import as_png, write_tfds
from fcos_tf.data.formats.voc import write_voc
from fcos_tf.data.images import FORMATS as IMAGE_FORMATS
from fcos_tf.data.images import ImageError, read_bytes, read_header

FORMATS = ("coco", "voc", "tfds")


def write_dataset(
    data_format: str,
    splits: Mapping[str, Annotations],
    output_dir: str | os.PathLike,
    *,
    name: str = "detection",
    read_bytes: Callable[..., bytes] = read_bytes,
) -> Path:
    """Writes splits so that `fcos_tf.data.load` reads the same examples back.

    Images keep their bytes, but those that `apply_exif` turns become upright PNG (TFDS: also those
    that are neither JPEG nor PNG). Existing files are not overwritten. A VOC tree has no place for
    areas, category ids and the order of classes.

    Args:
        data_format: "coco": output_dir/annotations/instances_SPLIT.json and output_dir/SPLIT;
            "voc": a tree of JPEGImages, Annotations and ImageSets; "tfds": TFRecord shards under
            output_dir/NAME, for `dataset="tfds:NAME"`.
        splits: Name of each split -> annotations.
        output_dir: The folder.
        name: Name of the data set, for "tfds".
        read_bytes: (file, offset, number of bytes or None) -> bytes of an image.

    Returns:
        The `data_dir` to read it.

    Raises:
        ValueError: An unknown format, a name of a split that would not be read as it, or an image
            that cannot be read; names it.
        FileExistsError: A file or folder to write exists.
    """
    if data_format not in FORMATS:
        raise ValueError(f"format: expected one of {', '.join(FORMATS)}, got {data_format!r}")
    output_dir = Path(output_dir)
    for split in splits:
        if Path(split).name != split or split in ("", ".."):
            raise ValueError(f"split: expected a name without folders, got {split!r}")
        if "+" in split and data_format == "voc":
            raise ValueError(f"split: expected one, not several joined by '+'; got {split!r}")
    try:
        if data_format == "tfds":
            write_tfds(splits, output_dir, name=name, read_bytes=read_bytes)
            return output_dir
        stems = {split: _stems(annotations) for split, annotations in splits.items()}
        if data_format == "voc":
            _check_shared_folder(stems, output_dir)
        for split, annotations in splits.items():
            if data_format == "coco":
                file = output_dir / "annotations" / f"instances_{split}.json"
                _check_absent(file, output_dir / split)
                names = _copy(annotations, output_dir / split, stems[split], read_bytes)
                write_coco(annotations, file, names)
            else:
                names = _copy(annotations, output_dir / "JPEGImages", stems[split], read_bytes)
                write_voc(annotations, output_dir, split, names)
    except ImageError as error:
        raise ValueError(str(error)) from None
    return output_dir


def drop_unreadable(annotations: Annotations, faults: ImageFaults) -> Annotations:
    """The split without missing files and files of no image; others may still be corrupt.

    Raises:
        ValueError: More bad images than `faults` tolerates.
    """
    readable = np.ones(annotations.num_images, bool)
    for index, file in enumerate(annotations.files):
        try:
            _ending(read_bytes(*annotations.place_of(index)), file)
        except ImageError as error:
            readable[index] = False
            if complaint := faults.skip(str(error)):
                raise ValueError(complaint) from None
    return annotations.images(readable)


def _copy(annotations: Annotations, folder: Path, stems: Sequence[str], read) -> list[str]:
    """Writes the images; returns their names, with the endings of their formats."""
    if folder.is_symlink():
        raise FileExistsError(f"{folder} is a link; choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    names = []
    for index, stem in enumerate(stems):
        data = read(*annotations.place_of(index))
        _, orientation = read_header(io.BytesIO(data)) or ((), 1)
        if annotations.apply_exif and orientation > 1:
            data, _ = as_png(data, annotations.files[index], apply_exif=True)
        names.append(stem + _ending(data, annotations.files[index]))
        with open(folder / names[-1], "xb") as file:  # never through a link
            file.write(data)
    return names


def _check_absent(*paths: Path) -> None:
    for path in paths:
        if path.exists():
            raise FileExistsError(f"{path} is there already; choose another folder")


def _check_shared_folder(stems: Mapping[str, Sequence[str]], output_dir: Path) -> None:
    """All splits of a VOC tree have their images in one folder: names must differ."""
    _check_absent(*(output_dir / "ImageSets" / "Main" / f"{split}.txt" for split in stems))
    owner: dict[str, str] = {}
    for split, name in [(split, name) for split, names in stems.items() for name in names]:
        if owner.setdefault(name, split) != split:
            raise ValueError(
                f"format voc: image {name} is in {owner[name]} and in {split}; write one split "
                "into each folder"
            )
        _check_absent(output_dir / "Annotations" / f"{name}.xml")


def _stems(annotations: Annotations) -> Sequence[str]:
    """Names without ending: those of the files if they give the image ids, else the ids."""
    ids = annotations.image_ids.tolist()
    stems = [Path(file).stem for file in annotations.files]
    if annotations.ranges is None and len(set(stems)) == len(ids) and image_ids_of(stems) == ids:
        return stems
    return [f"{image_id:06d}" for image_id in ids]


def _ending(data: bytes, file: str) -> str:
    try:
        with Image.open(io.BytesIO(data), formats=IMAGE_FORMATS) as image:
            return ".jpg" if image.format in ("JPEG", "MPO") else f".{image.format.lower()}"
    except Exception as error:  # Pillow's plugins raise anything
        raise ImageError(f"cannot decode image {file}: {error}") from None
