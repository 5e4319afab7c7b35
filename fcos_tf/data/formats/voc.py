"""Reads PASCAL VOC trees as annotations, and writes them. The files of a tree: `voc_files`."""

import os
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from fcos_tf.data.annotations import Annotations, Fault, ReadResult, check_annotations
from fcos_tf.data.formats.voc_files import (
    ANNOTATIONS,
    FOLDERS,
    IMAGES,
    LISTS,
    DataDir,
    VocObject,
    join,
    list_split,
    parse_list,
    read_object,
    read_root,
    read_size,
    text_of,
    write_annotation,
)
from fcos_tf.data.images import stored_size

SUFFIXES = (".jpg", ".jpeg", ".png", ".JPG", ".JPEG", ".PNG", ".bmp", ".webp", ".gif")


class _Image(NamedTuple):
    file: str
    size: tuple[int, int]  # (height, width), 0 where unknown
    objects: dict[int, VocObject]  # by place in the annotation, from 1


def read_voc(
    data_dir: DataDir,
    split: str,
    *,
    class_names: Sequence[str] | None = None,
    limit: int | None = None,
    include_difficult: bool = False,
) -> ReadResult:
    """Reads a split of one or several VOC trees.

    The image of an annotation has its name and a usual ending, `.jpg` before others; otherwise it
    is that of `<filename>`. Its size comes from its header, or else from the annotation: where
    they differ, the size of the image is used, with a fault. `image_ids_of` makes its id.

    Args:
        data_dir: The folder that holds JPEGImages, Annotations and ImageSets; or the folder above
            several of those (VOCdevkit), which stands for those in it that have the split, by
            name. Several, in a sequence or separated by commas, are read one after the other.
        split: Name of a file in ImageSets/Main, without `.txt`; "train+val" reads both.
        class_names: Name of each label; objects of other classes are left out and counted.
            Default: the sorted names of all annotations of all splits, so that the splits of a
            data set agree. (The 20 VOC classes in alphabetical order are in VOC's own order.)
        limit: Read only the first `limit` names of the split.
        include_difficult: Use objects marked difficult like all others.

    Returns:
        A `ReadResult`; `category_ids` are 1..C.

    Raises:
        FileNotFoundError: A folder or a split file is missing.
        ValueError: A split without names or without a usable image, a data set without objects,
            or a tree given twice.
    """
    listed = list_split(data_dir, split)
    names = _find_class_names(listed.trees) if class_names is None else tuple(class_names)
    present = {tree: set(os.listdir(tree / IMAGES)) for tree in {tree for tree, _ in listed.names}}
    selected = list(zip(listed.names, listed.image_ids, strict=True))[:limit]

    images, image_ids, origins, others = [], [], [], Counter()
    faults_of: dict[str, list[Fault]] = {}  # of each annotation file
    with warnings.catch_warnings():  # of large images; but nothing is decoded here
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        for (tree, stem), image_id in selected:
            xml = str(tree / ANNOTATIONS / f"{stem}.xml")
            image, faults_of[xml], left_out = _read_image(tree, stem, present[tree], names)
            others.update(left_out)
            if image is not None:
                images.append(image)
                image_ids.append(image_id)
                origins.append(xml)
    if not images:
        raise ValueError(
            f"split {split!r} of {join(listed.trees)}: none of {len(selected)} images is left; "
            f"the first fault: {next(iter(faults_of.values()))[0]}"
        )
    annotations, dropped = check_annotations(
        _columns(images, image_ids, names, include_difficult), origins, "object"
    )
    for fault in dropped:
        faults_of[fault.file].append(fault)
    faults = listed.faults + [
        fault for found in faults_of.values() for fault in sorted(found, key=_object_number)
    ]
    if class_names is not None and len(selected) == len(listed.names):
        seen = {found.name for image in images for found in image.objects.values()}
        what = f"was asked for, but no object of split {split!r} has it"
        faults += [
            Fault(join(listed.trees), f"class {name!r}", what, kept=True)
            for name in names
            if name not in seen
        ]
    return ReadResult(annotations, faults, dict(others))


def _find_class_names(trees: list[Path]) -> tuple[str, ...]:
    names, broken = set(), []
    for file in (file for tree in trees for file in sorted((tree / ANNOTATIONS).glob("*.xml"))):
        try:
            names |= {text_of(found, "name") for found in read_root(file).iterfind("object")}
        except ValueError as error:  # a fault, if the split names it
            broken.append(f"{file}: {error}")
    names.discard("")
    if not names:
        reason = f"; the first that is broken: {broken[0]}" if broken else ""
        raise ValueError(f"no object in any annotation of {join(trees)}{reason}")
    return tuple(sorted(names))


def _read_image(
    tree: Path, stem: str, present: set[str], class_names: Sequence[str]
) -> tuple[_Image | None, list[Fault], list[str]]:
    """One annotation with its image (None: unusable), its faults, and its objects' other classes.

    `present` are the names of the image files of the tree.
    """
    xml, folder = tree / ANNOTATIONS / f"{stem}.xml", tree / IMAGES
    try:
        root = read_root(xml)
    except ValueError as error:
        return None, [Fault(str(xml), "", str(error))], []
    candidates = [stem + suffix for suffix in SUFFIXES] + [text_of(root, "filename")]
    name = next((name for name in candidates if name in present), None)
    if name is None:
        what = f"expected its image {folder / candidates[0]}, got no such file"
        return None, [Fault(str(xml), "", what)], []

    objects, faults, others = {}, [], []
    stored, written = stored_size(str(folder / name)), read_size(root)
    if stored and written and stored != written:
        what = "expected {1}x{0} pixels, as the image has, got {3}x{2}".format(*stored, *written)
        faults.append(Fault(str(xml), "size", what, kept=True))
    for number, element in enumerate(root.iterfind("object"), start=1):
        class_name = text_of(element, "name")
        if class_name and class_name not in class_names:
            others.append(class_name)
            continue
        try:
            objects[number] = read_object(element)
        except ValueError as error:
            faults.append(Fault(str(xml), f"object {number}", str(error)))
    return _Image(str(folder / name), stored or written or (0, 0), objects), faults, others


def _columns(
    images: list[_Image], image_ids: list[int], class_names: tuple[str, ...], with_difficult: bool
) -> Annotations:
    label_of = {name: label for label, name in enumerate(class_names)}
    rows = [
        (owner, number, label_of[found.name], found.difficult and not with_difficult, found.box)
        for owner, image in enumerate(images)
        for number, found in image.objects.items()
    ]
    owners, numbers, labels, ignored, boxes = zip(*rows, strict=True) if rows else [()] * 5
    return Annotations(
        files=[image.file for image in images],
        image_ids=np.array(image_ids, np.int64),
        sizes=np.array([image.size for image in images], np.int32),
        owners=np.array(owners, np.int64),
        boxes=np.array(boxes, np.float64).reshape(-1, 4),
        labels=np.array(labels, np.int32),
        areas=np.full(len(rows), np.nan),
        ignored=np.array(ignored, bool),
        numbers=np.array(numbers, np.int64),
        class_names=class_names,
        category_ids=tuple(range(1, len(class_names) + 1)),
    )


def _object_number(fault: Fault) -> int:
    """The place of its object in the annotation; 0: before all objects."""
    kind, _, number = fault.item.partition(" ")
    return int(number) if kind == "object" else 0


def write_voc(
    annotations: Annotations,
    data_dir: str | os.PathLike,
    split: str,
    *,
    stems: Sequence[str],
    file_names: Sequence[str] | None = None,
) -> None:
    """Writes annotations and the list of a split, such that `read_voc` gives them back.

    The caller puts the images into JPEGImages under `file_names`. Splits of one tree may be
    written one after the other. VOC has no place for areas other than that of the box, for
    category ids and for the annotations' own numbers; the ids of images come back where they are
    the digits of the stems, see `voc_files.image_ids_of`.

    Args:
        annotations: Of n images; `ignored` boxes are marked difficult.
        data_dir: The tree; its folders are created.
        split: Name of the list.
        stems: n names without ending, all different.
        file_names: n names of the image files. Default: the stem with the ending of the image.

    Raises:
        ValueError: Names that would not read back, or not n of them.
    """
    stems = list(stems)
    if file_names is None:
        endings = [Path(file).suffix for file in annotations.files]
        file_names = [stem + ending for stem, ending in zip(stems, endings, strict=False)]
    for what, given in (("stems", stems), ("file_names", list(file_names))):
        if len(set(given)) != len(given) or len(given) != annotations.num_images:
            some = ", ".join(map(repr, given[:5])) or "none"
            raise ValueError(
                f"{what}: expected {annotations.num_images} different names, got {some}"
            )
    for stem in stems:
        if parse_list(stem, [f"{stem}.xml"]) != [stem] or Path(stem).name != stem:
            raise ValueError(f"stems: expected names that a split file can hold, got {stem!r}")

    for folder in FOLDERS:
        Path(data_dir, folder).mkdir(parents=True, exist_ok=True)
    starts = np.searchsorted(annotations.owners, np.arange(annotations.num_images + 1))
    for index, (stem, file_name) in enumerate(zip(stems, file_names, strict=True)):
        rows = slice(*starts[index : index + 2])
        columns = (annotations.labels[rows], annotations.ignored[rows], annotations.boxes[rows])
        objects = [
            VocObject(annotations.class_names[label], bool(ignored), tuple(box.tolist()))
            for label, ignored, box in zip(*columns, strict=True)
        ]
        size = tuple(annotations.sizes[index].tolist())
        write_annotation(Path(data_dir, ANNOTATIONS, f"{stem}.xml"), file_name, size, objects)
    lines = "".join(f"{stem}\n" for stem in stems)
    Path(data_dir, LISTS, f"{split}.txt").write_text(lines, encoding="utf-8")
