"""From a config to data sets, model, optimizer and callbacks.

The only module that knows the config and all other parts. Those take plain arguments, which
`options_for` selects by name.
"""

import dataclasses
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import keras
import tensorflow as tf

from fcos_tf import data, evaluation
from fcos_tf.config import AugmentationOptions, Config, DetectionOptions, ModelOptions
from fcos_tf.data.formats.splits import shared_images
from fcos_tf.models.fcos import FCOS
from fcos_tf.models.image_model import ImageModel
from fcos_tf.models.train_steps import learning_norms
from fcos_tf.models.weights import load_model
from fcos_tf.options import changed_options, options_for, parameters_of, with_defaults
from fcos_tf.training import callbacks, optimizers, schedules
from fcos_tf.training.input_clock import InputClock
from fcos_tf.training.non_finite import NonFiniteGuard
from fcos_tf.training.pictures import DetectionPictures
from fcos_tf.training.stop_signals import StopSignals
from fcos_tf.training.strategy import ALONE, Share, share_of

# Choices of --model. Each takes num_classes, class_names, category_ids, dtype and its own options.
MODELS: dict[str, type[ImageModel]] = {"fcos": FCOS}


def load_train_data(
    config: Config, *, start_step: int = 0, share: Share = ALONE
) -> tf.data.Dataset:
    """The endless stream of training batches, or a host's share, from `start_step` on."""
    arguments = {"split": config.train_split, "start_step": start_step, **share._asdict()}
    if config.overfit:
        arguments |= {"horizontal_flip": False, "augment": ()}
    arguments = _data_options(config, data.load, training=True, repeat=True, **arguments)
    return data.load(**arguments)


def load_val_data(
    config: Config, class_names: Sequence[str] | None = None, *, share: Share = ALONE
) -> tf.data.Dataset:
    """The validation batches: the validation split, or the training images of `overfit`.

    Args:
        config: The options.
        class_names: The classes of the model, used if the config has none.
        share: A host's part of every batch.
    """
    if class_names and not config.classes:
        config = dataclasses.replace(config, classes=tuple(class_names))
    arguments = {
        "split": config.train_split if config.overfit else config.val_split,
        "training": False,
        **share._asdict(),
    }
    config = with_defaults(config, AugmentationOptions)
    return data.load(**_data_options(config, data.load, **arguments))


def check_disjoint(config: Config, train_data: tf.data.Dataset, val_data: tf.data.Dataset) -> None:
    """Checks that no image is trained on and evaluated on, but for `overfit`.

    Raises:
        ValueError: Some are; names the first.
    """
    if config.overfit or train_data.annotations is None or val_data.annotations is None:
        return
    shared = shared_images(train_data.annotations, val_data.annotations)
    if shared:
        raise ValueError(
            f"--train_split={config.train_split} and --val_split={config.val_split}: {len(shared)} "
            f"of {val_data.num_images} images to evaluate on are trained on, first {shared[0]}; "
            "give other splits, or --overfit=N to train and evaluate on the same N images"
        )


def read_annotations(config: Config, split: str):
    """The annotations of a split, without its images; see `data.read_annotations`."""
    return data.read_annotations(**_data_options(config, data.read_annotations, split=split))


def _data_options(config: Config, function: Callable, **arguments: Any) -> dict[str, Any]:
    return options_for(config, function, limit=config.overfit or None, **arguments)


def check_devices(config: Config, strategy: tf.distribute.Strategy) -> None:
    """Checks that the options fit the devices.

    Raises:
        ValueError: If the batch cannot be divided so, or image sizes are not static.
    """
    replicas = strategy.num_replicas_in_sync
    if config.batch_size % replicas:
        raise ValueError(
            f"--batch_size: expected a multiple of {replicas}, the number of devices of "
            f"--strategy={config.strategy}, got {config.batch_size}"
        )
    if config.batch_size // replicas % config.accumulation_steps:
        raise ValueError(
            f"--accumulation_steps: expected a divisor of {config.batch_size // replicas}, the "
            f"images of a step on a device, got {config.accumulation_steps}"
        )
    if "," not in config.image_size:
        return
    if config.strategy == "tpu":
        # Two canvases in one data set are a dynamic shape to TensorFlow.
        expected = "a canvas like 512x512 with --strategy=tpu"
        raise ValueError(f"--image_size: expected {expected}, got {config.image_size}")
    if share_of(strategy).num_hosts > 1 and not config.orientation_buckets:
        raise ValueError(
            "--image_size: expected a canvas like 512x512, or --orientation_buckets, with several "
            f"hosts, got {config.image_size}"
        )


def model_class(config: Config) -> type[ImageModel]:
    """The class of `config.model`.

    Raises:
        ValueError: If there is no such model, or it lacks an option that is given.
    """
    kind = MODELS.get(config.model)
    if kind is None:
        raise ValueError(f"--model: expected one of {', '.join(MODELS)}, got {config.model!r}")
    foreign = changed_options(config, ModelOptions, DetectionOptions).keys() - parameters_of(kind)
    # With initial weights the options of a model have no effect; `make_model` warns.
    if foreign and not config.initial_weights:
        names = ", ".join(f"--{name}" for name in sorted(foreign))
        raise ValueError(f"{names}: not an option of --model={config.model}; leave it out")
    return kind


def make_model(
    config: Config, class_names: Sequence[str], category_ids: Sequence[int] | None = None
) -> keras.Model:
    """The model for these classes, not compiled.

    Args:
        config: The options.
        class_names: Of the data set.
        category_ids: The data set's ids of the classes.

    Raises:
        ValueError: If `num_classes` is set to another number than that of `class_names`, if
            `initial_weights` is no detector of `model`, or see `model_class`.
        FileNotFoundError: If there is no such file.
    """
    if config.num_classes and config.num_classes != len(class_names):
        raise ValueError(
            f"--num_classes: expected 0 or {len(class_names)}, the number of classes of "
            f"--dataset={config.dataset} ({', '.join(class_names)}), got {config.num_classes}"
        )
    kind = model_class(config)
    if config.initial_weights:
        _warn_of_idle_options(config)
        model = load_model(config.initial_weights)
        if not isinstance(model, kind):
            raise ValueError(
                f"--initial_weights: expected a file of --model={config.model}, got a "
                f"{type(model).__name__} in {config.initial_weights}"
            )
        return model.with_classes(class_names, category_ids=category_ids, dtype=config.precision)
    classes = {"num_classes": len(class_names), "class_names": tuple(class_names)}
    given = {**classes, "category_ids": category_ids, "dtype": config.precision}
    return kind(**options_for(config, kind, **given))


def _warn_of_idle_options(config: Config) -> None:
    """Warns of options without effect, as the model comes from a file."""
    idle = changed_options(config, ModelOptions, DetectionOptions)
    if idle:
        warnings.warn(
            f"the model is that of --initial_weights={config.initial_weights}; of no effect: "
            f"{' '.join(f'--{name}={value}' for name, value in idle.items())}",
            stacklevel=3,
        )


def make_optimizer(config: Config, total_steps: int) -> keras.optimizers.Optimizer:
    """The config's optimizer, with its schedule over `total_steps` updates."""
    rate = schedules.make_schedule(total_steps, **options_for(config, schedules.make_schedule))
    return optimizers.make_optimizer(rate, **options_for(config, optimizers.make_optimizer))


def compile_model(config: Config, model: keras.Model, total_steps: int) -> None:
    """Sets the model's optimizer, use of XLA and accumulation steps."""
    one_replica = tf.distribute.get_strategy().num_replicas_in_sync == 1
    jit = _uses_xla(**options_for(config, _uses_xla, one_replica=one_replica))
    _warn_of_lonely_norms(model, one_replica=one_replica, parts=config.accumulation_steps)
    model.compile(optimizer=make_optimizer(config, total_steps), jit_compile=jit)
    model.accumulation_steps = config.accumulation_steps


def _uses_xla(*, jit_compile: bool | None, image_size: str, one_replica: bool) -> bool:
    # XLA is slower than the plain graph on a CPU, and recompiles for every image size. A function
    # compiled for one device cannot access the variables of another.
    if jit_compile and not one_replica:
        raise ValueError(
            "--jit_compile: expected auto or false with several devices, or --strategy=one_device; "
            "got true"
        )
    if jit_compile is not None:
        return jit_compile
    return bool(tf.config.list_physical_devices("GPU")) and one_replica and "," not in image_size


def _warn_of_lonely_norms(model: keras.Model, *, one_replica: bool, parts: int) -> None:
    """Warns of batch norms that see a part of a step's images only."""
    norms = learning_norms(model)
    if not one_replica and not all(norm.synchronized for norm in norms):
        warnings.warn(
            "batch norms of the backbone use the statistics of their own device only; for those of "
            "all devices give --backbone_norm=sync",
            stacklevel=3,
        )
    if parts > 1 and norms:
        warnings.warn(
            f"batch norms of the backbone use the statistics of one of the {parts} parts of "
            "--accumulation_steps at a time, not of the batch; --backbone_norm=frozen uses none",
            stacklevel=3,
        )


def make_callbacks(
    config: Config,
    val_data: Iterable,
    writers: Iterable,
    *,
    input_clock: InputClock | None = None,
    first_step: int = 0,
    share: Share = ALONE,
    stop: StopSignals | None = None,
) -> list[keras.callbacks.Callback]:
    """The callbacks of a run, in the order of their actions.

    Args:
        config: The options.
        val_data: The validation batches.
        writers: Writers of numbers and pictures, see `training.metric_writers`; those that are
            callbacks, such as a progress bar, become callbacks of the run.
        input_clock: The clock of the training data.
        first_step: Updates done before the run goes on.
        share: This host's share. The chief alone saves models; the others read the numbers at the
            same steps, which is a collective operation.
        stop: The stop signals, see `callbacks.Checkpoint`.

    Raises:
        ValueError: If `best_metric` is none of `metrics`.
    """

    def make(kind, **others):
        return kind(**options_for(config, kind, **others))

    kind = model_class(config)
    protocols = kind.protocols
    best_metric = _best_metric(**options_for(config, _best_metric, kind=kind))
    writers = list(writers)
    galleries = [w for w in writers if protocols and hasattr(w, "write_pictures")]
    # Hosts evaluate together: none can stop alone.
    interrupt = stop.raise_if_received if stop and share.num_hosts == 1 else None
    guard = make(
        NonFiniteGuard,
        make_batch=lambda step: next(iter(load_train_data(config, start_step=step, share=share))),
        first_step=first_step,
        host=share.host if share.num_hosts > 1 else None,
    )
    best = {"best_metric": best_metric, "goal": kind.best_metrics.get(best_metric, "max")}
    return [
        # First: excludes the time of the others at the end of an epoch from the training time.
        make(
            callbacks.TrainingLog, writers=writers, input_clock=input_clock, first_step=first_step
        ),
        *(writer for writer in writers if isinstance(writer, keras.callbacks.Callback)),
        guard,
        # A checkpoint is saved after the training lines up to its step. An evaluation is complete
        # with its line; a resumed run repeats an incomplete one.
        make(
            callbacks.Checkpoint,
            first_step=first_step,
            stop=stop,
            writes=share.is_chief,
            before_saving=guard.look,
        ),
        make(callbacks.DetectionMetrics, dataset=val_data, progress=interrupt),
        *(DetectionPictures(val_data, each, first_step=first_step) for each in galleries),
        *([make(callbacks.BestModel, first_step=first_step, **best)] if share.is_chief else []),
        callbacks.EvaluationLog(writers, first_step=first_step),
        # Last: the time of the others before a step does not count as waiting for input.
        *([input_clock] if input_clock else []),
    ]


def _best_metric(*, metrics: Sequence[str], best_metric: str | None, kind: type[ImageModel]) -> str:
    names = evaluation.metric_names(metrics) if kind.protocols else tuple(kind.best_metrics)
    if best_metric is not None and best_metric not in names:
        raise ValueError(
            f"--best_metric: expected one of {', '.join(names)}, as --metrics="
            f"{','.join(metrics)} give, got {best_metric!r}"
        )
    return best_metric or names[0]
