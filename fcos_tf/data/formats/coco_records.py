"""The records of a COCO JSON as columns, and the problems of single ones.

R images, T annotations and the categories are lists of dicts:

    image       id, file_name; height and width, if they are known
    annotation  image_id, category_id, bbox; id, area and iscrowd, if there are such
    category    id, name

A bbox is [x, y, width, height] with x and y from the left and upper edge of the image: x2 = x +
width, without any +1. A record's place is counted from 0 in its list.
"""

import contextlib
import math
import struct
from collections import Counter
from itertools import compress
from reprlib import repr  # shortens what is long
from typing import Any, NamedTuple

import numpy as np

from fcos_tf.data.annotations import Fault
from fcos_tf.data.formats.coco_files import CocoFiles
from fcos_tf.data.formats.records import size_of

_NO_ID = -(2**63)  # stands for what cannot be an id
_FOUR_NUMBERS = struct.Struct("4d")


class Problem(NamedTuple):
    """What is wrong with the record at a place, and whether it is used all the same."""

    place: int
    what: str
    kept: bool = False


class Images(NamedTuple):
    """The list of images."""

    ids: np.ndarray  # int64 [R]
    owners: np.ndarray  # int64 [T], the image of each annotation; -1: none
    files: list[str]  # R paths, empty for images that are not used
    sizes: np.ndarray  # int32 [R, 2], (height, width), 0 where unknown
    used: np.ndarray  # bool [R]; false for those with faults, and those over the limit
    problems: list[Problem]


class Objects(NamedTuple):
    """The list of annotations."""

    columns: dict[str, np.ndarray]  # `Annotations`' columns of the used ones, owners ascending
    other_classes: dict[str, int]  # category that was not chosen -> number of its annotations
    problems: list[Problem]  # without those of boxes, see `check_annotations`


def read_categories(records: list[dict], file: str) -> tuple[dict[int, str], list[Fault]]:
    """Reads the list of categories of a file.

    Returns:
        Name of each category id, ids ascending, names all different; and the faults.

    Raises:
        ValueError: An id has two names, or there is no category with an id.
    """
    names, problems = {}, []
    for place, record in enumerate(records):
        category, name = _id(record.get("id")), record.get("name")
        if category == _NO_ID:
            problems.append(Problem(place, _wrong_id(record)))
            continue
        if not isinstance(name, str) or not name.strip():
            problems.append(Problem(place, f"has name {name!r}, expected a text", True))
            name = f"category {category}"
        name = name.strip()
        if names.setdefault(category, name) != name:
            raise ValueError(
                f"{file}: category {category} has two names, {names[category]!r} and {name!r}"
            )
    found = faults(problems, records, "category", file)
    if not names:
        raise ValueError(f"{file}: none of its categories can be used; the first: {found[0]}")
    names = dict(sorted(names.items()))
    for name, count in Counter(names.values()).items():
        if count > 1:
            same = [category for category in names if names[category] == name]
            names.update({category: f"{name} ({category})" for category in same})
            renamed = ", ".join(names[category] for category in same)
            what = f"has {count} categories called {name!r}, told apart as {renamed}"
            found.append(Fault(file, "", what, True))
    return names, found


def read_images(content: dict[str, list[dict]], folder: str, limit: int | None) -> Images:
    """Reads the first `limit` images, whose files are in `folder`."""
    records = content["images"]
    ids = _ids(records, "id")
    owners = _find_first(_ids(content["annotations"], "image_id"), ids)  # [T]
    per_image = np.bincount(owners[owners >= 0], minlength=len(ids))  # [R]
    first = _find_first(ids, ids)  # [R]
    repeats = _repeats(first)
    contested = {first[place] for place in repeats if records[place] != records[first[place]]}
    there = CocoFiles(folder, {n for r in records if isinstance(n := r.get("file_name"), str)})

    def lost(place: int) -> str:
        count = per_image[place]
        return f"; annotations lost with it: {count}" if count else ""

    files, used, problems = [""] * len(ids), np.zeros(len(ids), bool), []
    sizes = np.zeros([len(ids), 2], np.int32)
    for place, record in enumerate(records[:limit]):
        name, what = record.get("file_name"), ""
        if ids[place] == _NO_ID:
            what = _wrong_id(record)
        elif first[place] in contested:
            what = f"has an id that another image has too (this one: {name!r})"
        elif place in repeats:
            what = "is listed again"
        elif not isinstance(name, str):
            what = f"has file_name {name!r}, expected a path"
        else:
            try:
                files[place] = there.find(name)
            except ValueError as error:
                what = str(error)
        if what:
            problems.append(Problem(place, what + lost(place)))
            continue
        used[place] = True
        height, width = record.get("height"), record.get("width")
        if size := size_of(height, width):
            sizes[place] = size
        elif (height, width) != (None, None):
            what = f"has height {height!r} and width {width!r}, taken as unknown"
            problems.append(Problem(place, what, True))
    count = Counter(compress(files, used))
    for place in np.flatnonzero(used) if len(count) < used.sum() else ():
        if count[files[place]] > 1:
            used[place] = False
            what = f"has file {records[place]['file_name']}, which another image has too"
            problems.append(Problem(place, what + lost(place)))
    return Images(ids, owners, files, sizes, used, problems)


def read_objects(
    records: list[dict], images: Images, names: dict[int, str], chosen: tuple[int, ...]
) -> Objects:
    """Reads the annotations.

    Args:
        records: The list in the file.
        images: The images of the file.
        names: Name of each category id, ids ascending.
        chosen: The category id of each label.
    """
    problems, owners = [], images.owners
    categories = _find_first(_ids(records, "category_id"), np.array([*names]))  # [T]
    label_of = {category: label for label, category in enumerate(chosen)}
    labels = np.array([*(label_of.get(category, -1) for category in names), -1], np.int32)
    labels = labels[categories]  # [T]; -1: not chosen, or no category
    here = (owners >= 0) & images.used[owners]  # unused images speak for their annotations
    for key, unknown in (("image_id", owners < 0), ("category_id", here & (categories < 0))):
        for place in np.flatnonzero(unknown):
            what = f"has {key} {repr(records[place].get(key))}, which does not exist"
            problems.append(Problem(place, what))
    others = np.bincount(categories[here & (labels < 0) & (categories >= 0)], minlength=len(names))

    places = np.flatnonzero(here & (labels >= 0))
    found = [records[place] for place in places]
    ids = _ids(found, "id")
    packed = [_pack(record.get("bbox")) for record in found]
    areas = _areas([record.get("area") for record in found])
    crowds = [record.get("iscrowd") or 0 for record in found]
    kept = np.array([bbox is not None for bbox in packed], bool)
    for index in np.flatnonzero(~kept):
        what = f"has bbox {repr(found[index].get('bbox'))}, expected four numbers"
        problems.append(Problem(places[index], what))
    first = _find_first(ids, ids)
    for index in _repeats(first):
        if found[index] != found[first[index]]:
            what = "has an id that another annotation has too"
            problems.append(Problem(places[index], what, True))
        elif kept[index]:
            kept[index] = False
            problems.append(Problem(places[index], "is listed again"))
    odd_crowds = [crowd not in (0, 1, "0", "1") for crowd in crowds]
    for key, odd in (("id", ids == _NO_ID), ("area", np.isnan(areas)), ("iscrowd", odd_crowds)):
        for index in np.flatnonzero(odd):
            value = found[index].get(key)
            if value is not None:
                what = f"has {key} {repr(value)}, which is not used"
                problems.append(Problem(places[index], what, True))

    xywh = np.frombuffer(b"".join(bbox or bytes(_FOUR_NUMBERS.size) for bbox in packed))
    corners, sizes = np.split(xywh.reshape(-1, 4), 2, axis=1)  # [T', 2] each
    with np.errstate(invalid="ignore", over="ignore"):
        boxes = np.concatenate([corners, corners + sizes], axis=1)  # xyxy
    columns = {
        "owners": owners[places],
        "boxes": boxes,
        "labels": labels[places],
        "areas": areas,
        "ignored": np.array([crowd in (1, "1") for crowd in crowds], bool),
        "numbers": np.where(ids == _NO_ID, places, ids),
    }
    order = np.argsort(columns["owners"], kind="stable")
    order = order[kept[order]]
    return Objects(
        columns={name: column[order] for name, column in columns.items()},
        other_classes={name: int(n) for name, n in zip(names.values(), others, strict=True) if n},
        problems=problems,
    )


def faults(problems: list[Problem], records: list[dict], noun: str, file: str) -> list[Fault]:
    """The problems as faults, in the order of the file; items are the ids of the records."""
    found = []
    for place, what, kept in sorted(problems):
        number = _id(records[place].get("id"))
        item = f"{noun} at place {place}" if number == _NO_ID else f"{noun} {number}"
        found.append(Fault(file, item, what, kept))
    return found


def _wrong_id(record: dict) -> str:
    return f"has id {repr(record.get('id'))}, expected a whole number"


def _find_first(values: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """The first index in `ids` of each value; -1: absent, or no id."""
    order = np.argsort(ids, kind="stable")
    index = order[np.searchsorted(ids[order], values).clip(max=len(ids) - 1)]
    return np.where((ids[index] == values) & (values != _NO_ID), index, -1)


def _repeats(first: np.ndarray) -> set[int]:
    """Places of ids that came before, given where each came first."""
    return set(np.flatnonzero((first >= 0) & (first != np.arange(len(first)))).tolist())


def _ids(records: list[dict], key: str) -> np.ndarray:
    values = [record.get(key) for record in records]
    if set(map(type, values)) == {int}:  # as in most files, of millions of values
        with contextlib.suppress(OverflowError):
            return np.array(values, np.int64)
    return np.fromiter(map(_id, values), np.int64, len(values))


def _id(value: Any) -> int:
    """A whole number, or _NO_ID; JSON does not tell 3 from 3.0."""
    if type(value) is float and value.is_integer():
        value = int(value)
    return value if type(value) is int and -(2**63) < value < 2**63 else _NO_ID


def _areas(values: list) -> np.ndarray:
    """Areas in square pixels, NaN for what cannot be one."""
    if not set(map(type, values)) <= {int, float}:
        values = [value if type(value) in (int, float) else math.nan for value in values]
    try:
        areas = np.array(values, np.float64)
    except OverflowError:
        areas = np.array([value if abs(value) < 1e300 else math.nan for value in values])
    return np.where((areas >= 0) & (areas < 1e300), areas, math.nan)


def _pack(bbox: Any) -> bytes | None:
    """Four float64, which take a quarter of the memory of a list and its floats."""
    try:
        return _FOUR_NUMBERS.pack(*bbox)
    except (TypeError, OverflowError, struct.error):
        return None
