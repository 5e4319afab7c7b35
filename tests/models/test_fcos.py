"""The whole model: preprocessing, decoding, fit, save and load, execution modes."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from fcos_tf import FCOS
from fcos_tf.models.fcos_detections import top_candidates

SMALL = {"backbone": "simple_cnn", "fpn_channels": 32, "head_convs": 1}


def scene(seed=0, batch=2, size=(64, 96)):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (batch, *size, 3)).astype("uint8")
    low = rng.uniform(0, 30, (batch, 3, 2))
    boxes = np.concatenate([low, low + rng.uniform(10, 34, (batch, 3, 2))], -1)
    targets = {
        "boxes": boxes.astype("float32"),
        "labels": rng.integers(-1, 3, (batch, 3)).astype("int32"),
        "image_sizes": np.tile(np.float32([[60, 90]]), (batch, 1)),
    }
    return images, targets


def small_model(seed=0, **kwargs):
    keras.utils.set_random_seed(seed)
    # A threshold of 0: an untrained model detects something too.
    return FCOS(3, **{**SMALL, "score_threshold": 0.0, **kwargs})


@pytest.fixture(scope="module")
def model():
    return small_model()


def assert_equal_detections(a, b, atol=1e-4):
    for name in ("num_detections", "labels", "scores", "boxes"):
        np.testing.assert_allclose(a[name], b[name], atol=atol, err_msg=name)


def test_the_usual_mean_follows_the_order_of_channels():
    rgb, bgr = small_model(), small_model(channel_order="bgr")
    assert rgb.mean == (123.675, 116.28, 103.53) == bgr.mean[::-1] and bgr.std == rgb.std[::-1]
    own = small_model(channel_order="bgr", mean=(1, 2, 3))
    assert own.mean == (1, 2, 3) and own.std == bgr.std
    assert type(bgr).from_config(bgr.get_config()).mean == bgr.mean


def test_one_text_is_no_list_of_classes():
    with pytest.raises(ValueError, match="class_names: expected a list of names; got 'cat'"):
        FCOS(class_names=("cat"), backbone="simple_cnn")


def test_preprocess_orders_normalises_and_masks():
    model = small_model(channel_order="bgr", mean=(1, 2, 3), std=(1, 2, 4))
    images = np.zeros((1, 2, 3, 3), "uint8")
    images[...] = (7, 6, 5)
    out = model.preprocess(images, np.float32([[1, 2]]))
    # BGR: (5 - 1) / 1, (6 - 2) / 2, (7 - 3) / 4; zero beyond height 1 and width 2.
    np.testing.assert_array_equal(out[0, 0, :2], [[4, 2, 1], [4, 2, 1]])
    assert not np.any(out[0, 1]) and not np.any(out[0, 0, 2])


def test_padding_of_any_colour_gives_the_same_predictions(model):
    images, targets = scene()
    other = images.copy()
    other[:, 60:], other[:, :, 90:] = 99, 200
    sizes = targets["image_sizes"]
    a = model({"images": images, "image_sizes": sizes})
    b = model({"images": other, "image_sizes": sizes})
    np.testing.assert_array_equal(a["class_logits"], b["class_logits"])
    assert np.abs(a["class_logits"] - model(other)["class_logits"]).max() > 0


def test_initial_class_probability_is_near_the_prior(model):
    images, _ = scene()
    probability = 1 / (1 + np.exp(-np.asarray(model(images)["class_logits"])))
    assert 0.005 < probability.mean() < 0.02


def test_decode_by_hand(model):
    # 16x16: P3 points (4,4) (12,4) (4,12) (12,12), then one point a level at 8, 16, 32, 64.
    logits = np.full((1, 8, 3), -20, "float32")
    ltrb = np.ones((1, 8, 4), "float32")
    centerness = np.zeros((1, 8), "float32")  # sigmoid 1/2
    logits[0, 1, 2] = np.log(0.32 / 0.68)  # sqrt(.32 * .5) = .4
    logits[0, 4, 0] = np.log(0.98 / 0.02)  # sqrt(.98 * .5) = .7
    logits[0, 2, 1] = np.log(0.0499 / 0.9501)  # under the threshold before centerness
    predictions = {"class_logits": logits, "ltrb": ltrb, "centerness_logits": centerness}
    out = model.decode(predictions, (16, 16), np.float32([[16, 14]]), score_threshold=0.05)
    np.testing.assert_array_equal(out["num_detections"], [2])
    np.testing.assert_array_equal(out["labels"][0, :3], [0, 2, -1])
    np.testing.assert_allclose(out["scores"][0, :3], [0.7, 0.4, 0], rtol=1e-5)
    # (8 -+ 16, 8 -+ 16) clipped to 14 wide and 16 high; (12 -+ 8, 4 -+ 8) likewise.
    np.testing.assert_allclose(out["boxes"][0, :2], [[0, 0, 14, 16], [4, 0, 14, 12]], atol=1e-4)


def test_without_a_third_output_the_score_is_the_class_probability(model):
    logits, ltrb = np.full((1, 8, 3), -20, "float32"), np.ones((1, 8, 4), "float32")
    logits[0, 1, 2], logits[0, 4, 0] = np.log(0.32 / 0.68), np.log(0.049 / 0.951)
    raw = {"class_logits": logits, "ltrb": ltrb}
    out = model.decode(raw, (16, 16), score_threshold=0.05)
    np.testing.assert_array_equal(out["labels"][0, :2], [2, -1])
    np.testing.assert_allclose(out["scores"][0, :2], [0.32, 0], rtol=1e-5)
    points = model.point_predictions(raw, (16, 16))
    np.testing.assert_allclose(points["scores"][0, 4, 0], 0.049, rtol=1e-5)
    assert set(points) == {"boxes", "scores", "class_scores"}


def test_thresholds_are_arguments(model):
    images, targets = scene()
    everything = model.detect(images, targets["image_sizes"])
    scores = np.asarray(everything["scores"])
    limits = np.median(scores, axis=1)  # one for each image; class probabilities are compared
    found = model.detect(images, targets["image_sizes"], score_threshold=limits, max_detections=9)
    assert found["scores"].shape == (2, 9)
    for k in range(2):
        alone = model.detect(
            images[k : k + 1], targets["image_sizes"][k : k + 1],
            score_threshold=float(limits[k]), max_detections=9,
        )  # fmt: skip
        assert_equal_detections({n: v[k : k + 1] for n, v in found.items()}, alone)
    assert (model.score_threshold, model.max_detections) == (0.0, 100)
    none = model.detect(images, score_threshold=1.0)
    np.testing.assert_array_equal(none["num_detections"], [0, 0])


def test_thresholds_of_the_best_f1_by_class(tmp_path):
    images, targets = scene()
    model = small_model(best_f1={"score_threshold": 0.0, "by_class": [0.0] * 3})
    own = {n: np.asarray(x) for n, x in model.detect(images, targets["image_sizes"]).items()}
    # Medians, one of them a score itself, which is kept.
    limits = [np.median(own["scores"][own["labels"] == label]) for label in range(3)]
    limits[1] = own["scores"][own["labels"] == 1][3]
    assert len(set(limits)) == 3
    model.best_f1 = {"score_threshold": 0.0, "by_class": limits}
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    loaded.score_threshold = "best_f1"
    given = {"image_sizes": targets["image_sizes"], "score_threshold": "best_f1"}
    for found in (
        model.detect(images, **given),
        model.detect(images, **given, jit_compile=True),  # the portable suppression
        loaded.detect(images, targets["image_sizes"]),
    ):
        for k in range(2):
            kept = own["scores"][k] >= np.array(limits)[own["labels"][k]]
            count = kept.sum()
            assert 0 < count < 100 and found["num_detections"][k] == count
            for name, padding in (("boxes", 0), ("scores", 0), ("labels", -1)):
                values = np.asarray(found[name][k])
                np.testing.assert_allclose(values[:count], own[name][k][kept], atol=1e-4)
                assert (values[count:] == padding).all()
    # Other weights have others.
    other = loaded.with_classes(["a", "b"])
    assert other.best_f1 is None and other.score_threshold == 0.0
    with pytest.raises(ValueError, match=r"got best_f1; run evaluate\.py --analyse --keep_th"):
        small_model(score_threshold="best_f1")
    with pytest.raises(ValueError, match="expected a number or best_f1, got 'best'"):
        model.detect(images, score_threshold="best")
    for wrong in ({"by_class": [0.1] * 3}, {"score_threshold": 0.1, "by_class": [0.1, 0.2]}, [1]):
        with pytest.raises(ValueError, match="best_f1: expected "):
            small_model(best_f1=wrong)


def test_predictions_of_all_points_before_any_choice(model):
    images, _ = scene(batch=1)
    raw = model(images)
    got = model.point_predictions(raw, (64, 96))
    boxes, scores = got["boxes"], got["scores"]
    # 8 x 12, 4 x 6, 2 x 3, 1 x 2 and 1 x 1 points.
    assert boxes.shape == (1, 129, 4) and scores.shape == (1, 129, 3)
    # Row 1, column 2 of P3 lies at (20, 12).
    left, top, right, bottom = np.asarray(raw["ltrb"])[0, 14] * 8
    np.testing.assert_allclose(boxes[0, 14], [20 - left, 12 - top, 20 + right, 12 + bottom])
    found = model.detect(images)
    assert float(np.max(scores)) == float(found["scores"][0, 0])


@pytest.mark.parametrize("nms_threshold", [0, 1])
def test_whole_numbers_are_thresholds(nms_threshold):
    found = []
    for value in (nms_threshold, float(nms_threshold)):
        model = small_model(nms_threshold=value, fpn_levels=3)
        found.append(model.predict(scene()[0], verbose=0))
    assert_equal_detections(*found)


def test_numbers_may_be_of_numpy_and_ids_of_any_iterable():
    model = small_model(nms_threshold=np.array(0.5), category_ids=iter((4, 6, 5)))
    assert (model.nms_threshold, model.category_ids) == (0.5, (4, 6, 5))


def test_top_candidates_limit_each_level():
    scores = np.float32([[[0.1, 0.9, 0.2], [0.8, 0.3, 0.7]]])  # two points, three classes
    best, labels, index = top_candidates(scores, 3)
    np.testing.assert_array_equal(best, np.float32([[0.9, 0.8, 0.7]]))
    np.testing.assert_array_equal(labels, [[1, 0, 2]])
    np.testing.assert_array_equal(index, [[0, 1, 1]])


def test_eager_graph_xla_and_dynamic_shapes_agree(model):
    images, targets = scene()
    sizes = targets["image_sizes"]
    eager = model.detect(images, sizes)
    assert eager["num_detections"].numpy().min() > 10
    graph = tf.function(model.detect)(images, sizes)
    xla = tf.function(lambda i, s: model.detect(i, s, jit_compile=True), jit_compile=True)
    dynamic = tf.function(
        model.detect,
        input_signature=[
            tf.TensorSpec((None, None, None, 3), tf.uint8),
            tf.TensorSpec((None, 2), tf.float32),
        ],
    )
    predictions = model({"images": images, "image_sizes": sizes})
    compiled = tf.function(model, jit_compile=True)({"images": images, "image_sizes": sizes})
    for name, value in predictions.items():
        np.testing.assert_allclose(value, compiled[name], atol=2e-5, err_msg=name)
    assert_equal_detections(eager, graph)
    assert_equal_detections(eager, xla(images, sizes), atol=1e-3)
    assert_equal_detections(eager, dynamic(images, sizes))


def test_batch_equals_single(model):
    images, targets = scene()
    sizes = targets["image_sizes"]
    both = model.detect(images, sizes)
    for k in range(2):
        one = model.detect(images[k : k + 1], sizes[k : k + 1])
        assert_equal_detections({n: v[k : k + 1] for n, v in both.items()}, one)


def test_predict_takes_images_dicts_and_data_sets(model):
    images, targets = scene()
    sizes = targets["image_sizes"]
    expected = model.detect(images, sizes)
    dataset = tf.data.Dataset.from_tensors((images, targets))
    assert_equal_detections(model.predict(dataset, verbose=0), expected)
    as_dict = {"images": images, "image_sizes": sizes}
    assert_equal_detections(model.predict(as_dict, verbose=0), expected)
    assert_equal_detections(model.predict(images, verbose=0), model.detect(images))
    as_float = model.predict(images.astype("float32"), verbose=0)
    assert_equal_detections(as_float, model.detect(images))


def fit_losses(steps=4, **compile_options):
    model = small_model(fpn_levels=3)
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9), **compile_options)
    dataset = tf.data.Dataset.from_tensors(scene()).repeat()
    history = model.fit(dataset, epochs=steps, steps_per_epoch=1, verbose=0)
    return history.history


def test_fit_learns_and_modes_agree():
    graph = fit_losses()
    others = {"num_positives", "gradient_norm"} | {f"num_positives_p{k}" for k in range(3, 6)}
    assert set(graph) == {"loss", "classification_loss", "box_loss", "centerness_loss", *others}
    assert graph["loss"][-1] < graph["loss"][0]
    eager = fit_losses(run_eagerly=True)
    xla = fit_losses(jit_compile=True)
    np.testing.assert_allclose(graph["loss"], eager["loss"], rtol=1e-4)
    np.testing.assert_allclose(graph["loss"], xla["loss"], rtol=1e-4)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_trains_with_float32_outputs(policy):
    backbone = {"mixed_bfloat16": "simple_cnn", "mixed_float16": "resnet18"}[policy]
    model = small_model(backbone=backbone, fpn_levels=3, dtype=policy)
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9))
    images, targets = scene()
    dataset = tf.data.Dataset.from_tensors((images, targets)).repeat(3)
    history = model.fit(dataset, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    assert model.backbone.get_layer("stem_conv").compute_dtype == policy.removeprefix("mixed_")
    assert {v.dtype.name for v in model(images).values()} == {"float32"}
    assert model.detect(images)["boxes"].dtype == "float32"


def test_mixed_precision_does_not_round_the_image_size():
    # bfloat16 has even numbers only from 256 on: as one, a width of 261 would be 260 or 262.
    model = small_model(dtype="mixed_bfloat16")
    images, _ = scene(batch=1, size=(64, 288))
    sizes = np.float32([[64, 261]])

    def logits(column):
        changed = images.copy()
        changed[:, :, column] = 255 - changed[:, :, column]
        return np.asarray(model({"images": changed, "image_sizes": sizes})["class_logits"])

    original = np.asarray(model({"images": images, "image_sizes": sizes})["class_logits"])
    assert np.any(logits(260) != original)  # the last column of the image
    np.testing.assert_array_equal(logits(261), original)  # the first of the padding


@pytest.mark.parametrize(
    "third",
    [{"quality": "iou", "centerness_on": "class"}, {"quality": "joint", "assigner": "atss"}],
)
def test_keras_file_round_trip(tmp_path, third):
    model = small_model(
        backbone="resnet18",
        fpn_levels=3,
        class_names=["a", "b", "c"],
        backbone_norm="frozen",
        frozen_stages=2,
        stride_in_3x3=False,
        **third,
        box_loss="iou",
        center_sampling_radius=None,
        max_detections=7,
        channel_order="bgr",
    )
    images, targets = scene()
    assert list(model(images)) == list(model.raw_outputs)
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9))
    seen = model.fit(tf.data.Dataset.from_tensors((images, targets)), verbose=0).history
    assert set(seen) == {"loss", *model.loss_names, *model.count_names, "gradient_norm"}
    assert ("centerness_loss" in seen) == (third["quality"] == "iou")
    model.save(tmp_path / "fcos.keras")
    loaded = keras.models.load_model(tmp_path / "fcos.keras")
    assert loaded.get_config() == model.get_config()
    assert loaded.class_names == ("a", "b", "c")
    before, after = model.predict(images, verbose=0), loaded.predict(images, verbose=0)
    for name in before:
        np.testing.assert_array_equal(before[name], after[name], err_msg=name)
    # The optimizer came along: its momentum is in place.
    assert int(loaded.optimizer.iterations) == 1
    loaded.fit(tf.data.Dataset.from_tensors((images, targets)), verbose=0)


def test_weights_file_round_trip(tmp_path):
    model, other = small_model(seed=0), small_model(seed=1)
    images, _ = scene()
    model.save_weights(tmp_path / "fcos.weights.h5")
    other.load_weights(tmp_path / "fcos.weights.h5")
    np.testing.assert_array_equal(model(images)["ltrb"], other(images)["ltrb"])


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"num_classes": 0}, "num_classes"),
        ({"backbone": "resnet19"}, "resnet18, resnet34.*'resnet19'"),
        ({"box_loss": "l2"}, "giou, iou, l1.*'l2'"),
        ({"quality": "ctr"}, "quality.*'ctr'"),
        ({"centerness_on": "both"}, "centerness_on.*'both'"),
        ({"centerness_on": None}, "centerness_on must be one of box, class; got None"),
        ({"backbone_norm": "layer"}, "batch, sync, frozen.*'layer'"),
        ({"frozen_stages": 6}, "0 to 5; got 6"),
        ({"class_names": ["a"]}, "expected 3 class_names; got 1"),
        ({"channel_order": "gbr"}, "'gbr'"),
        ({"fpn_channels": 40}, "multiple of 32.*40"),
        ({"backbone_weights": "nowhere.h5"}, "nowhere.h5"),
        ({"num_classes": 2.5}, "num_classes must be a whole number from 1 to 1000000; got 2.5"),
        ({"num_classes": "3"}, "num_classes .* got '3'"),
        ({"category_ids": (1, 1, 2)}, r"3 different category_ids; got \(1, 1, 2\)"),
        ({"image_size": "foo"}, "image_size: .*foo"),
        ({"std": (0, 1, 1)}, "std must be a number from 1e-06 to 1000000.0; got 0"),
        ({"mean": (float("inf"), 0, 0)}, "mean .* got inf"),
        ({"score_threshold": float("nan")}, "score_threshold .* from 0.0 to 1.0; got nan"),
        ({"nms_threshold": 5.0}, "nms_threshold .* got 5.0"),
        ({"max_detections": 10**8}, "max_detections .* from 1 to 100000; got 100000000"),
        ({"head_convs": -1}, "head_convs .* got -1"),
        ({"box_loss_weight": "x"}, "box_loss_weight .* got 'x'"),
        ({"center_sampling_radius": -1}, "center_sampling_radius .* got -1"),
        ({"topk_per_level": 0}, "topk_per_level .* got 0"),
        ({"size_ranges": [(5, 1)] * 5}, r"size_ranges: .* got \[\(5, 1\)"),
        ({"backbone_weights": "imagenet"}, "exist for resnet18, .*keras_cv"),
    ],
)
def test_bad_arguments_name_themselves(kwargs, message):
    kwargs = {"num_classes": 3, **SMALL, **kwargs}
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        FCOS(**kwargs)
