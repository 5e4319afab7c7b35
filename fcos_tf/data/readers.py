"""Which reader reads what; and what the caller leaves out of what it found."""

import os
from collections.abc import Sequence

import numpy as np

from fcos_tf.data.annotations import Annotations, ReadResult
from fcos_tf.data.formats import coco, digits, tfds, voc

DATASETS = ("digits", "coco", "voc", "tfds:NAME")


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
    options = {"class_names": classes, "limit": limit}
    data_dir, annotations, images = map(_expand_user, (data_dir, annotations, images))
    if dataset == "digits":
        digits.check_classes(classes)
        return digits.read_digits(split, limit=limit)
    if dataset == "coco":
        json_file, folder = (
            None if path is None else str(path).replace("{split}", split)
            for path in (annotations, images)
        )
        return coco.read_coco(
            split, data_dir=data_dir, annotations=json_file, images=folder, **options
        )
    if dataset == "voc":
        if data_dir is None:
            raise ValueError(
                f"dataset voc needs data_dir, the folder with {', '.join(voc.FOLDERS)}"
            )
        return voc.read_voc(data_dir, split, include_difficult=include_difficult, **options)
    if dataset.startswith("tfds:"):
        name = dataset.removeprefix("tfds:")
        options["include_difficult"] = include_difficult
        return tfds.read_tfds(name, split, data_dir=data_dir, **options)
    raise ValueError(f"dataset: expected one of {', '.join(DATASETS)}, got {dataset!r}")


def _expand_user(path):
    """`~` as a shell would have read it; not all shells do after `--data_dir=`."""
    if path is None or (isinstance(path, str) and "," in path):
        return path
    if isinstance(path, str | os.PathLike):
        return os.path.expanduser(path)
    return [os.path.expanduser(part) for part in path]


def select(
    annotations: Annotations, skip_empty: bool, max_boxes: int | None
) -> tuple[Annotations, dict[str, list[str]]]:
    """Leaves out what the caller does not want; kind of thing -> each of them, named."""
    left_out = {}
    if max_boxes is not None:
        learned = np.cumsum(~annotations.ignored)
        first = np.searchsorted(annotations.owners, annotations.owners)  # of the image's rows
        before = learned[first] - ~annotations.ignored[first]
        surplus = ~annotations.ignored & (learned - before > max_boxes)
        left_out[f"boxes over max_boxes={max_boxes}"] = [
            f"{annotations.files[owner]}: box {number} is over max_boxes={max_boxes}"
            for owner, number in zip(
                annotations.owners[surplus], annotations.numbers[surplus], strict=True
            )
        ]
        annotations = annotations.rows(~surplus)
    if skip_empty:
        full = np.zeros(annotations.num_images, bool)
        full[annotations.owners[~annotations.ignored]] = True
        left_out["images without boxes"] = [
            f"{annotations.files[i]}: image without boxes" for i in np.flatnonzero(~full)
        ]
        annotations = annotations.images(full)
    return annotations, {what: names for what, names in left_out.items() if names}
