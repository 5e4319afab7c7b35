import dataclasses

import pytest

from fcos_tf.config import SECTIONS, Config, to_flags


@pytest.mark.parametrize(
    "options, message",
    [
        ({"batch_size": 0}, r"--batch_size: expected a number at least 1, got 0"),
        ({"batch_size": 2.5}, r"--batch_size: expected int, got 2\.5"),
        ({"batch_size": True}, r"--batch_size: expected int, got True"),
        ({"horizontal_flip": 1}, r"--horizontal_flip: expected bool, got 1"),
        ({"learning_rate": 0.0}, r"--learning_rate: expected a number above 0, got 0"),
        ({"learning_rate": float("nan")}, r"--learning_rate: expected a finite number, got nan"),
        ({"momentum": 1.5}, r"--momentum: .*at least 0 and at most 1, got 1\.5"),
        ({"box_loss": "huber"}, r"--box_loss: expected one of giou, iou, l1, got 'huber'"),
        ({"image_size": "512"}, r"--image_size: expected a canvas like 512x512.*got '512'"),
        ({"image_size": "900-800"}, r"--image_size: .*got '900-800'"),
        ({"orientation_buckets": True}, r"--orientation_buckets: .* got --image_size=512x512"),
        ({"scale_jitter": (2.0, 1.0)}, r"--scale_jitter: expected two increasing .* got 2\.0,1\.0"),
        ({"scale_jitter": (1.0,)}, r"--scale_jitter: expected two"),
        ({"augment": ("blur",)}, r"--augment: expected some of color_jitter, .*, got 'blur'"),
        ({"metrics": ("lvis",)}, r"--metrics: expected some of coco, voc07, voc12, got 'lvis'"),
        ({"image_size": "0x64"}, r"--image_size: .*got '0x64'"),
        ({"epochs": 12.0, "steps": 5}, r"--epochs and --steps: .*--epochs=12 and --steps=5"),
        ({"decay_steps": (8, 6)}, r"--decay_steps: expected increasing steps.*got 8,6"),
        ({"decay_steps": (5,), "schedule": "cosine"}, r"--decay_steps: .*--schedule=step only"),
        ({"decay_steps": [5]}, r"--decay_steps: expected a tuple of int"),
        ({"fpn_channels": 48}, r"--fpn_channels: expected a multiple of 32, got 48"),
        ({"classes": ("cat", "cat")}, r"--classes: expected different names"),
    ],
)
def test_wrong_values_name_flag_expectation_and_value(options, message):
    with pytest.raises(ValueError, match=message):
        Config(**options)


@pytest.mark.parametrize("image_size", ["64x64", "240X320", "800,1333"])
def test_image_sizes(image_size):
    assert Config(image_size=image_size).image_size == image_size


def test_boundaries_are_allowed():
    config = Config(momentum=1, clip_norm=0, frozen_stages=-1, score_threshold=1)
    assert (config.momentum, config.clip_norm, config.frozen_stages) == (1, 0, -1)


def test_a_config_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().batch_size = 3


def test_every_option_is_explained_and_in_a_section():
    for field in dataclasses.fields(Config):
        assert field.metadata["help"].endswith("."), field.name
        assert field.metadata["section"] in SECTIONS, field.name


def test_flags_hold_every_option_once():
    text = to_flags(Config(classes=("a", "b"), decay_steps=(6, 8), horizontal_flip=False))
    lines = [line for line in text.splitlines() if line.startswith("--")]
    names = [line[2 : line.index("=")] for line in lines]
    assert sorted(names) == sorted(field.name for field in dataclasses.fields(Config))
    assert {"--classes=a,b", "--decay_steps=6,8", "--horizontal_flip=false"} <= set(lines)
