"""From a config to data sets, model, optimizer and callbacks.

The only module that knows the config and all other parts; those take plain arguments, which
`options_for` finds by their names.
"""

import dataclasses
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import keras
import tensorflow as tf

from fcos_tf import data, evaluation
from fcos_tf.config import AugmentationOptions, Config, DetectionOptions, ModelOptions
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

# What --model chooses from: name -> class. Each takes num_classes, class_names, category_ids and
# dtype, and its own of the options.
MODELS: dict[str, type[ImageModel]] = {"fcos": FCOS}


def load_train_data(
    config: Config, *, start_step: int = 0, share: Share = ALONE
) -> tf.data.Dataset:
    """The endless stream of training batches, or a host's share, from that of `start_step` on."""
    as_they_are = {"horizontal_flip": False, "augment": ()} if config.overfit else {}
    return data.load(
        **_data_options(
            config,
            data.load,
            split=config.train_split,
            training=True,
            repeat=True,
            start_step=start_step,
            **share._asdict(),
            **as_they_are,
        )
    )


def load_val_data(
    config: Config, class_names: Sequence[str] | None = None, *, share: Share = ALONE
) -> tf.data.Dataset:
    """The batches to evaluate on: the validation split, or the images that `overfit` trains on.

    Args:
        config: The options.
        class_names: The classes of the model, where they are known and the config has none.
        share: A host's part of every batch.
    """
    if class_names and not config.classes:
        config = dataclasses.replace(config, classes=tuple(class_names))
    return data.load(
        **_data_options(
            with_defaults(config, AugmentationOptions),
            data.load,
            split=config.train_split if config.overfit else config.val_split,
            training=False,
            **share._asdict(),
        )
    )


def read_annotations(config: Config, split: str):
    """What the data set says about a split, without its images; see `data.read_annotations`."""
    return data.read_annotations(**_data_options(config, data.read_annotations, split=split))


def _data_options(config: Config, function: Callable, **arguments: Any) -> dict[str, Any]:
    return options_for(config, function, limit=config.overfit or None, **arguments)


def check_devices(config: Config, strategy: tf.distribute.Strategy) -> None:
    """Checks what the devices ask of the options.

    Raises:
        ValueError: A batch that cannot be divided so, or images whose sizes are known too late.
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
        # A data set of two canvases is one of unknown sizes to TensorFlow.
        raise ValueError(
            f"--image_size: expected a canvas like 512x512 with --strategy=tpu, "
            f"got {config.image_size}"
        )
    if share_of(strategy).num_hosts > 1 and not config.orientation_buckets:
        raise ValueError(
            "--image_size: expected a canvas like 512x512, or --orientation_buckets, with several "
            f"hosts, got {config.image_size}"
        )


def model_class(config: Config) -> type[ImageModel]:
    """The class that `model` names.

    Raises:
        ValueError: If there is no such model, or an option is given that it does not have.
    """
    kind = MODELS.get(config.model)
    if kind is None:
        raise ValueError(f"--model: expected one of {', '.join(MODELS)}, got {config.model!r}")
    foreign = changed_options(config, ModelOptions, DetectionOptions).keys() - parameters_of(kind)
    # With initial weights no option of a model counts, of which `make_model` warns.
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
        ValueError: If `num_classes` is set and there are not that many, `initial_weights` is no
            detector, or as `model_class`.
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
    given = {
        "num_classes": len(class_names),
        "class_names": tuple(class_names),
        "category_ids": category_ids,
        "dtype": config.precision,
    }
    return kind(**options_for(config, kind, **given))


def _warn_of_idle_options(config: Config) -> None:
    """Names the options that do not count because the model comes from a file."""
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
    """Gives the model its optimizer, the choice of XLA and the number of parts of a batch."""
    one_replica = tf.distribute.get_strategy().num_replicas_in_sync == 1
    jit = _uses_xla(**options_for(config, _uses_xla, one_replica=one_replica))
    _warn_of_lonely_norms(model, one_replica=one_replica, parts=config.accumulation_steps)
    model.compile(optimizer=make_optimizer(config, total_steps), jit_compile=jit)
    model.accumulation_steps = config.accumulation_steps


def _uses_xla(*, jit_compile: bool | None, image_size: str, one_replica: bool) -> bool:
    # XLA is slower than the plain graph on a CPU, and compiles anew for every image size. A
    # function compiled for one device cannot reach the variables of another.
    if jit_compile and not one_replica:
        raise ValueError(
            "--jit_compile: expected auto or false with several devices, or --strategy=one_device; "
            "got true"
        )
    if jit_compile is not None:
        return jit_compile
    return bool(tf.config.list_physical_devices("GPU")) and one_replica and "," not in image_size


def _warn_of_lonely_norms(model: keras.Model, *, one_replica: bool, parts: int) -> None:
    """Says where batch norms do not see all images of a step at once."""
    norms = learning_norms(model)
    if not one_replica and not all(norm.synchronized for norm in norms):
        warnings.warn(
            "batch norms of the backbone see the images of their own device only; "
            "--backbone_norm=sync adds up what all devices see",
            stacklevel=3,
        )
    if parts > 1 and norms:
        warnings.warn(
            f"batch norms of the backbone see one of the {parts} parts of --accumulation_steps at "
            "a time, and learn other than from the whole batch; --backbone_norm=frozen does not",
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
    """The callbacks of a run, in the order in which they have to act.

    Args:
        config: The options.
        val_data: What to evaluate on.
        writers: Where numbers and pictures go, see `training.metric_writers`; those that are
            callbacks themselves, such as a progress bar, get their place among the callbacks.
        input_clock: What watches the training data.
        first_step: Updates done before the run goes on.
        share: Which host this is: the chief alone saves models. The others read the numbers at the
            same steps, as that is something hosts do together.
        stop: Says when to stop, see `callbacks.Checkpoint`.

    Raises:
        ValueError: If `best_metric` is none that `metrics` give.
    """

    def make(kind, **others):
        return kind(**options_for(config, kind, **others))

    kind = model_class(config)
    protocols = kind.protocols
    best_metric = _best_metric(**options_for(config, _best_metric, kind=kind))
    writers = list(writers)
    galleries = [w for w in writers if protocols and hasattr(w, "write_pictures")]
    # Hosts evaluate together: none can break off alone.
    interrupt = stop.raise_if_received if stop and share.num_hosts == 1 else None
    guard = make(
        NonFiniteGuard,
        make_batch=lambda step: next(iter(load_train_data(config, start_step=step, share=share))),
        first_step=first_step,
        host=share.host if share.num_hosts > 1 else None,
    )
    made = [
        # First: the time that the others take at the end of an epoch is not the training's.
        make(
            callbacks.TrainingLog, writers=writers, input_clock=input_clock, first_step=first_step
        ),
        *(writer for writer in writers if isinstance(writer, keras.callbacks.Callback)),
        guard,
        # When a checkpoint stands, the training's lines up to its step have been written. An
        # evaluation is done when its line stands; until then a resumed run makes up for it.
        make(
            callbacks.Checkpoint,
            first_step=first_step,
            stop=stop,
            writes=share.is_chief,
            before_saving=guard.look,
        ),
        make(callbacks.DetectionMetrics, dataset=val_data, progress=interrupt),
        *(DetectionPictures(val_data, each, first_step=first_step) for each in galleries),
    ]
    if share.is_chief:
        made.append(
            make(
                callbacks.BestModel,
                best_metric=best_metric,
                goal=kind.best_metrics.get(best_metric, "max"),
                first_step=first_step,
            )
        )
    made.append(callbacks.EvaluationLog(writers, first_step=first_step))
    # Behind all others: their time before a step is not spent waiting for input.
    return [*made, input_clock] if input_clock else made


def _best_metric(*, metrics: Sequence[str], best_metric: str | None, kind: type[ImageModel]) -> str:
    names = evaluation.metric_names(metrics) if kind.protocols else tuple(kind.best_metrics)
    if best_metric is not None and best_metric not in names:
        raise ValueError(
            f"--best_metric: expected one of {', '.join(names)}, as --metrics="
            f"{','.join(metrics)} give, got {best_metric!r}"
        )
    return best_metric or names[0]
