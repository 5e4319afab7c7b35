"""The splits of data that has no list of them: by folders, by lists of one's own, or by a hash."""

import hashlib
import os
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from fcos_tf.data.annotations import Annotations, Fault
from fcos_tf.image_files import plain_name, read_utf8, stem_of, unquoted

LISTS = "splits"  # folder of lists of one's own
EVERYTHING = "all"  # the split that has all images

_WORDS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
_SPLIT_OF = {word: split for split, words in _WORDS.items() for word in words}


class HashNote(str):
    """The note on a split that a hash made, with what `write_lists` writes.

    Attributes:
        root: The data set.
        names: Of the images of the split, as `choose` got them.
    """

    root: Path
    names: Sequence[str]


class Chosen(NamedTuple):
    """The images of a split.

    Attributes:
        indices: Their places in the list of names.
        notes: How the split was made.
        faults: Of the list of the split.
    """

    indices: list[int]
    notes: tuple[str, ...] = ()
    faults: Sequence[Fault] = ()


def words_for(split: str) -> tuple[str, ...]:
    """The names that folders and files of a split have: val, valid, validation."""
    return _WORDS.get(split, (split,))


def is_val(name: str, val_fraction: float) -> bool:
    """Whether the hash of an image's name puts it into the validation split.

    The first 64 bits of SHA-256 of the name (relative to the folder of the images, without suffix),
    as a fraction of 2^64, are below `val_fraction`. It depends on nothing else: the same on all
    hosts, and unchanged when other images are added.
    """
    text = unicodedata.normalize("NFC", stem_of(plain_name(name)))
    digest = hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") < val_fraction * 2**64


def choose(
    names: Sequence[str],
    split: str,
    root: Path,
    val_fraction: float,
    *,
    places: Sequence[str] | None = None,
) -> Chosen:
    """The images of a split: of a list in root/splits, of a folder train/, val/, or by a hash.

    Args:
        names: Of all images, relative to their folder.
        split: "train", "val", "all", the name of such a list or folder, or several with "+".
        root: The data set.
        val_fraction: Share of the images that the hash puts into "val"; the rest is "train".
        places: The paths whose folders name splits; None: the names.

    Raises:
        FileNotFoundError: The data set has splits, but not this one.
        ValueError: A split without images, one that a hash does not make, or a `val_fraction` out
            of range.
    """
    if not 0 < val_fraction < 1:
        raise ValueError(f"val_fraction: expected a number between 0 and 1, got {val_fraction}")
    places = names if places is None else places
    parts = [_choose(names, part, root, val_fraction, places) for part in split.split("+")]
    indices = sorted({index for part in parts for index in part.indices})
    notes = tuple(dict.fromkeys(note for part in parts for note in part.notes))
    faults = [fault for part in parts for fault in part.faults]
    if names and not indices:
        why = "; ".join([*notes, *(f"the first fault: {fault}" for fault in faults[:1])])
        raise ValueError(f"{root}: {split} has none of {len(names)} images; {why}")
    return Chosen(indices, notes, faults)


def _choose(
    names: Sequence[str], split: str, root: Path, val_fraction: float, places: Sequence[str]
) -> Chosen:
    if split == EVERYTHING:
        return Chosen(list(range(len(names))))
    lists = sorted((root / LISTS).glob("*.txt"))
    if lists:
        return _from_list(names, _one_of(split, {file.stem: file for file in lists}, root / LISTS))
    folders = [folder_split(name) for name in places]
    if any(folders):
        _one_of(split, dict.fromkeys(filter(None, folders)), root)
        wanted = _SPLIT_OF.get(split, split)
        rest = folders.count(None)
        notes = (f"{root}: {rest} images are in no folder of a split and left out",) if rest else ()
        return Chosen([i for i, folder in enumerate(folders) if folder == wanted], notes)
    if split not in ("train", "val"):
        raise ValueError(
            f"no split {split!r} in {root}, which has none of its own; expected train, val or "
            f"{EVERYTHING}"
        )
    in_val = [is_val(name, val_fraction) for name in names]
    note = HashNote(
        f"{root} has no splits of its own: val_fraction={val_fraction:g} by a hash of the file "
        f"names puts {sum(in_val)} of {len(names)} images into val; 'dataset.py --what=split' "
        "writes the lists"
    )
    indices = [i for i, val in enumerate(in_val) if val == (split == "val")]
    note.root, note.names = root, [names[index] for index in indices]
    return Chosen(indices, (note,))


def shared_images(first: Annotations, second: Annotations) -> list[str]:
    """The files of the images in the second split that are in the first as well, links followed."""

    def identity(annotations: Annotations, index: int) -> tuple:
        file, offset, _ = annotations.place_of(index)
        try:
            status = os.stat(file)
        except OSError:  # missing, or a URL
            return file, offset
        return status.st_dev, status.st_ino, offset

    seen = {identity(first, index) for index in range(first.num_images)}
    return [file for index, file in enumerate(second.files) if identity(second, index) in seen]


def write_lists(splits: Mapping[str, Annotations]) -> list[Path]:
    """Writes the splits that a hash made as lists, which are read instead of it from then on.

    splits/SPLIT.txt in the root of the data set, the place where `choose` looks, has the name of
    an image on each line, to be edited at will: that of its annotation file without suffix where
    it has one of its own, else of the image.

    Args:
        splits: Name of each split -> annotations, as read.

    Returns:
        The files.

    Raises:
        ValueError: The data set has splits of its own, or a name joins several splits by "+".
        FileExistsError: The lists are there.
    """
    texts = {}
    for split, annotations in splits.items():
        if "+" in split:
            raise ValueError(f"split: expected one, not several joined by '+'; got {split!r}")
        note = next((note for note in annotations.notes if isinstance(note, HashNote)), None)
        if note is None:
            raise ValueError(f"the data has a split {split} of its own; nothing to write")
        file = note.root / LISTS / f"{split}.txt"
        if file.exists():
            raise FileExistsError(f"{file} is there already; edit it, or remove it first")
        texts[file] = "".join(f"{_as_line(name)}\n" for name in dict.fromkeys(note.names))
    for file, text in texts.items():
        file.parent.mkdir(exist_ok=True)
        file.write_text(text, encoding="utf-8")
    return list(texts)


def folder_split(name: str) -> str | None:
    """The split that a folder in a path names: images/valid/a.jpg is in val."""
    folders = plain_name(name).lower().split("/")[:-1]
    return next((_SPLIT_OF[folder] for folder in folders if folder in _SPLIT_OF), None)


def _one_of(split: str, there: Mapping[str, object], where: Path):
    for word in (split, *words_for(split)):
        if word in there:
            return there[word]
    if _SPLIT_OF.get(split) in there:
        return there[_SPLIT_OF[split]]
    raise FileNotFoundError(f"no split {split!r} in {where}; there are: {', '.join(sorted(there))}")


def _as_line(name: str) -> str:
    """The line of a list for a name, in quotes where it reads as a comment or has outer blanks."""
    return f'"{name}"' if name.startswith("#") or name != name.strip() else name


def _from_list(names: Sequence[str], file: Path) -> Chosen:
    """The images that a list names, with or without suffix, in their own order."""
    exact: dict[str, list[int]] = {}  # goes before the other spellings
    places: dict[str, list[int]] = {}
    for index, name in enumerate(names):
        exact.setdefault(name, []).append(index)
        for key in {name, stem_of(name), plain_name(name), stem_of(plain_name(name))}:
            places.setdefault(key, []).append(index)
    places |= exact
    indices, faults = set(), []
    lines = read_utf8(file).splitlines()
    for number, line in enumerate(map(str.strip, lines), start=1):
        if not line or line.startswith("#"):
            continue
        found = places.get(line) or places.get(stem_of(plain_name(unquoted(line))))
        if not found:
            faults.append(Fault(str(file), f"line {number}", f"names {line!r}, which is no image"))
        elif indices.issuperset(found):
            faults.append(Fault(str(file), f"line {number}", f"names {line!r} once more"))
        else:
            indices.update(found)
    return Chosen(sorted(indices), (f"{len(indices)} images by the list {file}",), faults)
