"""Where things are in PASCAL VOC trees, and what images a split names.

data_dir/JPEGImages/NAME.jpg
data_dir/Annotations/NAME.xml
data_dir/ImageSets/Main/SPLIT.txt      one NAME a line
"""

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from fcos_tf.data.annotations import Fault

IMAGES, ANNOTATIONS, LISTS = FOLDERS = ("JPEGImages", "Annotations", "ImageSets/Main")

DataDir = str | os.PathLike | Sequence[str | os.PathLike]


class VocSplit(NamedTuple):
    """What a split names.

    Attributes:
        trees: All trees of the data set, whether the split reads them or not.
        names: (tree, name without ending) of each image, all different.
        image_ids: Of each image, see `image_ids_of`.
        faults: Names that are there more than once.
    """

    trees: list[Path]
    names: list[tuple[Path, str]]
    image_ids: list[int]
    faults: list[Fault]


def list_split(data_dir: DataDir, split: str) -> VocSplit:
    """Lists the images of a split, without looking whether they are there.

    Args:
        data_dir: As for `voc.read_voc`.
        split: As for `voc.read_voc`.

    Returns:
        A `VocSplit`.

    Raises:
        FileNotFoundError: A folder or a split file is missing.
        ValueError: A split file without names, or one tree given twice.
    """
    trees, names, faults = [], {}, []
    for folder in _folders(data_dir):
        inside = _find_trees(folder)
        trees += inside
        parts = [_split_files(inside, part) for part in split.split("+")]
        for tree, file in [(tree, part[tree]) for tree in inside for part in parts if tree in part]:
            lines = parse_list(_read_list(file), os.listdir(tree / ANNOTATIONS))
            if not any(lines):
                raise ValueError(f"{file} names no image")
            for number, name in enumerate(lines, start=1):
                if (tree, name) in names:
                    what = f"names {name!r} once more"
                    faults.append(Fault(str(file), f"line {number}", what))
                elif name:
                    names[tree, name] = None
    if len({tree.resolve() for tree in trees}) < len(trees):
        raise ValueError(f"data_dir: expected different trees, got {join(trees)}")
    ids = image_ids_of([name for _, name in names])
    return VocSplit(trees, list(names), ids, faults)


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

    The per-class lists of the published sets (cat_train.txt) carry a second column, whether the
    image has the class. It does not count: they name the same images. It is one only if all lines
    have it and none is the name of an image as it stands ("photo 1").

    Args:
        text: Of the split file.
        annotations: Names of the annotation files that are there.
    """
    lines = [line.strip() for line in text.splitlines()]
    without = [re.sub(r"\s+(-1|0|1)$", "", line) for line in lines]
    has_column = all(cut != line for cut, line in zip(without, lines, strict=True) if line)
    if has_column and {f"{line}.xml" for line in lines}.isdisjoint(annotations):
        return without
    return lines


def join(trees: Sequence[Path]) -> str:
    """Folders for a message."""
    return ", ".join(map(str, trees))


def _folders(data_dir: DataDir) -> list[Path]:
    """The folders that a `data_dir` names."""
    if isinstance(data_dir, str | os.PathLike):
        whole = os.fspath(data_dir)
        data_dir = [whole] if os.path.isdir(whole) else whole.split(",")
    folders = [Path(os.fspath(folder).strip()) for folder in data_dir if os.fspath(folder).strip()]
    if not folders:
        raise ValueError("data_dir: expected one or several folders, got none")
    return folders


def _find_trees(folder: Path) -> list[Path]:
    """The folder itself; where it has no images, the trees right in it, by name."""
    if not (folder / IMAGES).is_dir():
        inside = sorted(images.parent for images in folder.glob(f"*/{IMAGES}"))
        if inside:
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


def _read_list(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: expected text in UTF-8, got {error}") from None
