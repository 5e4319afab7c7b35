"""`dataset="auto"`: which format a folder of data is in."""

import os
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

from fcos_tf.data.formats import csv_table
from fcos_tf.data.formats.folders import class_folders
from fcos_tf.data.formats.voc import FOLDERS
from fcos_tf.data.formats.voc_xml import read_root
from fcos_tf.data.formats.yolo_config import find_config
from fcos_tf.data.formats.yolo_places import is_label
from fcos_tf.image_files import IMAGE_SUFFIXES, files_below

_CHOICES = "coco, voc, xml, yolo, csv, labelme, folders or tfds:NAME"
_HEAD = 2**22  # characters of a JSON file that are looked at
_FEW = 20  # files of a kind that are looked at
_SOME = 1000  # label files, which may be empty


def recognise(
    split: str = "train", *, data_dir: Any = None, annotations: Any = None, images: Any = None
) -> tuple[str, tuple[str, ...]]:
    """Recognises the format of a data set by its files.

    Args: see `fcos_tf.data.load`. Where `annotations` are given, only that place is looked at; of
        several splits joined by "+" the first replaces "{split}" in it.

    Returns:
        The name of the format, and a note that says why it is this one.

    Raises:
        ValueError: It is none of them, or may be several.
        FileNotFoundError: No such file or folder.
    """
    place = annotations or data_dir
    if not place:
        raise ValueError("dataset auto needs data_dir, the folder of the data")
    is_path = isinstance(place, str | os.PathLike)
    if not is_path or ("," in os.fspath(place) and not os.path.exists(place)):
        return "voc", (f"{place} is read as voc: several folders",)
    path = Path(os.fspath(place).replace("{split}", split.split("+")[0]))
    if path.is_file():
        found = _of_file(path)
    elif path.is_dir():
        found = _of_folder(path)
    else:
        raise FileNotFoundError(f"no folder or file {path}")
    if len(found) != 1:
        what = "; ".join(f"{name} ({why})" for name, why in found.items()) or "none of them"
        raise ValueError(
            f"dataset auto: cannot tell what {path} is: {what}; give --dataset, one of {_CHOICES}"
        )
    ((name, why),) = found.items()
    return name, (f"{path} is read as {name}: it has {why}",)


def _of_file(file: Path) -> dict[str, str]:
    suffix = file.suffix.lower()
    if suffix in (".yaml", ".yml"):
        return {"yolo": file.name}
    if suffix == ".csv" and csv_table.is_table(file):
        return {"csv": file.name}
    kind = kind_of_json(file) if suffix == ".json" else None
    return {kind: file.name} if kind else {}


def _of_folder(root: Path) -> dict[str, str]:
    """The formats that a folder may be in, and a file or folder that says so."""
    if any(map(_is_tree, (root, *root.glob("*/")))):
        return {"voc": ", ".join(FOLDERS)}
    names = files_below(root, ".xml", ".json", ".csv", ".txt", ".yaml", ".yml", ".tfrecord")
    by_suffix = defaultdict(list)
    for name in filter(lambda name: (root / name).is_file(), names):  # pipes would block
        by_suffix[os.path.splitext(name)[1].lower()].append(name)
    if (root / "features.json").is_file():
        raise ValueError(
            f"dataset auto: {root} is a data set of TFDS; give --dataset=tfds:NAME and the folder "
            "above its name as --data_dir"
        )
    found: dict[str, str] = {}
    if config := find_config(root):
        found["yolo"] = config.name
    elif any(map(_is_tree, root.glob("*/*/"))):
        return {"voc": ", ".join(FOLDERS)}
    elif label := next((n for n in by_suffix[".txt"][:_SOME] if is_label(root / n)), None):
        found["yolo"] = f"label files such as {label}"
    for name in by_suffix[".json"][:_FEW]:
        if kind := kind_of_json(root / name):
            found.setdefault(kind, name)
    tables = [name for name in by_suffix[".csv"][:_FEW] if csv_table.is_table(root / name)]
    if tables:
        found["csv"] = tables[0]
    for name in by_suffix[".xml"][:_FEW]:
        try:
            read_root(root / name)
        except ValueError:
            continue
        found.setdefault("xml", name)
    if not found:
        classes = sorted(
            {name for _, name in class_folders(files_below(root, *IMAGE_SUFFIXES)).values()}
        )
        if len(classes) > 1:
            found["folders"] = f"no annotations, and images in {', '.join(classes[:3])}"
    return found


def _is_tree(folder: Path) -> bool:
    return all((folder / name).is_dir() for name in FOLDERS)


def kind_of_json(file: Path) -> str | None:
    """By the first key that only one format has."""
    with open(file, encoding="utf-8-sig", errors="replace") as text:
        key = re.search(r'"(shapes|images|annotations|categories)"\s*:', text.read(_HEAD))
        if key and key[1] == "categories":  # alone they are of other programs, too
            text.seek(0)
            key = re.search(r'"(images|annotations)"\s*:', text.read(_HEAD))
    if key is None:
        return None
    return "labelme" if key[1] == "shapes" else "coco"
