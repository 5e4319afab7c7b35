"""A split of a data set by its name: its annotations, and its images as a `Source`."""

import os
from collections.abc import Sequence
from typing import NamedTuple

from fcos_tf.data.annotations import Fault, ImageFaults, ReadResult, report_faults, select
from fcos_tf.data.formats import coco, digits, tfds, voc
from fcos_tf.data.input.examples import Source, make_source

DATASETS = ("digits", "coco", "voc", "tfds:NAME")


class Split(NamedTuple):
    """The images of a split, and what was wrong with its annotations.

    Attributes:
        source: The images.
        faults: Of the annotations.
        dropped: Each thing that was left out, named.
        image_faults: To be filled while images are read.
    """

    source: Source
    faults: list[Fault]
    dropped: list[str]
    image_faults: ImageFaults


def open_split(
    dataset: str,
    split: str,
    *,
    training: bool,
    skip_empty: bool,
    max_boxes: int | None,
    max_faults: int,
    max_bad_images: int,
    **where_and_what,
) -> Split:
    """Reads the annotations of a split and makes a `Source` of those that are used.

    Args, Raises: see `fcos_tf.data.load`; `where_and_what` are options of `read_annotations`.
    """
    image_faults, name = ImageFaults(max_bad_images), f"{dataset} {split}"
    files = {key: where_and_what[key] for key in ("annotations", "images")}
    if dataset != "coco" and set(files.values()) != {None}:
        raise ValueError(f"annotations and images: expected with dataset coco, got {dataset!r}")
    if dataset == "digits":
        digits.check_classes(where_and_what["classes"])
        source = digits.digits_source(split, limit=where_and_what["limit"])
        opened = Split(source, [], [], image_faults)
    else:
        found = read_annotations(dataset, split, **where_and_what)
        report_faults(name, found.faults, found.other_classes, max_faults)
        most = max_boxes if training else None
        kept, left_out = select(found.annotations, name, skip_empty=skip_empty, max_boxes=most)
        if not kept.num_images:
            raise ValueError(f"{name}: no image is left")
        if training and kept.ignored.all():
            raise ValueError(
                f"{name}: no box to learn of the classes {', '.join(kept.class_names)}"
            )
        dropped = [str(fault) for fault in found.faults if not fault.kept] + left_out
        opened = Split(make_source(kept, image_faults.note), found.faults, dropped, image_faults)
    most = opened.source.most_boxes
    if max_boxes is not None and max_boxes < most:
        raise ValueError(f"max_boxes={max_boxes}, but an image of this split has {most} boxes")
    return opened


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
        return coco.read_coco(
            split, data_dir=data_dir, annotations=annotations, images=images, **options
        )
    options["include_difficult"] = include_difficult
    if dataset == "voc":
        return voc.read_voc(data_dir, split, **options)
    if dataset.startswith("tfds:"):
        name = dataset.removeprefix("tfds:")
        return tfds.read_tfds(name, split, data_dir=data_dir, **options)
    raise ValueError(f"dataset: expected one of {', '.join(DATASETS)}, got {dataset!r}")


def _expand_user(path):
    """`~` as a shell would have read it; not all shells do after `--data_dir=`."""
    if path is None or (isinstance(path, str) and "," in path):
        return path
    if isinstance(path, str | os.PathLike):
        return os.path.expanduser(path)
    return [os.path.expanduser(part) for part in path]
