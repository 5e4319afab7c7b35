"""Published settings by name, and detectors that go on with other classes."""

import keras
import numpy as np
import pytest

from fcos_tf import FCOS
from fcos_tf.models.detector import category_ids_of, detectable
from fcos_tf.models.fcos_presets import COCO_CLASSES, PRESETS

SMALL = {"backbone": "simple_cnn", "fpn_channels": 32, "head_convs": 1, "image_size": "64x64"}
SMALL["load_weights"] = False


@pytest.fixture(scope="module")
def trained():
    """A detector whose weights are all random, biases and statistics too."""
    keras.utils.set_random_seed(0)
    model = FCOS.from_preset("torchvision_coco", class_names=("cat", "dog", "cow"), **SMALL)
    rng = np.random.default_rng(0)
    model.set_weights([w + 0.05 * rng.uniform(0, 1, w.shape) for w in model.get_weights()])
    return model


def test_classes_of_coco():
    assert len(COCO_CLASSES) == len(set(COCO_CLASSES)) == 80
    names = PRESETS["torchvision_coco"]["class_names"]
    # Category ids of COCO: 1 person, 13 stop sign, 44 bottle, 90 toothbrush; 12 and 91 unused.
    assert len(names) == 91
    assert [names[k] for k in (0, 1, 12, 13, 44, 90)] == [
        "__background__", "person", "N/A", "stop sign", "bottle", "toothbrush",
    ]  # fmt: skip
    assert detectable(names) == COCO_CLASSES


# From reference.md's sources: thresholds, input and the rules' name.
@pytest.mark.parametrize(
    ("name", "classes", "threshold", "mean_of_blue", "order", "epsilon"),
    [
        ("torchvision_coco", 91, 0.2, 103.53, "rgb", 1e-5),
        ("official_coco", 80, 0.05, 102.9801, "bgr", 0.0),
        ("official_improved_coco", 80, 0.05, 102.9801, "bgr", 0.0),
        ("adelaidet_coco", 80, 0.05, 103.53, "bgr", 1e-5),
        ("detectron2_coco", 80, 0.2, 103.53, "bgr", 1e-5),
    ],
)
def test_settings(name, classes, threshold, mean_of_blue, order, epsilon):
    options = {**SMALL, "backbone": "resnet18", "image_size": "800,1333"}
    settings = FCOS.from_preset(name, **options).get_config()
    assert settings["num_classes"] == classes and len(settings["class_names"]) == classes
    assert settings["score_threshold"] == threshold and settings["nms_threshold"] == 0.6
    assert settings["channel_order"] == order
    assert settings["mean"][0 if order == "bgr" else 2] == pytest.approx(mean_of_blue)
    assert settings["norm_epsilon"] == epsilon
    assert settings["rules"] == name.removesuffix("_coco")
    assert settings["stride_in_3x3"] == (name == "torchvision_coco")
    assert (settings["backbone_norm"], settings["frozen_stages"]) == ("frozen", 2)
    assert settings["image_size"] == "800,1333"


def test_the_first_form_of_the_paper():
    base, improved = PRESETS["official_coco"], PRESETS["official_improved_coco"]
    changed = {name for name in base if base[name] != improved.get(name, "default")}
    assert changed == {"rules", "centerness_on", "box_loss", "center_sampling_radius"}


def test_category_ids():
    ids = PRESETS["detectron2_coco"]["category_ids"]
    # COCO's 80 classes have ids up to 90: bicycle 2, stop sign 13 (after 11), toothbrush 90.
    assert len(ids) == 80 and (ids[1], ids[10], ids[11], ids[79]) == (2, 11, 13, 90)
    assert PRESETS["torchvision_coco"]["category_ids"] == tuple(range(91))
    assert FCOS.preset_arguments("adelaidet_coco", {})["category_ids"] == ids
    assert FCOS.preset_arguments("adelaidet_coco", {"num_classes": 7})["category_ids"] is None
    assert FCOS.preset_arguments("adelaidet_coco", {"class_names": ("a",)})["category_ids"] is None
    small = {"backbone": "simple_cnn", "fpn_channels": 32, "head_convs": 0}
    assert category_ids_of(FCOS(3, **small)) == (1, 2, 3)
    assert category_ids_of(FCOS(3, category_ids=(4, 8, 5), **small)) == (4, 8, 5)
    with pytest.raises(ValueError, match=r"expected 3 different category_ids; got \(1,\)"):
        FCOS(3, category_ids=(1,), **small)


def test_overrides():
    preset = FCOS.preset_arguments
    assert preset("adelaidet_coco", {})["num_classes"] == 80
    assert preset("adelaidet_coco", {"num_classes": 80})["class_names"] == COCO_CLASSES
    assert preset("adelaidet_coco", {"num_classes": 7})["class_names"] is None
    mine = preset("adelaidet_coco", {"class_names": ("a", "b"), "backbone": "resnet101"})
    assert (mine["num_classes"], mine["backbone"]) == (2, "resnet101")
    with pytest.raises(ValueError, match=r"preset must be one of torchvision_coco.*got 'coco'"):
        FCOS.from_preset("coco")


def test_no_epsilon_means_none():
    model = FCOS.from_preset("official_improved_coco", **{**SMALL, "backbone": "resnet18"})
    norm = model.backbone.get_layer("stem_norm")
    norm.moving_variance.assign(np.full(64, 1e-6))
    # rsqrt(1e-6) = 1000; with epsilon 1e-5 it would be 302.
    np.testing.assert_allclose(norm.scale()[0], 1000, rtol=1e-4)


def test_other_classes_keep_everything_but_the_class_logits(trained):
    model = trained.with_classes(("cup", "fork"))
    assert (model.num_classes, model.class_names) == (2, ("cup", "fork"))
    changed = {"num_classes", "class_names", "category_ids", "name"}
    before, after = trained.get_config(), model.get_config()
    assert {k: v for k, v in before.items() if k not in changed} == {
        k: v for k, v in after.items() if k not in changed
    }
    images = np.random.default_rng(1).integers(0, 256, (1, 64, 64, 3)).astype("uint8")
    old, new = trained(images), model(images)
    for name in ("ltrb", "centerness_logits"):
        np.testing.assert_array_equal(old[name], new[name])
    assert new["class_logits"].shape[-1] == 2
    # Fresh: bias -ln(99) and little else.
    np.testing.assert_allclose(model.head.class_logits.bias, [-np.log(99)] * 2, rtol=1e-5)


def test_the_same_classes_keep_everything(trained):
    model = trained.with_classes(trained.class_names, dtype="mixed_bfloat16")
    assert model.dtype_policy.name == "mixed_bfloat16"
    for ours, theirs in zip(model.get_weights(), trained.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    swapped = trained.with_classes(("dog", "cat", "cow"))  # other labels: nothing to keep
    assert np.any(np.asarray(swapped.head.class_logits.kernel) != trained.head.class_logits.kernel)


def test_other_classes_on_a_backbone_of_keras_cv():
    keras.utils.set_random_seed(0)
    small = {"backbone": "keras_cv/mobilenet_v3_small", "fpn_channels": 32, "head_convs": 1}
    source = FCOS(2, **small)
    model = source.with_classes(("cup", "fork", "plate"))
    images = np.random.default_rng(1).integers(0, 256, (1, 64, 64, 3)).astype("uint8")
    np.testing.assert_array_equal(source(images)["ltrb"], model(images)["ltrb"])


def test_preset_with_the_weights_of_a_file(trained, tmp_path):
    file = str(tmp_path / "converted.keras")
    trained.save(file)
    model = FCOS.from_preset(
        "torchvision_coco", weights=file, class_names=trained.class_names, **SMALL
    )
    for ours, theirs in zip(model.get_weights(), trained.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    other = FCOS.from_preset("torchvision_coco", weights=file, num_classes=5, **SMALL)
    np.testing.assert_array_equal(other.head.ltrb.kernel, trained.head.ltrb.kernel)
    np.testing.assert_allclose(other.head.class_logits.bias, [-np.log(99)] * 5, rtol=1e-5)
    with pytest.raises(ValueError, match=r"converted\.keras: .*expected .* of this model; got"):
        FCOS.from_preset("torchvision_coco", weights=file, **{**SMALL, "fpn_channels": 64})
    others = {**SMALL, "class_names": trained.class_names, "stride_in_3x3": True}
    with pytest.raises(ValueError, match=r"head/scale_0/scale: expected \(\) .* got nothing"):
        FCOS.from_preset("adelaidet_coco", weights=file, **others)
    with pytest.raises(FileNotFoundError, match=r"no weights file no; expected a \.keras file"):
        FCOS.from_preset("torchvision_coco", weights="no", **SMALL)
    (tmp_path / "bad.keras").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"bad\.keras is corrupt .* expected a \.keras file"):
        FCOS.from_preset("torchvision_coco", weights=str(tmp_path / "bad.keras"), **SMALL)
