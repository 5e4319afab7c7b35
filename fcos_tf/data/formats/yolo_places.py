"""Where the images and labels of a YOLO data set are."""

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from fcos_tf.data.annotations import Fault
from fcos_tf.data.formats import splits
from fcos_tf.data.formats.yolo_config import NAMES_FILES, SPLITS, moved
from fcos_tf.image_files import (
    ImageIndex,
    files_below,
    is_image_name,
    plain_name,
    read_utf8,
    stem_of,
    unquoted,
)

_HEAD = 2**16  # characters of a first line that are looked at


def root_of(content, config, data_dir, annotations, images) -> tuple[Path, tuple[str, ...]]:
    """The folder that paths are relative to, and a note where `path` names another."""
    base = Path(data_dir) if data_dir else None
    if base is None or not base.is_dir():
        base = config.parent if config else Path(images or annotations)
    if not content.get("path"):
        return base, ()
    root = config.parent / str(content["path"])
    if root.is_dir():
        return root, ()
    return base, (f"{config}: its path {content['path']} is not there; {base} is used",)


def images_of_split(
    content: Mapping[str, Any], split: str, root: Path, config: Path, faults: list[Fault]
) -> dict[str, str]:
    """Name -> path of each image of a split of data.yaml; adds faults for files that are missing.

    Paths in data.yaml are relative to its `path`, and that to the file; where one that begins with
    `../` is not there, as in Roboflow's exports, it counts without. A split is a folder, a text
    file with an image on each line, or several of them.
    """
    parts = [_entries(content, part, config) for part in split.split("+")]
    found = dict.fromkeys(
        image
        for entries in parts
        for entry in entries
        for image in _images_of(_find(entry, root, config), root, faults)
    )
    if not found:
        why = f"; the first fault: {faults[0]}" if faults else ""
        raise FileNotFoundError(f"{config}: the split {split} has no images{why}")
    named = {_name(image, root): image for image in found}
    return named if len(named) == len(found) else {image: image for image in found}


def _entries(content: Mapping[str, Any], split: str, config: Path) -> list[str]:
    """The folders and lists of a split."""
    for key in (split, *splits.words_for(split)):
        if value := content.get(key):
            return [str(each) for each in (value if isinstance(value, list) else [value])]
    there = ", ".join(key for key in SPLITS if content.get(key))
    raise FileNotFoundError(f"{config}: no split {split!r}; there are: {there}")


def _find(entry: str, root: Path, config: Path) -> Path:
    inside = entry
    while inside.startswith("../"):
        inside = inside.removeprefix("../")
    candidates = [root / entry, root / inside, config.parent / inside]
    for path in candidates:
        if path.exists():
            return path
    if (elsewhere := moved(entry, root)) is not None:
        return elsewhere
    raise FileNotFoundError(f"{config}: no folder or list {' or '.join(map(str, candidates[:2]))}")


def _images_of(path: Path, root: Path, faults: list[Fault]) -> Iterator[str]:
    """The paths of the images of a folder, or of a list of images."""
    if path.is_dir():
        index = ImageIndex(path)
        yield from map(index.path, index.names)
        return
    lines = read_utf8(path).splitlines()
    for number, line in enumerate(map(str.strip, lines), start=1):
        if not line:
            continue
        paths = [each / name for each in (path.parent, root) for name in (line, unquoted(line))]
        found = next(filter(os.path.isfile, paths), None)
        found = found or moved(unquoted(line), root, least=2)  # a name alone is in many folders
        if found:
            yield os.path.normpath(found)
        else:
            faults.append(Fault(str(path), f"line {number}", f"names {line!r}, which is no file"))


def _name(image: str, root: Path) -> str:
    name = os.path.relpath(image, root)
    return os.path.basename(image) if name.startswith("..") else plain_name(name)


def labels_of(root: Path, images: Mapping[str, str], labels: Path | None) -> dict[str, str | None]:
    """The label file of each image; None: it has none.

    It is found by `labels` for the last `images` in the path of the image, else beside it.
    """
    found = {name: _label_of(image, name, labels) for name, image in images.items()}
    if not any(found.values()):
        where = next(iter(images.values()), root)
        raise FileNotFoundError(
            f"{root}: none of {len(images)} images has a label file; expected one in labels/ for "
            f"images/, or beside it; the first image: {where}"
        )
    return found


def _label_of(image: str, name: str, labels: Path | None) -> str | None:
    if labels:
        candidates = [labels / f"{stem_of(plain_name(name))}.txt", labels / f"{stem_of(name)}.txt"]
    else:
        before, after = _split_path(image)
        beside = f"{stem_of(image)}.txt"
        candidates = [] if before is None else [f"{before}/labels/{stem_of(after)}.txt"]
        candidates.append(beside)
    return next((str(file) for file in candidates if os.path.exists(file)), None)


def _split_path(image: str) -> tuple[str | None, str]:
    """What is before and after the last `images` in the path of an image; None: it has none."""
    before, images, after = os.path.join(".", image).rpartition("/images/")
    return before if images else None, after


def orphans(
    root: Path,
    images: Mapping[str, str],
    label_of: Mapping[str, str | None],
    labels: Path | None,
    *,
    of_split: bool,
) -> list[Fault]:
    """Label files without image.

    They are all text files in the folders of labels (`labels`, if it is given), and those beside
    images that begin with an object. An image of another split counts, too: lists may share their
    folders. What is outside of `root` is not looked at, nor are labels of other splits where the
    images are those of a split.
    """
    used = {label for label in label_of.values() if label}
    faults = []

    def check(folder: str, files: Iterable[str], stems: set[str], is_mixed: bool = False) -> None:
        for file in files:
            path = f"{folder}/{file}" if folder else file
            if os.path.basename(file) in NAMES_FILES or path in used:
                continue
            if file.removesuffix(".txt") in stems or (is_mixed and not is_label(path)):
                continue
            faults.append(Fault(path, "", "has no image of its name"))

    if labels:
        check(str(labels), files_below(labels, ".txt"), set())
        return faults
    above = os.path.abspath(root)
    folders: dict[str, set[str]] = {}  # of images, below each folder "images"
    for before, after in map(_split_path, images.values()):
        if before is not None and Path(os.path.abspath(before or "/")).is_relative_to(above):
            folders.setdefault(before, set()).add(os.path.dirname(after))
    for before, mine in sorted(folders.items()):
        stems = {*map(stem_of, filter(is_image_name, files_below(f"{before}/images")))}
        texts: dict[str, list[str]] = {}
        for file in files_below(f"{before}/labels", ".txt"):
            texts.setdefault(os.path.dirname(file), []).append(file)
        for folder, files in texts.items():
            if folder in mine or not (
                os.path.isdir(f"{before}/images/{folder}") or (of_split and not _near(folder, mine))
            ):
                check(f"{before}/labels", files, stems)
    for folder in sorted({os.path.dirname(image) for image in images.values()}):
        files = sorted(os.listdir(folder or "."))
        stems = {*map(stem_of, filter(is_image_name, files))}
        texts_there = [name for name in files if name.lower().endswith(".txt") and name[0] != "."]
        check(folder, texts_there, stems, is_mixed=True)
    return faults


def _near(folder: str, others: set[str]) -> bool:
    """Whether a folder is one of others but for the case, or lies in one."""
    return any(f"{folder}/".lower().startswith(f"{other}/".lower()) for other in others)


def is_label(file: str | os.PathLike) -> bool:
    """Whether a text file is a label file with an object on its first line."""
    if not os.path.isfile(file):  # a pipe would block
        return False
    with open(file, encoding="utf-8-sig", errors="replace") as text:
        fields = text.readline(_HEAD).split()
    try:
        label, *values = map(float, fields)
    except ValueError:
        return False
    return label.is_integer() and len(values) >= 4 and all(-1 <= v <= 2 for v in values)
