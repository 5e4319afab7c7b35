"""Reads PASCAL VOC trees as annotations, and writes them. The files of a tree: `voc_files`."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from fcos_tf.data.annotations import Annotations, Fault, ReadResult
from fcos_tf.data.formats.records import (
    STORED,
    Frame,
    ImageRecord,
    ObjectRecord,
    absent_classes,
    read_result,
    size_of,
    with_image,
)
from fcos_tf.data.formats.voc_files import (
    ANNOTATIONS,
    FOLDERS,
    IMAGES,
    LISTS,
    DataDir,
    annotation_of,
    image_ids_of,
    join,
    list_split,
    parse_list,
    read_object,
    read_root,
    text_of,
    write_annotation,
)
from fcos_tf.image_files import ImageIndex, files_below


def read_voc(
    data_dir: DataDir,
    split: str,
    *,
    class_names: Sequence[str] | None = None,
    limit: int | None = None,
    include_difficult: bool = False,
    frame: Frame = STORED,
) -> ReadResult:
    """Reads a split of one or several VOC trees.

    The image of an annotation has its name and the suffix of an image: the one that `<filename>`
    has, else `.jpg` before others; where there is none, it is the one that `<filename>` names. Its
    size comes from its header, or else from the annotation; a fault names those that disagree.

    Its id is made of all digits of its name (000012 -> 12, 2008_000008 -> 2008000008) where that
    gives every name of the split another number, else it is the position in the split, from 1.

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
        frame: What to do where boxes are not in stored pixels.

    Returns:
        A `ReadResult`; `category_ids` are 1..C.

    Raises:
        FileNotFoundError: A folder or a split file is missing.
        ValueError: A split without names or without a usable image, a data set without objects,
            or a tree given twice.
    """
    trees, listed, faults = list_split(data_dir, split)
    if class_names is None:
        folders = [tree / ANNOTATIONS for tree in trees]
        files = [folder / name for folder in folders for name in files_below(folder, ".xml")]
        names = find_class_names(files, trees)
    else:
        names = tuple(class_names)
    ids = image_ids_of([stem for _, stem in listed])
    indices = {tree: ImageIndex(tree / IMAGES) for tree in {tree for tree, _ in listed}}
    records = [
        read_record(annotation_of(tree, stem), stem, indices[tree]) for tree, stem in listed[:limit]
    ]
    found = read_result(
        records, ids[:limit], names,
        where=f"split {split!r} of {join(trees)}", include_difficult=include_difficult, frame=frame,
    )  # fmt: skip
    faults += found.faults
    if class_names is not None and len(records) == len(listed):
        faults += absent_classes(records, names, join(trees), split)
    notes = tuple(note for index in indices.values() for note in index.notes)
    annotations = replace(found.annotations, notes=notes + found.annotations.notes)
    return ReadResult(annotations, faults, found.other_classes)


def read_record(xml: Path, stem: str, index: ImageIndex) -> ImageRecord:
    """Reads an XML file.

    Args:
        xml: The file.
        stem: Its path from the folder of annotations, without suffix.
        index: The images.
    """
    origin = str(xml)
    try:
        root = read_root(xml)
        sides = text_of(root, "size/height"), text_of(root, "size/width")
        stated = text_of(root, "filename")
    except ValueError as error:
        return ImageRecord(origin, faults=[Fault(origin, "", str(error))])
    objects, unread = {}, []
    for number, element in enumerate(root.iterfind("object"), start=1):
        name = ""
        try:
            name = text_of(element, "name")
            objects[number] = read_object(element)
        except ValueError as error:
            unread.append((name, Fault(origin, f"object {number}", str(error))))
    record = ImageRecord(origin, "", size_of(*sides), objects, unread=unread)
    return with_image(record, index, stem, stated)


def find_class_names(files: Iterable[Path], folders: Sequence[Path]) -> tuple[str, ...]:
    """The sorted names of the objects in XML files.

    Raises:
        ValueError: There is no object in any; names the folders.
    """
    names, broken = set(), []
    for file in files:
        try:
            names |= {(e.text or "").strip() for e in read_root(file).iterfind("object/name")}
        except ValueError as error:  # a fault, if the split names it
            broken.append(f"{file}: {error}")
    names.discard("")
    if not names:
        reason = f"; the first that is broken: {broken[0]}" if broken else ""
        raise ValueError(f"no object in any annotation of {join(folders)}{reason}")
    return tuple(sorted(names))


def write_voc(
    annotations: Annotations, data_dir: str | os.PathLike, split: str, file_names: Sequence[str]
) -> None:
    """Writes annotations and the list of a split, such that `read_voc` gives them back.

    The caller puts the images into JPEGImages under `file_names`. Splits of one tree may be
    written one after the other. VOC has no place for areas other than that of the box, for
    category ids and for the annotations' own numbers; the ids of images come back where they are
    the digits of the file names, see `voc_files.image_ids_of`.

    Args:
        annotations: Of n images; `ignored` boxes are marked difficult.
        data_dir: The tree; its folders are created.
        split: Name of the list.
        file_names: n names of the image files, different also without their endings.

    Raises:
        ValueError: Names that would not read back.
    """
    stems = [Path(name).stem for name in file_names]
    for stem in stems:
        if parse_list(stem, [f"{stem}.xml"]) != [stem]:
            raise ValueError(f"file_names: expected names that a split file can hold, got {stem!r}")

    for folder in FOLDERS:
        Path(data_dir, folder).mkdir(parents=True, exist_ok=True)
    starts = np.searchsorted(annotations.owners, np.arange(annotations.num_images + 1))
    for index, (stem, file_name) in enumerate(zip(stems, file_names, strict=True)):
        rows = slice(*starts[index : index + 2])
        columns = (annotations.labels[rows], annotations.ignored[rows], annotations.boxes[rows])
        objects = [
            ObjectRecord(annotations.class_names[label], bool(ignored), tuple(box.tolist()))
            for label, ignored, box in zip(*columns, strict=True)
        ]
        size = tuple(annotations.sizes[index].tolist())
        write_annotation(Path(data_dir, ANNOTATIONS, f"{stem}.xml"), file_name, size, objects)
    lines = "".join(f"{stem}\n" for stem in stems)
    Path(data_dir, LISTS, f"{split}.txt").write_text(lines, encoding="utf-8")
