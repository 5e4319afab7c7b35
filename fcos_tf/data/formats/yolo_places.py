"""Where the images and labels of a YOLO data set are."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fcos_tf.data.annotations import Fault
from fcos_tf.data.formats import splits
from fcos_tf.data.formats.yolo_config import NAMES_FILES, SPLITS, moved
from fcos_tf.image_files import ImageIndex, is_image_name, plain_name, read_utf8, stem_of, unquoted


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
        found = next((each for each in paths if each.is_file()), None)
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
        before, images, after = os.path.join(".", image).rpartition("/images/")
        beside = f"{stem_of(image)}.txt"
        candidates = [f"{before}/labels/{stem_of(after)}.txt", beside] if images else [beside]
    return next((str(file) for file in candidates if os.path.exists(file)), None)


def orphans(
    images: Mapping[str, str], label_of: Mapping[str, str | None], labels: Path | None
) -> list[Fault]:
    """Label files without image, in folders that have label files only.

    An image of another split counts, too: lists may share their folders.
    """
    used = {label for label in label_of.values() if label}
    folders: dict[str, set[str]] = {str(labels): set()} if labels else {}  # -> those of the images
    for name, label in label_of.items():
        if label:
            folder = os.path.dirname(label)
            folders.setdefault(folder, set()).add(os.path.dirname(images[name]))
    faults = []
    for folder, beside in sorted(folders.items()):
        files = sorted(os.listdir(folder or "."))
        if any(map(is_image_name, files)):
            continue
        there = {stem_of(file) for each in beside for file in os.listdir(each or ".")}
        faults += [
            Fault(path, "", "has no image of its name")
            for file in files
            if file.endswith(".txt") and not file.startswith(".") and file not in NAMES_FILES
            if (path := os.path.join(folder, file)) not in used and file[:-4] not in there
        ]
    return faults
