import json
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator

from fcos_tf.training import callbacks, checkpoints, loop, metric_writers
from fcos_tf.training.metric_writers import (
    JsonLinesWriter,
    ProgressBar,
    TensorBoardWriter,
    TextWriter,
)
from fcos_tf.training.optimizers import SGD
from fcos_tf.training.schedules import WarmupStepDecay
from tests.training.tiny_run import make_dataset


def make_model():
    """One weight w, started at 0, that learns to be the constant 1: loss (w - 1)^2."""
    model = keras.Sequential(
        [
            keras.layers.Input((1,)),
            keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros"),
        ]
    )
    schedule = WarmupStepDecay(0.25, decay_steps=(4,), decay_factor=0.5)
    model.compile(optimizer=SGD(schedule, momentum=0.5), loss="mse", jit_compile=False)
    return model


class ListWriter:
    def __init__(self):
        self.records = []

    def write(self, step, kind, values):
        self.records.append((step, kind, dict(values)))


class FakeEvaluation(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        logs["val_AP"] = 0.25 + epoch


def train(model, model_dir, total_steps, *, start_step=0, period=3, every=2, writers=()):
    return loop.fit(
        model,
        make_dataset,
        total_steps=total_steps,
        period=period,
        start_step=start_step,
        callbacks=[
            callbacks.TrainingLog(writers, log_every=1, batch_size=1, first_step=start_step),
            FakeEvaluation(),
            callbacks.EvaluationLog(writers, first_step=start_step),
            callbacks.Checkpoint(model_dir, checkpoint_every=every, first_step=start_step),
        ],
    )


@pytest.mark.parametrize(
    "start, total, period, expected",
    [
        (0, 6, 3, [(0, 0, 2, 3)]),
        (0, 7, 3, [(0, 0, 2, 3), (6, 2, 1, 1)]),
        (130, 250, 100, [(130, 1, 1, 70), (200, 2, 1, 50)]),
        (130, 450, 100, [(130, 1, 1, 70), (200, 2, 2, 100), (400, 4, 1, 50)]),
        (1, 2, 100, [(1, 0, 1, 1)]),
        (6, 6, 3, []),
        (9, 6, 3, []),
    ],
)
def test_stretches_cover_each_step_once(start, total, period, expected):
    assert [tuple(stretch) for stretch in loop.stretches(start, total, period)] == expected


def test_killed_and_resumed_equals_uninterrupted(tmp_path):
    straight_log = ListWriter()
    straight = make_model()
    train(straight, tmp_path / "straight", 8, writers=[straight_log])

    lines = tmp_path / "metrics.jsonl"
    writer = JsonLinesWriter(lines)
    train(make_model(), tmp_path / "killed", 5, writers=[writer])  # "killed" after step 5 ...
    (tmp_path / "killed" / "checkpoints" / "step_00000005.keras").unlink()  # ... before its save
    writer.close()
    path = checkpoints.latest(tmp_path / "killed")
    resumed = make_model()
    step = checkpoints.restore(resumed, path)
    assert step == 4
    writer = JsonLinesWriter(lines, first_step=step)
    logs = train(resumed, tmp_path / "killed", 8, start_step=step, writers=[writer])
    writer.close()

    np.testing.assert_array_equal(straight.get_weights()[0], resumed.get_weights()[0])
    assert logs["val_AP"] == 0.25 + 2  # epochs of 3 steps: the third ends at step 8
    records = [json.loads(line) for line in lines.read_text().splitlines()]
    assert [(r["step"], r["kind"]) for r in records] == [
        (1, "train"), (2, "train"), (3, "train"), (3, "val"), (4, "train"),
        (5, "train"), (6, "train"), (6, "val"), (7, "train"), (8, "train"), (8, "val"),
    ]  # fmt: skip
    by_step = {step: values for step, kind, values in straight_log.records if kind == "train"}
    for record in records:
        if record["kind"] == "train":
            assert record["loss"] == by_step[record["step"]]["loss"]


def test_logged_numbers_of_the_first_steps(tmp_path):
    # Target 1 + k / 8, prediction w; gradient 2 (w - target); velocity v = v / 2 - 0.25 g.
    #   step 1: w = 0,   target 1:     loss 1,        g = -2,     v = 0.5,     w = 0.5
    #   step 2: w = 0.5, target 1.125: loss 0.390625, g = -1.25,  v = 0.5625,  w = 1.0625
    # The rate is halved from update number 4 on, which is what stands beside step 4.
    log = ListWriter()
    train(make_model(), tmp_path, 4, writers=[log])
    training = [values for _, kind, values in log.records if kind == "train"]
    assert [values["loss"] for values in training[:2]] == [1.0, 0.390625]
    assert [values["learning_rate"] for values in training] == [0.25, 0.25, 0.25, 0.125]
    assert all(values["images_per_second"] > 0 for values in training)
    evaluations = [(step, values) for step, kind, values in log.records if kind == "val"]
    assert evaluations == [(3, {"AP": 0.25}), (4, {"AP": 1.25})]


def test_a_record_is_the_mean_since_the_last(tmp_path):
    # Losses 1 and 0.390625 as above; their mean is 0.6953125.
    log = ListWriter()
    training = callbacks.TrainingLog([log], log_every=2, batch_size=1)
    loop.fit(make_model(), make_dataset, total_steps=5, period=5, callbacks=[training])
    assert [step for step, _, _ in log.records] == [2, 4, 5]
    assert log.records[0][2]["loss"] == 0.6953125


@pytest.mark.parametrize("log_every", [1, 5, 20, 32])
def test_many_steps_without_a_positive_are_warned_of_once(log_every):
    model = make_model()
    model.count_names = {"num_positives": "points that learn", "num_positives_p3": "of P3"}
    model.detail_names = ("num_positives_p3",)
    log = callbacks.TrainingLog([ListWriter()], log_every=log_every, batch_size=1)
    log.set_model(model)
    told = []
    for step in range(1, 161):  # 40 with positives, 80 without, 40 with
        if step % log_every == 0:
            count = 0.0 if 40 < step <= 120 else 3.0
            with warnings.catch_warnings(record=True) as caught:
                log._warn_of_no_count(step, {"num_positives": count, "num_positives_p3": 0.0})
            told += [(step, str(each.message)) for each in caught]
    ((step, text),) = told
    before = 40 // log_every * log_every
    assert 20 <= step - before < 20 + log_every
    assert text.startswith(
        f"steps {before + 1} to {step}: num_positives (points that learn) is 0, so only background "
    )


def test_each_step_is_in_one_record(tmp_path):
    logs = {}
    for every in (1, 4):
        logs[every] = ListWriter()
        training = callbacks.TrainingLog([logs[every]], log_every=every, batch_size=1)
        loop.fit(make_model(), make_dataset, total_steps=12, period=5, callbacks=[training])
    losses = [values["loss"] for _, _, values in logs[1].records]
    assert len(losses) == 12
    # Multiples of 4, and the ends of epochs: after 5, 10 and 12 steps.
    assert [step for step, _, _ in logs[4].records] == [4, 5, 8, 10, 12]
    begin = 0
    for end, _, values in logs[4].records:
        assert values["loss"] == pytest.approx(np.mean(losses[begin:end]), rel=1e-6)
        begin = end


def test_checkpoints_stand_at_multiples_and_at_the_end(tmp_path):
    saved = []

    class Spy(callbacks.Checkpoint):
        def _save(self, step):
            saved.append((step, int(self.model.optimizer.iterations)))

    spy = Spy(tmp_path, checkpoint_every=2)
    loop.fit(make_model(), make_dataset, total_steps=5, period=5, callbacks=[spy])
    # Each is taken before the next update runs.
    assert saved == [(2, 2), (4, 4), (5, 5)]


def test_the_last_execution_of_an_epoch_may_be_shorter():
    steps = []

    class Count(callbacks.StepCallback):
        def on_step_end(self, step, logs):
            steps.append(step)

    model = keras.Sequential([keras.layers.Input((1,)), keras.layers.Dense(1)])
    model.compile("sgd", loss="mse", steps_per_execution=2)
    x = np.ones((5, 1))
    model.fit(x, x, batch_size=1, epochs=2, callbacks=[Count()], verbose=0)
    assert steps == [2, 4, 5, 7, 9, 10] and int(model.optimizer.iterations) == 10


@pytest.mark.parametrize("step_fails", [True, False])
def test_all_callbacks_are_closed_and_the_first_error_comes_out(step_fails):
    closed = []

    class Failing(callbacks.StepCallback):
        def __init__(self, name, error=None):
            super().__init__()
            self.name, self.error = name, error

        def on_step_end(self, step, logs):
            if step_fails and self.name == "b":
                raise RuntimeError("in a step")

        def close(self):
            closed.append(self.name)
            if self.error:
                raise self.error

    made = [Failing("a", OSError("no room")), Failing("b", OSError("no file")), Failing("c")]
    first, others = (
        ("in a step", ["no room", "no file"]) if step_fails else ("no room", ["no file"])
    )
    with pytest.raises((OSError, RuntimeError), match=first), pytest.warns(UserWarning) as caught:
        loop.fit(make_model(), make_dataset, total_steps=2, period=2, callbacks=made)
    assert closed == ["a", "b", "c"]
    told = [str(warning.message) for warning in caught if "also" in str(warning.message)]
    assert [line.split("also: ")[1] for line in told] == others


def test_detection_metrics_evaluates_when_due(monkeypatch):
    calls = []

    def evaluate(model, dataset, metrics, *, detect, progress):
        calls.append((dataset, metrics, detect))
        return {"AP": 0.5, "AP50": 0.75}

    monkeypatch.setattr(callbacks.evaluation, "evaluate", evaluate)
    monkeypatch.setattr(callbacks, "compile_detect", lambda model, names: "compiled")
    callback = callbacks.DetectionMetrics("val", every=2)
    history = make_model().fit(
        make_dataset(0), epochs=5, steps_per_epoch=1, callbacks=[callback], verbose=0, shuffle=False
    )
    # After epochs 2 and 4, and after the last.
    assert calls == [("val", ("coco",), "compiled")] * 3
    assert history.history["val_AP50"] == [0.75] * 3


def test_detection_metrics_refuses_before_the_first_epoch_what_it_cannot_do():
    assert callbacks.DetectionMetrics([], metrics="voc07").metrics == ("voc07",)
    with pytest.raises(ValueError, match="unknown metric 'voc'; there are: coco, voc07"):
        callbacks.DetectionMetrics([], metrics=("coco", "voc"))
    with pytest.raises(ValueError, match=r"never ends.*repeat=False"):
        callbacks.DetectionMetrics(make_dataset(0))


@pytest.fixture
def evaluations(monkeypatch):
    """Puts numbers in place of evaluations, by epoch: (AP, mAP_voc07)."""
    numbers = [(0.25, 0.5), (0.75, 0.25), (0.5, 0.125)]

    def put(new_numbers=tuple(numbers)):
        results = iter(new_numbers)

        def evaluate(model, dataset, metrics, *, detect, progress):
            assert metrics == ("coco", "voc07")
            return dict(zip(("AP", "mAP_voc07"), next(results), strict=True))

        monkeypatch.setattr(callbacks.evaluation, "evaluate", evaluate)
        monkeypatch.setattr(callbacks, "compile_detect", lambda model, names: None)

    put()
    return put


def fit_with(model, *more, epochs=3, initial_epoch=0):
    metrics = callbacks.DetectionMetrics("val", metrics=("coco", "voc07"))
    return model.fit(
        make_dataset(0), epochs=epochs, initial_epoch=initial_epoch, steps_per_epoch=1,
        callbacks=[metrics, *more], verbose=0, shuffle=False,
    )  # fmt: skip


def weight_of(path):
    return float(keras.models.load_model(path, compile=False).get_weights()[0].item())


def test_tensorboard_of_keras_after_it_draws_every_metric(tmp_path, evaluations):
    fit_with(make_model(), keras.callbacks.TensorBoard(tmp_path))
    events = EventAccumulator(str(tmp_path / "validation")).Reload()
    for name, expected in (("AP", [0.25, 0.75, 0.5]), ("mAP_voc07", [0.5, 0.25, 0.125])):
        drawn = [float(tf.make_ndarray(e.tensor_proto)) for e in events.Tensors(f"epoch_{name}")]
        assert drawn == expected


@pytest.mark.parametrize(("monitor", "best_epoch"), [("AP", 2), ("mAP_voc07", 1)])
def test_the_best_model_is_kept(tmp_path, evaluations, monitor, best_epoch):
    weights = []

    class Spy(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            weights.append(float(self.model.get_weights()[0].item()))

    kept = keras.callbacks.ModelCheckpoint(
        tmp_path / "kept.keras", monitor=f"val_{monitor}", mode="max", save_best_only=True
    )
    best = callbacks.BestModel(tmp_path / "run", best_metric=monitor, first_step=10)
    fit_with(make_model(), kept, best, Spy())
    assert len(set(weights)) == 3
    assert weight_of(tmp_path / "kept.keras") == weights[best_epoch - 1]
    assert weight_of(tmp_path / "run" / "best.keras") == weights[best_epoch - 1]
    assert json.loads((tmp_path / "run" / "best.json").read_text()) == {
        "monitor": monitor,
        "value": [0.75, 0.5][monitor != "AP"],
        "step": 10 + best_epoch,
    }
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"best.keras", "best.json"}


def test_a_resumed_run_knows_its_best(tmp_path, evaluations):
    def resume(numbers, monitor="AP"):
        evaluations(numbers)
        best = callbacks.BestModel(tmp_path, best_metric=monitor, first_step=1)
        fit_with(make_model(), best, epochs=1)
        return json.loads((tmp_path / "best.json").read_text())["value"]

    assert resume([(0.5, 0.25)]) == 0.5
    before = (tmp_path / "best.keras").read_bytes()
    assert resume([(0.25, 0.125)]) == 0.5
    assert resume([(0.5, 0.125)]) == 0.5  # as good is not better
    assert resume([(float("nan"), 0.125)]) == 0.5
    assert (tmp_path / "best.keras").read_bytes() == before
    assert resume([(0.75, 0.125)]) == 0.75
    # Another number to choose by, or a file that is gone: from the start.
    assert resume([(0.25, 0.125)], monitor="mAP_voc07") == 0.125
    (tmp_path / "best.keras").unlink()
    assert resume([(0.25, 0.0625)], monitor="mAP_voc07") == 0.0625
    for garbage in (b"{", b"\xff", b"[]", b'{"monitor": "AP", "value": null, "step": 1}'):
        (tmp_path / "best.json").write_bytes(garbage)
        with pytest.raises(ValueError, match=r"best\.json: expected monitor, value and step"):
            callbacks.BestModel(tmp_path, first_step=1)


def test_what_cannot_be_measured_is_no_best_model(tmp_path, evaluations):
    evaluations([(-1.0, 0.5), (-1.0, 0.5), (-1.0, 0.5)])
    with pytest.warns(UserWarning, match="no evaluation gave 'AP'; best.keras is not written"):
        fit_with(make_model(), callbacks.BestModel(tmp_path))
    assert list(tmp_path.iterdir()) == []
    evaluations([(-1.0, 0.5), (0.0, 0.5), (-1.0, 0.5)])
    fit_with(make_model(), callbacks.BestModel(tmp_path))
    assert json.loads((tmp_path / "best.json").read_text())["value"] == 0


def test_a_run_from_step_0_forgets_what_an_older_one_left(tmp_path, evaluations):
    fit_with(make_model(), callbacks.BestModel(tmp_path))
    old = json.loads((tmp_path / "best.json").read_text())
    assert (old["value"], old["step"]) == (0.75, 2)
    # Killed before its first evaluation, and resumed: 0.75 is none of its own.
    with pytest.warns(UserWarning, match=r"removed .*best\.json of an older run"):
        make_model().fit(
            make_dataset(0), steps_per_epoch=1, callbacks=[callbacks.BestModel(tmp_path)], verbose=0
        )
    evaluations([(0.25, 0.5)])
    fit_with(make_model(), callbacks.BestModel(tmp_path, first_step=1), epochs=1)
    new = json.loads((tmp_path / "best.json").read_text())
    assert (new["value"], new["step"]) == (0.25, 2)


def test_a_number_that_is_never_evaluated_is_named(tmp_path, evaluations):
    with pytest.warns(UserWarning, match="no evaluation gave 'AP57'"):
        fit_with(make_model(), callbacks.BestModel(tmp_path, best_metric="AP57"))
    assert list(tmp_path.iterdir()) == []


def test_tensorboard_gets_the_scalars_and_drops_abandoned_ones(tmp_path):
    writer = TensorBoardWriter(tmp_path)
    for step in (1, 2, 3):
        writer.write(step, "train", {"loss": float(step)})
    writer.close()
    writer = TensorBoardWriter(tmp_path, first_step=2)  # killed after 3, checkpoint at 2
    writer.write(3, "train", {"loss": 30.0})
    writer.write(3, "val", {"AP": 0.5})
    writer.close()

    events = EventAccumulator(str(tmp_path)).Reload()
    losses = [
        (e.step, float(tf.make_ndarray(e.tensor_proto))) for e in events.Tensors("train/loss")
    ]
    assert losses == [(1, 1.0), (2, 2.0), (3, 30.0)]
    assert events.Tensors("val/AP")[0].step == 3


def test_json_lines_cut_what_will_be_written_again(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(
        '{"step": 1, "kind": "train", "loss": 3.0}\n{"step": 2, "kind": "train", "loss": 2.0}\n'
        '{"step": 3, "kind": "train", "lo'
    )
    writer = JsonLinesWriter(path, first_step=1)
    writer.write(2, "train", {"loss": np.float32(0.5)})
    writer.close()
    assert path.read_text().splitlines() == [
        '{"step": 1, "kind": "train", "loss": 3.0}',
        '{"step": 2, "kind": "train", "loss": 0.5}',
    ]


@pytest.mark.parametrize(
    "garbage",
    [b"\xff\xfe\n", b"\0\0\n", b"{}\n", b'{"step": "a", "kind": "val"}\n', b"[" * 9999 + b"\n"],
)
def test_garbage_in_the_records_is_named_and_stays(tmp_path, garbage):
    path = tmp_path / "metrics.jsonl"
    content = b'{"step": 1, "kind": "val", "AP": 0.5}\n' + garbage
    path.write_bytes(content)
    lengths = {"total_steps": 2, "period": 2}
    for read in (JsonLinesWriter, lambda path: loop.lacks_evaluation(path, 2, **lengths)):
        with pytest.raises(ValueError, match=rf"{path}, line 2: expected a record with step"):
            read(path)
    assert path.read_bytes() == content


@pytest.fixture
def clock(monkeypatch):
    """Seconds that a test sets, for the time that is left."""
    seconds = {"now": 100.0}
    monkeypatch.setattr(metric_writers.time, "monotonic", lambda: seconds["now"])
    return seconds


def test_text_lines_are_readable(capsys, clock):
    writer = TextWriter(600, left_out=("num_positives_p3",))
    writer.write(20, "train", {"loss": 1.23456, "learning_rate": 1e-05, "num_positives_p3": 4.0})
    clock["now"] += 40  # 2 s a step for 20 steps; 560 are left
    writer.write(40, "train", {"loss": 1.0})
    clock["now"] += 60  # an evaluation, so 100 s for 21 steps; 559 are left
    writer.write(40, "val", {"AP": 0.5})
    writer.write(41, "train", {"loss": 1.0})
    clock["now"] += 1
    writer.write(600, "train", {"loss": 1.0})
    assert capsys.readouterr().out.splitlines() == [
        "step 20/600  loss 1.235  learning_rate 1e-05",
        "step 40/600  loss 1  ETA 0:18:40",
        "step 40/600  [val]  AP 0.5",
        "step 41/600  loss 1  ETA 0:44:22",
        "step 600/600  loss 1  ETA 0:00:00",
    ]


def test_the_progress_bar_shows_the_newest_record_at_every_step(capsys, clock, monkeypatch):
    monkeypatch.setattr("tqdm.std.time", lambda: clock["now"])
    bar = ProgressBar(5, first_step=1)
    shown = []

    class TenMinutes(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            clock["now"] += 600

    class Look(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            shown.append(capsys.readouterr().out)

    log = callbacks.TrainingLog([bar], log_every=2, batch_size=8, first_step=1)
    evaluation = callbacks.EvaluationLog([bar], first_step=1)
    loop.fit(
        make_model(), make_dataset, total_steps=5, period=2, start_step=1,
        callbacks=[TenMinutes(), log, bar, Look(), FakeEvaluation(), evaluation],
    )  # fmt: skip
    # A bar goes before the lines of its evaluation, which print after it was looked at. The first
    # record is that of step 2, its loss 1.125^2; the second, of steps 3 and 4, comes 20 minutes
    # and two steps later. One step is left.
    first, second, third = shown
    assert first.startswith("\rstep:  20%|") and " 1/5 [" in first and first.endswith("\n")
    assert " 2/5 [" in first and "loss 1.266  images_per_second" in first
    assert "learning_rate" not in first
    assert second.startswith("step 2/5  [val]  AP 0.25\n")
    third_step, fourth_step = second.split("\r")[1:]
    assert " 3/5 [" in third_step and "loss 1.266" in third_step  # of the newest record, still
    assert " 4/5 [20:00<10:00, 600.00s/step, loss 0.2539" in fourth_step
    assert third.startswith("step 4/5  [val]  AP 1.25\n") and " 5/5 [" in third
    bar.close()
    assert capsys.readouterr().out.startswith("step 5/5  [val]  AP 2.25\n\r ")


def test_steps_from_epochs():
    # 2.5 passes over 10 images in batches of 4: 25 / 4 = 6.25, so 7 steps.
    assert loop.count_steps(10, steps=0, epochs=2.5, batch_size=4) == 7
    assert loop.count_steps(10, steps=5, epochs=0.0, batch_size=4) == 5
    with pytest.raises(ValueError, match="--steps or --epochs"):
        loop.count_steps(10, steps=0, epochs=0.0, batch_size=4)


def test_evaluations_are_an_epoch_apart_and_at_most_ten_unless_said():
    # 10 images in batches of 4: 3 steps; a tenth of 101 steps: 11.
    assert loop.count_period(10, 30, eval_every=0, batch_size=4) == 3
    assert loop.count_period(10, 101, eval_every=0, batch_size=4) == 11
    assert loop.count_period(10, 101, eval_every=50, batch_size=4) == 50


@pytest.mark.parametrize(
    "make",
    [
        lambda: callbacks.Checkpoint("x", checkpoint_every=0),
        lambda: callbacks.TrainingLog([], log_every=0, batch_size=1),
        lambda: callbacks.DetectionMetrics([], every=0),
        lambda: list(loop.stretches(0, 5, 0)),
    ],
)
def test_periods_below_one_are_refused(make):
    with pytest.raises(ValueError, match=r"expected .*>= 1, got"):
        make()
