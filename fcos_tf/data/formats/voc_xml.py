"""PASCAL VOC's XML files: the objects of an image each.

Corners are one-based and inclusive; other modules see continuous edges, (xmin - 1, ymin - 1, xmax,
ymax). labelImg, CVAT, Datumaro and Roboflow write such files, too.
"""

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable
from pathlib import Path

from fcos_tf.data.annotations import COORDINATE_DECIMALS, Fault
from fcos_tf.data.formats.records import ImageRecord, ObjectRecord, size_of, with_image
from fcos_tf.image_files import ImageIndex, check_regular

SIDES = ("xmin", "ymin", "xmax", "ymax")
# Less than the rounding of boxes: keeps the corners of a box of one pixel from being equal.
HAIR = 0.1**COORDINATE_DECIMALS / 10


def read_record(xml: Path, stem: str, index: ImageIndex) -> ImageRecord:
    """Reads an XML file; `stem` is its path from the folder of annotations, without suffix."""
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


def read_root(file: Path) -> ElementTree.Element:
    """Reads an annotation: the element `annotation`, in any encoding that Python has.

    Expat refuses exponential entities from version 2.4.1 on.

    Raises:
        ValueError: With the error, but without the name of the file.
    """
    try:
        try:
            check_regular(file)
            root = ElementTree.parse(file).getroot()
        except (ValueError, LookupError):  # an encoding that expat lacks
            root = ElementTree.fromstring(_decode_xml(file.read_bytes()))
    except FileNotFoundError:
        raise ValueError("is missing, though the split names it") from None
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror or error}") from None
    except (ElementTree.ParseError, ValueError, LookupError) as error:  # the last two: encodings
        raise ValueError(f"is not readable XML: {error}") from None
    if root.tag != "annotation":
        raise ValueError(f"is no annotation: expected the root <annotation>, got <{root.tag}>")
    return root


def _decode_xml(data: bytes) -> str:
    """The text of an XML file, without its declaration."""
    declared = re.match(rb"""\s*<\?xml[^>]*?encoding\s*=\s*["']([\w.-]+)["'][^>]*\?>""", data)
    if declared is None:
        raise ValueError("it declares no encoding")
    return data[declared.end() :].decode(declared[1].decode())


def text_of(element: ElementTree.Element, path: str) -> str:
    """The text of the element at `path`, stripped; empty: none.

    Raises:
        ValueError: There are several that differ.
    """
    texts = {(found.text or "").strip() for found in element.findall(path)}
    if len(texts) > 1:
        raise ValueError(f"has several {path}, expected one: {', '.join(sorted(texts))}")
    return texts.pop() if texts else ""


def read_object(element: ElementTree.Element) -> ObjectRecord:
    """Reads an `object`; only its `name` and `bndbox` are required.

    Raises:
        ValueError: With the error, but without the name of the file.
    """
    name = text_of(element, "name")
    if not name:
        raise ValueError("has no name")
    boxes = element.findall("bndbox")
    if len(boxes) != 1:
        raise ValueError(f"has {len(boxes) or 'no'} bndbox, expected one")
    corners = []
    for side in SIDES:
        text = text_of(boxes[0], side)
        try:
            corners.append(float(text))
        except ValueError:
            raise ValueError(f"{side}: expected a number, got {text!r}") from None
    return ObjectRecord(name, is_difficult(text_of(element, "difficult")), _edges(*corners))


def is_difficult(text: str) -> bool:
    """Whether a mark says so; unspecified, as tools write where nobody said anything, does not."""
    word = text.lower()
    if word in ("", "false", "no", "none", "n/a", "nan", "-1", "unspecified"):
        return False
    try:
        return word in ("true", "yes") or bool(("0", "1").index(f"{float(word):g}"))
    except ValueError:
        raise ValueError(f"difficult: expected 0 or 1, got {text!r}") from None


def _edges(xmin: float, ymin: float, xmax: float, ymax: float) -> tuple[float, ...]:
    """One-based inclusive corners to continuous edges.

    Equal corners (xmin == xmax) should mean one pixel, but are stray clicks of an annotation tool.
    They stay as they are, without area, like corners in the wrong order, and `check_annotations`
    drops them with the numbers of the file. (Less than 1 in the wrong order is a box narrower than
    a pixel.)
    """
    if any(extent == 0 or extent <= -1 for extent in (xmax - xmin, ymax - ymin)):
        return (xmin, ymin, xmax, ymax)
    return (xmin - 1.0, ymin - 1.0, xmax, ymax)


def write_annotation(
    file: Path, image_name: str, size: tuple[int, int], objects: Iterable[ObjectRecord]
) -> None:
    """Writes an annotation that reads back the same, in thousandths of a pixel.

    The (height, width) of the image is 0 where it is unknown.
    """
    root = ElementTree.Element("annotation")
    _add(root, filename=image_name)
    height, width = size
    if height and width:  # everything is read as RGB: three channels
        _add(ElementTree.SubElement(root, "size"), width=width, height=height, depth=3)
    for name, difficult, box in objects:
        element = ElementTree.SubElement(root, "object")
        _add(element, name=name, difficult=int(difficult))
        corners = (f"{corner:.10g}" for corner in _corners(*box))
        bndbox = ElementTree.SubElement(element, "bndbox")
        _add(bndbox, **dict(zip(SIDES, corners, strict=True)))
    ElementTree.indent(root)
    ElementTree.ElementTree(root).write(file)


def _corners(x1: float, y1: float, x2: float, y2: float) -> list[float]:
    """The inverse of `_edges`, except for boxes of one pixel."""
    xmin, ymin, xmax, ymax = (round(v, COORDINATE_DECIMALS) for v in (x1 + 1, y1 + 1, x2, y2))
    return [xmin, ymin, xmax + HAIR * (xmax == xmin), ymax + HAIR * (ymax == ymin)]


def _add(parent: ElementTree.Element, **texts: object) -> None:
    for name, text in texts.items():
        ElementTree.SubElement(parent, name).text = str(text)
