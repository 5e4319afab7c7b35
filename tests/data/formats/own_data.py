"""Small images, and annotations in the forms that tools for labelling use; images are linked."""

import csv
import json
import os
from pathlib import Path

import numpy as np
from PIL import Image


def add(root, *images):
    """Adds images of 40x30 pixels."""
    for image in images:
        (root / image).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30)).save(root / image)
    return root


def names_of(annotations, root):
    return [os.path.relpath(file, root) for file in annotations.files]


def rows_of(annotations):
    """(file, (height, width), [(class, box)]) of each image."""
    for index, file in enumerate(annotations.files):
        mine = annotations.owners == index
        names = [annotations.class_names[label] for label in annotations.labels[mine]]
        objects = list(zip(names, annotations.boxes[mine].tolist(), strict=True))
        yield Path(file), tuple(annotations.sizes[index].tolist()), objects


def _link(file, folder):
    folder.mkdir(parents=True, exist_ok=True)
    os.symlink(file.resolve(), folder / file.name)


def write_xml(annotations, root):
    """Flat: images and XML with one-based corners side by side."""
    for file, (height, width), objects in rows_of(annotations):
        _link(file, root)
        text = "".join(
            f"<object><name>{name}</name><bndbox><xmin>{x1 + 1:g}</xmin><ymin>{y1 + 1:g}</ymin>"
            f"<xmax>{x2:g}</xmax><ymax>{y2:g}</ymax></bndbox></object>"
            for name, (x1, y1, x2, y2) in objects
        )
        size = f"<size><width>{width}</width><height>{height}</height></size>"
        xml = f"<annotation><filename>{file.name}</filename>{size}{text}</annotation>"
        (root / f"{file.stem}.xml").write_text(xml)


def write_yolo(annotations, root):
    """images/, labels/ and data.yaml without splits."""
    for file, (height, width), objects in rows_of(annotations):
        _link(file, root / "images")
        (root / "labels").mkdir(exist_ok=True)
        lines = []
        for name, (x1, y1, x2, y2) in objects:
            numbers = ((x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width,
                       (y2 - y1) / height)  # fmt: skip
            label = annotations.class_names.index(name)
            lines.append(f"{label} {' '.join(f'{number:.9f}' for number in numbers)}\n")
        (root / "labels" / f"{file.stem}.txt").write_text("".join(lines))
    (root / "data.yaml").write_text(f"names: {json.dumps(annotations.class_names)}\n")


def write_csv(annotations, root, header):
    """One table beside the folder photos."""
    lines = [["filename", "width", "height", "class", "xmin", "ymin", "xmax", "ymax"]]
    lines = lines if header else []
    for file, (height, width), objects in rows_of(annotations):
        _link(file, root / "photos")
        for name, box in objects or [("", [""] * 4)]:
            row = [file.name, width, height, name, *box] if header else [file.name, *box, name]
            lines.append(row)
    with open(root / "boxes.csv", "w", newline="") as table:
        csv.writer(table).writerows(lines)


def write_roboflow(annotations, root, split):
    """SPLIT/_annotations.coco.json beside the images, with the class 0 that names the set."""
    content = {"images": [], "annotations": []}
    for file, (height, width), objects in rows_of(annotations):
        _link(file, root / split)
        image_id = int(file.stem.rpartition("_")[2])
        record = {"id": image_id, "file_name": file.name, "height": height, "width": width}
        content["images"].append(record)
        for name, (x1, y1, x2, y2) in objects:
            content["annotations"].append({
                "id": len(content["annotations"]), "image_id": image_id, "iscrowd": 0,
                "category_id": annotations.class_names.index(name) + 1,
                "bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1),
            })  # fmt: skip
    content["categories"] = [{"id": 0, "name": "cells", "supercategory": "none"}] + [
        {"id": label + 1, "name": name, "supercategory": "cells"}
        for label, name in enumerate(annotations.class_names)
    ]
    (root / split / "_annotations.coco.json").write_text(json.dumps(content))


def write_labelme(annotations, root):
    """A JSON of rectangles and of polygons beside each image."""
    for file, (height, width), objects in rows_of(annotations):
        _link(file, root)
        shapes = []
        for number, (name, (x1, y1, x2, y2)) in enumerate(objects):
            points = [[x2, y1], [x1, y2]] if number % 2 else [[x1, y2], [(x1 + x2) / 2, y1],
                                                             [x2, (y1 + y2) / 2]]  # fmt: skip
            kind = "rectangle" if number % 2 else "polygon"
            shapes.append({"label": name, "shape_type": kind, "points": points})
        content = {"imagePath": file.name, "imageHeight": height, "imageWidth": width,
                   "shapes": shapes, "imageData": None}  # fmt: skip
        (root / f"{file.stem}.json").write_text(json.dumps(content))


FORMS = {
    "xml": write_xml,
    "yolo": write_yolo,
    "csv with header": lambda annotations, root: write_csv(annotations, root, True),
    "csv without header": lambda annotations, root: write_csv(annotations, root, False),
    "coco": lambda annotations, root: write_roboflow(annotations, root, "train"),
    "labelme": write_labelme,
}


def assert_same(found, expected):
    """The columns of two reads of the same images are the same, boxes to a thousandth."""
    assert [os.path.realpath(f) for f in found.files] == [
        os.path.realpath(f) for f in expected.files
    ]
    for name in ("image_ids", "sizes", "owners", "labels", "ignored"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), name)
    assert found.class_names == expected.class_names
    np.testing.assert_array_equal(found.boxes, expected.boxes)
