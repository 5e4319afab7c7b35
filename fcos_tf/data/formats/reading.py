"""The annotations of a split in any format; the only module that knows them all."""

import functools
import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from fcos_tf.data.annotations import ReadResult
from fcos_tf.data.formats import (
    coco,
    csv_table,
    digits,
    labelme,
    recognise,
    tfds,
    voc,
    xml_folder,
    yolo,
)

_READERS = {
    "coco": coco.read_coco,
    "voc": voc.read_voc,
    "xml": xml_folder.read_xml,
    "yolo": yolo.read_yolo,
    "csv": csv_table.read_csv,
    "labelme": labelme.read_labelme,
}
DATASETS = ("auto", "digits", *_READERS, "tfds:NAME")


def read_annotations(
    dataset: str,
    split: str,
    *,
    data_dir: str | os.PathLike | Sequence[str | os.PathLike] | None = None,
    annotations: str | os.PathLike | None = None,
    images: str | os.PathLike | None = None,
    classes: Sequence[str] | None = None,
    limit: int | None = None,
    include_difficult: bool = False,
    val_fraction: float = 0.2,
) -> ReadResult:
    """Reads what a data set says about a split, without decoding its images.

    Args, Raises: see `fcos_tf.data.load`.

    Returns:
        The annotations, and what was wrong with them.
    """
    if classes is not None and (isinstance(classes, str) or not classes):
        raise ValueError(f"classes: expected a sequence of names, got {classes!r}")
    for name in classes or ():
        if list(classes).count(name) > 1:
            raise ValueError(f"classes: {name!r} is there more than once")
    where = {"data_dir": data_dir, "annotations": annotations, "images": images}
    where = {key: _expand_user(path) for key, path in where.items()}
    if dataset == "digits":
        check_place(dataset, where, digits.read_digits)
        digits.check_classes(classes)
        return digits.read_digits(split, limit=limit)
    notes = ()
    if dataset == "auto":
        dataset, notes = recognise.recognise(**where)
    reader = _READERS.get(dataset)
    if dataset.startswith("tfds:"):
        reader = functools.partial(tfds.read_tfds, dataset.removeprefix("tfds:"))
    if reader is None:
        raise ValueError(f"dataset: expected one of {', '.join(DATASETS)}, got {dataset!r}")
    where = recognise.file_as_annotations(where) if dataset != "voc" else where
    taken = check_place(dataset, where, reader)
    options = {
        "class_names": classes,
        "limit": limit,
        "include_difficult": include_difficult,
        "val_fraction": val_fraction,
        **where,
    }
    found = reader(split=split, **{key: value for key, value in options.items() if key in taken})
    annotations = replace(found.annotations, notes=notes + found.annotations.notes)
    return found._replace(annotations=annotations)


def check_place(dataset: str, where: Mapping[str, Any], reader: Callable) -> set[str]:
    """The parameters of a reader; ValueError for a place that it does not take."""
    taken = set(inspect.signature(reader).parameters)
    for name, value in where.items():
        if value is not None and name not in taken:
            raise ValueError(f"{name}: dataset {dataset} takes none, got {str(value)!r}")
    return taken


def _expand_user(path):
    """`~` as a shell would have read it; not all shells do after `--data_dir=`."""
    if path is None or (isinstance(path, str) and "," in path):
        return path
    if isinstance(path, str | os.PathLike):
        return os.path.expanduser(path)
    return [os.path.expanduser(part) for part in path]
