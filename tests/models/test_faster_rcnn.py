"""The whole two-stage model: proposals, decoding, fit, resuming, save and load, modes."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import fcos_tf
from fcos_tf import FasterRCNN
from fcos_tf.models.rcnn_detections import propose
from fcos_tf.models.rcnn_rules import RULES
from fcos_tf.training.optimizers import SGD
from tests.models.test_fcos import assert_equal_detections, scene

SMALL = {
    "backbone": "simple_cnn", "fpn_first_level": 3, "fpn_levels": 4, "fpn_channels": 32,
    "fc_channels": 32, "anchor_scale": 4.0, "proposals_per_level": (60, 40),
    "num_proposals": (40, 20), "anchors_per_image": 32, "rois_per_image": 16,
}  # fmt: skip
LOSSES = ("rpn_objectness_loss", "rpn_box_loss", "classification_loss", "box_loss")


def small_model(seed=0, **kwargs):
    keras.utils.set_random_seed(seed)
    # A threshold of 0: an untrained model detects something too.
    return FasterRCNN(3, **{**SMALL, "score_threshold": 0.0, **kwargs})


@pytest.fixture(scope="module")
def model():
    return small_model()


def inputs_of(images, targets):
    return {"images": images, "image_sizes": targets["image_sizes"]}


@pytest.mark.parametrize(
    ("kwargs", "sets"),
    [({}, 3), ({"box_refinement": "agnostic"}, 1), ({"box_refinement": "none"}, 0)],
)
def test_raw_outputs_are_those_declared(kwargs, sets):
    model = small_model(**kwargs)
    images, targets = scene()
    raw = model(inputs_of(images, targets))
    assert list(raw) == list(model.raw_outputs)
    shapes = {name: tuple(value.shape) for name, value in raw.items()}
    # 8 x 12, 4 x 6, 2 x 3 and 1 x 2 cells, three anchors in each.
    assert shapes["objectness_logits"] == (2, 384) and shapes["anchor_deltas"] == (2, 384, 4)
    assert shapes["proposals"] == (2, 20, 4) and shapes["class_logits"] == (2, 20, 4)
    assert shapes.get("box_deltas") == ((2, 20, sets, 4) if sets else None)
    # Proposals lie in the valid part.
    assert np.asarray(raw["proposals"]).min() >= 0
    assert (np.asarray(raw["proposals"]).max(axis=(0, 1))[2:] <= [90, 60]).all()
    found = model.detect(images, targets["image_sizes"])
    assert np.asarray(found["num_detections"]).min() > 0


def test_thresholds_can_be_changed_on_a_model():
    model = small_model()
    model.num_proposals = (40, 7)
    images, targets = scene()
    assert model(inputs_of(images, targets))["proposals"].shape[1] == 7
    assert model.get_config()["num_proposals"] == (40, 7)


def test_the_loss_of_keras_own_steps_in_evaluation(model):
    images, targets = scene()
    inputs = inputs_of(images, targets)
    expected = model.forward_losses(inputs, targets, training=False)
    model.compile(SGD(0.01))
    found = model.compute_loss(inputs, targets, model(inputs, training=False), training=False)
    np.testing.assert_allclose(found, sum(expected[name] for name in LOSSES), rtol=1e-6)


@pytest.mark.parametrize("rules", RULES)
def test_all_rules_build_and_have_finite_losses(rules):
    model = small_model(rules=rules, fpn_levels=3)
    images, targets = scene()
    for labels in (targets["labels"], np.full_like(targets["labels"], -1)):
        learnt = {**targets, "labels": labels, "boxes": targets["boxes"] * (labels >= 0)[..., None]}
        parts = model.forward_losses(inputs_of(images, targets), learnt, training=True)
        assert set(parts) == {*model.loss_names, *model.count_names}
        assert np.isfinite(list(map(float, parts.values()))).all()
        assert (float(parts["num_positive_regions"]) > 0) == (labels.max() >= 0)


def test_propose_by_hand():
    # One level of 1 x 2 cells with three anchors each, all of 8 x 8 pixels.
    anchors = np.float32(
        [[0, 0, 8, 8], [2, 0, 10, 8], [20, 0, 28, 8], [20, 20, 28, 28], [40, 0, 48, 8],
         [29, 0, 37, 8]]
    )  # fmt: skip
    logits = np.float32([[1, 3, 2, 0, 5, 4]])
    predictions = {"objectness_logits": logits, "anchor_deltas": np.zeros((1, 6, 4), "float32")}
    found = propose(
        predictions, anchors, [(1, 2)], np.float32([[30, 30]]), per_level=5, num_proposals=4,
        rules=RULES["torchvision"],
    )  # fmt: skip
    # The fifth lies outside the image and has no side left; the last is clipped to one pixel. The
    # first has IoU 6 / 10 with the second, below .7. The fourth is not among the best five.
    np.testing.assert_allclose(
        found["proposals"][0], [[29, 0, 30, 8], [2, 0, 10, 8], [20, 0, 28, 8], [0, 0, 8, 8]]
    )
    expected = 1 / (1 + np.exp(-np.float32([4, 3, 2, 1])))
    np.testing.assert_allclose(found["proposal_scores"][0], expected, rtol=1e-6)
    by_logit = propose(
        predictions, anchors, [(1, 2)], np.float32([[30, 30]]), per_level=5, num_proposals=4,
        rules=RULES["detectron2"],
    )  # fmt: skip
    for name, value in found.items():
        np.testing.assert_allclose(by_logit[name], value, rtol=1e-6)


def test_decode_by_hand(model):
    logits = np.full((1, 3, 4), -20, "float32")
    logits[0, 0, [1, 3]] = np.log([0.6, 0.4])  # of class 1; the last is the background
    logits[0, 1, [2, 3]] = np.log([0.7, 0.3])
    logits[0, 2, 0] = 5  # of padding
    deltas = np.zeros((1, 3, 3, 4), "float32")
    deltas[0, 0, 1] = [1, 0, 5 * np.log(2), 0]  # the weights are 10, 10, 5, 5
    deltas[0, 0, 0] = 9  # of another class
    raw = {
        "proposals": np.float32([[[0, 0, 20, 10], [30, 30, 40, 40], [0, 0, 0, 0]]]),
        "proposal_scores": np.float32([[0.9, 0.8, 0]]),
        "class_logits": logits,
        "box_deltas": deltas,
    }
    out = model.decode(raw, (64, 96), np.float32([[35, 90]]), score_threshold=0.05)
    np.testing.assert_array_equal(out["num_detections"], [2])
    np.testing.assert_array_equal(out["labels"][0, :3], [2, 1, -1])
    np.testing.assert_allclose(out["scores"][0, :3], [0.7, 0.6, 0], rtol=1e-5)
    # Centre 10 + 2, width 40, clipped on the left; the other clipped at height 35.
    np.testing.assert_allclose(out["boxes"][0, :2], [[30, 30, 40, 35], [0, 0, 32, 10]], atol=1e-4)


def test_given_proposals_replace_those_of_the_rpn(model):
    images, targets = scene()
    inputs = inputs_of(images, targets)
    raw = model(inputs)
    again = model({**inputs, **{name: raw[name] for name in model.chosen_outputs}})
    for name, value in raw.items():
        np.testing.assert_allclose(again[name], value, atol=1e-6, err_msg=name)
    halves = {"proposals": raw["proposals"] / 2, "proposal_scores": np.ones((2, 20), "float32")}
    moved = model({**inputs, **halves})
    assert np.abs(moved["class_logits"] - raw["class_logits"]).max() > 0


def test_padding_of_images_and_of_targets_changes_nothing(model):
    images, targets = scene()
    other = images.copy()
    other[:, 60:], other[:, :, 90:] = 99, 200
    longer = {
        "boxes": np.pad(targets["boxes"], [[0, 0], [0, 4], [0, 0]]),
        "labels": np.pad(targets["labels"], [[0, 0], [0, 4]], constant_values=-1),
    }
    expected = model.forward_losses(inputs_of(images, targets), targets, training=False)
    found = model.forward_losses(inputs_of(other, targets), longer, training=False)
    for name in LOSSES:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-5, err_msg=name)
    assert float(expected["num_positive_regions"]) > 0


def test_batch_equals_single_eager_graph_xla_and_dynamic_shapes(model):
    images, targets = scene()
    sizes = targets["image_sizes"]
    eager = model.detect(images, sizes)
    assert eager["num_detections"].numpy().min() > 10
    for k in range(2):
        one = model.detect(images[k : k + 1], sizes[k : k + 1])
        assert_equal_detections({n: v[k : k + 1] for n, v in eager.items()}, one)
    xla = tf.function(lambda i, s: model.detect(i, s, jit_compile=True), jit_compile=True)
    dynamic = tf.function(
        model.detect,
        input_signature=[
            tf.TensorSpec((None, None, None, 3), tf.uint8),
            tf.TensorSpec((None, 2), tf.float32),
        ],
    )
    assert_equal_detections(eager, dynamic(images, sizes))
    assert_equal_detections(eager, xla(images, sizes), atol=1e-3)


def fit_losses(steps=3, **compile_options):
    model = small_model()
    model.compile(SGD(0.01, momentum=0.9), **compile_options)
    dataset = tf.data.Dataset.from_tensors(scene()).repeat()
    return model.fit(dataset, epochs=steps, steps_per_epoch=1, verbose=0, shuffle=False).history


def test_modes_of_fit_agree():
    graph = fit_losses()
    assert set(graph) == {
        "loss", *LOSSES, "num_positive_anchors", "num_positive_regions", "gradient_norm"
    }  # fmt: skip
    for other in (fit_losses(run_eagerly=True), fit_losses(jit_compile=True)):
        np.testing.assert_allclose(other["loss"], graph["loss"], rtol=1e-3)


def test_it_overfits_digits():
    data = fcos_tf.data.load(
        "digits", split="train", batch_size=4, image_size=(64, 64), limit=4, training=True,
        repeat=True, horizontal_flip=False,
    )  # fmt: skip
    keras.utils.set_random_seed(0)
    model = FasterRCNN(
        class_names=data.class_names, **{**SMALL, "fpn_channels": 64, "fc_channels": 64,
        "rois_per_image": 32},
    )  # fmt: skip
    model.compile(SGD(0.05, momentum=0.9, global_clipnorm=10.0))
    history = model.fit(data, epochs=10, steps_per_epoch=30, verbose=0, shuffle=False).history
    assert history["loss"][-1] < 0.5 * history["loss"][0]
    images, targets = next(iter(data))
    found = model.detect(images, targets["image_sizes"], score_threshold=0.3)
    hits = 0
    for boxes, labels, true, wanted in zip(
        *(np.asarray(x) for x in (found["boxes"], found["labels"])),
        *(np.asarray(targets[name]) for name in ("boxes", "labels")),
        strict=True,
    ):
        for box, label in zip(true, wanted, strict=True):
            hits += label >= 0 and np.any(
                (labels == label) & (np.abs(boxes - box).max(axis=-1) < 6)
            )
    assert hits >= 0.5 * (np.asarray(targets["labels"]) >= 0).sum()


def test_a_resumed_run_draws_on(tmp_path):
    dataset = tf.data.Dataset.from_tensors(scene()).repeat()
    options = {"verbose": 0, "shuffle": False}
    model = small_model(fpn_levels=3)
    model.compile(SGD(0.01, momentum=0.9))
    model.optimizer.build(model.trainable_variables)
    variables = [*model.variables, *model.optimizer.variables]
    start = [np.array(variable) for variable in variables]
    model.fit(dataset, steps_per_epoch=4, **options)
    whole = model.get_weights()
    for variable, value in zip(variables, start, strict=True):
        variable.assign(value)
    model.fit(dataset, steps_per_epoch=2, **options)
    model.save(tmp_path / "half.keras")
    keras.utils.set_random_seed(5)
    resumed = keras.models.load_model(tmp_path / "half.keras")
    resumed.fit(dataset, steps_per_epoch=2, **options)
    for a, b in zip(whole, resumed.weights, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6, err_msg=b.path)
    # Another number of the step is another sample.
    model.seed_generator.state.assign([0, 99])
    model.fit(dataset, steps_per_epoch=2, **options)
    assert any(np.abs(a - b).max() > 1e-5 for a, b in zip(
        whole, model.get_weights(), strict=True))  # fmt: skip


def test_evaluate_draws_the_same_sample_every_time(model):
    images, targets = scene()
    model.compile(SGD(0.01))
    before = np.array(model.seed_generator.state)
    first, second = (model.evaluate(images, targets, return_dict=True, verbose=0) for _ in range(2))
    assert first == second
    np.testing.assert_array_equal(model.seed_generator.state, before)


def test_mixed_precision_trains_with_float32_outputs():
    model = small_model(dtype="mixed_bfloat16")
    model.compile(SGD(0.01, momentum=0.9))
    images, targets = scene()
    dataset = tf.data.Dataset.from_tensors((images, targets)).repeat(3)
    history = model.fit(dataset, verbose=0, shuffle=False).history
    assert np.isfinite(history["loss"]).all()
    assert model.rpn_head.convs[0].compute_dtype == "bfloat16"
    assert {v.dtype.name for v in model(images).values()} == {"float32"}


def test_keras_file_round_trip_and_other_classes(tmp_path):
    model = small_model(class_names=["a", "b", "c"], rules="torchvision_v2", fpn_levels=3)
    images, _ = scene()
    model.save(tmp_path / "rcnn.keras")
    loaded = fcos_tf.load_model(tmp_path / "rcnn.keras")
    assert loaded.get_config() == model.get_config() and loaded.rules == model.rules
    before, after = model(images), loaded(images)
    for name in before:
        np.testing.assert_array_equal(before[name], after[name], err_msg=name)
    other = model.with_classes(["x", "y"])
    np.testing.assert_array_equal(other.rpn_head.convs[1].kernel, model.rpn_head.convs[1].kernel)
    np.testing.assert_array_equal(other.box_head.fcs[0].kernel, model.box_head.fcs[0].kernel)
    assert other(images)["class_logits"].shape[-1] == 3


def test_batches_in_parts_are_refused():
    model = small_model(backbone_norm="frozen")
    model.compile(SGD(0.01))
    model.accumulation_steps = 2
    with pytest.raises(ValueError, match=r"accumulation_steps: expected 1, .* of FasterRCNN"):
        model.fit(*scene(), verbose=0)


def test_published_settings():
    classes = {"backbone": "resnet18", "fpn_channels": 32, "fc_channels": 8, "load_weights": False}
    for name, count, rules in (
        ("torchvision_coco", 90, "torchvision"),
        ("torchvision_v2_coco", 90, "torchvision_v2"),
        ("detectron2_1x_coco", 80, "detectron2"),
    ):
        settings = FasterRCNN.from_preset(name, **classes).get_config()
        assert settings["num_classes"] == count == len(settings["category_ids"])
        assert (settings["rules"], settings["nms_threshold"]) == (rules, 0.5)
        assert settings["class_names"][0] == "person" and settings["category_ids"][0] == 1
        # An option may say otherwise; a rule of these numbers is a rule.
        expected = (2000 if rules.startswith("torchvision") else 1000, 1000)
        assert settings["num_proposals"] == expected


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"rules": "adelaidet"}, "rules must be one of fcos_tf, torchvision,.*'adelaidet'"),
        ({"box_refinement": "some"}, "class, agnostic, none; got 'some'"),
        ({"fpn_first_level": 2}, "maps c2, c3, c4, c5; got 'simple_cnn', which has no c2"),
        ({"num_proposals": (5,)}, r"num_proposals must be two numbers.* got \(5,\)"),
    ],
)
def test_bad_arguments_name_themselves(kwargs, message):
    with pytest.raises(ValueError, match=message):
        small_model(**kwargs)
