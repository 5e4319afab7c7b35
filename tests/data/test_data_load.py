"""The public function: `fcos_tf.data.load`."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf

import fcos_tf.data
from fcos_tf.data.formats import digits
from fcos_tf.data.formats.writing import write_dataset
from fcos_tf.evaluation import evaluate
from tests.digit_files import write_digits


def digits_val(**kwargs):
    options = {"split": "val", "batch_size": 8, "image_size": (128, 128)}
    return fcos_tf.data.load("digits", **(options | kwargs))


def written_digits(data_format, output_dir, num_images, splits=("val",)):
    """Writes the first scenes as files and returns how to load them."""
    data_dir = write_digits(data_format, output_dir, dict.fromkeys(splits, num_images))
    name = "tfds:digits" if data_format == "tfds" else data_format
    return {"dataset": name, "data_dir": data_dir}


def test_digits():
    dataset = digits_val()
    assert dataset.class_names == tuple("0123456789")
    assert (dataset.num_images, dataset.category_ids[0], dataset.dropped) == (256, 1, [])
    images, targets = next(iter(dataset.skip(1)))
    scene = digits.make_scene(8, "val")  # first of the second batch
    np.testing.assert_array_equal(images[0], scene.image)
    count = len(scene.labels)
    np.testing.assert_array_equal(targets["boxes"][0, :count], scene.boxes)
    assert targets["labels"][0].numpy().tolist() == [*scene.labels, *[-1] * (6 - count)]
    assert targets["image_ids"].numpy().tolist() == list(range(9, 17))
    assert targets["boxes"].shape == (8, 6, 4)


def test_digits_are_not_mirrored_unless_asked():
    for flip, expected in ((None, True), (True, False)):
        dataset = digits_val(split="train", training=True, horizontal_flip=flip, limit=16)
        upright = [
            np.array_equal(image, digits.make_scene(int(i) - 1, "train").image)
            for images, targets in dataset
            for image, i in zip(images, targets["image_ids"], strict=True)
        ]
        assert len(upright) == 16 and all(upright) == expected


def test_limit_takes_the_first_images():
    dataset = digits_val(limit=5)
    assert dataset.num_images == 5
    ((_, targets),) = dataset
    assert targets["image_ids"].numpy().tolist() == [1, 2, 3, 4, 5]


def test_overfitting_on_fewer_images_than_a_batch():
    stream = digits_val(split="train", training=True, repeat=True, limit=3)
    _, targets = next(iter(stream))
    assert set(targets["image_ids"].numpy()) == {1, 2, 3}


@pytest.mark.parametrize("data_format", ["coco", "voc", "tfds"])
def test_digits_read_back_as_they_were_written(data_format, tmp_path):
    where = written_digits(data_format, tmp_path, 10)
    written = fcos_tf.data.load(
        **where, split="val", batch_size=8, image_size=(128, 128), max_boxes=6
    )
    for a, b in zip(written, digits_val(limit=10), strict=True):
        tf.nest.map_structure(np.testing.assert_array_equal, a, b)
    assert written.class_names == digits.CLASS_NAMES
    assert written.category_ids == tuple(range(1, 11))
    assert (written.num_images, written.faults) == (10, [])


@pytest.mark.parametrize("data_format", ["coco", "voc", "tfds"])
def test_training_sees_the_same_whatever_the_format(data_format, tmp_path):
    where = written_digits(data_format, tmp_path, 10, splits=("train",))
    options = {"split": "train", "batch_size": 4, "image_size": (96, 96), "training": True,
               "repeat": True, "max_boxes": 6, "seed": 5, "horizontal_flip": True}  # fmt: skip
    written = fcos_tf.data.load(**where, **options)
    made = fcos_tf.data.load("digits", limit=10, **options)
    for a, b in zip(written.take(5), made.take(5), strict=True):
        tf.nest.map_structure(np.testing.assert_array_equal, a, b)


def test_more_boxes_than_max_boxes(tmp_path):
    where = written_digits("voc", tmp_path, 10)
    most = max(len(digits.make_scene(i, "val").labels) for i in range(10))
    assert most > 2
    options = {**where, "split": "val", "batch_size": 4, "max_boxes": 2}
    training = fcos_tf.data.load(training=True, **options)
    counts = [len(digits.make_scene(i, "val").labels) for i in range(10)]
    over = [f"val_{i + 1:05d}.png: box {number}" for i, count in enumerate(counts)
            for number in range(3, count + 1)]  # fmt: skip
    assert len(training.dropped) == len(over)
    assert all(a in b for a, b in zip(over, training.dropped, strict=True))
    for _, targets in training:
        assert targets["labels"].shape == (4, 2)
    with pytest.raises(ValueError, match=f"max_boxes=2, .* has {most} boxes"):
        fcos_tf.data.load(**options)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"split": "test"}, "no split 'test' in digits; there are: train, val"),
        ({"image_size": "big"}, "image_size: expected .* got 'big'"),
        ({"batch_size": 0}, "batch_size: expected at least 1, got 0"),
        ({"limit": 0}, "limit: expected at least 1, got 0"),
        ({"start_step": -1}, "start_step: expected at least 0, got -1"),
        ({"max_boxes": 0}, "max_boxes: expected at least 1, got 0"),
        ({"max_boxes": 5}, "max_boxes=5, but an image of this split has 6 boxes"),
        ({"classes": ["cat"]}, r"classes: digits has .* got \('cat',\)"),
        ({"batch_size": True}, "batch_size: expected a whole number, got True"),
        ({"seed": 1.5}, "seed: expected a whole number, got 1.5"),
        ({"augment": ["scale_jitter"], "training": True, "scale_jitter": 0.5}, "low <= high"),
        ({"training": True, "start_step": 1}, "start_step: expected 0, or repeat=True"),
        ({"image_size": "80,99", "num_hosts": 2}, "a fixed canvas or orientation_buckets"),
        ({"num_hosts": 3}, "batch_size that num_hosts divides, got host=0, num_hosts=3, batch_si"),
        ({"num_hosts": 2, "host": 2}, "expected 0 <= host < num_hosts"),
        ({"orientation_buckets": True}, r"an image_size like 800,1333, got \(128, 128\)"),
        ({"augment": ["blur"], "training": True}, "augment: expected some of .*, got 'blur'"),
        ({"augment": ["scale_jitter"], "training": True, "image_size": "80,99"}, "like 512x512"),
        ({"augment": ["scale_jitter"], "training": True, "scale_jitter": (2, 1)}, "low <= high"),
        ({"augment": ["scale_jitter"], "training": True, "cache": True}, "images of one size"),
        ({"max_bad_images": -1}, "max_bad_images: expected at least 0, got -1"),
        ({"annotations": "a.json"}, "annotations: dataset digits takes none, got 'a.json'"),
        ({"training": True, "limit": 7}, "batch_size=8 is more than the 7 images"),
    ],
)
def test_bad_arguments_are_named(kwargs, message):
    with pytest.raises(ValueError, match=message):
        digits_val(**kwargs)


def test_unknown_data_set_and_missing_folder(tmp_path):
    options = {"split": "val", "batch_size": 1}
    expected = "auto, digits, coco, voc, xml, yolo, csv, labelme, folders, tfds:NAME"
    with pytest.raises(ValueError, match=f"expected one of {expected}, got 'lvis'"):
        fcos_tf.data.load("lvis", **options)
    with pytest.raises(ValueError, match="voc needs data_dir, the folder with JPEGImages"):
        fcos_tf.data.load("voc", **options)
    with pytest.raises(FileNotFoundError, match=r"no folder .*nowhere"):
        fcos_tf.data.load("voc", data_dir=tmp_path / "nowhere", **options)


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for data_format in ("coco", "voc", "tfds"):
        where = written_digits(data_format, tmp_path / data_format, 2)
        where["data_dir"] = f"~/{data_format}"
        assert fcos_tf.data.load(**where, split="val", batch_size=2).num_images == 2


def test_classes_must_differ(tmp_path):
    where = written_digits("voc", tmp_path, 1)
    for classes, message in (
        (["3", "4", "3"], "classes: '3' is there more than once"),
        ("3,4", "classes: expected a sequence of names, got '3,4'"),
    ):
        with pytest.raises(ValueError, match=message):
            fcos_tf.data.load(**where, split="val", batch_size=1, classes=classes)


@pytest.mark.parametrize("data_format", ["coco", "voc", "tfds"])
def test_some_classes_of_a_data_set_in_another_order(data_format, tmp_path, caplog):
    where = written_digits(data_format, tmp_path, 20)
    scenes = [digits.make_scene(i, "val") for i in range(20)]
    dataset = fcos_tf.data.load(**where, split="val", batch_size=20, classes=["7", "1"])
    ((_, targets),) = dataset
    assert dataset.class_names == ("7", "1")
    found = [labels[labels >= 0].tolist() for labels in targets["labels"].numpy()]
    assert found == [[[7, 1].index(k) for k in s.labels if k in (7, 1)] for s in scenes]
    others = sum(k not in (7, 1) for s in scenes for k in s.labels)
    (message,) = (m for m in caplog.messages if "of other classes" in m)
    assert sum(map(int, re.findall(r" \d (\d+)", message))) == others


def test_empty_images_are_skipped_when_asked(tmp_path):
    where = written_digits("coco", tmp_path, 20)
    scenes = [digits.make_scene(i, "val") for i in range(20)]
    full = [i + 1 for i, scene in enumerate(scenes) if 7 in scene.labels]
    assert 0 < len(full) < 20
    options = {**where, "split": "val", "batch_size": 20, "classes": ["7"]}
    assert fcos_tf.data.load(**options).num_images == 20
    dataset = fcos_tf.data.load(**options, skip_empty=True)
    ((_, targets),) = dataset
    assert targets["image_ids"].numpy().tolist() == full
    assert len(dataset.dropped) == 20 - len(full)
    assert dataset.dropped[0].endswith("image without boxes")


def test_coco_with_paths_of_its_own(tmp_path):
    written_digits("coco", tmp_path, 2, splits=("train", "val"))
    (tmp_path / "annotations").rename(tmp_path / "labels")
    options = {
        "annotations": tmp_path / "labels" / "instances_{split}.json",
        "images": f"{tmp_path}/{{split}}", "batch_size": 2,
    }  # fmt: skip
    for split in ("train", "val"):
        ((images, _),) = fcos_tf.data.load("coco", split=split, image_size=(128, 128), **options)
        np.testing.assert_array_equal(images[1], digits.make_scene(1, split).image)


def test_crowds_ride_along_in_evaluation_only(shared_data):
    options = {"data_dir": shared_data / "coco", "split": "val2017", "batch_size": 50}
    ((_, targets),) = fcos_tf.data.load("coco", **options)
    raw = json.loads((shared_data / "coco/annotations/instances_val2017.json").read_text())
    crowds = [a for a in raw["annotations"] if a["iscrowd"]]
    assert crowds
    for crowd in crowds:
        (i,) = np.flatnonzero(targets["image_ids"].numpy() == crowd["image_id"])
        height, width = targets["image_sizes"][i].numpy() / targets["original_sizes"][i].numpy()
        x, y, w, h = crowd["bbox"]
        expected = np.array([x, y, x + w, y + h]) * [width, height, width, height]
        distance = np.abs(targets["ignored_boxes"][i].numpy() - expected).max(axis=1)
        assert distance.min() < 1e-3
        assert np.abs(targets["boxes"][i].numpy() - expected).max(axis=1).min() > 1e-3
    count = (targets["ignored_labels"].numpy() >= 0).sum()
    assert count == len(crowds)
    areas = sorted(a["area"] for a in raw["annotations"] if not a["iscrowd"])
    found = targets["areas"].numpy()[targets["labels"].numpy() >= 0]
    assert np.sort(found).tolist() == areas
    annotated = fcos_tf.data.read_annotations("coco", "val2017", data_dir=shared_data / "coco")
    boxes, ignored = annotated.annotations.boxes, annotated.annotations.ignored
    for name, labels, rows in (
        ("original_boxes", "labels", ~ignored),
        ("original_ignored_boxes", "ignored_labels", ignored),
    ):
        kept = targets[labels].numpy() >= 0
        np.testing.assert_array_equal(targets[name].numpy()[kept], boxes[rows])
    (_, training), *_ = fcos_tf.data.load("coco", training=True, **options)
    assert "ignored_boxes" not in training
    assert (training["labels"].numpy() >= 0).sum() == len(areas)


def test_the_same_photos_as_coco_voc_and_tfds(shared_data, tmp_path):
    coco = {"dataset": "coco", "data_dir": shared_data / "coco"}
    found = fcos_tf.data.read_annotations("coco", "val2017", data_dir=shared_data / "coco")
    # VOC has no areas of segmentations; ids of objects are not compared.
    plain = replace(found.annotations, areas=np.full_like(found.annotations.areas, np.nan))
    wheres = [coco]
    for data_format in ("coco", "voc", "tfds"):
        folder = tmp_path / data_format
        write_dataset(data_format, {"val2017": plain}, folder, name="photos")
        name = "tfds:photos" if data_format == "tfds" else data_format
        wheres.append({"dataset": name, "data_dir": folder})
    names = found.annotations.class_names
    for training in (False, True):
        options = {"split": "val2017", "batch_size": 16, "image_size": "240,400", "seed": 3,
                   "training": training, "classes": names}  # fmt: skip
        original, *others = (list(fcos_tf.data.load(**where, **options)) for where in wheres)
        for other in others:
            for (images_a, targets_a), (images_b, targets_b) in zip(original, other, strict=True):
                np.testing.assert_array_equal(images_a, images_b)
                assert set(targets_a) == set(targets_b)
                for name in set(targets_a) - {"areas"}:
                    np.testing.assert_array_equal(targets_a[name], targets_b[name], err_msg=name)
    options["training"] = False
    scores = []
    for where in wheres[1:]:
        dataset = fcos_tf.data.load(**where, **options)
        detect = perturbed_truth(dataset)
        scores.append(evaluate(None, dataset, ("coco", "voc07", "voc12"), detect=detect))
    assert scores[0] == scores[1] == scores[2]
    assert 0.2 < scores[0]["AP"] < 0.9 and 0.2 < scores[0]["mAP_voc07"] < 1


def perturbed_truth(dataset):
    """A detector that knows the batches, and finds what is there a bit beside."""
    random = np.random.default_rng(0)
    batches = [targets for _, targets in dataset]

    def detect(images, image_sizes):
        targets = batches[detect.calls]
        detect.calls += 1
        boxes, labels = targets["boxes"].numpy(), targets["labels"].numpy()
        sides = np.tile(boxes[..., 2:] - boxes[..., :2], 2)
        noise = random.normal(0, 0.15, boxes.shape) * sides
        scores = np.where(labels >= 0, random.uniform(0.1, 1, labels.shape), 0).astype(np.float32)
        found = {"boxes": (boxes + noise).astype(np.float32), "scores": scores, "labels": labels}
        rows = np.minimum(np.arange(len(images)), len(labels) - 1)  # the last batch is filled up
        return {name: value[rows] for name, value in found.items()}

    detect.calls = 0
    return detect


def test_bad_photos_are_skipped_and_counted(tmp_path, caplog):
    where = written_digits("voc", tmp_path, 12)
    (tmp_path / "JPEGImages" / "val_00003.png").write_bytes(b"")
    whole = (tmp_path / "JPEGImages" / "val_00007.png").read_bytes()
    (tmp_path / "JPEGImages" / "val_00007.png").write_bytes(whole[:4000])
    options = {**where, "split": "val", "batch_size": 4, "image_size": (64, 64)}
    dataset = fcos_tf.data.load(**options, max_bad_images=2)
    ids = np.concatenate([targets["image_ids"].numpy() for _, targets in dataset])
    assert ids.tolist() == [1, 2, -1, 4, 5, 6, -1, 8, 9, 10, 11, 12]
    skipped = sorted(dataset.image_faults.skipped)
    assert len(skipped) == 2
    assert "val_00003.png: the file is empty" in skipped[0] and "val_00007.png" in skipped[1]
    assert sum("skipped bad image" in message for message in caplog.messages) == 2
    with pytest.raises(tf.errors.InvalidArgumentError, match="more than max_bad_images=1"):
        list(fcos_tf.data.load(**options, max_bad_images=1))
    stream = fcos_tf.data.load(**options, max_bad_images=2, training=True, repeat=True)
    seen = np.concatenate([t["image_ids"].numpy() for _, t in stream.take(6)])  # two passes
    assert sorted(seen) == sorted(2 * [1, 2, 4, 4, 5, 6, 8, 8, 9, 10, 11, 12])


def test_too_many_faults_stop_before_training(tmp_path):
    where = written_digits("coco", tmp_path, 3)
    file = tmp_path / "annotations" / "instances_val.json"
    content = json.loads(file.read_text())
    for annotation in content["annotations"][:2]:
        annotation["bbox"][2] = 0
    file.write_text(json.dumps(content))
    options = {**where, "split": "val", "batch_size": 3}
    dataset = fcos_tf.data.load(**options, max_faults=2)
    assert len(dataset.dropped) == 2 and "has no area" in dataset.dropped[0]
    assert "instances_val.json: annotation 1 " in dataset.dropped[0]
    with pytest.raises(ValueError, match=r"2 of them dropped\n(.|\n)*at most max_faults=1"):
        fcos_tf.data.load(**options, max_faults=1)


def test_blood_cells(shared_data, caplog):
    dataset = fcos_tf.data.load(
        "voc", data_dir=shared_data / "bccd", split="trainval", batch_size=8,
        image_size=(240, 320), training=True, repeat=True,
    )  # fmt: skip
    assert dataset.num_images == 292
    assert [line.split("/")[-1][:20] for line in dataset.dropped] == [
        "BloodImage_00338.xml", "BloodImage_00343.xml",
    ]  # fmt: skip
    assert "voc trainval: 2 faults in the annotations, 2 of them dropped" in caplog.text
    images, targets = next(iter(dataset))
    assert images.shape == (8, 240, 320, 3)
    # 640x480 halved: the canvas is full.
    assert targets["image_sizes"].numpy().tolist() == [[240, 320]] * 8
    assert targets["original_sizes"].numpy().tolist() == [[480, 640]] * 8
    boxes = targets["boxes"].numpy()[targets["labels"].numpy() >= 0]
    assert (boxes[:, 2:] > boxes[:, :2]).all() and boxes.max() <= 320


def test_voc2007_in_the_usual_size(shared_data):
    dataset = fcos_tf.data.load(
        "voc", data_dir=shared_data / "voc2007", split="val", batch_size=2,
        image_size="800,1333", limit=4,
    )  # fmt: skip
    images, targets = next(iter(dataset))
    # 000002.jpg is 400x268: min(800/268, 1333/400) = 2.98507: 400 * 2.98507 = 1194.03
    assert targets["image_sizes"][0].numpy().tolist() == [1194, 800]
    assert images.shape[1] % 32 == 0 and images.shape[2] % 32 == 0
    assert images.shape[1] >= 1194
    # (110, 159, 166, 241) * (800/268, 1194/400)
    np.testing.assert_allclose(
        targets["boxes"][0, 0], [328.358, 474.615, 495.522, 719.385], rtol=1e-5
    )
    assert targets["image_ids"].numpy().tolist() == [2, 3]


@pytest.mark.parametrize("training", [True, False])
def test_batches_can_be_taken_apart(training):
    """TensorFlow crashes on arrays without elements: there is room for one ignored object."""
    data = fcos_tf.data.load(
        "digits", split="val", batch_size=2, image_size=(64, 64), training=training, limit=4
    )
    rows = list(data.unbatch())
    assert len(rows) == 4
    assert all(targets["ignored_labels"].numpy().tolist() == [-1] for _, targets in rows)
