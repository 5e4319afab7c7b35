"""labelme: a JSON file beside each image.

    {"imagePath": "a.jpg", "imageHeight": 480, "imageWidth": 640, "shapes": [
        {"label": "cat", "shape_type": "rectangle", "points": [[10, 20], [110, 220]]}]}

Source: https://github.com/wkentaro/labelme. Points are pixels with continuous edges.
"""

import json
import os
from pathlib import Path
from typing import Any

from fcos_tf.data.annotations import Fault
from fcos_tf.data.formats.listing import Listing, annotation_files, list_records
from fcos_tf.data.formats.records import ImageRecord, ObjectRecord, size_of, with_image
from fcos_tf.data.formats.voc_files import is_difficult
from fcos_tf.image_files import ImageIndex, read_text

_POINTS = {"rectangle": 2, "polygon": 3}  # least number of them


def list_labelme(
    *,
    data_dir: str | os.PathLike | None = None,
    annotations: str | os.PathLike | None = None,
    images: str | os.PathLike | None = None,
) -> Listing:
    """Lists labelme's files, subfolders included.

    Rectangles count, and the boxes around polygons; other shapes are faults. A shape may be marked
    `difficult`, as X-AnyLabeling does. The image of a JSON
    file has the same path, or is the one of `imagePath`; the copy in `imageData` is not read.
    Images without JSON are left out: nobody knows what is in them.

    Args:
        data_dir: The folder with both.
        annotations: The folder of the JSON files, instead of `data_dir`.
        images: The folder of the images, instead of `data_dir`.

    Returns:
        The listing; objects are numbered by their places in `shapes`, from 1.

    Raises:
        FileNotFoundError: A folder is missing, or has no JSON files.
    """
    files, index = annotation_files(data_dir, annotations, images, "labelme", ".json")
    records = {name: _read(file, name, index) for name, file in files.items()}
    root, where = Path(data_dir or images), Path(annotations or data_dir)
    return list_records(records, index, root=root, where=where, item="shape")


def _read(file: Path, stem: str, index: ImageIndex) -> ImageRecord:
    origin = str(file)
    try:
        content = json.loads(read_text(file))
        if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
            raise ValueError("expected a JSON file of labelme with a list of shapes")
    except (OSError, ValueError, RecursionError) as error:
        return ImageRecord(origin, faults=[Fault(origin, "", str(error))])
    objects, faults = {}, []
    for number, shape in enumerate(content["shapes"], start=1):
        try:
            objects[number] = _object(shape)
        except ValueError as error:
            faults.append(Fault(origin, f"shape {number}", str(error)))
    size = size_of(content.get("imageHeight"), content.get("imageWidth"))
    record = ImageRecord(origin, "", size, objects, faults)
    return with_image(record, index, stem, str(content.get("imagePath") or ""))


def _object(shape: Any) -> ObjectRecord:
    """Reads a shape; ValueError says what is wrong."""
    if not isinstance(shape, dict):
        raise ValueError(f"expected a shape, got {shape!r:.80}")
    name, kind = shape.get("label"), shape.get("shape_type") or "polygon"
    if not isinstance(name, str) or not name.strip():
        raise ValueError(f"has label {name!r:.80}, expected a text")
    if kind not in _POINTS:
        raise ValueError(f"is a {kind}, expected a rectangle or a polygon")
    try:
        xs, ys = zip(*((float(x), float(y)) for x, y in shape["points"]), strict=True)
    except (KeyError, OverflowError, TypeError, ValueError):
        raise ValueError(f"has points {shape.get('points')!r:.80}, expected [x, y] each") from None
    if len(xs) < _POINTS[kind]:
        raise ValueError(f"is a {kind} of {len(xs)} points, expected {_POINTS[kind]}")
    difficult = is_difficult(str(shape.get("difficult") or ""))
    return ObjectRecord(name.strip(), difficult, (min(xs), min(ys), max(xs), max(ys)))
