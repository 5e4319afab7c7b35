"""Trains a detector, or goes on training it, and evaluates it.

    python tools/train.py --flagfile=digits.cfg --model_dir=runs/digits

Under --model_dir it writes checkpoints/, tensorboard/, config.cfg (all flags of the run, for
--flagfile), metrics.jsonl (a line per log step and per evaluation), best.keras (the model with the
highest --best_metric) and, in the end, model.keras, metrics.json (the last evaluation) and
detections.png. The same command again resumes from the newest checkpoint. SIGINT (Ctrl-C) or
SIGTERM stops the run after the step at hand, with a checkpoint; a second one ends it at once.
"""

import contextlib
import functools
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fcos_tf.cli import command_line, run_files
from fcos_tf.config import Config

_tell = functools.partial(print, flush=True)


def main(argv: list[str] | None = None) -> None:
    """Runs the tool; ends the process with its exit status."""
    command_line.run(_train, __doc__, argv)


def _train(config: Config, flags) -> None:
    del flags
    command_line.load_tensorflow()
    from fcos_tf.evaluation import format_table
    from fcos_tf.training.stop_signals import Stopped
    from fcos_tf.training.strategy import make_strategy, share_of

    # Before anything else of TensorFlow runs, as several hosts need it.
    strategy = make_strategy(config.strategy, tpu=config.tpu, report=_tell)
    is_chief = share_of(strategy).is_chief
    try:
        metrics = train(config, strategy=strategy)
    except Stopped as stopped:
        if is_chief:
            print(f"{stopped}; the same command goes on from there")
        return
    except Exception as error:
        raise_if_out_of_memory(error, config)
        raise
    if is_chief:
        print(format_table(metrics))
        print(f"step {metrics['step']}; pictures, metrics and the model are in {config.model_dir}")


def train(
    config: Config, report: Callable[[str], None] = _tell, *, strategy: Any = None
) -> dict[str, float]:
    """Trains, or goes on training, in `config.model_dir`, and evaluates at the end.

    Of several hosts all have to call it; the chief alone writes files and tells things.

    Args:
        config: The options.
        report: Takes each line of what is to be told.
        strategy: The devices; None: those of the config.

    Returns:
        The metrics of the last evaluation, and `step`.

    Raises:
        ValueError: Options that do not fit together or the data, a checkpoint that does not fit
            them, or damaged checkpoints only.
        FileNotFoundError: If the data set is not there.
        OSError: A file of the run cannot be written, such as on a full disk.
        Stopped: SIGINT or SIGTERM came while it trained; that of the chief says in which checkpoint
            it stands.

    Example:
        >>> train(Config(dataset="digits", steps=600, model_dir="runs/digits"))["AP50"]
    """
    import keras

    from fcos_tf import build, evaluation
    from fcos_tf.training import atomic, checkpoints
    from fcos_tf.training import strategy as strategies
    from fcos_tf.training.optimizers import averaged_weights
    from fcos_tf.training.shared_folder import check_shared

    if not config.model_dir:
        raise ValueError("--model_dir: expected a folder for the files of the run, got none")
    model_dir = Path(config.model_dir)
    strategy = strategy or strategies.make_strategy(config.strategy, tpu=config.tpu, report=report)
    build.check_devices(config, strategy)
    share = strategies.share_of(strategy)
    tell = report if share.is_chief else lambda line: None
    keras.utils.set_random_seed(config.seed)
    checkpoint = checkpoints.latest(model_dir)
    if checkpoint is None:
        checkpoints.need_none(model_dir)
    start_step = checkpoints.step_of(checkpoint) if checkpoint else 0
    strategies.check_same(run_files.of_all_hosts(config, start_step), strategy)
    check_shared(model_dir, strategy)
    if checkpoint:
        run_files.check_unchanged(config, model_dir)

    train_data = build.load_train_data(config, start_step=start_step, share=share)
    val_data = build.load_val_data(config, train_data.class_names, share=share)
    run_files.check_readable(val_data)
    counts = {
        "images to train on": train_data.num_images,
        "images to evaluate on": val_data.num_images,
        "classes": ", ".join(train_data.class_names),
    }
    strategies.check_same(counts, strategy)
    total_steps = build.count_steps(config, train_data.num_images)
    finished = start_step >= total_steps
    if finished:
        tell(f"{model_dir} is finished: step {start_step} of {total_steps}")
        metrics = run_files.read_finished(model_dir, start_step)
        if metrics:
            return metrics

    with strategy.scope():
        model = build.make_model(config, train_data.class_names, train_data.category_ids)
        build.compile_model(config, model, total_steps)
        if checkpoint:
            checkpoints.restore(model, checkpoint)
    if share.is_chief:
        model_dir.mkdir(parents=True, exist_ok=True)
        atomic.remove_leftovers(model_dir)
        run_files.write_config(config, model_dir)

    if not finished:
        where = f"resuming at step {start_step}" if checkpoint else "starting at step 0"
        tell(
            f"{where} of {total_steps}: {train_data.num_images} images, "
            f"{len(train_data.class_names)} classes, {strategies.describe_devices(strategy)}, "
            f"files in {model_dir}"
        )
    metrics = _fit(config, model, train_data, val_data, start_step, total_steps, share)
    with averaged_weights(model):
        if not metrics:
            metrics = evaluation.evaluate(model, val_data, config.metrics)
        if share.is_chief:
            run_files.save_pictures(model_dir / run_files.PICTURE_FILE, model, val_data)
    metrics = {"step": max(start_step, total_steps), **metrics}
    if share.is_chief:
        checkpoints.write_model(model, model_dir / run_files.MODEL_FILE)
        run_files.write_metrics(model_dir / run_files.METRICS_FILE, metrics)
    strategies.agree(True, strategy)  # none leaves before the files are there
    return metrics


def raise_if_out_of_memory(error: Exception, config: Config) -> None:
    """Says which flags lower what is needed, where an error means that memory ran out.

    Raises:
        MemoryError: It does.
    """
    import tensorflow as tf

    # TensorFlow calls a full disk an exhausted resource, too.
    exhausted = isinstance(error, tf.errors.ResourceExhaustedError | tf.errors.InternalError)
    if isinstance(error, MemoryError) or (
        exhausted and re.search("OOM|memory|allocat", str(error), re.IGNORECASE)
    ):
        raise MemoryError(
            f"out of memory; less is needed with a lower --batch_size (now {config.batch_size}) or "
            f"--image_size ({config.image_size}), with --precision=mixed_bfloat16 "
            f"({config.precision}), more --accumulation_steps ({config.accumulation_steps}), a "
            f"smaller --backbone ({config.backbone}), or more "
            f"--frozen_stages ({config.frozen_stages})"
        ) from error


def _fit(config, model, train_data, val_data, start_step: int, total_steps: int, share):
    """Runs the loop with all callbacks; returns the last evaluation, if there was one."""
    from fcos_tf import build
    from fcos_tf.training import callbacks, checkpoints, loop
    from fcos_tf.training.input_clock import InputClock
    from fcos_tf.training.stop_signals import Stopped, StopSignals
    from fcos_tf.training.strategy import agree, distribute

    model_dir = Path(config.model_dir)
    strategy = model.distribute_strategy
    period = build.count_eval_period(config, train_data.num_images)
    lines = model_dir / run_files.METRICS_LINES_FILE
    missing = loop.lacks_evaluation(lines, start_step, total_steps=total_steps, period=period)
    missing = agree(share.is_chief and missing, strategy)
    writers = _make_writers(config, start_step, total_steps) if share.is_chief else []
    input_clock = InputClock()

    def stream_from(step: int):
        data = train_data
        # The annotations are read already, unless a further stretch begins.
        if step != start_step:
            data = build.load_train_data(config, start_step=step, share=share)
        data = input_clock.watch(data)
        return distribute(data, strategy, batch_size=config.batch_size)

    metrics: dict[str, float] = {}
    try:
        with StopSignals() as stop:
            made = build.make_callbacks(
                config,
                val_data,
                writers,
                input_clock=input_clock,
                first_step=start_step,
                share=share,
                stop=stop,
            )
            if missing:
                metrics = callbacks.make_up_evaluation(model, made, start_step)
            logs = loop.fit(
                model,
                stream_from,
                total_steps=total_steps,
                period=period,
                start_step=start_step,
                callbacks=made,
            )
    except Stopped as stopped:
        agree(True, strategy)  # none leaves before the checkpoint is there
        if not share.is_chief:
            raise
        path = checkpoints.latest(model_dir)
        step = checkpoints.step_of(path)
        raise Stopped(f"{stopped} at step {step} of {total_steps}, kept in {path}") from None
    finally:
        with contextlib.ExitStack() as closing:  # all, whatever goes wrong with one of them
            for writer in writers:
                closing.callback(writer.close)
    prefix = callbacks.VALIDATION_PREFIX
    return metrics | {k.removeprefix(prefix): v for k, v in logs.items() if k.startswith(prefix)}


def _make_writers(config: Config, start_step: int, total_steps: int) -> list:
    """Where the numbers of the run go."""
    from fcos_tf.training import metric_writers
    from fcos_tf.training.progress_bar import ProgressBar

    model_dir = Path(config.model_dir)
    return [
        metric_writers.JsonLinesWriter(
            model_dir / run_files.METRICS_LINES_FILE, first_step=start_step
        ),
        metric_writers.TensorBoardWriter(
            model_dir / run_files.TENSORBOARD_FOLDER, first_step=start_step
        ),
        ProgressBar(total_steps, first_step=start_step)
        if sys.stdout.isatty()
        else metric_writers.TextWriter(total_steps),
    ]


if __name__ == "__main__":
    main()
