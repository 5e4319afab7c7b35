"""Trains a detector, or goes on training it, and evaluates it.

    python tools/train.py --flagfile=digits.cfg --model_dir=runs/digits

Under --model_dir it writes checkpoints/, tensorboard/, config.cfg (all flags of the run, for
--flagfile), metrics.jsonl (a line per log step and per evaluation), best.keras (the model with the
highest --best_metric) and, in the end, model.keras, metrics.json (the last evaluation) and
detections.png. The same command again resumes from the newest checkpoint.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fcos_tf.config import Config, to_flags
from fcos_tf.tools import command_line, run_files


def main(argv: list[str] | None = None) -> None:
    """Runs the tool; ends the process with its exit status."""
    command_line.run(_train, __doc__, argv)


def _train(config: Config, flags) -> None:
    del flags
    command_line.load_tensorflow()
    from fcos_tf.evaluation import format_table
    from fcos_tf.training.strategy import make_strategy, share_of

    # Before anything else of TensorFlow runs, as several hosts need it.
    strategy = make_strategy(config.strategy, tpu=config.tpu)
    metrics = train(config, strategy=strategy)
    if share_of(strategy).is_chief:
        print(format_table(metrics))
        print(f"step {metrics['step']}; pictures, metrics and the model are in {config.model_dir}")


def train(
    config: Config, report: Callable[[str], None] = print, *, strategy: Any = None
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
        ValueError: Options that do not fit together or the data, or a checkpoint that does not
            fit them.
        FileNotFoundError: If the data set is not there.

    Example:
        >>> train(Config(dataset="digits", steps=600, model_dir="runs/digits"))["AP50"]
    """
    import keras

    from fcos_tf import build, evaluation
    from fcos_tf.training import checkpoints
    from fcos_tf.training import strategy as strategies

    if not config.model_dir:
        raise ValueError("--model_dir: expected a folder for the files of the run, got none")
    model_dir = Path(config.model_dir)
    strategy = strategy or strategies.make_strategy(config.strategy, tpu=config.tpu)
    build.check_devices(config, strategy)
    share = strategies.share_of(strategy)
    tell = report if share.is_chief else lambda line: None
    keras.utils.set_random_seed(config.seed)
    checkpoint = checkpoints.latest(model_dir)
    start_step = checkpoints.step_of(checkpoint) if checkpoint else 0
    strategies.check_same("--model_dir: step of the newest checkpoint", start_step, strategy)

    train_data = build.load_train_data(config, start_step=start_step, share=share)
    val_data = build.load_val_data(config, train_data.class_names, share=share)
    run_files.check_readable(val_data)
    total_steps = build.count_steps(config, train_data.num_images)
    if checkpoint and share.is_chief:
        run_files.warn_of_changes(config, model_dir)
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
        run_files.write_text(model_dir / run_files.CONFIG_FILE, to_flags(config))

    metrics = {}
    if not finished:
        where = f"resuming at step {start_step}" if checkpoint else "starting at step 0"
        tell(
            f"{where} of {total_steps}: {train_data.num_images} images, "
            f"{len(train_data.class_names)} classes, {strategies.describe_devices(strategy)}, "
            f"files in {model_dir}"
        )
        metrics = _fit(config, model, train_data, val_data, start_step, total_steps, share)
    if not metrics:
        metrics = evaluation.evaluate(model, val_data, config.metrics)
    metrics = {"step": max(start_step, total_steps), **metrics}
    if share.is_chief:
        checkpoints.write_model(model, model_dir / run_files.MODEL_FILE)
        run_files.save_pictures(model_dir / run_files.PICTURE_FILE, model, val_data)
        run_files.write_metrics(model_dir / run_files.METRICS_FILE, metrics)
    strategies.agree(True, strategy)  # none leaves before the files are there
    return metrics


def _fit(config, model, train_data, val_data, start_step: int, total_steps: int, share):
    """Runs the loop with all callbacks; returns the last evaluation."""
    from fcos_tf import build
    from fcos_tf.training import callbacks, loop
    from fcos_tf.training.strategy import distribute

    progress_bar = sys.stdout.isatty() and share.is_chief
    writers = _make_writers(config, start_step, total_steps, progress_bar) if share.is_chief else []

    def stream_from(step: int):
        data = train_data
        # The annotations are read already, unless a further stretch begins.
        if step != start_step:
            data = build.load_train_data(config, start_step=step, share=share)
        return distribute(data, model.distribute_strategy, batch_size=config.batch_size)

    try:
        logs = loop.fit(
            model,
            stream_from,
            total_steps=total_steps,
            period=build.count_eval_period(config, train_data.num_images),
            start_step=start_step,
            callbacks=build.make_callbacks(
                config, val_data, writers, first_step=start_step, keeps_files=share.is_chief
            ),
            progress_bar=progress_bar,
        )
    finally:
        for writer in writers:
            writer.close()
    prefix = callbacks.VALIDATION_PREFIX
    return {k.removeprefix(prefix): v for k, v in logs.items() if k.startswith(prefix)}


def _make_writers(config: Config, start_step: int, total_steps: int, progress_bar: bool) -> list:
    """Where the numbers of the run go."""
    from fcos_tf.training import metric_writers

    model_dir = Path(config.model_dir)
    writers = [
        metric_writers.JsonLinesWriter(
            model_dir / run_files.METRICS_LINES_FILE, first_step=start_step
        ),
        metric_writers.TensorBoardWriter(
            model_dir / run_files.TENSORBOARD_FOLDER, first_step=start_step
        ),
    ]
    if not progress_bar:
        writers.append(metric_writers.TextWriter(total_steps))
    return writers


if __name__ == "__main__":
    main()
