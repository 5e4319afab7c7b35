"""Reads PASCAL VOC trees as annotations, and writes them.

data_dir/JPEGImages/NAME.jpg
data_dir/Annotations/NAME.xml          see `voc_xml`
data_dir/ImageSets/Main/SPLIT.txt      one NAME a line

Source: the VOC2007 development kit documentation (Everingham et al.).
"""

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from fcos_tf.data.annotations import Annotations, Fault
from fcos_tf.data.formats.listing import Listing
from fcos_tf.data.formats.records import ImageRecord, ObjectRecord
from fcos_tf.data.formats.voc_xml import read_record, read_root, write_annotation
from fcos_tf.image_files import ImageIndex, files_below, read_utf8, stem_of, unquoted

IMAGES, ANNOTATIONS, LISTS = FOLDERS = ("JPEGImages", "Annotations", "ImageSets/Main")
DataDir = str | os.PathLike | Sequence[str | os.PathLike]


def list_voc(split: str, *, data_dir: DataDir | None = None) -> Listing:
    """Lists a split of one or several VOC trees.

    The image of an annotation has its name and the suffix of an image: the one that `<filename>`
    has, else `.jpg` before others; where there is none, it is the one that `<filename>` names. Its
    size comes from its header, or else from the annotation; a fault names those that disagree.

    Its id is made of all digits of its name (000012 -> 12, 2008_000008 -> 2008000008) where that
    gives every name of the split another number, else it is the position in the split, from 1.

    Args:
        data_dir: The folder that holds JPEGImages, Annotations and ImageSets; or the folder above
            several of those (VOCdevkit), which stands for those in it that have the split, by
            name. Several, in a sequence or separated by commas, are read one after the other.
        split: Name of a file in ImageSets/Main, without `.txt`; "train+val" reads both.

    Returns:
        The listing; its classes are the sorted names of all annotations of all splits, so that the
        splits of a data set agree. (VOC's own order of the 20 classes is alphabetical, too.)

    Raises:
        FileNotFoundError: A folder or a split file is missing.
        ValueError: A split without names, a data set without objects, or a tree given twice.
    """
    trees, listed, faults = _list_split(data_dir, split)
    indices = {tree: ImageIndex(tree / IMAGES) for tree in {tree for tree, _ in listed}}

    def read(index: int) -> ImageRecord:
        tree, stem = listed[index]
        return read_record(_annotation_of(tree, stem), stem, indices[tree])

    return Listing(
        root=_join(trees),
        names=[stem for _, stem in listed],
        read=read,
        find_class_names=lambda: _find_class_names(trees),
        faults=faults,
        notes=tuple(note for index in indices.values() for note in index.notes),
        split=split,
    )


def _list_split(
    data_dir: DataDir, split: str
) -> tuple[list[Path], list[tuple[Path, str]], list[Fault]]:
    """Lists the images of a split, whether their files exist or not.

    Args, Raises: see `list_voc`.

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
            lines = _parse_list(text, there[tree])
            if not any(lines):
                raise ValueError(f"{file} names no image")
            for number, name in enumerate(lines, start=1):
                if (tree, name) in names:
                    faults.append(Fault(str(file), f"line {number}", f"names {name!r} once more"))
                elif name:
                    names[tree, name] = None
    if len({tree.resolve() for tree in trees}) < len(trees):
        raise ValueError(f"data_dir: expected different trees, got {_join(trees)}")
    return trees, list(names), faults


def _parse_list(text: str, annotations: Iterable[str]) -> list[str]:
    """The name on each line of a split file; empty for a blank line.

    The per-class lists of the published sets (cat_train.txt) have a second column, whether the
    image has the class, which is ignored. It exists only if all lines have it and none is the name
    of an image as it stands ("photo 1"), by the paths of the annotation files in their folder.
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


def _join(trees: Sequence[Path]) -> str:
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
            f"no split {part!r} in {_join([tree / LISTS for tree in trees])}; "
            f"there are: {', '.join(sorted(there)) or 'none'}"
        )
    for tree in files:
        _check_tree(tree)
    return files


def _annotation_of(tree: Path, name: str) -> Path:
    """The annotation file of an image; its ending may have upper case."""
    files = [tree / ANNOTATIONS / f"{name}{ending}" for ending in (".xml", ".XML")]
    return next(filter(os.path.isfile, files), files[0])


def _find_class_names(trees: Sequence[Path]) -> tuple[str, ...]:
    """The sorted names of the objects of all splits.

    Raises:
        ValueError: There is no object in any; names the trees.
    """
    names, broken = set(), []
    folders = [tree / ANNOTATIONS for tree in trees]
    for file in [folder / name for folder in folders for name in files_below(folder, ".xml")]:
        try:
            names |= {(e.text or "").strip() for e in read_root(file).iterfind("object/name")}
        except ValueError as error:  # a fault, if the split names it
            broken.append(f"{file}: {error}")
    names.discard("")
    if not names:
        reason = f"; the first that is broken: {broken[0]}" if broken else ""
        raise ValueError(f"no object in any annotation of {_join(trees)}{reason}")
    return tuple(sorted(names))


def write_voc(
    annotations: Annotations, data_dir: str | os.PathLike, split: str, file_names: Sequence[str]
) -> None:
    """Writes annotations and the list of a split, such that `list_voc` gives them back.

    The caller puts the images into JPEGImages under `file_names`. Splits of one tree may be
    written one after the other. VOC has no place for areas other than that of the box, for
    category ids and for the annotations' own numbers; the ids of images come back where they are
    the digits of the file names, see `image_ids_of`.

    Args:
        annotations: Of n images; `ignored` boxes are marked difficult.
        data_dir: The tree; its folders are created.
        split: Name of the list.
        file_names: n names of the image files, different also without their endings.

    Raises:
        ValueError: Names that would not read back.
    """
    stems = [Path(name).stem for name in file_names]
    for stem in stems:
        if _parse_list(stem, [f"{stem}.xml"]) != [stem]:
            raise ValueError(f"file_names: expected names that a split file can hold, got {stem!r}")

    for folder in FOLDERS:
        Path(data_dir, folder).mkdir(parents=True, exist_ok=True)
    starts = np.searchsorted(annotations.owners, np.arange(annotations.num_images + 1))
    for index, (stem, file_name) in enumerate(zip(stems, file_names, strict=True)):
        rows = slice(*starts[index : index + 2])
        columns = (annotations.labels[rows], annotations.ignored[rows], annotations.boxes[rows])
        objects = [
            ObjectRecord(annotations.class_names[label], bool(ignored), tuple(box.tolist()))
            for label, ignored, box in zip(*columns, strict=True)
        ]
        size = tuple(annotations.sizes[index].tolist())
        write_annotation(Path(data_dir, ANNOTATIONS, f"{stem}.xml"), file_name, size, objects)
    lines = "".join(f"{stem}\n" for stem in stems)
    Path(data_dir, LISTS, f"{split}.txt").write_text(lines, encoding="utf-8")
