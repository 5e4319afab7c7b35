"""What formats of one's own data have in common: from a list of images to a split of them."""

import contextlib
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from fcos_tf.data.annotations import Fault, ReadResult
from fcos_tf.data.formats import splits
from fcos_tf.data.formats.records import Frame, ImageRecord, names_in, read_result
from fcos_tf.image_files import ImageIndex, files_below, stem_of


class Listing(NamedTuple):
    """All images of a data set, not read yet.

    Attributes:
        root: The data set; a text of several trees only where `split` is given.
        names: Of n images, relative to their folder, sorted; those of VOC as its lists have them.
        read: The place of a name -> the record of that image.
        find_class_names: -> the classes of the data set.
        item: What an object is called in messages.
        faults: What is wrong apart from single images.
        notes: What a run says of the data.
        split: The split that the names are already; None: all.
        single_label: See `Annotations`.
        places: The paths whose folders name splits, see `list_annotation_files`; None: the names.
    """

    root: Path | str
    names: Sequence[str]
    read: Callable[[int], ImageRecord]
    find_class_names: Callable[[], Sequence[str]]
    item: str = "object"
    faults: Sequence[Fault] = ()
    notes: tuple[str, ...] = ()
    split: str | None = None
    single_label: bool = False
    places: Sequence[str] | None = None


def read_listing(
    listing: Listing,
    split: str,
    *,
    class_names: Sequence[str] | None,
    limit: int | None,
    val_fraction: float,
    include_difficult: bool,
    frame: Frame,
) -> ReadResult:
    """Reads a split of a listing.

    Image ids are the digits of the names, or positions, see `image_ids_of`.

    Args: see `fcos_tf.data.load`, whose `apply_exif` and `scale_boxes` make the `frame`.

    Raises:
        FileNotFoundError, ValueError: No such split, or no image of it is left.
    """
    if not listing.names:
        raise FileNotFoundError(f"no image with annotations in {listing.root}")
    if listing.split is None:
        places = listing.places
        chosen = splits.choose(listing.names, split, listing.root, val_fraction, places=places)
    else:
        chosen = splits.Chosen(list(range(len(listing.names))))
    names = [listing.names[index] for index in chosen.indices]
    ids = image_ids_of([stem_of(name) for name in names])
    wanted = tuple(listing.find_class_names() if class_names is None else class_names)
    records = [listing.read(index) for index in chosen.indices[:limit]]
    where = f"split {split!r} of {listing.root}"
    found = read_result(
        records, ids[:limit], wanted,
        where=where, item=listing.item, include_difficult=include_difficult, frame=frame,
    )  # fmt: skip
    faults = [*listing.faults, *chosen.faults, *found.faults]
    is_asked = class_names is not None or listing.single_label  # the folders ask for theirs
    if is_asked and len(records) == len(names):
        used = (record for record in records if record.file)
        seen = {each.name for record in used for each in record.objects.values()}
        what = f"was asked for, but no object of split {split!r} has it"
        absent = [f"class {name!r}" for name in wanted if name not in seen]
        faults += [Fault(str(listing.root), item, what, kept=True) for item in absent]
    annotations = replace(
        found.annotations,
        notes=listing.notes + chosen.notes + found.annotations.notes,
        single_label=listing.single_label,
    )
    return ReadResult(annotations, faults, found.other_classes)


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


def list_annotation_files(
    dataset: str,
    suffix: str,
    item: str,
    read: Callable[[Path, str, ImageIndex], ImageRecord],
    *,
    data_dir: str | os.PathLike | None = None,
    annotations: str | os.PathLike | None = None,
    images: str | os.PathLike | None = None,
) -> Listing:
    """Lists images that have an annotation file each, subfolders included.

    The image of an annotation file has the same path but for folders such as Annotations and
    JPEGImages; else it is the one that the file names, see `ImageIndex.find`. Images without such
    a file are left out: nobody knows what is in them.

    Args:
        dataset: The format, for messages.
        suffix: Of the annotation files.
        item: See `Listing`.
        read: An annotation file, its path in its folder without suffix, the images -> its record.
        data_dir: The folder with both.
        annotations: The folder of the annotation files, instead of `data_dir`.
        images: The folder of the images, instead of `data_dir`.

    Raises:
        ValueError: Neither `data_dir` nor both others are given; or two files have one name but for
            the case of their endings.
        FileNotFoundError: A folder is missing, or has no such files.
    """
    if not data_dir and not (annotations and images):
        raise ValueError(f"dataset {dataset} needs data_dir, or both annotations and images")
    folder = Path(annotations or data_dir)
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}")
    index = ImageIndex(images or data_dir)
    files: dict[str, Path] = {}
    for file in files_below(folder, suffix):
        name = os.path.splitext(file)[0]
        if name in files:
            raise ValueError(f"{folder / file}: expected one file of its name, got {files[name]}")
        files[name] = folder / file
    if not files:
        raise FileNotFoundError(f"no {suffix[1:].upper()} files in {folder}")
    records = {name: read(file, name, index) for name, file in files.items()}
    places = []
    for name, record in records.items():
        place = os.path.relpath(record.file, index.root).replace(os.sep, "/") if record.file else ""
        with contextlib.suppress(ValueError):  # of a file that cannot be used the image of its name
            place = place or index.find(name)
        places.append(place or name)

    def find_class_names() -> Sequence[str]:
        found = {name for record in records.values() for name in names_in(record)}
        if not found:
            faults = (
                fault
                for record in records.values()
                for fault in (*record.faults, *(each for _, each in record.unread))
            )
            reason = next((f"; the first fault: {fault}" for fault in faults), "")
            raise ValueError(f"no {item} in any annotation of {folder}{reason}")
        return sorted(found)

    return Listing(
        root=Path(data_dir or images),
        names=[*records],
        read=[*records.values()].__getitem__,
        find_class_names=find_class_names,
        item=item,
        notes=(*index.notes, *left_out(index, places)),
        places=places,
    )


def left_out(index: ImageIndex, used: Iterable[str]) -> tuple[str, ...]:
    """A note on the images that no annotation names, if any."""
    lost = sorted({*index.names} - {*used})
    what = f"{index.root}: {len(lost)} images without annotations are left out, first"
    return (f"{what} {lost[0]}",) if lost else ()
