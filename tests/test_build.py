import dataclasses
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from fcos_tf import FCOS, FasterRCNN, build
from fcos_tf.config import Config
from fcos_tf.data.input.augment import AUGMENTATIONS
from fcos_tf.evaluation import METRICS
from fcos_tf.layers.box_head import REFINEMENTS
from fcos_tf.layers.fpn import UPSAMPLINGS
from fcos_tf.layers.heads import HEAD_NORMS
from fcos_tf.models.fcos_rules import RULES
from fcos_tf.models.fcos_training import ASSIGNERS, QUALITIES
from fcos_tf.models.rcnn_rules import RULES as RCNN_RULES
from fcos_tf.options import fields_of
from fcos_tf.training import callbacks
from fcos_tf.training.callbacks import InputClock
from fcos_tf.training.interruption import StopSignals
from fcos_tf.training.metric_writers import ProgressBar, TensorBoardWriter
from fcos_tf.training.non_finite import NonFiniteGuard
from fcos_tf.training.run import DetectionPictures
from fcos_tf.training.schedules import WarmupConstant, WarmupCosine
from fcos_tf.training.strategy import Share
from tests.data.formats.voc_trees import voc_object


def rate(config, total_steps, step):
    return float(build.make_optimizer(config, total_steps)._learning_rate(step))


def test_default_decay_is_at_80_and_95_percent():
    # Of 900 steps 720 and 855.
    config = Config(learning_rate=1.0, warmup_steps=0)
    steps = (719, 720, 854, 855)
    assert [rate(config, 900, s) for s in steps] == pytest.approx([1.0, 0.1, 0.1, 0.01])
    assert [rate(config, 90_000, s * 100) for s in steps] == pytest.approx([1, 0.1, 0.1, 0.01])
    given = Config(learning_rate=1.0, warmup_steps=0, decay_steps=(10,), decay_factor=0.5)
    assert [rate(given, 900, s) for s in (9, 10, 899)] == [1.0, 0.5, 0.5]


def test_optimizer_follows_the_flags():
    config = Config(schedule="cosine", warmup_steps=5, momentum=1, weight_decay=0.1, clip_norm=7)
    optimizer = build.make_optimizer(config, 10)
    assert isinstance(optimizer._learning_rate, WarmupCosine)
    assert (optimizer.momentum, optimizer.weight_decay) == (1.0, 0.1)
    assert optimizer.global_clipnorm == 7
    constant = build.make_optimizer(Config(schedule="constant", clip_norm=0), 10)
    assert isinstance(constant._learning_rate, WarmupConstant)
    assert constant.global_clipnorm is None
    with pytest.raises(ValueError, match=r"warmup_steps: expected fewer than the 5 steps"):
        build.make_optimizer(config, 5)


def test_xla_stays_off_where_it_cannot_be(monkeypatch):
    model = keras.Sequential([keras.layers.Dense(1)])
    build.compile_model(Config(jit_compile="true"), model, 10)
    assert model.jit_compile is True
    build.compile_model(Config(), model, 10)  # auto, no GPU
    assert model.jit_compile is False

    class TwoReplicas:
        num_replicas_in_sync = 2

    monkeypatch.setattr(tf.distribute, "get_strategy", TwoReplicas)
    with pytest.raises(ValueError, match=r"--jit_compile: .*several devices"):
        build.compile_model(Config(jit_compile="true"), model, 10)


def test_model_follows_the_flags():
    config = Config(
        backbone="resnet18", fpn_channels=32, head_convs=1, box_loss="iou", quality="iou",
        center_sampling_radius=0, max_detections=7, nms_threshold=0.5, score_threshold=0.2,
        channel_order="bgr", backbone_norm="frozen", frozen_stages=1, precision="mixed_bfloat16",
        fpn_levels=3, fpn_upsampling="bilinear", head_norm="none", rules="adelaidet",
        box_loss_weight=0.25, image_size="64x64",
    )  # fmt: skip
    model = build.make_model(config, ("rod", "ring"))
    given = model.get_config()
    for name in ("backbone", "fpn_channels", "head_convs", "box_loss", "quality", "max_detections",
                 "nms_threshold", "score_threshold", "channel_order", "backbone_norm",
                 "frozen_stages", "centerness_on", "topk_per_level", "fpn_levels", "head_norm",
                 "fpn_upsampling", "rules", "box_loss_weight", "image_size"):  # fmt: skip
        assert given[name] == getattr(config, name), name
    assert not given["center_sampling_radius"]
    assert model.class_names == ("rod", "ring")
    assert model.dtype_policy.name == "mixed_bfloat16"
    build.compile_model(config, model, 10)
    assert model.jit_compile is False  # no GPU, or tests would be slow


def test_the_other_model_follows_the_flags_and_has_defaults_of_its_own():
    options = {
        "backbone": "simple_cnn", "fpn_first_level": 3, "fpn_levels": 3, "fpn_channels": 32,
        "anchor_scale": 4.0, "rules": "course", "box_refinement": "none", "max_detections": 7,
        "rois_per_image": 8, "num_proposals": (30, 20),
    }  # fmt: skip
    model = build.make_model(Config(model="faster_rcnn", **options), ("rod", "ring"))
    assert isinstance(model, FasterRCNN)
    given = model.get_config()
    assert {name: given[name] for name in options} == options
    # 0 and an empty list stand for what the model and its rules say.
    assert (given["nms_threshold"], given["anchors_per_image"]) == (0.5, 16)
    assert given["proposals_per_level"] == (400, 400)
    small = {"backbone": "simple_cnn", "fpn_levels": 3, "fpn_channels": 32, "head_convs": 0}
    assert build.make_model(Config(**small), ("rod",)).nms_threshold == 0.6
    config = Config(model="faster_rcnn", head_convs=2, assigner="fcos", fc_channels=64)
    with pytest.raises(ValueError, match="--head_convs: not an option of --model=faster_rcnn"):
        build.model_class(config)


def test_a_detector_to_start_from(tmp_path):
    file = str(tmp_path / "start.keras")
    small = {"backbone": "simple_cnn", "fpn_channels": 32, "head_convs": 1}
    source = FCOS(2, class_names=("rod", "ring"), rules="detectron2", **small)
    source.save(file)
    config = Config(initial_weights=file, precision="mixed_bfloat16")
    model = build.make_model(config, ("cup",))
    assert (model.class_names, model.rules) == (("cup",), RULES["detectron2"])
    assert model.dtype_policy.name == "mixed_bfloat16"
    np.testing.assert_array_equal(model.head.ltrb.kernel, source.head.ltrb.kernel)
    config = Config(initial_weights=file, backbone="resnet34", max_detections=7)
    with pytest.warns(UserWarning, match=r"start.keras; of no effect: --backbone=resnet34 --max_d"):
        build.make_model(config, ("cup",))


def test_wrong_number_of_classes_is_refused():
    with pytest.raises(ValueError, match=r"--num_classes: expected 0 or 2, .*\(rod, ring\), got 3"):
        build.make_model(Config(num_classes=3), ("rod", "ring"))


class Toy:
    """A model that has two of the options beside what every model has."""

    protocols = ("coco",)

    def __init__(self, num_classes, *, class_names, category_ids, dtype, backbone, max_detections):
        self.given = (num_classes, class_names, category_ids, dtype, backbone, max_detections)


def test_the_model_is_chosen_by_name(monkeypatch):
    monkeypatch.setitem(build.MODELS, "toy", Toy)
    config = Config(model="toy", max_detections=7, precision="mixed_bfloat16")
    model = build.make_model(config, ["a", "b"], [3, 9])
    assert model.given == (2, ("a", "b"), [3, 9], "mixed_bfloat16", "resnet50", 7)
    assert build.model_class(Config()) is FCOS
    with pytest.raises(
        ValueError, match="--model: expected one of fcos, faster_rcnn, classifier, toy, got 'x'"
    ):
        build.model_class(Config(model="x"))


def test_options_of_other_models_are_refused(monkeypatch, tmp_path):
    monkeypatch.setitem(build.MODELS, "toy", Toy)
    config = Config(model="toy", fpn_levels=3, nms_threshold=0.5, learning_rate=1.0)
    with pytest.raises(ValueError, match="--fpn_levels, --nms_threshold: not an option of --m"):
        build.model_class(config)
    # A file has its own settings, and none of these counts.
    assert build.model_class(dataclasses.replace(config, initial_weights="a.keras")) is Toy


def test_the_file_of_a_run_leaves_a_model_its_thresholds():
    every_option = fields_of(Config)
    small = {"backbone": "simple_cnn", "fpn_channels": 32, "nms_threshold": 0.4}
    fcos = FCOS(2, **small)
    rcnn = FasterRCNN(2, fpn_first_level=3, fpn_levels=4, fc_channels=32, **small)
    # --nms_threshold=0 stands for the model's own; --topk_per_level is none of Faster R-CNN.
    shared = {"score_threshold": 0.05, "max_detections": 100}
    found = build.given_thresholds(Config(), every_option, fcos, "a.keras")
    assert found == shared | {"topk_per_level": 1000}
    assert build.given_thresholds(Config(), every_option, rcnn, "a.keras") == shared
    config = Config(nms_threshold=0.3, topk_per_level=50)
    assert build.given_thresholds(config, ["nms_threshold"], rcnn, "a.keras") == {
        "nms_threshold": 0.3
    }
    with pytest.raises(ValueError, match=r"--topk_per_level: not an option of .* in a\.keras"):
        build.given_thresholds(config, every_option, rcnn, "a.keras")


def test_checkpoints_come_before_the_evaluation_and_its_line_last():
    made = build.make_callbacks(Config(model_dir="x"), [], [], first_step=3)
    assert [type(callback) for callback in made] == [
        callbacks.TrainingLog, NonFiniteGuard, callbacks.Checkpoint, callbacks.DetectionMetrics,
        callbacks.BestModel, callbacks.EvaluationLog,
    ]  # fmt: skip
    assert [c.step for c in made if isinstance(c, callbacks.StepCallback)] == [3] * 5


def test_what_watches_a_run_finds_its_place(tmp_path):
    writers = [ProgressBar(9), TensorBoardWriter(tmp_path)]
    clock = InputClock()
    made = build.make_callbacks(Config(model_dir="x"), [], writers, input_clock=clock)
    kinds = [type(callback) for callback in made]
    evaluated = kinds.index(callbacks.DetectionMetrics)
    assert kinds[:2] == [callbacks.TrainingLog, ProgressBar] and evaluated > 1
    assert kinds.index(DetectionPictures) > evaluated
    assert made[0].input_clock is made[-1] is clock
    writers[1].close()


def test_a_signal_breaks_off_the_evaluation_of_one_host_only():
    stop = StopSignals()
    for share, expected in ((Share(), stop.raise_if_received), (Share(2, 1), None)):
        made = build.make_callbacks(Config(model_dir="x"), [], [], share=share, stop=stop)
        for callback in made:
            if isinstance(callback, callbacks.DetectionMetrics):
                assert callback.progress == expected
            if isinstance(callback, callbacks.Checkpoint):
                assert (callback.stop, callback.writes) == (stop, share.is_chief)


def test_the_best_metric_must_be_measured():
    config = Config(model_dir="x", metrics=("voc07",), best_metric="AP")
    with pytest.raises(ValueError, match=r"--best_metric: expected one of mAP_voc07, .* got 'AP'"):
        build.make_callbacks(config, [], [])
    for metrics, best, expected in (
        (("coco", "voc07"), "mAP_voc07", "mAP_voc07"),
        (("coco", "voc07"), "auto", "AP"),
        (("voc12", "coco"), "auto", "mAP_voc12"),
    ):
        config = Config(model_dir="x", metrics=metrics, best_metric=best)
        made = build.make_callbacks(config, [], [])
        assert [c.best_metric for c in made if isinstance(c, callbacks.BestModel)] == [expected]


def test_flags_offer_what_the_parts_know():
    # The config stands below them and cannot ask.
    choices = {field.name: field.metadata["choices"] for field in dataclasses.fields(Config)}
    text = fields_of(Config)["model"].metadata["text"]
    assert text == f"The kind of model: {', '.join(build.MODELS)}."
    assert set(choices["augment"]) == set(AUGMENTATIONS)
    assert set(choices["metrics"]) == set(METRICS)
    assert set(choices["rules"]) == {*RULES, *RCNN_RULES}
    assert choices["box_refinement"] == REFINEMENTS
    assert set(choices["assigner"]) == set(ASSIGNERS)
    assert set(choices["quality"]) == set(QUALITIES)
    assert set(choices["fpn_upsampling"]) == set(UPSAMPLINGS)
    assert set(choices["head_norm"]) == set(HEAD_NORMS)


class Devices:
    """As much of a strategy as `check_devices` asks for."""

    num_replicas_in_sync = 4


@pytest.mark.parametrize(
    "options, message",
    [
        ({"batch_size": 6}, r"--batch_size: expected a multiple of 4, .*=mirrored, got 6"),
        (
            {"batch_size": 24, "accumulation_steps": 4},
            "--accumulation_steps: expected a divisor of 6, the images of a step on a device, got",
        ),
        ({"strategy": "tpu", "image_size": "800,1333"}, r"--image_size: .*=tpu, got 800,1333"),
        (
            {"strategy": "tpu", "image_size": "800,1333", "orientation_buckets": True},
            "--image_size: expected a canvas like 512x512 with --strategy=tpu",
        ),
    ],
)
def test_options_that_the_devices_do_not_take(options, message):
    config = Config(**{"strategy": "mirrored", "batch_size": 8, **options})
    with pytest.raises(ValueError, match=message):
        build.check_devices(config, Devices())


@pytest.mark.parametrize(
    ("norm", "parts", "warned"), [("batch", 2, 1), ("frozen", 2, 0), ("batch", 1, 0)]
)
def test_batch_norms_that_see_parts_of_a_batch_are_told(norm, parts, warned, recwarn):
    config = Config(
        backbone="simple_cnn", backbone_norm=norm, fpn_levels=3, fpn_channels=32, head_convs=0,
        accumulation_steps=parts,
    )  # fmt: skip
    build.compile_model(config, build.make_model(config, ["a"]), total_steps=10)
    texts = [str(each.message) for each in recwarn if "batch norms" in str(each.message)]
    assert len(texts) == warned
    assert all("one of the 2 parts of --accumulation_steps at a time" in text for text in texts)


def test_options_that_several_hosts_do_not_take(monkeypatch):
    buckets = Config(image_size="800,1333", orientation_buckets=True)
    build.check_devices(buckets, Devices())
    monkeypatch.setattr(build, "share_of", lambda strategy: Share(2, 1))
    build.check_devices(buckets, Devices())
    build.check_devices(Config(image_size="64x64"), Devices())
    with pytest.raises(ValueError, match=r"--image_size: .* with several hosts, got 800,1333"):
        build.check_devices(Config(image_size="800,1333"), Devices())


def test_training_options_do_not_reach_the_validation_data(tmp_path):
    for name in "abcd":
        Image.new("RGB", (40, 30)).save(tmp_path / f"{name}.jpg")
        (tmp_path / f"{name}.xml").write_text(
            f"<annotation>{voc_object() if name == 'a' else ''}</annotation>"
        )
    config = Config(
        data_dir=str(tmp_path), image_size="64x64", batch_size=1, skip_empty=True,
        train_split="all", val_split="all", classes=("cat",),
    )  # fmt: skip
    assert build.load_train_data(config).num_images == 1
    assert build.load_val_data(config).num_images == 4


def test_images_in_both_splits_are_refused(tmp_path):
    for name in "abcd":
        Image.new("RGB", (40, 30)).save(tmp_path / f"{name}.jpg")
        (tmp_path / f"{name}.xml").write_text(f"<annotation>{voc_object()}</annotation>")
    options = {"data_dir": str(tmp_path), "image_size": "64x64", "batch_size": 2}
    config = Config(**options, train_split="all", val_split="all")
    assert config.dataset == "auto" and Config().dataset == "digits"
    data = build.load_train_data(config), build.load_val_data(config)
    message = "--train_split=all and --val_split=all: 4 of 4 images to evaluate on are trained on"
    with pytest.raises(ValueError, match=rf"{message}, first .*a\.jpg; give other splits"):
        build.check_disjoint(config, *data)
    build.check_disjoint(dataclasses.replace(config, overfit=2), *data)
    config = Config(**options)  # a and b to train on, c and d to evaluate on
    build.check_disjoint(config, build.load_train_data(config), build.load_val_data(config))


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ({"warmup_steps": 500}, "--warmup_steps=500: expected"),
        ({"decay_steps": (200, 300, 400)}, "--decay_steps=300,400: expected"),
        ({"warmup_steps": 300, "decay_steps": (299, 300)}, "--warmup_steps=300 and --decay_steps="),
    ],
)
def test_a_schedule_longer_than_the_run_is_told(flags, named):
    with pytest.warns(UserWarning, match=rf"{named}.* less than the 300 steps of the run"):
        build.make_schedule(Config(**flags), 300)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        build.make_schedule(Config(**flags), 501)
