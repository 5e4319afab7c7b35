"""The XML file that PASCAL VOC keeps for each image.

Source: the VOC2007 development kit documentation (Everingham et al.). Its corners are one-based
and inclusive; outside of this file they are continuous edges, (xmin - 1, ymin - 1, xmax, ymax).
"""

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from fcos_tf.data.annotations import COORDINATE_DECIMALS

SIDES = ("xmin", "ymin", "xmax", "ymax")

# Less than what boxes are rounded to: keeps the corners of a box of one pixel from being equal.
HAIR = 0.1**COORDINATE_DECIMALS / 10


class VocObject(NamedTuple):
    """An object of an annotation.

    Attributes:
        name: Its class.
        difficult: Whether it is marked as hard to recognise.
        box: (x1, y1, x2, y2), continuous edges.
    """

    name: str
    difficult: bool
    box: tuple[float, ...]


def read_root(file: Path) -> ElementTree.Element:
    """Reads an annotation.

    Entities that blow up are left to expat, which refuses them from version 2.4.1 on.

    Returns:
        The element `annotation`.

    Raises:
        ValueError: With what is wrong; it does not name the file.
    """
    try:
        root = ElementTree.parse(file).getroot()
    except FileNotFoundError:
        raise ValueError("is missing, though the split names it") from None
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from None
    except (ElementTree.ParseError, ValueError, LookupError) as error:  # the last two: encodings
        raise ValueError(f"is not readable XML: {error}") from None
    if root.tag != "annotation":
        raise ValueError(f"is no annotation: expected the root <annotation>, got <{root.tag}>")
    return root


def text_of(element: ElementTree.Element, path: str) -> str:
    """The text of what is at `path`, stripped; empty where there is nothing."""
    return (element.findtext(path) or "").strip()


def read_size(root: ElementTree.Element) -> tuple[int, int] | None:
    """(height, width) of the image as the annotation has it; None where that is no size."""
    try:
        height, width = (int(float(text_of(root, f"size/{side}"))) for side in ("height", "width"))
    except (ValueError, OverflowError):
        return None
    return (height, width) if 0 < min(height, width) <= max(height, width) < 2**31 else None


def read_object(element: ElementTree.Element) -> VocObject:
    """Reads an `object`; only its `name` and `bndbox` are required.

    Raises:
        ValueError: With what is wrong.
    """
    name = text_of(element, "name")
    if not name:
        raise ValueError("has no name")
    if element.find("bndbox") is None:
        raise ValueError("has no bndbox")
    corners = []
    for side in SIDES:
        text = text_of(element, f"bndbox/{side}")
        try:
            corners.append(float(text))
        except ValueError:
            raise ValueError(f"{side}: expected a number, got {text!r}") from None
    difficult = text_of(element, "difficult").lower() not in ("", "0", "false")
    return VocObject(name, difficult, _edges(*corners))


def _edges(xmin: float, ymin: float, xmax: float, ymax: float) -> tuple[float, ...]:
    """One-based inclusive corners to continuous edges.

    Read literally, equal corners (xmin == xmax) would mean one pixel. In practice they are stray
    clicks of an annotation tool, so they stay as they are, without area, and `check_annotations`
    drops and names them with the numbers that are in the file; so it does with corners in the
    wrong order. (Fractions less than 1 in the wrong order are a box narrower than a pixel.)
    """
    if any(extent == 0 or extent <= -1 for extent in (xmax - xmin, ymax - ymin)):
        return (xmin, ymin, xmax, ymax)
    return (xmin - 1.0, ymin - 1.0, xmax, ymax)


def write_annotation(
    file: Path, image_name: str, size: tuple[int, int], objects: Iterable[VocObject]
) -> None:
    """Writes an annotation that reads back the same, in thousandths of a pixel.

    Args:
        file: What to write.
        image_name: Name of the image file.
        size: (height, width), 0 where unknown.
        objects: What is in it.
    """
    root = ElementTree.Element("annotation")
    _add(root, filename=image_name)
    height, width = size
    if height and width:  # everything is read as RGB: three channels
        _add(ElementTree.SubElement(root, "size"), width=width, height=height, depth=3)
    for name, difficult, box in objects:
        element = ElementTree.SubElement(root, "object")
        _add(element, name=name, difficult=int(difficult))
        corners = zip(SIDES, map(_number, _corners(*box)), strict=True)
        _add(ElementTree.SubElement(element, "bndbox"), **dict(corners))
    ElementTree.indent(root)
    ElementTree.ElementTree(root).write(file)


def _corners(x1: float, y1: float, x2: float, y2: float) -> list[float]:
    """The inverse of `_edges`, but for a box of one pixel, where that has none."""
    xmin, ymin, xmax, ymax = (round(v, COORDINATE_DECIMALS) for v in (x1 + 1, y1 + 1, x2, y2))
    return [xmin, ymin, xmax + HAIR * (xmax == xmin), ymax + HAIR * (ymax == ymin)]


def _number(value: float) -> str:
    """Without trailing zeros."""
    return f"{value:.{COORDINATE_DECIMALS + 1}f}".rstrip("0").rstrip(".")


def _add(parent: ElementTree.Element, **texts: object) -> None:
    for name, text in texts.items():
        ElementTree.SubElement(parent, name).text = str(text)
