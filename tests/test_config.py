import ast
import dataclasses
import importlib
import itertools
from pathlib import Path

import pytest

from fcos_tf import build
from fcos_tf.config import Config, DetectionOptions, ModelOptions
from fcos_tf.options import (
    Options,
    changed_options,
    fields_of,
    fixed_options,
    option,
    options_for,
    parameters_of,
    sections_of,
    to_flags,
)
from tests.cli.parsing import parse_config

ROOT = Path(__file__).resolve().parents[1]


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
        ({"decay_factor": 0.2, "schedule": "constant"}, r"--decay_factor: .*got --schedule=const"),
        ({"momentum": 0.8, "optimizer": "adamw"}, r"--momentum: expected with --optimizer=sgd "),
        ({"warmup_factor": 0.1, "warmup_steps": 0}, r"--warmup_factor: .*got --warmup_steps=0"),
        ({"scale_jitter": (0.5, 1.5)}, r"--scale_jitter: expected with --augment=scale_jitter "),
        ({"decay_steps": [5]}, r"--decay_steps: expected a tuple of int"),
        ({"score_threshold": "best"}, r"--score_threshold: expected float, got 'best'"),
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


def test_a_word_in_place_of_a_number():
    config = parse_config(["--score_threshold=best_f1"])
    assert config == Config(score_threshold="best_f1")
    with pytest.raises(ValueError, match="expected float or best_f1, got 'best'"):
        parse_config(["--score_threshold=best"])


def test_a_config_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().batch_size = 3


def test_every_option_is_explained_and_in_a_section():
    for field in dataclasses.fields(Config):
        assert field.metadata["text"].endswith("."), field.name
    names = [name for names in sections_of(Config).values() for name in names]
    assert sorted(names) == sorted(field.name for field in dataclasses.fields(Config))
    titles = [section.title for section in sections_of(Config)]
    assert titles[:2] == ["Data", "Images"] and len(set(titles)) == len(titles)


def test_other_words_for_an_option_are_no_options():
    words = [word for field in fields_of(Config).values() for word in field.metadata["also"]]
    # Tools have some of these as options of their own, such as --output_dir.
    assert not set(words) & (fields_of(Config).keys() - {"model"})


class Tool:
    """What may need options."""

    def __init__(self, image_size, *, clip_norm=None, **kwargs):
        pass


class Hammer(Tool):
    """Hands up what it does not take."""

    def __init__(self, *, frozen_stages, **kwargs):
        super().__init__(**kwargs)


class Fixed(Tool):
    """Hands up nothing."""

    def __init__(self, *, quality):
        super().__init__("64x64")


def test_options_arrive_by_the_names_of_parameters_with_their_meaning():
    config = Config(clip_norm=0, jit_compile="false", data_dir="", frozen_stages=-1, seed=3)

    def function(seed, *, jit_compile, data_dir="x", other=None):
        pass

    found = options_for(config, function, other=5)
    assert found == {"seed": 3, "jit_compile": False, "data_dir": None, "other": 5}
    assert options_for(config, function, seed=7)["seed"] == 7
    # A class takes what its constructor takes, and those that its **kwargs reach.
    assert options_for(config, Tool) == {"image_size": "512x512", "clip_norm": None}
    assert options_for(config, Hammer).keys() == {"image_size", "clip_norm", "frozen_stages"}
    assert options_for(config, Fixed) == {"quality": "centerness"}
    # Other values mean themselves.
    config = Config(clip_norm=2, frozen_stages=0, jit_compile="true", data_dir="d")
    assert options_for(config, Hammer)["clip_norm"] == 2
    assert options_for(config, Hammer)["frozen_stages"] == 0
    assert options_for(config, function) == {"seed": 0, "jit_compile": True, "data_dir": "d"}


def test_none_overrides_the_backbone_weights_of_a_flag_file():
    none = Config(backbone_weights="none")
    assert none == Config() and "--backbone_weights=\n" in to_flags(none)
    assert options_for(none, build.MODELS["fcos"])["backbone_weights"] is None


def test_options_without_a_value_and_required_ones():
    @dataclasses.dataclass(frozen=True)
    class Some(Options):
        file: str = option("", "A file.", required=True)
        count: int | None = option(None, "How many.", least=1)
        way: str | None = option(None, "Which way.", choices=("up", "down"))

    assert vars(Some(file="a")) == {"file": "a", "count": None, "way": None}
    for options, message in (
        ({}, "--file: expected a value, got none"),
        ({"file": "a", "count": 0}, "--count: expected a number at least 1, got 0"),
        ({"file": "a", "count": 1.5}, r"--count: expected int, got 1\.5"),
        ({"file": "a", "way": ""}, "--way: expected one of up, down, got ''"),
    ):
        with pytest.raises(ValueError, match=message):
            Some(**options)


def test_sections_say_what_was_changed():
    config = Config(backbone="resnet18", max_detections=7, cache=True, augment=("mosaic",), steps=3)
    changed = changed_options(config, ModelOptions, DetectionOptions)
    assert changed == {"backbone": "resnet18", "max_detections": "7"}


def test_what_a_resumed_run_must_have_again():
    # By default warm-up and decays of the learning rate follow from the length of the run.
    assert {"steps", "epochs", "seed", "dataset"} < fixed_options(Config()).keys()
    fixed = fixed_options(Config(decay_steps=(9,), warmup_steps=5, batch_size=8))
    assert not {"steps", "epochs", "model_dir", "cache", "metrics", "tta"} & fixed.keys()
    assert (fixed["batch_size"], fixed["decay_steps"]) == ("8", "9")


# What hands options on -> which of its arguments gets them.
HANDS_ON = {"options_for": 1, "_data_options": 1, "make": 0}


def names_in(tree):
    """What the imports of a module bind, those inside functions included."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module.startswith("fcos_tf"):
            module = importlib.import_module(node.module)
            for alias in node.names:
                found = getattr(module, alias.name, None)
                names[alias.asname or alias.name] = found or importlib.import_module(
                    f"{node.module}.{alias.name}"
                )
    return names


def taken_options(path):
    """Options that a module reads as `config.NAME`, or hands on by `options_for(config, THING)`."""
    tree = ast.parse(path.read_text())
    module = importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
    names = {**names_in(tree), **vars(module)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "config":
            yield node.attr
        if isinstance(node, ast.Call) and ast.unparse(node.func) in HANDS_ON:
            thing = ast.unparse(node.args[HANDS_ON[ast.unparse(node.func)]])
            if thing.split(".")[0] in names:  # else a parameter, of what is itself in HANDS_ON
                yield from parameters_of(eval(thing, names))


def test_every_option_arrives_somewhere():
    rooms = [(ROOT / "fcos_tf" / room).glob("*.py") for room in ("cli", "jobs")]
    files = [ROOT / "fcos_tf" / "build.py", *sorted(itertools.chain(*rooms))]
    taken = {name for file in files for name in taken_options(file)}
    for kind in (*build.MODELS.values(), *build.OPTIMIZERS.values()):
        taken |= parameters_of(kind).keys()
    assert {"images", "momentum", "allow_config_change", "tta", "jit_compile"} <= taken
    assert fields_of(Config).keys() - taken == set()


def test_names_with_commas_and_quotes_read_back(tmp_path):
    classes = ("cup, mug", 'a "b"', "dog")
    (tmp_path / "config.cfg").write_text(to_flags(Config(classes=classes)))
    assert parse_config([f"--flagfile={tmp_path}/config.cfg"]).classes == classes


def test_flags_hold_every_option_once():
    text = to_flags(Config(classes=("a", "b"), decay_steps=(6, 8), horizontal_flip=False))
    lines = [line for line in text.splitlines() if line.startswith("--")]
    names = [line[2 : line.index("=")] for line in lines]
    assert sorted(names) == sorted(field.name for field in dataclasses.fields(Config))
    assert {"--classes=a,b", "--decay_steps=6,8", "--horizontal_flip=false"} <= set(lines)
