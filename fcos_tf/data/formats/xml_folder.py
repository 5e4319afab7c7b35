"""Folders of images and VOC-style XML, as labelImg, CVAT, Datumaro and Roboflow write them.

The XML is that of a VOC tree (`voc_files`); there are no lists, and the two may be in any folders.
"""

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from fcos_tf.data.annotations import ReadResult
from fcos_tf.data.formats.listing import Listing, annotation_folder, notes_on, read_listing
from fcos_tf.data.formats.records import STORED, Frame
from fcos_tf.data.formats.voc import find_class_names, read_record
from fcos_tf.image_files import files_below


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
    frame: Frame = STORED,
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
        frame: What to do where boxes are not in stored pixels.

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
        notes=notes_on(index, names),
    )
    return read_listing(
        listing, split, class_names=class_names, limit=limit,
        val_fraction=val_fraction, include_difficult=include_difficult, frame=frame,
    )  # fmt: skip
