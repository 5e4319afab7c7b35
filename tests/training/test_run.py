"""The files of a run, and what is checked before a long one."""

import dataclasses

import pytest

import fcos_tf.data
from fcos_tf.config import Config
from fcos_tf.options import common_options, fixed_options, spelled, to_flags
from fcos_tf.training import run
from tests.digit_files import write_digits


def test_a_folder_of_broken_images_is_told_before_training(tmp_path):
    folder = write_digits("voc", tmp_path, {"val": 5})
    images = sorted((folder / "JPEGImages").iterdir())
    for image in images[:2]:
        image.write_bytes(b"")

    def val_data():
        return fcos_tf.data.load("voc", data_dir=folder, split="val", batch_size=3)

    run.check_readable(val_data())  # one of three is enough
    images[2].write_bytes(b"")
    with pytest.raises(ValueError, match=r"none of the first 3 images .*val_0000[123].png: the"):
        run.check_readable(val_data())


@pytest.mark.parametrize(
    "before, now, changed",
    [
        ({}, {}, ""),
        ({}, {"log_every": 7, "model_dir": "b", "jit_compile": "false"}, ""),
        ({"annotations": "a.json"}, {"annotations": "b.json", "images": "c", "data_dir": "d"}, ""),
        ({}, {"batch_size": 8, "augment": ("mosaic",)},
         r"--batch_size=8 \(was 16\), --augment=mosaic \(was empty\)"),
        ({"seed": 1}, {"seed": 2}, r"--seed=2 \(was 1\)"),
        # A number is itself however it is spelt.
        ({"epochs": 2.0}, {"epochs": 2}, ""),
        # The end of the run moves warm-up and decays of the learning rate, unless they are said.
        ({"steps": 90}, {"steps": 120}, r"--steps=120 \(was 90\)"),
        ({"steps": 90, "decay_steps": (60,)}, {"steps": 120, "decay_steps": (60,)}, "--steps=120"),
        ({"steps": 90, "decay_steps": (60,), "warmup_steps": 5},
         {"steps": 120, "decay_steps": (60,), "warmup_steps": 5}, ""),
        ({"steps": 90, "schedule": "constant", "warmup_steps": 5},
         {"steps": 120, "schedule": "constant", "warmup_steps": 5}, ""),
        ({"steps": 90, "schedule": "cosine"}, {"steps": 120, "schedule": "cosine"}, "--steps=120"),
    ],
)  # fmt: skip
def test_flags_that_may_change_and_flags_that_may_not(tmp_path, before, now, changed):
    # A flag that the run began without has its default.
    flags = to_flags(Config(**before)).replace("--momentum=0.9\n", "")
    (tmp_path / "config.cfg").write_text(flags)
    what = tmp_path, fixed_options(Config(**now)), spelled(Config())
    if not changed:
        run.check_unchanged(*what)
        return
    with pytest.raises(ValueError, match=rf"config\.cfg says .* has other flags: {changed}"):
        run.check_unchanged(*what)
    with pytest.warns(UserWarning, match=changed):
        run.check_unchanged(*what, allow_config_change=True)


def test_a_run_without_a_config_has_nothing_to_compare_with(tmp_path):
    run.check_unchanged(tmp_path, fixed_options(Config()), spelled(Config()))
    run.check_same_data(tmp_path, ["train 00000001 1.jpg"])


@pytest.mark.parametrize("garbage", [b"", b"\xff\0", b"--batch_size=16\n\x1b[\n"])
def test_garbage_in_the_files_to_compare_with_is_named(tmp_path, garbage):
    for name in ("config.cfg", "data.txt"):
        (tmp_path / name).write_bytes(garbage)
    with pytest.raises(ValueError, match=rf"{tmp_path}/config.cfg, line [12]: expected --name=va"):
        run.check_unchanged(tmp_path, fixed_options(Config()), spelled(Config()))
    with pytest.raises(ValueError, match=rf"{tmp_path}/data.txt, line 1: expected 'train', a che"):
        run.check_same_data(tmp_path, ["train 00000001 1.jpg"])


@pytest.mark.parametrize("content", [b"", b"\xff", b"[]", b'{"step": 2}'])
def test_a_run_whose_metrics_are_garbage_is_not_finished(tmp_path, content):
    (tmp_path / "model.keras").touch()
    (tmp_path / "metrics.json").write_bytes(content)
    assert run.read_finished(tmp_path, 1, has_picture=False) is None
    assert (run.read_finished(tmp_path, 2, has_picture=False) is None) == (b"step" not in content)


def test_images_that_come_go_or_change_are_named(tmp_path):
    before = [f"train 0000000{i} {i}.jpg" for i in range(1, 9)] + ["val 00000009 9.jpg"]
    (tmp_path / "data.txt").write_text("\n".join(before) + "\n")
    run.check_same_data(tmp_path, before[::-1])
    # 1 is gone, 2 has other objects, 9 is in another split.
    now = ["train 0000000a 2.jpg", *before[2:-1], "train 00000009 9.jpg"]
    message = (
        r"data\.txt says that the run to resume has other images: 1 added \(train 9.jpg\), "
        r"2 removed \(train 1.jpg, val 9.jpg\), 1 with other objects \(train 2.jpg\)"
    )
    with pytest.raises(ValueError, match=rf"{message}; .* or --allow_config_change"):
        run.check_same_data(tmp_path, now)
    with pytest.warns(UserWarning, match=message):
        run.check_same_data(tmp_path, now, allow_config_change=True)
    # The names of many are the first five; one of two equal lines counts.
    with pytest.raises(ValueError, match=r"8 removed \(train 1.jpg, .* train 5.jpg, \.\.\.\)"):
        run.check_same_data(tmp_path, before[-1:])
    with pytest.raises(ValueError, match=r"1 added \(train 1.jpg\)"):
        run.check_same_data(tmp_path, [*before, before[0]])


def test_hosts_have_all_options_in_common_but_where_things_are():
    own = {"model_dir", "data_dir", "annotations", "images", "cache"}
    names = {field.name for field in dataclasses.fields(Config)}
    assert set(common_options(Config())) == names - own
