"""The public function: `fcos_tf.data.load`."""

import numpy as np
import pytest
import tensorflow as tf

import fcos_tf.data
from fcos_tf.data import digits


def digits_val(**kwargs):
    options = {"split": "val", "batch_size": 8, "image_size": (128, 128)}
    return fcos_tf.data.load("digits", **(options | kwargs))


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


def test_a_written_tree_loads_as_the_digits_do(tmp_path):
    digits.write_voc(tmp_path, "val", 10)
    written = fcos_tf.data.load(
        "voc", data_dir=tmp_path, split="val", batch_size=8, image_size=(128, 128), max_boxes=6
    )
    for a, b in zip(written, digits_val(limit=10), strict=True):
        tf.nest.map_structure(np.testing.assert_array_equal, a, b)
    assert written.class_names == digits.CLASS_NAMES


def test_more_boxes_than_max_boxes(tmp_path):
    digits.write_voc(tmp_path, "val", 10)
    most = max(len(digits.make_scene(i, "val").labels) for i in range(10))
    assert most > 2
    options = {"data_dir": tmp_path, "split": "val", "batch_size": 4, "max_boxes": 2}
    training = fcos_tf.data.load("voc", training=True, **options)
    over = [i for i in range(10) if len(digits.make_scene(i, "val").labels) > 2]
    assert len(training.dropped) == len(over)
    assert f"val_{over[0]:05d}.png" in training.dropped[0]
    with pytest.raises(ValueError, match=f"max_boxes=2, .* has {most} boxes"):
        fcos_tf.data.load("voc", **options)


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
        ({"class_names": "0,1"}, "class_names: expected a sequence of names, got '0,1'"),
        ({"class_names": ["cat"]}, r"class_names: digits has .* got \('cat',\)"),
        ({"training": True, "limit": 7}, "batch_size=8 is more than the 7 images"),
    ],
)
def test_bad_arguments_are_named(kwargs, message):
    with pytest.raises(ValueError, match=message):
        digits_val(**kwargs)


def test_unknown_data_set_and_missing_folder(tmp_path):
    with pytest.raises(ValueError, match="dataset: expected one of digits, voc, got 'coco'"):
        fcos_tf.data.load("coco", split="val", batch_size=1)
    with pytest.raises(ValueError, match="voc needs data_dir, the folder with JPEGImages"):
        fcos_tf.data.load("voc", split="val", batch_size=1)
    with pytest.raises(FileNotFoundError, match=r"no folder .*nowhere"):
        fcos_tf.data.load("voc", data_dir=tmp_path / "nowhere", split="val", batch_size=1)


def test_class_names_must_differ(tmp_path):
    digits.write_voc(tmp_path, "val", 1)
    with pytest.raises(ValueError, match="class_names: '3' is there more than once"):
        fcos_tf.data.load(
            "voc", data_dir=tmp_path, split="val", batch_size=1, class_names=["3", "4", "3"]
        )


def test_blood_cells(shared_data, caplog):
    dataset = fcos_tf.data.load(
        "voc", data_dir=shared_data / "bccd", split="trainval", batch_size=8,
        image_size=(240, 320), training=True, repeat=True,
    )  # fmt: skip
    assert dataset.num_images == 292
    assert [line.split("/")[-1][:20] for line in dataset.dropped] == [
        "BloodImage_00338.jpg", "BloodImage_00343.jpg",
    ]  # fmt: skip
    assert "left out boxes of voc trainval that cannot be learned: 2" in caplog.text
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
