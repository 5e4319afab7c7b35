"""COCO: a folder of images, and one JSON file with the annotations of all of them.

Source: https://cocodataset.org/#format-data. Where they are: `coco_places`. What the records must
look like: `coco_records`.
"""

import gc
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fcos_tf.data.annotations import (
    COORDINATE_DECIMALS,
    OVERHANG,
    Annotations,
    Fault,
    ReadResult,
    check_annotations,
)
from fcos_tf.data.formats import coco_places, coco_records
from fcos_tf.data.formats.records import STORED, Frame, fit_to_images
from fcos_tf.data.images import stored_size
from fcos_tf.image_files import read_text

KEYS = ("images", "annotations", "categories")


def read_coco(
    split: str,
    *,
    data_dir: str | os.PathLike | None = None,
    annotations: str | os.PathLike | None = None,
    images: str | os.PathLike | None = None,
    class_names: Sequence[str] | None = None,
    limit: int | None = None,
    val_fraction: float = 0.2,
    frame: Frame = STORED,
) -> ReadResult:
    """Reads one split of a COCO data set; the images themselves are not opened.

    Labels follow the ascending category ids, as in pycocotools. Crowds are kept and marked
    `ignored`. `numbers` are the annotations' ids, else their places in the list, from 0.
    Segmentations and unknown keys do not matter.

    Images without annotations stay. An image is dropped with its annotations if its file is
    missing or another image has its id or file. `file_name` is relative to the images folder; where
    there is no such file, see `CocoFiles.find` ("train2017/1.jpg" in the folder train2017).

    Args:
        split: For example "val2017"; only used to find files in `data_dir`.
        data_dir: The folder that holds annotations and images; not needed if both are given.
        annotations: The JSON file; "{split}" in it stands for the split.
        images: The folder of the images; likewise.
        class_names: Some of the classes, in any order. Objects of others are left out and counted.
        limit: Read only the first `limit` images.
        val_fraction: Where one JSON file has the images of all splits, see `splits.choose`.
        frame: What to do where boxes are not in stored pixels.

    Raises:
        FileNotFoundError: No annotation file or no images folder; names all places tried.
        ValueError: Not a COCO ground truth; no usable image or category; a category id with two
            names; none of `class_names` among the categories.
    """
    file, folder, has_split = coco_places.find(split, data_dir, annotations, images)
    content, notes, list_faults = _load(file), (), []
    if not has_split:
        root = Path(data_dir or folder)
        content, notes, list_faults = coco_places.part_of(content, split, root, val_fraction)
    content["categories"], left_out = coco_places.without_set_name(content, class_names, file)
    names, category_faults = coco_records.read_categories(content["categories"], str(file))
    names, chosen, absent = _choose(names, class_names, file)
    listed = coco_records.read_images(content, str(folder), limit)
    objects = coco_records.read_objects(content["annotations"], listed, names, chosen)
    _refuse_fractions(objects.columns["boxes"], file)
    ids, numbered = listed.ids.copy(), []
    if count := (ids[listed.used] < 0).sum():  # everywhere else these stand for no image
        free = max(ids.max(), 0) + 1
        ids[listed.used & (ids < 0)] = free + np.arange(count)
        numbered = [Fault(str(file), "", f"has {count} image ids below 0, now {free} and up", True)]
    faults = [
        *list_faults,
        *category_faults,
        *absent,
        *numbered,
        *coco_records.faults(listed.problems, content["images"], "image", str(file)),
        *coco_records.faults(objects.problems, content["annotations"], "annotation", str(file)),
    ]
    read = Annotations(
        files=listed.files,
        image_ids=ids,
        sizes=listed.sizes,
        **objects.columns,
        class_names=tuple(names[category] for category in chosen),
        category_ids=chosen,
        notes=(*notes, *left_out),
    ).images(listed.used)
    read, size_faults = _correct_sizes(read, frame)
    faults += size_faults
    if not read.num_images:
        fault = min(faults, key=lambda fault: fault.kept)
        raise ValueError(f"{file}: none of its images can be used; the first fault: {fault}")
    clean, box_faults = check_annotations(read, str(file), "annotation")
    return ReadResult(clean, faults + box_faults, objects.other_classes)


def write_coco(
    annotations: Annotations, json_file: str | os.PathLike, file_names: Sequence[str]
) -> None:
    """Writes annotations as a COCO JSON; the images are not copied.

    `read_coco` gives the same annotations back; with their `class_names` if `category_ids` do not
    ascend. `numbers` become ids if they are positive and all different; otherwise ids count from
    1. Areas that are NaN are written as those of the boxes: COCO's own tools need a number.

    Args:
        annotations: Of n images.
        json_file: The output file; its folder is created.
        file_names: n different names, relative to the folder of the images.
    """
    image_records = _records(id=annotations.image_ids.tolist(), file_name=file_names)
    for record, (height, width) in zip(image_records, annotations.sizes.tolist(), strict=True):
        if height and width:
            record.update(height=height, width=width)
    x1, y1, x2, y2 = annotations.boxes.T
    numbers, count = annotations.numbers, len(annotations.numbers)
    # pycocotools takes a match with the annotation of id 0 for none.
    if len(np.unique(numbers)) < count or (numbers <= 0).any():
        numbers = np.arange(1, count + 1)
    content = {
        "images": image_records,
        "annotations": _records(
            id=numbers.tolist(),
            image_id=annotations.image_ids[annotations.owners].tolist(),
            category_id=np.array(annotations.category_ids, int)[annotations.labels].tolist(),
            bbox=np.stack([x1, y1, x2 - x1, y2 - y1], 1).round(COORDINATE_DECIMALS).tolist(),
            area=annotations.known_areas().tolist(),
            iscrowd=annotations.ignored.astype(int).tolist(),
        ),
        "categories": _records(
            id=list(map(int, annotations.category_ids)), name=annotations.class_names
        ),
    }
    Path(json_file).parent.mkdir(parents=True, exist_ok=True)
    Path(json_file).write_text(json.dumps(content, allow_nan=False), "utf-8")


def _records(**columns: Sequence) -> list[dict[str, Any]]:
    rows = zip(*columns.values(), strict=True)
    return [dict(zip(columns, row, strict=True)) for row in rows]


def _load(file: Path) -> dict[str, list[dict]]:
    """The three lists, without segmentations, which are most of the file.

    An entry that is no record becomes an empty one, which has no id.
    """

    def drop_segmentation(record: dict) -> dict:
        record.pop("segmentation", None)
        return record

    # The search for cycles among millions of new lists would take as long as reading them.
    collecting = gc.isenabled()
    gc.disable()
    try:
        content = json.loads(read_text(file), object_hook=drop_segmentation)
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8 text: {error}") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is not JSON, or only a part of it: {error}") from None
    finally:
        if collecting:
            gc.enable()
    wanted = f"expected a ground truth, a dict with the lists {', '.join(KEYS)}"
    if not isinstance(content, dict):
        first = content[0] if isinstance(content, list) and content else None
        results = isinstance(first, dict) and "score" in first
        what = "results (detections)" if results else f"a {type(content).__name__}"
        raise ValueError(f"{file} holds {what}; {wanted}")
    for key in KEYS:
        if not isinstance(content.get(key), list):
            got = f"a {type(content[key]).__name__}" if key in content else "nothing"
            raise ValueError(f"{file} has {got} under {key!r}; {wanted}")
        if not content[key] and key != "annotations":
            raise ValueError(f"{file}: the list {key!r} is empty")
    return {
        key: [record if isinstance(record, dict) else {} for record in content[key]] for key in KEYS
    }


def _refuse_fractions(boxes: np.ndarray, file: Path) -> None:
    largest = boxes.max(initial=0)
    if largest <= 1 and ((boxes > 0) & (boxes < 1)).any():
        raise ValueError(f"{file}: expected bbox in pixels, got no corner above {largest:g}")


def _correct_sizes(read: Annotations, frame: Frame) -> tuple[Annotations, list[Fault]]:
    """Compares images with their annotated sizes where boxes contradict these.

    Opening all images would take minutes. Unless boxes shall be scaled, only those are opened here
    that have boxes reaching over them by more than `OVERHANG`; all others are compared when they
    are decoded.
    """
    limits = np.tile(read.sizes[read.owners][:, ::-1], 2) + OVERHANG
    with np.errstate(invalid="ignore"):
        over = ((read.boxes > limits) & (limits > OVERHANG)).any(axis=1)
    stored = np.zeros_like(read.sizes)
    for index in range(read.num_images) if frame.scale_boxes else np.unique(read.owners[over]):
        stored[index] = stored_size(read.files[index], frame.apply_exif) or (0, 0)
    return fit_to_images(read, stored, frame, read.files, "")


def _choose(
    names: dict[int, str], class_names: Sequence[str] | None, file: Path
) -> tuple[dict[int, str], tuple[int, ...], list[Fault]]:
    """The categories, the id of each label, and faults for absent classes.

    Many files list only the categories that they use: a class of another split gets a free id.
    """
    id_of = {name: category for category, name in names.items()}
    unknown = [name for name in class_names or () if name not in id_of]
    if class_names and len(unknown) == len(class_names):
        raise ValueError(
            f"{file}: classes: expected some of {', '.join(id_of)}, got {', '.join(class_names)}"
        )
    free = max(names) + 1
    id_of |= {name: free + i for i, name in enumerate(unknown)}
    faults = [Fault(str(file), "", f"has no category {name!r}", kept=True) for name in unknown]
    chosen = tuple(id_of[name] for name in class_names or id_of)
    return {category: name for name, category in id_of.items()}, chosen, faults
