"""A model with known answers, run over data sets: frames, ids, batches, metrics."""

import json

import numpy as np
import pytest
import tensorflow as tf

from fcos_tf import data
from fcos_tf.detecting import compile_detect
from fcos_tf.evaluation import (
    Records,
    evaluate,
    metric_names,
    run_detector,
    score_records,
)
from tests.digit_files import write_digits

# Canvas 64 x 128 with a valid part of 50 x 100 (height, width); the original is 100 x 400, so
# y is to be doubled and x to be multiplied by 4.
IMAGE_SIZE, ORIGINAL_SIZE = (50.0, 100.0), (100.0, 400.0)
IMAGE_IDS = (11, 22, 33)
TRUTH = np.array([[[10, 5, 20, 25]], [[0, 0, 50, 50]], [[30, 10, 90, 40]]], np.float32)
LABELS = np.array([[0], [1], [1]], np.int32)


class KnownAnswers:
    """Finds what `boxes` and `labels` say; the first pixel tells which image it is looking at."""

    def __init__(self, boxes=TRUTH, labels=LABELS):
        self.boxes, self.labels = tf.constant(boxes), tf.constant(labels)
        self.traced_batches = []

    def detect(self, images, image_sizes=None):
        self.traced_batches.append(images.shape[0])
        tf.debugging.assert_equal(image_sizes, tf.ones_like(image_sizes) * IMAGE_SIZE)
        which = tf.cast(images[:, 0, 0, 0], tf.int32)
        labels = tf.gather(self.labels, which)
        return {
            "boxes": tf.gather(self.boxes, which),
            "scores": tf.where(labels >= 0, 0.75, 0.0),
            "labels": labels,
            "num_detections": tf.reduce_sum(tf.cast(labels >= 0, tf.int32), axis=1),
        }


def make_dataset(batch_size=2, image_ids=IMAGE_IDS, class_names=("cat", "dog"), ids=(7, 9)):
    images = np.zeros((3, 64, 128, 3), np.uint8)
    images[:, 0, 0, 0] = range(3)
    padding = np.zeros((3, 2, 4), np.float32)  # two rows of padding after the box
    targets = {
        "boxes": np.concatenate([TRUTH, padding], axis=1),
        "labels": np.concatenate([LABELS, np.full((3, 2), -1, np.int32)], axis=1),
        "image_sizes": np.tile(np.float32(IMAGE_SIZE), (3, 1)),
        "original_sizes": np.tile(np.float32(ORIGINAL_SIZE), (3, 1)),
        "image_ids": np.array(image_ids, np.int64),
    }
    dataset = tf.data.Dataset.from_tensor_slices((images, targets)).batch(batch_size)
    if class_names:
        dataset.class_names = class_names
    if ids:
        dataset.category_ids = ids
    return dataset


def test_boxes_go_back_to_the_original_frame_and_to_the_ids_of_the_data_set():
    boxes = TRUTH.copy()
    boxes[2] = [90, 40, 120, 60]
    records = run_detector(KnownAnswers(boxes), make_dataset())
    assert records.detections == [
        # [10, 5, 20, 25] -> [40, 10, 80, 50]
        {"image_id": 11, "category_id": 7, "bbox": [40.0, 10.0, 40.0, 40.0], "score": 0.75},
        {"image_id": 22, "category_id": 9, "bbox": [0.0, 0.0, 200.0, 100.0], "score": 0.75},
        # [90, 40, 120, 60] -> [360, 80, 480, 120], of which the image holds [360, 80, 400, 100]
        {"image_id": 33, "category_id": 9, "bbox": [360.0, 80.0, 40.0, 20.0], "score": 0.75},
    ]
    truth = records.ground_truth
    assert truth["images"][0] == {"id": 11, "height": 100, "width": 400}
    assert truth["categories"] == [{"id": 7, "name": "cat"}, {"id": 9, "name": "dog"}]
    assert [(a["image_id"], a["category_id"], a["bbox"]) for a in truth["annotations"]] == [
        (11, 7, [40.0, 10.0, 40.0, 40.0]),
        (22, 9, [0.0, 0.0, 200.0, 100.0]),
        (33, 9, [120.0, 20.0, 240.0, 60.0]),  # [30, 10, 90, 40] -> [120, 20, 360, 80]
    ]


def test_batches_of_ones_own_need_no_ids_and_no_original_sizes():
    def strip(images, targets):
        return images, {name: targets[name] for name in ("boxes", "labels", "image_sizes")}

    dataset = make_dataset(batch_size=2).map(strip)
    records = run_detector(KnownAnswers(), dataset)
    assert records.ground_truth["images"][2] == {"id": 3, "height": 50, "width": 100}
    assert [record["image_id"] for record in records.detections] == [1, 2, 3]
    assert records.detections[0]["bbox"] == [10.0, 5.0, 10.0, 20.0]


def test_labels_go_by_name_where_model_and_data_set_have_other_classes():
    # The model's 0 is nothing that the data set knows, 1 is its second class and 2 its first.
    labels = np.array([[2], [1], [0]], np.int32)
    model = KnownAnswers(labels=labels)
    model.class_names = ("__background__", "dog", "cat")
    records = run_detector(model, make_dataset())
    found = [(d["image_id"], d["category_id"]) for d in records.detections]
    assert found == [(11, 7), (22, 9)]
    model.class_names = ("__background__", "dog", "cow")
    with pytest.raises(ValueError, match="it does not know cat"):
        run_detector(model, make_dataset())


def test_inclusive_pixels_end_one_later_in_the_original():
    model = KnownAnswers()
    model.inclusive_pixels = True
    records = run_detector(model, make_dataset())
    # [10, 5, 20, 25] -> [40, 10, 80 + 1, 50 + 1]; the image ends at 400.
    assert records.detections[0]["bbox"] == [40.0, 10.0, 41.0, 41.0]
    assert records.detections[2]["bbox"] == [120.0, 20.0, 241.0, 61.0]


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_scores_do_not_depend_on_the_batch_size(batch_size):
    metrics = evaluate(KnownAnswers(), make_dataset(batch_size))
    # Areas: 1600 is medium, 20000 and 14400 are large; all are found.
    assert metrics["AP"] == pytest.approx(1.0)
    assert (metrics["APs"], metrics["APm"], metrics["APl"]) == pytest.approx((-1.0, 1.0, 1.0))
    # With the last image's dog taken for a cat: cats have a hit and a false alarm of equal score
    # in the order of the images, so AP 1; of two dogs one is found, AP 51/101.
    labels = LABELS.copy()
    labels[2] = 0
    metrics = evaluate(KnownAnswers(labels=labels), make_dataset(batch_size))
    assert metrics["AP"] == pytest.approx((1 + 51 / 101) / 2)


def test_a_smaller_last_batch_needs_no_second_trace():
    model = KnownAnswers()
    run_detector(model, make_dataset(batch_size=2))
    assert model.traced_batches == [2]


def test_a_compiled_detect_serves_several_evaluations():
    model, progress = KnownAnswers(), []
    detect = compile_detect(model)
    for _ in range(2):
        assert evaluate(model, make_dataset(), detect=detect, progress=progress.append)["AP"] == 1
    assert model.traced_batches == [2]
    assert progress == [2, 3, 2, 3]


def test_nothing_found():
    metrics = evaluate(KnownAnswers(labels=np.full_like(LABELS, -1)), make_dataset())
    assert metrics["AP"] == 0.0


def test_classes_without_the_attributes_of_the_data_set():
    model = KnownAnswers()
    dataset = make_dataset(class_names=None, ids=None)
    categories = run_detector(model, dataset).ground_truth["categories"]
    assert categories == [{"id": 1, "name": "0"}, {"id": 2, "name": "1"}]
    model.class_names = ("cat", "dog", "cow")
    categories = run_detector(model, dataset).ground_truth["categories"]
    assert [(c["id"], c["name"]) for c in categories] == [(1, "cat"), (2, "dog"), (3, "cow")]


def categories_and_found(model, dataset):
    records = run_detector(model, dataset)
    categories = [(c["id"], c["name"]) for c in records.ground_truth["categories"]]
    truths = [a["category_id"] for a in records.ground_truth["annotations"]]
    return categories, truths, [d["category_id"] for d in records.detections]


def test_category_ids_are_those_of_the_model_where_the_data_set_has_none():
    # Images 11, 22, 33 hold 0, 1, 1 of the data set; the model finds the same.
    model = KnownAnswers()
    model.class_names, model.category_ids = ("cat", "dog"), (17, 18)
    # A mapped data set has neither names nor ids: labels are those of the model.
    mapped = make_dataset().map(lambda images, targets: (images, targets))
    expected = [(17, "cat"), (18, "dog")], [17, 18, 18], [17, 18, 18]
    assert categories_and_found(model, mapped) == expected
    # With names, ids go by name, also where the order of labels is another ...
    model.class_names, model.category_ids = ("cow", "dog", "cat"), (21, 18, 17)
    model.labels = tf.constant([[2], [1], [1]])
    assert categories_and_found(model, make_dataset(ids=None)) == expected
    # ... and with ids alone, names and labels go by id.
    by_id = [(17, "cat"), (18, "dog")], [17, 18, 18], [17, 18, 18]
    assert categories_and_found(model, make_dataset(class_names=None, ids=(17, 18))) == by_id
    # The data set's own ids win.
    own = [(7, "cat"), (9, "dog")], [7, 9, 9], [7, 9, 9]
    assert categories_and_found(model, make_dataset()) == own


def test_ids_of_a_model_without_names():
    model = KnownAnswers()
    model.category_ids = (17, 18)
    bare = make_dataset(class_names=None, ids=None)
    expected = [(17, "0"), (18, "1")], [17, 18, 18], [17, 18, 18]
    assert categories_and_found(model, bare) == expected
    named = [(17, "cat"), (18, "dog")], [17, 18, 18], [17, 18, 18]
    assert categories_and_found(model, make_dataset(ids=None)) == named
    # Of another number of classes they tell nothing.
    model.category_ids = (17, 18, 19)
    counted = [(1, "cat"), (2, "dog")], [1, 2, 2], [1, 2, 2]
    assert categories_and_found(model, make_dataset(ids=None)) == counted


def test_a_plain_list_of_batches_will_do():
    batches = [
        (images.numpy(), {key: value.numpy() for key, value in targets.items()})
        for images, targets in make_dataset()
    ]
    assert evaluate(KnownAnswers(), batches)["AP"] == pytest.approx(1.0)


def test_metrics_by_name():
    records = run_detector(KnownAnswers(), make_dataset())
    assert score_records(records, "coco") == score_records(records, ("coco",))
    both = score_records(records, ("coco", "voc12"))
    assert tuple(both.metrics) == metric_names(("coco", "voc12"))
    # Boxes of the same class in different images, all found.
    assert both.metrics["mAP_voc12"] == 1.0
    assert both.per_class["dog"] == pytest.approx(
        {"AP": 1.0, "AP50": 1.0, "AP_voc12": 1.0, "num_ground_truths": 2}
    )
    with pytest.raises(ValueError, match="unknown metric 'voc'; there are: coco, voc07, voc12"):
        evaluate(KnownAnswers(), make_dataset(), metrics=("coco", "voc"))
    with pytest.raises(ValueError, match="at least one metric"):
        metric_names(())


class FindsNothing:
    def detect(self, images, image_sizes=None):
        batch = tf.shape(images)[0]
        return {
            "boxes": tf.zeros([batch, 1, 4]),
            "scores": tf.zeros([batch, 1]),
            "labels": tf.fill([batch, 1], -1),
        }


def test_coco_that_went_through_batches_scores_like_its_file(shared_data):
    folder = shared_data / "coco"
    files = sorted((folder / "annotations").glob("*val2017*.json"))
    if not files:
        pytest.skip(f"no COCO sample under {shared_data}")
    original = json.loads(files[0].read_text())
    dataset = data.load(
        "coco", data_dir=folder, split="val2017", batch_size=8, image_size=(96, 128)
    )
    passed = run_detector(FindsNothing(), dataset).ground_truth
    crowds = [a for a in passed["annotations"] if a["iscrowd"]]
    assert len(crowds) == sum(a["iscrowd"] for a in original["annotations"]) > 0
    random = np.random.default_rng(5)
    detections = [
        {
            "image_id": a["image_id"],
            "category_id": a["category_id"],
            "bbox": (np.array(a["bbox"]) * random.uniform(0.8, 1.25, 4)).tolist(),
            "score": float(random.random()),
        }
        for a in original["annotations"]
    ]
    for metric in ("coco", "voc07", "voc12"):
        expected = score_records(Records(original, detections), metric)
        ours = score_records(Records(passed, detections), metric)
        assert ours.metrics == pytest.approx(expected.metrics, abs=1e-12)
        for name, row in expected.per_class.items():
            assert ours.per_class[name] == pytest.approx(row, abs=1e-12)


def test_areas_and_ignored_boxes_of_the_batches_count():
    def with_more(images, targets):
        # The valid part is 50 x 100: [0, 0, 50, 50] is [0, 0, 200, 100] in the original.
        crowd = tf.constant([[[0.0, 0.0, 50.0, 50.0]], [[0.0] * 4], [[0.0] * 4]])
        more = {
            "areas": tf.constant([[100.0, 0, 0], [2000.0, 0, 0], [2000.0, 0, 0]]),
            "ignored_boxes": crowd,
            "ignored_labels": tf.constant([[1], [-1], [-1]]),
        }
        return images, {**targets, **more}

    dataset = make_dataset(batch_size=3)
    mapped = dataset.map(with_more)
    mapped.class_names, mapped.category_ids = dataset.class_names, dataset.category_ids
    # Image 11 holds a cat; a dog is found there, inside the crowd of dogs: neither right nor wrong.
    boxes, labels = np.repeat(TRUTH, 2, axis=1), np.array([[0, 1], [1, -1], [1, -1]], np.int32)
    boxes[0, 1] = [0, 0, 50, 50]
    model = KnownAnswers(boxes, labels)
    scores = evaluate(model, mapped, metrics=("coco", "voc12"))
    assert scores["AP"] == pytest.approx(1.0)
    assert scores["mAP_voc12"] == 1.0
    # By its own area, 100, the cat is small, and the dogs with 2000 are of medium size.
    assert (scores["APs"], scores["APm"], scores["APl"]) == pytest.approx((1.0, 1.0, -1.0))
    # Without the crowd the dog comes first and is wrong: precision 0, 1/2, 2/3.
    assert evaluate(model, dataset, metrics="voc12")["mAP_voc12"] == pytest.approx((1 + 2 / 3) / 2)


def test_rows_with_a_negative_image_id_only_fill_up():
    dataset = make_dataset(batch_size=3, image_ids=(11, -1, 33))
    records = run_detector(KnownAnswers(), dataset)
    assert [image["id"] for image in records.ground_truth["images"]] == [11, 33]
    assert [a["image_id"] for a in records.ground_truth["annotations"]] == [11, 33]
    assert [d["image_id"] for d in records.detections] == [11, 33]


def test_images_none_of_which_can_be_read_are_counted(tmp_path):
    write_digits("voc", tmp_path, {"val": 3})
    images = sorted((tmp_path / "JPEGImages").iterdir())
    for image in images:
        image.write_bytes(b"")
    val = data.load(
        "voc", data_dir=tmp_path, split="val", batch_size=2, image_size=(64, 64), max_bad_images=3
    )
    message = r"no image to evaluate on: 3 could not be read; the first: .*val_.*file is empty"
    with pytest.raises(ValueError, match=message):
        evaluate(FindsNothing(), val)
    # Without the data set's own list, as after a map.
    with pytest.raises(ValueError, match=r"no image to evaluate on: 3 could not be read$"):
        evaluate(FindsNothing(), make_dataset(image_ids=(-1, -1, -1)))


def test_what_cannot_be_evaluated_is_named():
    with pytest.raises(ValueError, match="image id 11 occurs twice"):
        evaluate(KnownAnswers(), make_dataset(image_ids=(11, 22, 11)))
    with pytest.raises(ValueError, match=r"never ends.*repeat=False"):
        evaluate(KnownAnswers(), make_dataset().repeat())
    with pytest.raises(ValueError, match="no batch"):
        evaluate(KnownAnswers(), make_dataset().take(0))
    with pytest.raises(ValueError, match=r"image id 22: expected labels below 1, .* got 1"):
        evaluate(KnownAnswers(), make_dataset(class_names=("cat",), ids=(7,)))
    boxes = TRUTH.copy()
    boxes[1, 0, 2] = np.nan
    with pytest.raises(ValueError, match=r"image id 22.*finite bbox"):
        evaluate(KnownAnswers(boxes), make_dataset())
