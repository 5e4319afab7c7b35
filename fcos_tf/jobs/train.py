"""Training of a config: from the options to the files of a run."""

import contextlib
import dataclasses
import functools
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tqdm import tqdm

from fcos_tf.config import Config
from fcos_tf.options import common_options, fixed_options, options_for, spelled, to_flags

tell = functools.partial(print, flush=True)


def train(
    config: Config, report: Callable[[str], None] = tell, *, strategy: Any = None
) -> dict[str, float]:
    """Trains in `config.model_dir`, or resumes there, and evaluates at the end.

    All hosts of a run call it; only the chief writes files and reports.

    Args:
        config: The options.
        report: Called with each line of progress.
        strategy: The devices; None: those of the config.

    Returns:
        The metrics of the last evaluation, and `step`.

    Raises:
        ValueError: Options that contradict each other or the data, a checkpoint that does not fit
            them, corrupt checkpoints only, or a folder that another process trains in.
        FileNotFoundError: No such data set.
        OSError: A file of the run cannot be written, such as on a full disk, or in a file's place.
        TrainingStopped: SIGINT or SIGTERM during training; the chief's names the checkpoint.

    Example:
        >>> train(Config(dataset="digits", steps=600, model_dir="runs/digits"))["AP50"]
    """
    from fcos_tf import build
    from fcos_tf.training import strategy as strategies
    from fcos_tf.training.interruption import locked

    build.model_class(config)
    if not config.model_dir:
        raise ValueError("--model_dir: expected a folder for the files of the run, got none")
    if strategy is None:
        devices = options_for(config, strategies.make_strategy, report=report)
        strategy = strategies.make_strategy(**devices)
    build.check_devices(config, strategy)
    share = strategies.share_of(strategy)
    report = report if share.is_chief else lambda line: None
    with locked(config.model_dir) if share.is_chief else contextlib.nullcontext():
        if config.probe:
            return _probe_in(Path(config.model_dir), config, report, strategy)
        return _train_in(Path(config.model_dir), config, report, strategy, share)


def _train_in(model_dir: Path, config: Config, tell: Callable[[str], None], strategy, share):
    """`train` in a folder that no other process trains in."""
    import keras
    import tensorflow as tf

    from fcos_tf import build, evaluation
    from fcos_tf.atomic_files import remove_leftovers, write_text
    from fcos_tf.training import checkpoints, loop, run
    from fcos_tf.training import strategy as strategies
    from fcos_tf.training.learnable import unlearnable, unmeasurable
    from fcos_tf.training.optimizers import averaged_weights

    keras.utils.set_random_seed(config.seed)
    if config.deterministic:
        tf.config.experimental.enable_op_determinism()
    checkpoint = checkpoints.latest(model_dir)
    if checkpoint is None:
        checkpoints.refuse_corrupt(model_dir)
    start_step = checkpoints.step_of(checkpoint) if checkpoint else 0
    same = {"--model_dir: step of the newest checkpoint": start_step}
    same |= {f"--{name}": value for name, value in common_options(config).items()}
    strategies.check_same(same, strategy)
    strategies.check_shared(model_dir, strategy)
    if checkpoint:
        compared = {"options": fixed_options(config), "defaults": spelled(type(config)())}
        run.check_unchanged(**options_for(config, run.check_unchanged, **compared))

    train_data = build.load_train_data(config, start_step=start_step, share=share)
    val_data = build.load_val_data(config, train_data.class_names, share=share)
    for note in dict.fromkeys(train_data.notes + val_data.notes):
        tell(note)
    build.check_disjoint(config, train_data, val_data)
    data = run.describe_data(train=train_data, val=val_data)
    if checkpoint:
        run.check_same_data(
            **options_for(config, run.check_same_data, model_dir=model_dir, data=data)
        )
        checkpoints.refuse_other_classes(checkpoint, train_data.class_names)
    run.check_readable(val_data)
    counts = {
        "images to train on": train_data.num_images,
        "images to evaluate on": val_data.num_images,
        "classes": ", ".join(train_data.class_names),
        "checksum of names and annotations": zlib.crc32("\n".join(data).encode()),
    }
    strategies.check_same(counts, strategy)
    total_steps = loop.count_steps(train_data.num_images, **options_for(config, loop.count_steps))
    finished = start_step >= total_steps
    if finished:
        tell(f"{model_dir} is finished: step {start_step} of {total_steps}")
        has_picture = bool(build.model_class(config).protocols)
        metrics = run.read_finished(model_dir, start_step, has_picture=has_picture)
        if metrics:
            return metrics

    start = config
    if checkpoint and config.initial_weights and not config.allow_config_change:
        # It holds the same model; the file may be gone.
        start = dataclasses.replace(config, initial_weights=str(checkpoint))
    with strategy.scope():
        classes = train_data.class_names, train_data.category_ids
        model = build.make_model(start, *classes, dataset=train_data)
        build.compile_model(config, model, total_steps)
        if checkpoint:
            checkpoints.restore(model, checkpoint)
    if share.is_chief:
        remove_leftovers(model_dir)
        checkpoints.make_folder(model_dir)
        # A change of the config is allowed once only.
        flags = to_flags(dataclasses.replace(config, allow_config_change=False))
        write_text(model_dir / run.CONFIG_FILE, flags)
        if data:
            write_text(model_dir / run.DATA_FILE, "\n".join(data) + "\n")

    if not finished:
        where = f"resuming at step {start_step}" if checkpoint else "starting at step 0"
        tell(
            f"{where} of {total_steps}: {train_data.num_images} images, "
            f"{len(train_data.class_names)} classes, {strategies.describe_devices(strategy)}, "
            f"files in {model_dir}"
        )
        if share.is_chief and train_data.annotations is not None:
            lines = unlearnable(model, train_data.annotations, config.image_size)
            for line in lines + unmeasurable(model, val_data.annotations):
                warnings.warn(line, stacklevel=2)
    metrics = _fit(config, model, train_data, val_data, start_step, total_steps, share)
    with averaged_weights(model):
        if not metrics:
            metrics = evaluation.evaluate(model, val_data, config.metrics)
        if share.is_chief and model.protocols:
            run.save_pictures(model_dir / run.PICTURE_FILE, model, val_data)
    metrics = {"step": max(start_step, total_steps), **metrics}
    if share.is_chief:
        checkpoints.write_model(model, model_dir / run.MODEL_FILE)
        run.write_metrics(model_dir / run.METRICS_FILE, metrics)
    strategies.any_host(True, strategy)  # no host leaves before the files exist
    return metrics


def _fit(config, model, train_data, val_data, start_step: int, total_steps: int, share):
    """Trains with all callbacks; returns the last evaluation, if any."""
    from fcos_tf import build
    from fcos_tf.training import callbacks, checkpoints, loop, run
    from fcos_tf.training.interruption import StopSignals, TrainingStopped
    from fcos_tf.training.strategy import any_host, distribute

    strategy = model.distribute_strategy
    # It reads the time in the graph, which op determinism refuses.
    input_clock = None if config.deterministic else callbacks.InputClock()

    def stream_from(step: int):
        # The first stretch uses the annotations read before; later ones start at another step.
        data = train_data
        if step != start_step:
            data = build.load_train_data(config, start_step=step, share=share)
        data = input_clock.watch(data) if input_clock else data
        return distribute(data, strategy, batch_size=config.batch_size)

    counts = options_for(config, loop.count_period)
    period = loop.count_period(train_data.num_images, total_steps, **counts)
    lengths = {"total_steps": total_steps, "period": period}
    writers, missing, metrics = [], False, {}
    if share.is_chief:
        lines = Path(config.model_dir) / run.METRICS_LINES_FILE
        missing = loop.lacks_evaluation(lines, start_step, **lengths)
        left_out = model.detail_names
        writers = run.make_writers(config.model_dir, start_step, total_steps, left_out=left_out)
    with contextlib.ExitStack() as stack, StopSignals() as stop:
        for writer in writers:
            stack.callback(writer.close)
        where = {"model": model, "first_step": start_step, "share": share, "stop": stop}
        made = build.make_callbacks(config, val_data, writers, input_clock=input_clock, **where)
        try:
            if any_host(missing, strategy):  # a killed run has missed an evaluation
                metrics = callbacks.make_up_evaluation(model, made, start_step)
            logs = loop.fit(model, stream_from, **lengths, start_step=start_step, callbacks=made)
        except TrainingStopped as stopped:
            any_host(True, strategy)  # no host leaves before the checkpoint is on disk
            if not share.is_chief:
                raise
            path = checkpoints.latest(config.model_dir)
            at = f"at step {checkpoints.step_of(path)} of {total_steps}"
            raise TrainingStopped(f"{stopped} {at}, kept in {path}") from None
    return metrics | loop.evaluation_in(logs)


def _probe_in(model_dir: Path, config: Config, tell: Callable[[str], None], strategy):
    """`train` with --probe.

    Returns:
        `step`, the passes of the last fit, the mAP of the validation split, and the numbers of
        `training.probe.fit_probe`.

    Raises:
        ValueError: No classifier, or a folder with the checkpoints of another run.
    """
    import keras

    from fcos_tf import build
    from fcos_tf.atomic_files import write_text
    from fcos_tf.evaluation import Scores, run_classifier
    from fcos_tf.training import checkpoints, run
    from fcos_tf.training.probe import fit_probe

    if not hasattr(build.model_class(config), "classify"):
        raise ValueError(f"--probe: expected with --model=classifier, got --model={config.model}")
    if checkpoints.latest(model_dir):
        raise ValueError(f"--model_dir: expected a folder without checkpoints, got {model_dir}")
    if (model_dir / "best.keras").exists():
        raise ValueError(f"--model_dir: expected a folder without best.keras, got {model_dir}")
    keras.utils.set_random_seed(config.seed)
    # The images of the training split once, whole, without augmentation.
    of_training = dataclasses.replace(config, val_split=config.train_split)
    train_data = build.load_val_data(of_training)
    val_data = build.load_val_data(config, train_data.class_names)
    for note in dict.fromkeys(train_data.notes + val_data.notes):
        tell(note)
    build.check_disjoint(config, train_data, val_data)
    with strategy.scope():
        classes = train_data.class_names, train_data.category_ids
        model = build.make_model(config, *classes, dataset=train_data)
    tell(f"features of {train_data.num_images} images, {len(train_data.class_names)} classes")
    with tqdm(total=train_data.num_images, unit="image", disable=None) as bar:
        progress = lambda done: bar.update(done - bar.n)  # noqa: E731
        numbers = fit_probe(model, train_data, seed=config.seed, report=tell, progress=progress)
    scores = run_classifier(model, val_data).scores()
    metrics = {"step": int(numbers.pop("steps")), **scores.metrics, **numbers}
    write_text(model_dir / run.CONFIG_FILE, to_flags(config))
    run.write_scores(model_dir, Scores(metrics, scores.per_class))
    checkpoints.write_model(model, model_dir / run.MODEL_FILE)
    return metrics
