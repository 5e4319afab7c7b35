"""Folders of images and VOC-style XML, as labelImg, CVAT, Datumaro and Roboflow write them.

The XML is that of a VOC tree (`voc_files`); there are no lists, and the two may be in any folders.
"""

import os
from functools import partial
from pathlib import Path

from fcos_tf.data.formats.listing import Listing, annotation_folder, find_images
from fcos_tf.data.formats.voc import find_class_names, read_record
from fcos_tf.image_files import files_below


def list_xml(
    *,
    data_dir: str | os.PathLike | None = None,
    annotations: str | os.PathLike | None = None,
    images: str | os.PathLike | None = None,
) -> Listing:
    """Lists a folder of images and XML files, subfolders included.

    The image of an XML file has the same path but for folders such as Annotations and JPEGImages;
    else it is the one that `<filename>` names, see `ImageIndex.find`. Images without XML are left
    out: nobody knows what is in them.

    Args:
        data_dir: The folder with both.
        annotations: The folder of the XML files, instead of `data_dir`.
        images: The folder of the images, instead of `data_dir`.

    Raises:
        FileNotFoundError: A folder is missing, or has no XML files.
    """
    folder, index = annotation_folder(data_dir, annotations, images, "xml")
    files = files_below(folder, ".xml")
    if not files:
        raise FileNotFoundError(f"no XML files in {folder}")
    names = [os.path.splitext(file)[0] for file in files]
    places, notes = find_images(index, names)
    return Listing(
        root=Path(data_dir or images),
        names=names,
        read=lambda name, wanted: read_record(folder / f"{name}.xml", name, index, wanted),
        find_class_names=partial(find_class_names, [folder / file for file in files], [folder]),
        notes=notes,
        places=places,
    )
