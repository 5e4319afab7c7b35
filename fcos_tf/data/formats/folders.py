"""Folders of images by class, as torchvision's ImageFolder and Keras' image_dataset_from_directory.

    train/cat/1.jpg   val/cat/2.jpg   or cat/1.jpg, where a hash or lists make the splits
    train/dog/3.jpg   val/dog/4.jpg      dog/3.jpg

The class of an image is a box around the whole of it, which crops and flips keep.
"""

import os
from collections import Counter
from collections.abc import Sequence

from fcos_tf.data.annotations import Fault
from fcos_tf.data.formats.listing import Listing
from fcos_tf.data.formats.records import ImageRecord, ObjectRecord
from fcos_tf.data.formats.splits import LISTS, folder_split
from fcos_tf.image_files import ImageIndex

_WHOLE = (0.0, 0.0, 1.0, 1.0)


def list_folders(*, data_dir: str | os.PathLike | None = None) -> Listing:
    """Lists images in folders named after their classes, with any folders below.

    Args:
        data_dir: The folder of the classes, or of the splits with the classes in each.

    Returns:
        The listing, the first image of each class before the second. Class folders without
        images, and images outside of class folders, are faults.

    Raises:
        FileNotFoundError: No such folder.
        ValueError: Fewer than two classes, or one folder of a split beside those of classes.
    """
    if not data_dir:
        raise ValueError("dataset folders needs data_dir, the folder with one for each class")
    index = ImageIndex(data_dir)
    _refuse_doubt(index.names, data_dir)
    places = class_folders(index.names)
    found = sorted({name for _, name in places.values()})
    if len(found) < 2:
        raise ValueError(
            f"{data_dir}: expected images in folders of two classes or more, below train/ and val/ "
            f"if there are splits, got {', '.join(found) or 'none'}"
        )
    what = "lies outside the folders of the classes"
    faults = [Fault(index.path(name), "", what) for name in index.names if name not in places]
    above = {index.root / folder for folder, _ in places.values()}
    there = {each.name for path in above for each in path.iterdir() if each.is_dir()}
    empty = sorted(name for name in there - {*found, LISTS} if not name.startswith("."))
    faults += [Fault(str(data_dir), f"folder {name!r}", "has no images") for name in empty]
    seen = Counter()

    def turn(name: str) -> int:
        seen[places[name]] += 1
        return seen[places[name]]

    listed = sorted(places, key=turn)

    def read(place: int) -> ImageRecord:
        name = listed[place]
        file, label = index.path(name), ObjectRecord(places[name][1], False, _WHOLE)
        return ImageRecord(file, file, objects={1: label}, in_fractions=True)

    return Listing(
        root=index.root,
        names=listed,
        read=read,
        find_class_names=lambda: found,
        faults=faults,
        notes=index.notes,
        single_label=True,
    )


def _refuse_doubt(names: Sequence[str], data_dir: str | os.PathLike) -> None:
    """Refuses one folder named as a split among others with images: it may be a class, too."""
    splits = {folder for name in names if (folder := "/".join(_split_of(name.split("/")[:-1])))}
    if len(splits) != 1:
        return
    (split,) = splits
    above = split.split("/")[:-1]
    folders = {tuple(name.split("/")[:-1][: len(above) + 1]) for name in names}
    beside = sorted(
        each[-1] for each in folders if len(each) > len(above) and each[:-1] == (*above,)
    )
    beside.remove(split.split("/")[-1])
    if beside:
        raise ValueError(
            f"{data_dir}: {split} is named as a split, and {', '.join(beside[:3])} beside it has "
            "images, too; expected the folders of the splits with the classes in each, or the "
            "folders of the classes with none named as a split: rename or move one"
        )


def _split_of(folders: Sequence[str]) -> Sequence[str]:
    """The first folder named as a split, after those above it; none: empty."""
    named = (i + 1 for i, folder in enumerate(folders) if folder_split(f"{folder}/image"))
    return folders[: next(named, 0)]


def class_folders(names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """The class of each image that has one.

    Args:
        names: Paths of images, relative with `/`.

    Returns:
        Name -> the folder above that of its class, and its class. Where there are folders of
        splits, only of images below these.
    """
    places = {}
    for name in names:
        folders = name.split("/")[:-1]
        depth = len(_split_of(folders))
        places[name] = "/".join(folders[:depth]), "".join(folders[depth : depth + 1])
    has_splits = any(above and of_class for above, of_class in places.values())
    return {name: (above, of) for name, (above, of) in places.items()
            if of and (above or not has_splits)}  # fmt: skip
