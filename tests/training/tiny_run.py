"""A run of the least model, with all that a run keeps: `python tiny_run.py FOLDER`.

One weight w, started at 0, learns numbers that change with the step; the "AP" is w itself. Twelve
steps with an evaluation every five, a checkpoint every two and a line at every step.
"""

import os
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import tensorflow as tf

from fcos_tf.training import callbacks, checkpoints, loop, metric_writers
from fcos_tf.training.optimizers import SGD

TOTAL, PERIOD = 12, 5


class Weight(callbacks.DetectionMetrics):
    """Evaluates to the weight."""

    def evaluate(self):
        return {"AP": float(self.model.get_weights()[0].item())}


def make_model():
    kernel = keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")
    model = keras.Sequential([keras.layers.Input((1,)), kernel])
    model.compile(SGD(0.25, momentum=0.5), loss="mse", jit_compile=False)
    return model


def make_dataset(step):
    """Batch k holds one example, its input 1 and its target 1 + k / 8."""
    steps = tf.data.Dataset.counter(step)
    return steps.map(lambda k: (tf.ones((1, 1)), tf.fill((1, 1), 1 + tf.cast(k, tf.float32) / 8)))


def run(folder, *, stop=None, evaluation=None, more=()):
    """Trains to the end, from the newest checkpoint on."""
    folder = Path(folder)
    folder.mkdir(exist_ok=True)
    model = make_model()
    path = checkpoints.latest(folder)
    step = checkpoints.restore(model, path) if path else 0
    lines = folder / "metrics.jsonl"
    missing = loop.lacks_evaluation(lines, step, total_steps=TOTAL, period=PERIOD)
    writer = metric_writers.JsonLinesWriter(lines, first_step=step)
    made = [
        callbacks.TrainingLog([writer], log_every=1, batch_size=1, first_step=step),
        *more,
        callbacks.Checkpoint(folder, checkpoint_every=2, first_step=step, stop=stop),
        evaluation or Weight([]),
        callbacks.BestModel(folder, first_step=step),
        callbacks.EvaluationLog([writer], first_step=step),
    ]
    try:
        if missing:
            callbacks.make_up_evaluation(model, made, step)
        loop.fit(
            model,
            make_dataset,
            total_steps=TOTAL,
            period=PERIOD,
            start_step=step,
            callbacks=made,
        )
    finally:
        writer.close()


def main():
    """Slow enough for another process to see what is under way."""
    fsync, evaluate = os.fsync, Weight.evaluate

    def slow_fsync(descriptor):
        time.sleep(0.1)
        fsync(descriptor)

    def slow_evaluate(self):
        print("evaluating", flush=True)
        time.sleep(0.5)
        return evaluate(self)

    os.fsync, Weight.evaluate = slow_fsync, slow_evaluate
    run(sys.argv[1])


if __name__ == "__main__":
    main()
