"""What a data.yaml of YOLO, or an obj.data of Darknet, says, and the class names beside it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from fcos_tf.image_files import read_text, read_utf8

NAMES_FILES = ("classes.txt", "obj.names", "*.names")
SPLITS = ("train", "val", "valid", "validation", "test")
_DARKNET = "obj.data"


def find_config(path: Path) -> Path | None:
    """The data.yaml or obj.data that a path is or has, if any."""
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
    return path / _DARKNET if (path / _DARKNET).is_file() else None


class _Loader(yaml.SafeLoader):
    """Without aliases: a few of them stand for billions of values."""

    def compose_node(self, parent, index):
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError(f"expected values, got the alias *{self.peek_event().anchor}")
        return super().compose_node(parent, index)


def read_config(file: Path) -> dict[str, Any]:
    """Reads a data.yaml, or an obj.data as Darknet and CVAT have it.

    Raises:
        ValueError: It is none; names it.
    """
    if file.suffix == ".data":
        pairs = (line.partition("=") for line in read_utf8(file).splitlines())
        content = {key.strip(): value.strip() for key, found, value in pairs if found}
        names = moved(content.pop("names", ""), file.parent)
        lists = {key: content[key] for key in SPLITS if moved(content.get(key, ""), file.parent)}
        found = {"names": [*_names_of(names)]} if names else {}
        return found | (lists if len(lists) > 1 else {})  # one list is of no split
    try:
        content = yaml.load(read_text(file), _Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: of a date, say
        raise ValueError(f"{file} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{file}: expected train, val and names, got {content!r:.80}")
    return content


def names_in(content: Mapping[str, Any], file: Path) -> tuple[str, ...]:
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
    if isinstance(names, list):
        if odd := [name for name in names if name is None or isinstance(name, bool)]:
            what = f"expected texts, got {odd[0]!r}; put yes, no, null and the like in quotes"
            raise ValueError(f"{file}: names: {what}")
        names = [str(name).strip() for name in names]
    if not isinstance(names, list) or len({*names}) < len(names):
        raise ValueError(f"{file}: names: expected different names, got {names!r:.200}")
    count = content.get("nc")
    if names and count is not None and str(count).strip().removesuffix(".0") != str(len(names)):
        raise ValueError(f"{file}: expected nc={len(names)}, as names has, got {count!r}")
    return tuple(names)


def keypoints_in(content: Mapping[str, Any], file: Path | None) -> int:
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


def names_beside(folders: Sequence[Path]) -> tuple[str, ...]:
    """The class names in a classes.txt or obj.names of these folders, or of folders in them."""
    for folder in dict.fromkeys(folders):
        for above in ("", "*/", "*/*/"):  # what is higher up counts
            patterns = [f"{above}{name}" for name in NAMES_FILES]
            files = list(dict.fromkeys(f for p in patterns for f in sorted(folder.glob(p))))
            found = {file: _names_of(file) for file in files}
            for file, names in found.items():
                if names != found[files[0]]:
                    raise ValueError(
                        f"{file}: expected the names of {files[0]}, {', '.join(found[files[0]])}, "
                        f"got {', '.join(names)}"
                    )
            if files:
                return found[files[0]]
    return ()


def _names_of(file: Path) -> tuple[str, ...]:
    """The class names in a text file, one on each line."""
    names = tuple(filter(None, map(str.strip, read_utf8(file).splitlines())))
    if len(set(names)) < len(names):
        raise ValueError(f"{file}: expected different names, got {', '.join(names)}")
    return names


def moved(path: str, root: Path, least: int = 1) -> Path | None:
    """A file below `root` by its path there, in a folder above it, or on another machine.

    `path` is as named, "data/images/a.jpg" or "/home/a/data/images/a.jpg"; at least its `least`
    last parts count.
    """
    parts = Path(path.replace("\\", "/")).parts
    candidates = (root.joinpath(*parts[start:]) for start in range(len(parts) - least + 1))
    return next((each for each in candidates if each.is_file()), None)
