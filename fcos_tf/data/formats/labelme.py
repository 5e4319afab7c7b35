"""labelme: a JSON file beside each image.

    {"imagePath": "a.jpg", "imageHeight": 480, "imageWidth": 640, "shapes": [
        {"label": "cat", "shape_type": "rectangle", "points": [[10, 20], [110, 220]]}]}

Source: https://github.com/wkentaro/labelme. Points are pixels with continuous edges. Rectangles
count, and the boxes around polygons; other shapes are faults. A shape may be marked `difficult`, as
X-AnyLabeling does. The image is the one of the same path, or of `imagePath`; the copy in
`imageData` is not read.
"""

import json
from pathlib import Path
from typing import Any

from fcos_tf.data.annotations import Fault
from fcos_tf.data.formats.records import ImageRecord, ObjectRecord, size_of, with_image
from fcos_tf.data.formats.voc_xml import is_difficult
from fcos_tf.image_files import ImageIndex, read_text

_POINTS = {"rectangle": 2, "polygon": 3}  # least number of them


def read_labelme(file: Path, stem: str, index: ImageIndex) -> ImageRecord:
    """Reads a JSON file; objects are numbered by their places in `shapes`, from 1."""
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
