"""Folders of images and VOC-style XML, as labelImg, CVAT, Datumaro and Roboflow write them.

The XML is that of a VOC tree (`voc_files`); there are no lists, and the two may be in any folders.
"""

import os
from pathlib import Path

from fcos_tf.data.formats.listing import Listing, annotation_files, list_records
from fcos_tf.data.formats.voc import read_record


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
    files, index = annotation_files(data_dir, annotations, images, "xml", ".xml")
    records = {name: read_record(file, name, index) for name, file in files.items()}
    root, where = Path(data_dir or images), Path(annotations or data_dir)
    return list_records(records, index, root=root, where=where, item="object")
