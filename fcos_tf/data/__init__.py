"""Data sets as `tf.data` batches of images and padded ground truth."""

import functools
import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import tensorflow as tf
from absl import logging

from fcos_tf.data.annotations import (
    Annotations,
    Fault,
    ImageFaults,
    ReadResult,
    report_faults,
    select,
)
from fcos_tf.data.formats import (
    coco,
    csv_table,
    digits,
    folders,
    labelme,
    recognise,
    tfds,
    voc,
    voc_xml,
    yolo,
)
from fcos_tf.data.formats.listing import Listing, list_annotation_files, read_listing
from fcos_tf.data.formats.records import Frame
from fcos_tf.data.input.augment import check_augmentations
from fcos_tf.data.input.examples import ExampleMapper, Source, make_source
from fcos_tf.data.input.order import Order, check_counts, check_hosts
from fcos_tf.data.input.pipeline import batches
from fcos_tf.data.keras_cv_targets import from_keras_cv
from fcos_tf.image_size import check_image_size, parse_image_size

__all__ = ["DATASETS", "from_keras_cv", "load", "read_annotations"]

_READERS = {
    "digits": digits.read_digits,
    "coco": coco.read_coco,
    "voc": voc.list_voc,
    "xml": functools.partial(list_annotation_files, "xml", ".xml", "object", voc_xml.read_record),
    "yolo": yolo.list_yolo,
    "csv": csv_table.list_csv,
    "labelme": functools.partial(
        list_annotation_files, "labelme", ".json", "shape", labelme.read_labelme
    ),
    "folders": folders.list_folders,
}
DATASETS = ("auto", *_READERS, "tfds:NAME")


def load(
    dataset: str,
    *,
    split: str,
    batch_size: int,
    data_dir: str | os.PathLike | Sequence[str | os.PathLike] | None = None,
    annotations: str | os.PathLike | None = None,
    images: str | os.PathLike | None = None,
    image_size: str | tuple[int, int] = (512, 512),
    training: bool = False,
    seed: int = 0,
    repeat: bool = False,
    start_step: int = 0,
    limit: int | None = None,
    classes: Sequence[str] | None = None,
    val_fraction: float = 0.2,
    apply_exif: bool = False,
    scale_boxes: bool = False,
    horizontal_flip: bool | None = None,
    augment: Sequence[str] = (),
    scale_jitter: tuple[float, float] = (0.1, 2.0),
    orientation_buckets: bool = False,
    max_boxes: int | None = None,
    skip_empty: bool = False,
    include_difficult: bool = False,
    cache: bool = False,
    num_hosts: int = 1,
    host: int = 0,
    max_faults: int = 100,
    max_bad_images: int = 10,
) -> tf.data.Dataset:
    """Loads a split of a data set as batches `(images, targets)`.

    `images` is [B, H, W, 3] RGB 0-255, resized, padded with zeros right and bottom: uint8 for
    training, and for evaluation float32, not rounded after resizing. `targets` is a dict: `boxes`
    float32 [B, M, 4], xyxy in pixels of `images`, padding 0; `labels` int32 [B, M], padding -1;
    `image_sizes` float32 [B, 2], (height, width) of the part that is not padding; `original_sizes`
    float32 [B, 2], (height, width) on disk; `image_ids` int64 [B]; and `ignored_labels` int32
    [B, K], padding -1, of the objects that are neither right nor wrong to detect (COCO's crowds,
    VOC's difficult ones), which are never learned. For evaluation also `original_boxes` float64
    [B, M, 4], the boxes as annotated, in pixels of the stored image; `areas` float64 [B, M], of
    the objects in the same pixels, padding 0; and `ignored_boxes` float32 [B, K, 4] and
    `original_ignored_boxes` float64 [B, K, 4].

    Evaluation (`training=False`) keeps the order of the split; its last batch may be smaller.
    Training shuffles; without `repeat` every iteration has a new order and drops the images that
    do not fill a last batch. The same seed gives the same sequence.

    Boxes refer to the pixels as stored, unless `apply_exif` or `scale_boxes` says otherwise.

    Args:
        dataset: "digits" (embedded, no files needed), "coco", "voc", "xml", "yolo", "csv",
            "labelme", "folders" (of images by class), "auto" (one of these, by what is in
            `data_dir`), or "tfds:" and the name of a data set prepared by TFDS, such as
            "tfds:voc/2007".
        split: "train" or "val" of the digits; "train2017" of COCO; a file name in ImageSets/Main of
            a VOC tree, or several with "+"; a split of TFDS, such as "train[:80%]"; of data
            without splits "train", "val" or "all", see `formats.splits.choose`.
        batch_size: B, over all devices and hosts.
        data_dir: The folder of the data set: see `read_coco`, `list_voc` (which takes several
            trees), `list_annotation_files` (xml, labelme), `list_yolo`, `list_csv`, `list_folders`
            and `read_tfds` in `formats`; or the file with the annotations in that folder.
        annotations: The JSON file of "coco", the table of "csv", data.yaml or the labels of "yolo",
            the folder of the annotation files of "xml" and "labelme"; default: where `data_dir`
            has it. In that of "coco" and "csv" "{split}" stands for the split.
        images: The folder of the images of these; likewise.
        image_size: "512x512" or (512, 512) for a fixed canvas, height first; "800,1333" for the
            limits of the short and the long side, where H and W are the smallest multiples of 32
            that hold the batch; "640-800,1333" to draw the short side for every training image.
            The aspect ratio is always kept.
        training: Shuffle, flip, augment.
        seed: Of the order and of everything random.
        repeat: Go on for ever.
        start_step: Skip so many batches, at no cost: the data set continues exactly as one that
            was not interrupted. In training only with `repeat`.
        limit: Use only the first `limit` images of the split.
        classes: Names of the classes in the order of their labels; objects of others are left
            out. Default: all, in the order of the data set (COCO, TFDS, YOLO), or sorted.
        val_fraction: Of data without splits, the share of the images in "val".
        apply_exif: Turn images upright by their EXIF orientation: for boxes drawn in a viewer that
            does so.
        scale_boxes: Scale boxes from the annotated sizes of the images to the actual ones: for
            photos resized after annotation. Every image must have kept its aspect ratio.
        horizontal_flip: Mirror every other image, at random. Default: when training, unless the
            data set does not stand it (digits).
        augment: What else is done to training images: "color_jitter", "rand_augment",
            "mosaic" (of four images of the batch; M becomes four times as large) and
            "scale_jitter", see `input/augment.py`.
        scale_jitter: With that one, the least and the largest factor on the size that fits the
            canvas; larger images are cropped to it.
        orientation_buckets: With sides such as "800,1333": batches of one orientation, padded to
            one of two static canvases, 800x1344 and 1344x800. Evaluation then has all landscapes
            first.
        max_boxes: M. Default: the most boxes of an image, at least 1. In training, boxes over it
            are left out; in evaluation that is an error.
        skip_empty: Leave out images without a box that can be learned.
        include_difficult: Learn objects that VOC, or TFDS, marks as difficult like others.
        cache: Keep resized images in memory: num_images * H * W * 3 bytes.
        num_hosts: Each of so many hosts loads its part of every batch, B / num_hosts images;
            together they have the batches of one host, but for mosaics, which each host makes of
            its own images.
        host: Which of them this is, from 0.
        max_faults: Annotation faults are listed and what is faulty is left out; if more than this
            is left out, an error.
        max_bad_images: Images that cannot be read are named and skipped (in training the next one
            of the split stands in; in evaluation the row gets image id -1 and no boxes); more of
            them than this are an error.

    Returns:
        A `tf.data.Dataset` that has, besides: `class_names` (tuple of str), `num_images` (int),
        `category_ids` (tuple of int, the data set's own id of each label), `faults` (list of
        `annotations.Fault`), `dropped` (list of str, each thing that was left out, named),
        `image_faults` (`annotations.ImageFaults`, filled while images are read), `annotations`
        (`annotations.Annotations`; None of digits), `source` (`input.examples.Source`, to read
        single images in any size), `single_label` (bool, see there), `notes`
        (tuple of str, how the data was recognised and split), and `num_hosts` and `host` as given.

    Raises:
        ValueError: An argument that cannot be met, or a file that cannot be read; says which.
        FileNotFoundError: A folder or file of the data set is missing; says which.

    Example:
        >>> val = fcos_tf.data.load("digits", split="val", batch_size=8, image_size=(128, 128))
        >>> images, targets = next(iter(val))
    """
    check_counts(
        batch_size=(batch_size, 1),
        start_step=(start_step, 0),
        limit=(limit, 1),
        seed=(seed, -(2**63)),
        max_boxes=(max_boxes, 1),
        max_faults=(max_faults, 0),
        max_bad_images=(max_bad_images, 0),
    )
    check_hosts(batch_size, num_hosts, host)
    if training and start_step and not repeat:
        raise ValueError(
            "start_step: expected 0, or repeat=True, in training; every pass would skip"
        )
    augmentations = (augment,) if isinstance(augment, str) else tuple(augment)
    if not training:
        augmentations = ()
    size = parse_image_size(image_size) if training else parse_image_size(image_size).fixed()
    if augmentations:
        size = check_augmentations(augmentations, size, scale_jitter)
    check_image_size(
        size, image_size,
        cache=cache, orientation_buckets=orientation_buckets, num_hosts=num_hosts,
    )  # fmt: skip
    image_faults = ImageFaults(max_bad_images)
    source, kept, faults, dropped = _open_split(
        dataset, split, image_faults, training=training, skip_empty=skip_empty,
        max_boxes=max_boxes, max_faults=max_faults,
        data_dir=data_dir, annotations=annotations, images=images,
        classes=classes, limit=limit, include_difficult=include_difficult,
        val_fraction=val_fraction, apply_exif=apply_exif, scale_boxes=scale_boxes,
    )  # fmt: skip
    if orientation_buckets and source.portrait is None:
        raise ValueError(
            f"orientation_buckets: expected annotations with the size of every image; "
            f"{dataset} {split} has images of unknown size"
        )
    if horizontal_flip is None:
        horizontal_flip = training and source.can_flip
    order = Order(
        num_images=source.num_images,
        batch_size=batch_size,
        training=training,
        repeat=repeat,
        seed=seed % 2**31,
        start_step=start_step,
        num_hosts=num_hosts,
        host=host,
        portrait=source.portrait if orientation_buckets else None,
    )
    mapper = ExampleMapper(
        source,
        size,
        order,
        image_faults,
        most_boxes=max(1, source.most_boxes) if max_boxes is None else max_boxes,
        horizontal_flip=horizontal_flip,
        cache=cache,
    )
    result = batches(mapper, augmentations)
    result.class_names = source.class_names
    result.num_images = source.num_images
    result.category_ids = source.category_ids
    result.faults = faults
    result.dropped = dropped
    result.image_faults = image_faults
    result.annotations = kept
    result.source = source
    result.single_label = bool(kept and kept.single_label)
    result.notes = kept.notes if kept else ()
    result.num_hosts = num_hosts
    result.host = host
    return result


def _open_split(
    dataset: str,
    split: str,
    image_faults: ImageFaults,
    *,
    training: bool,
    skip_empty: bool,
    max_boxes: int | None,
    max_faults: int,
    **where_and_what,
) -> tuple[Source, Annotations | None, list[Fault], list[str]]:
    """The images of a split; their annotations, the faults of these, and what was left out.

    Args, Raises: see `fcos_tf.data.load`; `where_and_what` are options of `read_annotations`.
    """
    kept, faults, dropped = None, [], []
    if dataset == "digits":
        places = {key: where_and_what[key] for key in ("data_dir", "annotations", "images")}
        check_place(dataset, places, digits.read_digits)
        options = {"class_names": where_and_what["classes"], "limit": where_and_what["limit"]}
        source = digits.digits_source(split, **options)
    else:
        name = f"{dataset} {split}"
        found = read_annotations(dataset, split, **where_and_what)
        for note in found.annotations.notes:
            logging.info("%s", note)
        report_faults(name, found.faults, found.other_classes, max_faults)
        most = max_boxes if training else None
        kept, left_out = select(found.annotations, name, skip_empty=skip_empty, max_boxes=most)
        if not kept.num_images:
            raise ValueError(f"{name}: no image is left")
        if training and kept.ignored.all():
            raise ValueError(
                f"{name}: no box to learn of the classes {', '.join(kept.class_names)}"
            )
        faults = found.faults
        dropped = [str(fault) for fault in faults if not fault.kept] + left_out
        source = make_source(kept, image_faults.note)
    most = source.most_boxes
    if max_boxes is not None and max_boxes < most:
        raise ValueError(f"max_boxes={max_boxes}, but an image of this split has {most} boxes")
    return source, kept, faults, dropped


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
    apply_exif: bool = False,
    scale_boxes: bool = False,
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
    notes = ()
    if dataset == "auto":
        dataset, notes = recognise.recognise(split, **where)
    reader = _READERS.get(dataset)
    if dataset.startswith("tfds:"):
        reader = functools.partial(tfds.read_tfds, dataset.removeprefix("tfds:"))
    if reader is None:
        raise ValueError(f"dataset: expected one of {', '.join(DATASETS)}, got {dataset!r}")
    place = where["data_dir"]
    may_be_file = dataset not in ("voc", "digits") and not where["annotations"]
    if may_be_file and isinstance(place, str) and os.path.isfile(place):
        where |= {"data_dir": os.path.dirname(place) or ".", "annotations": place}
    taken = check_place(dataset, where, reader)
    options = {
        "class_names": classes,
        "limit": limit,
        "include_difficult": include_difficult,
        "val_fraction": val_fraction,
        "frame": Frame(apply_exif, scale_boxes),
    }
    arguments = {"split": split, **options, **where}
    found = reader(**{key: value for key, value in arguments.items() if key in taken})
    if isinstance(found, Listing):
        found = read_listing(found, split, **options)
    annotations = found.annotations
    annotations = replace(annotations, apply_exif=apply_exif, notes=notes + annotations.notes)
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
    if path is None:
        return path
    if isinstance(path, str):  # several folders have commas between them
        return ",".join(map(os.path.expanduser, path.split(",")))
    if isinstance(path, os.PathLike):
        return os.path.expanduser(path)
    return [os.path.expanduser(part) for part in path]
