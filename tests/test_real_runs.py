"""Trains to the figures that the docs state: `pytest -m slow`, about half an hour on 2 cores."""

import json
import subprocess
import sys
from itertools import cycle
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[1]


def train(tmp_path, *flags):
    """Runs tools/train.py and returns its metrics.json."""
    command = [sys.executable, "tools/train.py", f"--model_dir={tmp_path}", *flags]
    subprocess.run(command, cwd=ROOT, check=True)
    assert (tmp_path / "detections.png").is_file() and (tmp_path / "model.keras").is_file()
    return json.loads((tmp_path / "metrics.json").read_text())


def test_the_demo_reaches_its_figures(tmp_path):
    metrics = train(tmp_path, "--flagfile=digits.cfg")
    assert metrics["AP"] >= 0.60 and metrics["AP50"] >= 0.90


def test_blood_cells_equal_torchvision(tmp_path, shared_data):
    # torchvision's FCOS in the same set-up, two seeds: AP .474 and .485, AP50 .812 and .825.
    runs = [
        train(
            tmp_path / str(seed),
            "--flagfile=bccd.cfg",
            f"--data_dir={shared_data / 'bccd'}",
            f"--seed={seed}",
        )
        for seed in (0, 1)
    ]
    assert sum(run["AP"] for run in runs) / 2 >= (0.474 + 0.485) / 2
    assert sum(run["AP50"] for run in runs) / 2 >= (0.812 + 0.825) / 2


def test_eight_images_are_learnt_by_heart(tmp_path, shared_data):
    metrics = train(tmp_path, "--flagfile=overfit.cfg", f"--data_dir={shared_data / 'voc2007'}")
    assert metrics["AP50"] >= 0.95


NUM_IMAGES, NUM_BOXES = 118_287, 860_001  # train2017


def write_large_coco(folder, photos):
    """A JSON of train2017's size, segmentations included; its images are links to real photos."""
    random = np.random.default_rng(0)
    (folder / "train2017").mkdir(parents=True)
    (folder / "annotations").mkdir()
    images = []
    for i, photo in zip(range(1, NUM_IMAGES + 1), cycle(photos), strict=False):
        name = f"{i:012d}.jpg"
        (folder / "train2017" / name).symlink_to(photo["file"])
        images.append({**photo["size"], "id": i, "file_name": name, "license": 1})
    owners = random.integers(0, NUM_IMAGES, NUM_BOXES).tolist()
    parts = random.uniform(0.01, 0.9, [NUM_BOXES, 4])
    with open(folder / "annotations" / "instances_train2017.json", "w") as file:
        file.write('{"images": ' + json.dumps(images) + ', "annotations": [')
        for i, owner in enumerate(owners):
            width, height = images[owner]["width"], images[owner]["height"]
            x, y, w, h = (parts[i] * [width, height, width, height] / 2).round(2).tolist()
            record = {
                "id": i + 1, "image_id": owner + 1, "category_id": i % 80 + 1, "iscrowd": 0,
                "bbox": [x, y, w, h], "area": w * h / 2,
                "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h] * 4],
            }  # fmt: skip
            file.write(", " * (i > 0) + json.dumps(record))
        categories = [{"id": k, "name": f"class {k}"} for k in range(1, 81)]
        file.write('], "categories": ' + json.dumps(categories) + "}")


FIRST_BATCH = """
import json, resource, sys, time
start = time.perf_counter()
import fcos_tf
data = fcos_tf.data.load("coco", data_dir=sys.argv[1], split="train2017", batch_size=16,
                         image_size="800,1333", training=True, repeat=True, max_bad_images=0)
batches = iter(data)
_, targets = next(batches)
seconds = [time.perf_counter() - start]
for _ in range(3):
    start = time.perf_counter()
    for _ in range(40):
        next(batches)
    seconds.append(time.perf_counter() - start)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
print(json.dumps({"seconds": seconds, "GiB": peak, "images": data.num_images,
                  "boxes": int((targets["labels"].numpy() >= 0).sum())}))
"""


def test_a_json_of_cocos_size_is_ready_within_a_minute(tmp_path, shared_data):
    small = json.loads((shared_data / "coco/annotations/instances_val2017.json").read_text())
    photos = [
        {
            "file": shared_data.resolve() / "coco" / "val2017" / image["file_name"],
            "size": {"height": image["height"], "width": image["width"]},
        }
        for image in small["images"]
    ]
    write_large_coco(tmp_path, photos)
    command = [sys.executable, "-c", FIRST_BATCH, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    found = json.loads(done.stdout)
    print(found)  # seconds to the first batch, then of three stretches of 40 batches
    assert found["images"] == NUM_IMAGES and found["boxes"] > 40
    assert found["seconds"][0] < 60 and found["GiB"] < 4
