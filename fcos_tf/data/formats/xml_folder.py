"""Folders of images and VOC-style XML, as labelImg, CVAT, Datumaro and Roboflow write them.

The XML is that of a VOC tree (`voc_files`); there are no lists, and the two may be in any folders.
"""

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from fcos_tf.data.annotations import Fault, ReadResult
from fcos_tf.data.formats.image_index import ImageIndex, files_below, plain_name
from fcos_tf.data.formats.listing import Listing, read_listing
from fcos_tf.data.formats.records import ImageRecord
from fcos_tf.data.formats.voc_files import join, read_object, read_root, read_size, text_of


def read_xml(
    split: str,
    *,
    data_dir: str | os.PathLike | None = None,
    annotations: str | os.PathLike | None = None,
    images: str | os.PathLike | None = None,
    class_names: Sequence[str] | None = None,
    limit: int | None = None,
    include_difficult: bool = False,
    val_fraction: float = 0.2,
) -> ReadResult:
    """Reads a split of a folder of images and XML files, subfolders included.

    The image of an XML file has the same path but for folders such as Annotations and JPEGImages;
    else it is the one that `<filename>` names, see `ImageIndex.find`. Images without XML are left
    out: nobody knows what is in them.

    Args:
        split: See `splits.choose`.
        data_dir: The folder with both.
        annotations: The folder of the XML files, instead of `data_dir`.
        images: The folder of the images, instead of `data_dir`.
        class_names: As for `voc.read_voc`.
        limit: Read only the first `limit` images, by name.
        include_difficult: Let objects marked difficult count like all others.
        val_fraction: See `splits.choose`.

    Returns:
        A `ReadResult`; `category_ids` are 1..C.

    Raises:
        FileNotFoundError: A folder is missing, or has no XML files.
        ValueError: See `read_listing`.
    """
    folder, index = annotation_folder(data_dir, annotations, images, "xml")
    files = files_below(folder, ".xml")
    if not files:
        raise FileNotFoundError(f"no XML files in {folder}")
    names = [os.path.splitext(file)[0] for file in files]
    listing = Listing(
        root=Path(data_dir or images),
        names=names,
        read=lambda name, wanted: read_record(folder / f"{name}.xml", name, index, wanted),
        find_class_names=partial(find_class_names, [folder / file for file in files], [folder]),
        notes=unannotated(index, names),
    )
    return read_listing(
        listing, split, class_names=class_names, limit=limit,
        val_fraction=val_fraction, include_difficult=include_difficult,
    )  # fmt: skip


def read_record(xml: Path, stem: str, index: ImageIndex, class_names: Sequence[str]) -> ImageRecord:
    """Reads an XML file.

    Args:
        xml: The file.
        stem: Its path from the folder of annotations, without suffix.
        index: The images.
        class_names: The classes to read; those of other objects are in `others`.
    """
    origin = str(xml)
    try:
        root = read_root(xml)
        file = index.path(index.find(stem, text_of(root, "filename")))
    except ValueError as error:
        return ImageRecord(origin, faults=[Fault(origin, "", str(error))])
    objects, faults, others = {}, [], []
    for number, element in enumerate(root.iterfind("object"), start=1):
        class_name = text_of(element, "name")
        if class_name and class_name not in class_names:
            others.append(class_name)
            continue
        try:
            objects[number] = read_object(element)
        except ValueError as error:
            faults.append(Fault(origin, f"object {number}", str(error)))
    return ImageRecord(origin, file, read_size(root), objects, faults, others)


def find_class_names(files: Sequence[Path], folders: Sequence[Path]) -> tuple[str, ...]:
    """The sorted names of the objects in XML files.

    Raises:
        ValueError: There is no object in any; names the folders.
    """
    names, broken = set(), []
    for file in files:
        try:
            names |= {text_of(found, "name") for found in read_root(file).iterfind("object")}
        except ValueError as error:  # a fault, if the split names it
            broken.append(f"{file}: {error}")
    names.discard("")
    if not names:
        reason = f"; the first that is broken: {broken[0]}" if broken else ""
        raise ValueError(f"no object in any annotation of {join(folders)}{reason}")
    return tuple(sorted(names))


def annotation_folder(data_dir, annotations, images, dataset: str) -> tuple[Path, ImageIndex]:
    """The folder of the annotation files, and the images.

    Raises:
        ValueError: Neither `data_dir` nor both others are given.
        FileNotFoundError: A folder is missing.
    """
    if not data_dir and not (annotations and images):
        raise ValueError(f"dataset {dataset} needs data_dir, or both annotations and images")
    folder = Path(annotations or data_dir)
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}")
    return folder, ImageIndex(images or data_dir)


def unannotated(index: ImageIndex, names: Sequence[str]) -> tuple[str, ...]:
    """A note on images without annotation file, if there are some."""
    there = {plain_name(name) for name in names}
    lost = [name for name in index.names if plain_name(os.path.splitext(name)[0]) not in there]
    if not lost:
        return ()
    return (f"{index.root}: {len(lost)} images without annotations are left out, first {lost[0]}",)
