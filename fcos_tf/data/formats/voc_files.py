"""The files of PASCAL VOC trees: the list of a split, and the XML file of each image.

data_dir/JPEGImages/NAME.jpg
data_dir/Annotations/NAME.xml
data_dir/ImageSets/Main/SPLIT.txt      one NAME a line

Source: the VOC2007 development kit documentation (Everingham et al.). Corners in the XML are
one-based and inclusive; other modules see continuous edges, (xmin - 1, ymin - 1, xmax, ymax).
"""

import os
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Sequence
from pathlib import Path

from fcos_tf.data.annotations import COORDINATE_DECIMALS, Fault
from fcos_tf.data.formats.records import ObjectRecord
from fcos_tf.image_files import check_regular, files_below, read_utf8, stem_of, unquoted

IMAGES, ANNOTATIONS, LISTS = FOLDERS = ("JPEGImages", "Annotations", "ImageSets/Main")
DataDir = str | os.PathLike | Sequence[str | os.PathLike]
SIDES = ("xmin", "ymin", "xmax", "ymax")
# Less than the rounding of boxes: keeps the corners of a box of one pixel from being equal.
HAIR = 0.1**COORDINATE_DECIMALS / 10


def list_split(
    data_dir: DataDir, split: str
) -> tuple[list[Path], list[tuple[Path, str]], list[Fault]]:
    """Lists the images of a split, whether their files exist or not.

    Args, Raises: see `voc.read_voc`.

    Returns:
        All trees of the data set, also those without the split; (tree, name without ending) of
        each image, all different; and the repeated names.
    """
    trees, names, faults, there = [], {}, [], {}
    for folder in _folders(data_dir):
        inside = _find_trees(folder)
        trees += inside
        parts = [_split_files(inside, part) for part in split.split("+")]
        for tree, file in [(tree, part[tree]) for tree in inside for part in parts if tree in part]:
            text = read_utf8(file)
            if tree not in there:
                there[tree] = files_below(tree / ANNOTATIONS, ".xml")
            lines = parse_list(text, there[tree])
            if not any(lines):
                raise ValueError(f"{file} names no image")
            for number, name in enumerate(lines, start=1):
                if (tree, name) in names:
                    faults.append(Fault(str(file), f"line {number}", f"names {name!r} once more"))
                elif name:
                    names[tree, name] = None
    if len({tree.resolve() for tree in trees}) < len(trees):
        raise ValueError(f"data_dir: expected different trees, got {join(trees)}")
    return trees, list(names), faults


def image_ids_of(names: Sequence[str]) -> list[int]:
    """All digits of each name as a number, where these all differ, else the positions from 1.

    000012 -> 12; 2008_000008 -> 2008000008; BloodImage_00338 -> 338.
    """
    digits = [re.sub(r"\D", "", name) for name in names]
    if all(0 < len(number) <= 18 for number in digits):  # of 18 digits all numbers fit in int64
        ids = [int(number) for number in digits]
        if len(set(ids)) == len(ids):
            return ids
    return list(range(1, len(names) + 1))


def parse_list(text: str, annotations: Iterable[str]) -> list[str]:
    """The name on each line of a split file; empty for a blank line.

    The per-class lists of the published sets (cat_train.txt) have a second column, whether the
    image has the class, which is ignored. It exists only if all lines have it and none is the name
    of an image as it stands ("photo 1").

    Args:
        text: Of the split file.
        annotations: Paths of the existing annotation files in their folder, with their endings.
    """
    lines = [line.strip() for line in text.splitlines()]
    without = [re.sub(r"\s+(-1|0|1)$", "", line) for line in lines]
    has_column = all(cut != line for cut, line in zip(without, lines, strict=True) if line)
    there = {os.path.splitext(name)[0] for name in annotations}
    if has_column and there.isdisjoint(lines):
        lines = without
    return [line if line in there else _listed_name(line, there) for line in lines]


def _listed_name(line: str, there: set[str]) -> str:
    """The name of an annotation on a line in another form: Datumaro writes quotes, others paths."""
    bare = unquoted(line)
    stem = stem_of(bare.removesuffix(".xml"))
    inside = re.sub(rf"^(.*/)?({IMAGES}|{ANNOTATIONS})/|^\./", "", stem)
    return next((name for name in (bare, stem, inside) if name in there), inside)


def join(trees: Sequence[Path]) -> str:
    """The folders in a message."""
    return ", ".join(map(str, trees))


def _folders(data_dir: DataDir) -> list[Path]:
    """The folders in a `data_dir`."""
    if data_dir is None:
        raise ValueError(f"dataset voc needs data_dir, the folder with {', '.join(FOLDERS)}")
    if isinstance(data_dir, str | os.PathLike):
        whole = os.fspath(data_dir)
        data_dir = [whole] if os.path.isdir(whole) else whole.split(",")
    folders = [Path(os.fspath(folder).strip()) for folder in data_dir if os.fspath(folder).strip()]
    if not folders:
        raise ValueError("data_dir: expected one or several folders, got none")
    return folders


def _find_trees(folder: Path) -> list[Path]:
    """The folder itself; where it has no images, the trees in it or in its folders, by name."""
    for pattern in () if (folder / IMAGES).is_dir() else (f"*/{IMAGES}", f"*/*/{IMAGES}"):
        if inside := sorted(images.parent for images in folder.glob(pattern)):
            return inside
    _check_tree(folder)
    return [folder]


def _check_tree(tree: Path) -> None:
    for needed in ("", *FOLDERS):
        if not (tree / needed).is_dir():
            raise FileNotFoundError(
                f"no folder {tree / needed}; a VOC data_dir holds {', '.join(FOLDERS)}"
            )


def _split_files(trees: list[Path], part: str) -> dict[Path, Path]:
    """The split file in each of the trees that have it."""
    files = {tree: tree / LISTS / f"{part}.txt" for tree in trees}
    files = {tree: file for tree, file in files.items() if file.is_file()}
    if not files:
        there = {file.stem for tree in trees for file in (tree / LISTS).glob("*.txt")}
        raise FileNotFoundError(
            f"no split {part!r} in {join([tree / LISTS for tree in trees])}; "
            f"there are: {', '.join(sorted(there)) or 'none'}"
        )
    for tree in files:
        _check_tree(tree)
    return files


def annotation_of(tree: Path, name: str) -> Path:
    """The annotation file of an image; its ending may have upper case."""
    files = [tree / ANNOTATIONS / f"{name}{ending}" for ending in (".xml", ".XML")]
    return next(filter(os.path.isfile, files), files[0])


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

    Args:
        file: The XML file.
        image_name: Name of the image file.
        size: (height, width) of the image, 0 where unknown.
        objects: Of the image.
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
