"""Where the images, labels and class names of a YOLO data set are."""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from fcos_tf.data.annotations import Fault
from fcos_tf.data.formats import splits
from fcos_tf.data.formats.text import read_utf8
from fcos_tf.image_files import (
    ImageIndex,
    is_image_name,
    plain_name,
    read_text,
    stem_of,
    unquoted,
)

_NAMES_FILES = ("classes.txt", "obj.names", "*.names")
_SPLITS = ("train", "val", "valid", "validation", "test")


class Places(NamedTuple):
    """The files of a data set, or of one split of it.

    Attributes:
        root: The data set.
        images: Name -> path of each image.
        labels: Name -> path of its label file; None: it has none.
        class_names: By class index; empty: no file has them.
        keypoints: How many numbers of keypoints follow the box on each line.
        has_splits: Whether these are the images of one split.
        faults: Images that are not there, and labels without image.
        notes: What a run says of them.
    """

    root: Path
    images: dict[str, str]
    labels: dict[str, str | None]
    class_names: tuple[str, ...]
    keypoints: int
    has_splits: bool
    faults: list[Fault]
    notes: tuple[str, ...]


def find_places(split: str, data_dir, annotations, images) -> Places:
    """Finds the files of a split, or of all images where there is no data.yaml with splits.

    Paths in data.yaml are relative to its `path`, and that to the file; where one that begins with
    `../` is not there, as in Roboflow's exports, it counts without. A split is a folder, a text
    file with an image on each line, or several of them. The label file of an image is found by
    `labels` for the last `images` in its path, else beside it.

    Args:
        split: See `yolo.list_yolo`.
        data_dir: Likewise.
        annotations: Likewise.
        images: Likewise.

    Raises:
        FileNotFoundError, ValueError: See `yolo.list_yolo`.
    """
    if not data_dir and not annotations:
        raise ValueError("dataset yolo needs data_dir, or annotations, the file data.yaml")
    labels = Path(annotations) if annotations and Path(annotations).is_dir() else None
    places = [Path(path) for path in (annotations, data_dir) if path]
    config = next(filter(None, map(find_config, places)), None)
    content = read_config(config) if config else {}
    names = _names_in(content, config) if config else ()
    keypoints = _keypoints_in(content, config)
    root, notes = _root(content, config, data_dir, annotations, images)
    faults: list[Fault] = []
    has_splits = any(content.get(key) for key in _SPLITS) and not images and not labels
    if has_splits:
        parts = [_entries(content, part, config) for part in split.split("+")]
        found = dict.fromkeys(
            image
            for entries in parts
            for entry in entries
            for image in _images_of(_find(entry, root, config), root, faults)
        )
        named = {_name(image, root): image for image in found}
        if len(named) < len(found):
            named = {image: image for image in found}
    else:
        index = ImageIndex(images or root)
        named = {name: index.path(name) for name in index.names}
        names = names or _names_beside([root, *map(Path, filter(None, (annotations, images)))])
    label_of = _labels_of(root, named, labels)
    faults += _orphans(named, label_of, labels)
    return Places(root, named, label_of, names, keypoints, has_splits, faults, notes)


def find_config(path: Path) -> Path | None:
    """The data.yaml that a path is or has, if any."""
    if path.is_file():
        return path
    if not path.is_dir():
        raise FileNotFoundError(f"no folder or file {path}")
    files = [file for file in sorted(path.iterdir()) if file.suffix.lower() in (".yaml", ".yml")]
    preferred = [file for file in files if file.stem == "data"]
    for file in preferred or [file for file in files if not file.name.startswith(".")]:
        try:
            content = read_config(file)
        except (OSError, ValueError):
            if preferred:
                raise
            continue  # of another program
        if "names" in content or "train" in content:
            return file
    return None


class _Loader(yaml.SafeLoader):
    """Without aliases: a few of them stand for billions of values."""

    def compose_node(self, parent, index):
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError(f"expected values, got the alias *{self.peek_event().anchor}")
        return super().compose_node(parent, index)


def read_config(file: Path) -> dict[str, Any]:
    """Reads a data.yaml.

    Raises:
        ValueError: It is none; names it.
    """
    try:
        content = yaml.load(read_text(file), _Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: of a date, say
        raise ValueError(f"{file} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{file}: expected train, val and names, got {content!r:.80}")
    return content


def _names_in(content: Mapping[str, Any], file: Path) -> tuple[str, ...]:
    """The class names of a data.yaml, a list or a dict from class index to name."""
    names = content.get("names") or []
    if isinstance(names, dict):
        try:
            names = {int(key): name for key, name in names.items()}
            names = [names[index] for index in range(len(names))]
        except (KeyError, TypeError, ValueError):
            raise ValueError(
                f"{file}: names: expected the classes 0 to {len(names) - 1}, got {[*names]}"
            ) from None
    names = [str(name).strip() for name in names] if isinstance(names, list) else names
    if not isinstance(names, list) or len({*names}) < len(names):
        raise ValueError(f"{file}: names: expected different names, got {names!r:.200}")
    count = content.get("nc")
    if names and count is not None and count != len(names):
        raise ValueError(f"{file}: expected nc={len(names)}, as names has, got {count!r}")
    return tuple(names)


def _keypoints_in(content: Mapping[str, Any], file: Path | None) -> int:
    """How many numbers the keypoints of an object are, by the kpt_shape of a data.yaml."""
    shape = content.get("kpt_shape")
    if shape is None:
        return 0
    is_shape = isinstance(shape, list) and [type(side) for side in shape] == [int, int]
    if not is_shape or min(shape) < 1:
        raise ValueError(
            f"{file}: kpt_shape: expected [number of keypoints, numbers of each], got {shape!r:.80}"
        )
    return shape[0] * shape[1]


def _names_beside(folders: Sequence[Path]) -> tuple[str, ...]:
    """The class names in a classes.txt or obj.names of these folders, or of folders in them."""
    for folder in dict.fromkeys(folders):
        for pattern in [p for name in _NAMES_FILES for p in (name, f"*/{name}", f"*/*/{name}")]:
            for file in sorted(folder.glob(pattern)):
                lines = map(str.strip, read_utf8(file).splitlines())
                names = tuple(filter(None, lines))
                if len(set(names)) < len(names):
                    raise ValueError(f"{file}: expected different names, got {', '.join(names)}")
                return names
    return ()


def _root(content, config, data_dir, annotations, images) -> tuple[Path, tuple[str, ...]]:
    """The folder that paths are relative to."""
    base = Path(data_dir) if data_dir else None
    if base is None or not base.is_dir():
        base = config.parent if config else Path(images or annotations)
    if not content.get("path"):
        return base, ()
    root = config.parent / str(content["path"])
    if root.is_dir():
        return root, ()
    return base, (f"{config}: its path {content['path']} is not there; {base} is used",)


def _entries(content: Mapping[str, Any], split: str, config: Path) -> list[str]:
    """The folders and lists of a split."""
    for key in (split, *splits.words_for(split)):
        if value := content.get(key):
            return [str(each) for each in (value if isinstance(value, list) else [value])]
    there = ", ".join(key for key in _SPLITS if content.get(key))
    raise FileNotFoundError(f"{config}: no split {split!r}; there are: {there}")


def _find(entry: str, root: Path, config: Path) -> Path:
    inside = entry
    while inside.startswith("../"):
        inside = inside.removeprefix("../")
    candidates = [root / entry, root / inside, config.parent / inside]
    for path in candidates:
        if path.exists():
            return path
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
        found = [each for each in paths if each.is_file()]
        if found:
            yield os.path.normpath(found[0])
        else:
            faults.append(Fault(str(path), f"line {number}", f"names {line!r}, which is no file"))


def _name(image: str, root: Path) -> str:
    name = os.path.relpath(image, root)
    return os.path.basename(image) if name.startswith("..") else plain_name(name)


def _labels_of(root: Path, images: Mapping[str, str], labels: Path | None) -> dict[str, str | None]:
    """The label file of each image."""
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


def _orphans(
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
            if file.endswith(".txt") and not file.startswith(".") and file not in _NAMES_FILES
            if (path := os.path.join(folder, file)) not in used and file[:-4] not in there
        ]
    return faults
