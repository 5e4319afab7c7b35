"""Where the JSON file and the images of a COCO split are, and the split of one file for all.

    data_dir/annotations/instances_SPLIT.json, or SPLIT.json    images: SPLIT, images/SPLIT, images
    data_dir/SPLIT/_annotations.coco.json                       Roboflow: images beside it
    data_dir/NAME.json, or annotations/NAME.json                one file for all splits
    data_dir/labels.json                                        likewise, FiftyOne: images in data

A SPLIT is train2017, val2017, train, ...
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fcos_tf.data.annotations import MAX_LISTED, Fault
from fcos_tf.data.formats import splits
from fcos_tf.data.formats.recognise import kind_of_json

ROBOFLOW = "_annotations.coco.json"
FIFTYONE = "labels.json"
_ONE_FOR_ALL = ("train", "val", splits.EVERYTHING)


def find(split: str, data_dir, annotations, images) -> tuple[Path, Path, bool]:
    """Finds the JSON file and the folder of images.

    Args, Raises: see `coco.read_coco`.

    Returns:
        Both, and whether the file is that of the split alone.
    """
    file, has_split = _find_json(split, data_dir, annotations)
    if images:
        folders = [Path(str(images).replace("{split}", split))]
    elif file.name == ROBOFLOW and not annotations:
        folders = [file.parent]
    else:
        root = _data_dir(data_dir, images)
        by_file = not has_split or (annotations and _is_of_split(file))
        word = _word(file) if by_file else split
        folders = [root / word, root / "images" / word, root / "images"]
        folders += [root / other for other in splits.words_for(word)]
        if not has_split:
            folders += [root / "data"] * (file.name == FIFTYONE) + [root]
    for folder in folders:
        if folder.is_dir():
            return file, folder, has_split
    raise FileNotFoundError(f"no images folder {' or '.join(map(str, folders[:3]))}")


def part_of(
    content: Mapping[str, Sequence[dict]], split: str, root: Path, val_fraction: float
) -> tuple[dict[str, Any], tuple[str, ...], Sequence[Fault]]:
    """The records of a split of one file for all.

    Images that share their id with another stay in every split, where they are a fault.

    Args: `content` has the lists of the file; see `splits.choose` for the others.

    Returns:
        The lists, how they were chosen, and faults of a list of the split.
    """
    names = [record.get("file_name") for record in content["images"]]
    names = [name if isinstance(name, str) and name else "?" for name in names]
    chosen = splits.choose(names, split, root, val_fraction)
    count = Counter(map(_id, content["images"]))
    wanted = set(chosen.indices) | {
        place for place, record in enumerate(content["images"]) if count[_id(record)] > 1
    }
    others = {_id(r) for place, r in enumerate(content["images"]) if place not in wanted}
    kept = [record for place, record in enumerate(content["images"]) if place in wanted]
    objects = [r for r in content["annotations"] if _id(r, "image_id") not in others]
    return {**content, "images": kept, "annotations": objects}, chosen.notes, chosen.faults


def without_set_name(
    content: Mapping[str, Sequence[dict]], class_names: Sequence[str] | None, file: Path
) -> tuple[Sequence[dict], tuple[str, ...]]:
    """The categories without the one that only names the set, as Roboflow writes it, and a note.

    It has id 0 and supercategory none, is the supercategory of others, and has no annotation.
    """
    categories = content["categories"]
    above = {str(record.get("supercategory")).strip() for record in categories}
    for record in categories:
        name = str(record.get("name")).strip()
        if record.get("id") != 0 or record.get("supercategory") != "none":
            continue
        others = {str(o.get("name")).strip() for o in categories if o is not record}
        asked = name in {*(class_names or ())} - others
        if name not in above or asked or any(_id(a, "category_id") == 0
                                             for a in content["annotations"]):  # fmt: skip
            continue
        note = f"{file}: category 0 {name!r} only names the set and is left out; --classes keeps it"
        return [other for other in categories if other is not record], (note,)
    return categories, ()


def _find_json(split: str, data_dir, annotations) -> tuple[Path, bool]:
    folder = _data_dir(data_dir, annotations)
    if annotations:
        file = Path(str(annotations).replace("{split}", split))
        tried = [file]
        one_for_all = {*split.split("+")} <= {*_ONE_FOR_ALL} and "{split}" not in str(annotations)
        if file.is_file():
            return file, not one_for_all or _is_of_split(file)
    else:
        files = [
            inside / name
            for word in splits.words_for(split)
            for inside in (folder / "annotations", folder)
            for name in (f"instances_{word}.json", f"{word}.json")
        ] + [folder / word / ROBOFLOW for word in splits.words_for(split)]
        for file in files:
            if file.is_file():
                return file, True
        tried = [*files[:2], folder / split / ROBOFLOW]
        alone = [*folder.glob("annotations/*.json"), *folder.glob("*.json")]
        if len(alone) > 1:
            alone = [each for each in alone if each.is_file() and kind_of_json(each) == "coco"]
        if len(alone) == 1 and not _is_of_split(alone[0]):
            return alone[0], False
    above = tried[0].parent if annotations else folder
    patterns = ("*.json", "annotations/*.json", f"*/{ROBOFLOW}")
    there = [str(path.relative_to(above)) for each in patterns for path in sorted(above.glob(each))]
    if len(there) > MAX_LISTED:
        there[MAX_LISTED:] = [f"... {len(there) - MAX_LISTED} more"]
    raise FileNotFoundError(
        f"no annotation file {' or '.join(map(str, tried))}; JSON files in {above}: "
        f"{', '.join(there) or 'none'}{'' if annotations else '; --annotations names another'}"
    )


def _data_dir(data_dir, instead) -> Path:
    if not data_dir and not instead:
        raise ValueError("coco needs data_dir, or both an annotation file and an images folder")
    return Path(data_dir or "")


def _word(file: Path) -> str:
    return file.stem.removeprefix("instances_")


def _is_of_split(file: Path) -> bool:
    """Whether a name is that of one split, such as instances_val2017.json."""
    word = re.sub(r"\d+$", "", _word(file).lower())
    return any(word in splits.words_for(split) for split in ("train", "val", "test"))


def _id(record: Mapping[str, Any], key: str = "id") -> Any:
    """An id that can be compared and counted; 3 and 3.0 are the same."""
    value = record.get(key)
    return value if isinstance(value, int | float) else repr(value)
