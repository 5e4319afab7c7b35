"""PASCAL VOC trees: folders of images, an XML file for each, and lists of names.

    data_dir/JPEGImages/NAME.jpg
    data_dir/Annotations/NAME.xml
    data_dir/ImageSets/Main/SPLIT.txt      one NAME a line

Source: the VOC2007 development kit documentation (Everingham et al.). Its corners are one-based
and inclusive; here they become (xmin - 1, ymin - 1, xmax, ymax), see `_corners`.
"""

import os
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from absl import logging
from PIL import Image

from fcos_tf.data.example import Example, clean_example

FOLDERS = ("JPEGImages", "Annotations", "ImageSets/Main")
SIDES = ("xmin", "ymin", "xmax", "ymax")


@dataclass(frozen=True)
class VocSplit:
    """What `read_voc` found.

    Args:
        examples: One for each name in the split file, in its order.
        class_names: Name of each label.
        dropped: One message for each box that no detector can learn.
        difficult: One message for each object left out because it is marked difficult.
    """

    examples: tuple[Example, ...]
    class_names: tuple[str, ...]
    dropped: tuple[str, ...]
    difficult: tuple[str, ...]


@dataclass(frozen=True)
class _Object:
    number: int  # in its file, from 1
    name: str
    difficult: bool
    box: tuple[float, float, float, float]


@dataclass(frozen=True)
class _Annotation:
    filename: str | None
    width: int | None
    height: int | None
    objects: tuple[_Object, ...]


def read_voc(
    data_dir: str | os.PathLike,
    split: str,
    *,
    class_names: Sequence[str] | None = None,
    include_difficult: bool = False,
    limit: int | None = None,
) -> VocSplit:
    """Reads one split of a VOC tree.

    The image of an annotation is its own name with `.jpg`, as in the published sets; where there
    is no such file, the one that its `<filename>` names. Sizes come from the image files: where an
    annotation disagrees with its image, the image is believed and a warning names it.

    `image_id` is the file name as a number where every name of the split file consists of digits
    (as in the published VOC sets), otherwise the position in the split file, counted from 1.

    Args:
        data_dir: The folder that holds JPEGImages, Annotations and ImageSets.
        split: Name of a file in ImageSets/Main, without `.txt`.
        class_names: Name of each label. Default: the sorted names of all annotations of all
            splits, so that the splits of one tree agree. (The 20 VOC classes in alphabetical
            order are in VOC's own order.)
        include_difficult: Keep objects marked difficult as if they were not.
        limit: Read only the first `limit` images of the split.

    Returns:
        A `VocSplit`.

    Raises:
        FileNotFoundError: A folder, the split file, an annotation or an image is missing.
        ValueError: A file that cannot be read, or an object of an unknown class.
    """
    root = Path(data_dir)
    stems = _read_split(root, split)
    if class_names is None:
        class_names = _find_class_names(root)
    label_of = {name: label for label, name in enumerate(class_names)}
    ids = _image_ids(stems)
    images = set(os.listdir(root / "JPEGImages"))

    examples, dropped, difficult, disagreeing = [], [], [], []
    for stem, image_id in list(zip(stems, ids, strict=True))[:limit]:
        xml = root / "Annotations" / f"{stem}.xml"
        annotation = _read_annotation(xml)
        file = _image_file(root, stem, annotation.filename, images, xml)
        height, width = _image_size(file)
        if annotation.width and (annotation.height, annotation.width) != (height, width):
            disagreeing.append(str(file))
        kept = []
        for found in annotation.objects:
            if found.name not in label_of:
                raise ValueError(
                    f"{xml}: object {found.number} has class {found.name!r}, "
                    f"expected one of {', '.join(class_names)}"
                )
            if found.difficult and not include_difficult:
                difficult.append(f"{file}: object {found.number} ({found.name}) is difficult")
            else:
                kept.append(found)
        example, messages = clean_example(
            Example(
                file=str(file),
                image_id=image_id,
                boxes=np.array([o.box for o in kept], np.float32).reshape(-1, 4),
                labels=np.array([label_of[o.name] for o in kept], np.int32),
                height=height,
                width=width,
            ),
            numbers=[o.number for o in kept],
        )
        examples.append(example)
        dropped.extend(messages)
    if disagreeing:
        logging.warning(
            "%d annotations give another image size than their image has (the image is believed; "
            "check their boxes): %s",
            len(disagreeing),
            ", ".join(disagreeing[:10]),
        )
    return VocSplit(tuple(examples), tuple(class_names), tuple(dropped), tuple(difficult))


def _read_split(root: Path, split: str) -> list[str]:
    """The names in a split file, in order."""
    for folder in ("", *FOLDERS):
        if not (root / folder).is_dir():
            raise FileNotFoundError(
                f"no folder {root / folder}; a VOC data_dir holds {', '.join(FOLDERS)}"
            )
    lists = root / FOLDERS[2]
    file = lists / f"{split}.txt"
    if not file.is_file():
        splits = ", ".join(sorted(path.stem for path in lists.glob("*.txt"))) or "none"
        raise FileNotFoundError(f"no split {split!r} in {lists}; there are: {splits}")
    # The per-class lists of the published sets carry a second column (-1, 0, 1).
    stems = [line.split()[0] for line in file.read_text().splitlines() if line.strip()]
    if not stems:
        raise ValueError(f"{file} names no image")
    if len(set(stems)) != len(stems):
        twice = sorted({stem for stem in stems if stems.count(stem) > 1})
        raise ValueError(f"{file} names images more than once: {', '.join(twice[:5])}")
    return stems


def _image_ids(stems: list[str]) -> list[int]:
    """The names as numbers where that is possible, else the positions; see `read_voc`."""
    if all(stem.isdecimal() for stem in stems):
        ids = [int(stem) for stem in stems]
        if len(set(ids)) == len(ids) and max(ids) < 2**63:
            return ids
    return list(range(1, len(stems) + 1))


def _find_class_names(root: Path) -> list[str]:
    files = sorted((root / "Annotations").glob("*.xml"))
    names = sorted({o.name for file in files for o in _read_annotation(file).objects})
    if not names:
        raise ValueError(f"no object in any annotation of {root / 'Annotations'}")
    return names


def _read_annotation(file: Path) -> _Annotation:
    """Reads one XML file; only `object/name` and `object/bndbox` are required."""
    try:
        root = ElementTree.parse(file).getroot()
    except FileNotFoundError:
        raise FileNotFoundError(f"no annotation {file}, though the split names it") from None
    except (ElementTree.ParseError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is not readable XML: {error}") from None
    objects = []
    for number, element in enumerate(root.iterfind("object"), start=1):
        name = (element.findtext("name") or "").strip()
        difficult = (element.findtext("difficult") or "0").strip()
        try:
            corners = [float(element.findtext(f"bndbox/{side}")) for side in SIDES]
        except (TypeError, ValueError):
            corners = None
        if not name or corners is None:
            raise ValueError(
                f"{file}: object {number} needs a name and a bndbox with the numbers "
                f"xmin, ymin, xmax, ymax"
            )
        objects.append(_Object(number, name, difficult not in ("0", ""), _corners(*corners)))
    return _Annotation(
        (root.findtext("filename") or "").strip() or None,
        _optional_int(root.findtext("size/width")),
        _optional_int(root.findtext("size/height")),
        tuple(objects),
    )


def _corners(xmin: float, ymin: float, xmax: float, ymax: float):
    """One-based inclusive corners to continuous edges.

    Read literally, equal corners (xmin == xmax) would mean one pixel. In practice they are stray
    clicks of an annotation tool, so they stay as they are, without area, and `clean_example`
    drops and names them with the numbers that are in the file.
    """
    if xmax <= xmin or ymax <= ymin:
        return (xmin, ymin, xmax, ymax)
    return (xmin - 1.0, ymin - 1.0, xmax, ymax)


def _optional_int(text: str | None) -> int | None:
    try:
        return int(float(text))
    except (TypeError, ValueError):
        return None


def _image_file(root: Path, stem: str, filename: str | None, images: set[str], xml: Path) -> Path:
    # Copied annotations often still name the image that they were copied from.
    for name in (f"{stem}.jpg", filename):
        if name in images:
            return root / "JPEGImages" / name
    raise FileNotFoundError(
        f"no image {root / 'JPEGImages' / f'{stem}.jpg'}, though {xml} describes it"
    )


def _image_size(file: Path) -> tuple[int, int]:
    """(height, width) as stored, from the header alone."""
    try:
        with Image.open(file) as image:
            width, height = image.size
    except (OSError, Image.DecompressionBombError) as error:
        raise ValueError(f"{file} is not a readable image: {error}") from None
    return height, width
