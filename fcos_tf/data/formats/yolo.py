"""YOLO: a text file of boxes for each image, as Ultralytics, darknet, CVAT and Roboflow have it.

    data.yaml                  path, train, val, names
    images/train/a.jpg         or train/images/a.jpg
    labels/train/a.txt         or train/labels/a.txt, or a.txt beside a.jpg

A line is `class cx cy w h`, fractions of the sides of the image, or `class x1 y1 x2 y2 x3 y3 ...`,
a polygon, of which the box around it is taken. With `kpt_shape: [K, D]` in data.yaml it is
`class cx cy w h` and K * D numbers of keypoints, which are not used. An image without label file
has no objects.

Source: https://docs.ultralytics.com/datasets/detect/. Where files are: `yolo_places`.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from fcos_tf.data.annotations import Fault
from fcos_tf.data.formats.listing import Listing
from fcos_tf.data.formats.records import ImageRecord, ObjectRecord
from fcos_tf.data.formats.yolo_config import (
    SPLITS,
    find_config,
    keypoints_in,
    names_beside,
    names_in,
    read_config,
)
from fcos_tf.data.formats.yolo_places import images_of_split, labels_of, orphans, root_of
from fcos_tf.image_files import ImageIndex, read_text

# Beyond 0 and 1: rounded numbers and polygons that overhang a little; the boxes are cut.
TOLERANCE = 0.01


def list_yolo(
    split: str,
    *,
    data_dir: str | os.PathLike | None = None,
    annotations: str | os.PathLike | None = None,
    images: str | os.PathLike | None = None,
    class_names: Sequence[str] | None = None,
) -> Listing:
    """Lists the images of a YOLO data set, of one split where data.yaml has splits.

    Args:
        split: A key of data.yaml ("train", "val", "test"); without one see `splits.choose`.
        data_dir: The folder with data.yaml, or with images and labels.
        annotations: The file data.yaml, or the folder of the labels, instead of those there.
        images: The folder of the images, instead of that in `data_dir`.
        class_names: Names of class 0, 1, ... where neither data.yaml nor classes.txt has them.

    Returns:
        The listing; objects are numbered by their lines, from 1.

    Raises:
        FileNotFoundError: A folder or file is missing, or no image has a label file.
        ValueError: A data.yaml that cannot be used, or no names of classes.
    """
    if not data_dir and not annotations:
        raise ValueError("dataset yolo needs data_dir, or annotations, the file data.yaml")
    labels = Path(annotations) if annotations and Path(annotations).is_dir() else None
    places = [Path(path) for path in (annotations, data_dir) if path]
    config = next(filter(None, map(find_config, places)), None)
    content = read_config(config) if config else {}
    names = names_in(content, config) if config else ()
    keypoints = keypoints_in(content, config)
    root, notes = root_of(content, config, data_dir, annotations, images)
    faults: list[Fault] = []
    has_splits = any(content.get(key) for key in SPLITS) and not images and not labels
    if has_splits:
        image_of = images_of_split(content, split, root, config, faults)
    else:
        index = ImageIndex(images or root)
        image_of = {name: index.path(name) for name in index.names}
    names = names or names_beside([root, *map(Path, filter(None, (annotations, images)))])
    label_of = labels_of(root, image_of, labels)
    faults += orphans(root, image_of, label_of, labels, of_split=has_splits)
    names = names or tuple(class_names or ())
    if not names:
        raise ValueError(
            f"{root}: expected the names of the classes in data.yaml, classes.txt or "
            "obj.names, or --classes, got none"
        )

    listed = sorted(image_of)

    def read(index: int) -> ImageRecord:
        image, label = image_of[listed[index]], label_of[listed[index]]
        if label is None:
            return ImageRecord(image, image, in_fractions=True)
        try:
            lines = read_text(label).splitlines()
        except (OSError, UnicodeDecodeError) as error:
            what = f"cannot be read, so its image is left out: {error}"
            return ImageRecord(label, faults=[Fault(label, "", what)])
        objects, faults = _read_lines(lines, label, names, keypoints)
        return ImageRecord(label, image, None, objects, faults, in_fractions=True)

    return Listing(
        root=root,
        names=listed,
        read=read,
        find_class_names=lambda: names,
        item="line",
        faults=faults,
        notes=notes,
        split=split if has_splits else None,
    )


def _read_lines(
    lines: Sequence[str], file: str, class_names: Sequence[str], keypoints: int
) -> tuple[dict[int, ObjectRecord], list[Fault]]:
    """The objects of a label file by line, in fractions of the image, and what is wrong."""
    objects, faults, seen = {}, [], {}
    for number, line in enumerate(lines, start=1):
        fields = tuple(line.split())
        if not fields:
            continue
        try:
            if fields in seen:
                raise ValueError(f"repeats line {seen[fields]}")
            objects[number] = _read_line(fields, class_names, keypoints)
            seen[fields] = number
        except ValueError as error:
            faults.append(Fault(file, f"line {number}", str(error)))
    return objects, faults


def _read_line(fields: Sequence[str], class_names: Sequence[str], keypoints: int) -> ObjectRecord:
    """Reads a line; ValueError says what is wrong."""
    try:
        label, *values = map(float, fields)
    except ValueError:
        raise ValueError(f"expected numbers, got {' '.join(fields)!r:.80}") from None
    if label not in range(len(class_names)):
        raise ValueError(f"has class {label:g}, expected 0 to {len(class_names) - 1}")
    if keypoints:
        if len(values) != 4 + keypoints:
            what = f"expected {5 + keypoints}, a box and the keypoints of kpt_shape"
            raise ValueError(f"has {len(fields)} numbers, {what}")
        values = values[:4]
    if len(values) != 4 and (len(values) < 6 or len(values) % 2):
        raise ValueError(f"has {len(fields)} numbers, expected 5, or a class and 3 points or more")
    outside = [value for value in values if not -TOLERANCE <= value <= 1 + TOLERANCE]
    if outside:
        raise ValueError(f"has {outside[0]:g}, expected fractions of the image from 0 to 1")
    if len(values) == 4:
        x, y, width, height = values
        box = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    else:
        xs, ys = values[::2], values[1::2]
        box = (min(xs), min(ys), max(xs), max(ys))
    return ObjectRecord(class_names[int(label)], False, box)
