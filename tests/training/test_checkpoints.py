import os
import zipfile

import keras
import numpy as np
import pytest

from fcos_tf.training import checkpoints
from fcos_tf.training.optimizers import SGD
from fcos_tf.training.schedules import WarmupStepDecay


def make_model(units=3):
    keras.utils.set_random_seed(5)
    model = keras.Sequential(
        [
            keras.layers.Input((4,)),
            keras.layers.Dense(units, activation="relu"),
            keras.layers.BatchNormalization(),
            keras.layers.Dense(1),
        ]
    )
    schedule = WarmupStepDecay(0.1, decay_steps=(4,), warmup_steps=2)
    model.compile(
        optimizer=SGD(schedule, momentum=0.9, weight_decay=1e-3), loss="mse", jit_compile=False
    )
    return model


def train(model, steps):
    for step in steps:
        rng = np.random.default_rng(step)
        x = rng.normal(size=(8, 4)).astype("float32")
        model.train_on_batch(x, x.sum(axis=1, keepdims=True))


def state(model):
    return [v.numpy() for v in (*model.variables, *model.optimizer.variables)]


def test_three_steps_and_three_more_equal_six(tmp_path):
    straight = make_model()
    train(straight, range(6))

    first = make_model()
    train(first, range(3))
    path = checkpoints.save(first, tmp_path, 3)
    second = make_model()
    assert checkpoints.restore(second, path) == 3
    train(second, range(3, 6))

    assert int(second.optimizer.iterations) == 6
    for a, b in zip(state(straight), state(second), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_newest_checkpoints_stay(tmp_path):
    model = make_model()
    for step in (1, 5, 10, 20):
        checkpoints.save(model, tmp_path, step, keep=2)
    names = sorted(os.listdir(tmp_path / "checkpoints"))
    assert names == ["step_00000010.keras", "step_00000020.keras"]
    assert checkpoints.latest(tmp_path) == tmp_path / "checkpoints" / names[1]
    assert checkpoints.step_of(names[1]) == 20


def test_no_run_no_checkpoint(tmp_path):
    assert checkpoints.latest(tmp_path / "missing") is None


@pytest.mark.parametrize(
    "damage, words",
    [
        ("cut", "not a whole zip file"),
        ("flipped", "wrong checksum of model.weights.h5"),
        ("empty", "not a whole zip file"),
        ("without weights", "no model.weights.h5 in it"),
    ],
)
def test_a_corrupt_file_is_named_and_the_one_before_it_used(tmp_path, damage, words):
    model = make_model()
    good = checkpoints.save(model, tmp_path, 1)
    bad = checkpoints.save(model, tmp_path, 2)
    content = bytearray(bad.read_bytes())
    if damage == "cut":
        content = content[: len(content) // 2]
    elif damage == "flipped":
        content[len(content) // 2] ^= 0xFF
    else:
        content = b""
    bad.write_bytes(bytes(content))
    if damage == "without weights":
        with zipfile.ZipFile(good) as whole, zipfile.ZipFile(bad, "w") as part:
            for name in ("metadata.json", "config.json"):
                part.writestr(name, whole.read(name))
    with pytest.warns(UserWarning, match=rf"step_00000002\.keras is corrupt \({words}"):
        assert checkpoints.latest(tmp_path) == good
    with pytest.raises(ValueError, match=r"step_00000002\.keras is corrupt"):
        checkpoints.restore(model, bad)


def test_the_last_of_all_corrupt_files_promises_none_before_it(tmp_path):
    checkpoints.refuse_corrupt(tmp_path / "missing")
    for step in (1, 2):
        checkpoints.save(make_model(), tmp_path, step).write_bytes(b"")
    with pytest.warns(UserWarning) as caught:
        assert checkpoints.latest(tmp_path) is None
    assert [str(warning.message).split("; ")[-1] for warning in caught] == [
        "using the one before it", "there is none before it",
    ]  # fmt: skip
    with pytest.raises(ValueError, match=r"corrupt ones only \(step_00000002\.keras, "):
        checkpoints.refuse_corrupt(tmp_path)


@pytest.mark.parametrize("name", ["model.keras", "best.keras"])
def test_a_run_whose_checkpoints_were_removed_is_not_replaced(tmp_path, name):
    (tmp_path / name).write_bytes(b"a model")
    with pytest.raises(ValueError, match=rf"has {name} of a run, but no checkpoints"):
        checkpoints.refuse_corrupt(tmp_path)


def test_a_half_written_file_is_no_checkpoint_and_goes_away(tmp_path):
    model = make_model()
    path = checkpoints.save(model, tmp_path, 1)
    leftover = path.with_name(".writing_1_step_00000002.keras")
    leftover.write_bytes(b"half")
    assert checkpoints.latest(tmp_path) == path
    checkpoints.save(model, tmp_path, 2)
    assert not leftover.exists()


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    model = make_model()
    path = checkpoints.save(model, tmp_path, 1)
    before = path.read_bytes()

    def fail(target):
        target.write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(model, "save", fail)
    with pytest.raises(OSError, match=r"no space.*newest whole checkpoint is .*step_00000001"):
        checkpoints.save(model, tmp_path, 1)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


def test_a_failed_first_save_says_that_there_is_none(tmp_path):
    (tmp_path / "checkpoints").write_text("a file, and no folder")
    with pytest.raises(OSError, match=r"cannot write .*checkpoints: File exists; .* free") as error:
        checkpoints.save(make_model(), tmp_path, 1)
    assert str(error.value).endswith("step 1 is not saved, there is no whole checkpoint before it")


def test_another_architecture_is_refused(tmp_path):
    path = checkpoints.save(make_model(units=3), tmp_path, 1)
    with pytest.raises(ValueError, match=r"step_00000001\.keras does not fit this model"):
        checkpoints.restore(make_model(units=5), path)


def test_other_classes_are_refused(tmp_path):
    class Named(keras.Sequential):
        def get_config(self):
            return {**super().get_config(), "class_names": ("cat", "dog")}

    model = Named([keras.layers.Input((1,)), keras.layers.Dense(1)])
    model.compile(SGD(0.1))
    path = checkpoints.save(model, tmp_path, 1)
    checkpoints.refuse_other_classes(path, ("cat", "dog"))
    for names in (("apple", "zebra"), ("dog", "cat"), ("cat", "dog", "cow")):
        message = f"{path}: expected its classes, cat, dog, in the data, got {', '.join(names)};"
        with pytest.raises(ValueError, match=message):
            checkpoints.refuse_other_classes(path, names)
    checkpoints.refuse_other_classes(checkpoints.save(make_model(), tmp_path, 2), ("apple",))


def test_another_optimizer_is_refused(tmp_path):
    model = make_model()
    train(model, range(1))
    path = checkpoints.save(model, tmp_path, 1)
    other = make_model()
    other.compile(optimizer=SGD(0.1), loss="mse")  # has no momentum variables
    with pytest.raises(ValueError, match=r"does not fit this model and optimizer"):
        checkpoints.restore(other, path)


@pytest.mark.parametrize("scaled_before", [False, True])
def test_loss_scaling_may_come_and_go(tmp_path, scaled_before):
    def make(scaled):
        model = make_model()
        if scaled:
            scaling = keras.optimizers.LossScaleOptimizer(model.optimizer, initial_scale=1.0)
            model.compile(scaling, loss="mse", jit_compile=False)
        return model

    before, after = make(scaled_before), make(not scaled_before)
    train(before, range(3))
    optimizer = after.optimizer
    assert checkpoints.restore(after, checkpoints.save(before, tmp_path, 3)) == 3
    assert after.optimizer is optimizer
    for model in (before, after):  # a scale of 1 changes no number
        train(model, range(3, 6))
    plain = [getattr(m.optimizer, "inner_optimizer", m.optimizer) for m in (before, after)]
    assert int(plain[1].iterations) == 6
    for a, b in zip(
        [*before.variables, *plain[0].variables],
        [*after.variables, *plain[1].variables],
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


def test_wrong_names_and_numbers(tmp_path):
    model = make_model()
    with pytest.raises(FileNotFoundError, match="step_00000007"):
        checkpoints.restore(model, tmp_path / "step_00000007.keras")
    with pytest.raises(ValueError, match=r"step_00001000\.keras, got .*model\.keras"):
        checkpoints.step_of("model.keras")
    with pytest.raises(ValueError, match=r"keep.*>= 1, got 0"):
        checkpoints.save(model, tmp_path, 1, keep=0)
