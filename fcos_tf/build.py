"""From a config to data sets, model, optimizer and callbacks.

The only module that knows the config and all other parts. Those take plain arguments, which
`options_for` selects by name.
"""

import dataclasses
import os
import warnings
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

import keras
import tensorflow as tf

from fcos_tf import data, evaluation
from fcos_tf.config import (
    AugmentationOptions,
    Config,
    DetectionOptions,
    EvaluationOptions,
    ModelOptions,
)
from fcos_tf.data.formats.splits import shared_images
from fcos_tf.models.backbone_model import BackboneModel
from fcos_tf.models.classifier import ImageClassifier
from fcos_tf.models.detector import detectable
from fcos_tf.models.faster_rcnn import FasterRCNN
from fcos_tf.models.fcos import FCOS
from fcos_tf.models.image_model import ImageModel
from fcos_tf.models.input_checks import check_labels
from fcos_tf.models.train_steps import learning_norms
from fcos_tf.models.weights import load_model, weights_file
from fcos_tf.options import (
    argument_of,
    changed_options,
    fields_of,
    options_for,
    parameters_of,
)
from fcos_tf.training import callbacks, optimizers, schedules
from fcos_tf.training.callbacks import InputClock
from fcos_tf.training.interruption import StopSignals
from fcos_tf.training.non_finite import NonFiniteGuard
from fcos_tf.training.run import DetectionPictures
from fcos_tf.training.strategy import ALONE, Share, share_of

# Choices of --model. Each takes num_classes, class_names, category_ids, dtype and its own options.
MODELS: dict[str, type[ImageModel]] = {
    "fcos": FCOS,
    "faster_rcnn": FasterRCNN,
    "classifier": ImageClassifier,
}
OPTIMIZERS = {"sgd": optimizers.SGD, "adamw": optimizers.AdamW}


def load_train_data(
    config: Config, *, start_step: int = 0, share: Share = ALONE
) -> tf.data.Dataset:
    """The endless stream of training batches, or a host's share, from `start_step` on."""
    arguments = {"split": config.train_split, "start_step": start_step, **share._asdict()}
    if config.overfit:
        arguments |= {"horizontal_flip": False, "augment": ()}
    return data.load(**_data_options(config, data.load, training=True, repeat=True, **arguments))


def load_val_data(
    config: Config, class_names: Sequence[str] | None = None, *, share: Share = ALONE
) -> tf.data.Dataset:
    """The validation batches: the validation split, or the training images of `overfit`.

    Args:
        config: The options.
        class_names: Those of the training data, used if the config has none.
        share: A host's part of every batch.
    """
    if class_names and not config.classes:
        config = dataclasses.replace(config, classes=tuple(class_names))
    split = config.train_split if config.overfit else config.val_split
    plain = {name: field.default for name, field in fields_of(AugmentationOptions).items()}
    config = dataclasses.replace(config, **plain)
    arguments = {"split": split, "training": False, **share._asdict()}
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
        ValueError: The batch cannot be divided so, image sizes are not static, or several hosts
            cannot evaluate the model.
    """
    replicas, num_hosts = strategy.num_replicas_in_sync, share_of(strategy).num_hosts
    if num_hosts > 1 and not model_class(config).protocols:
        raise ValueError(
            f"--strategy={config.strategy}: expected one host for --model={config.model}, which "
            f"several cannot evaluate, got {num_hosts}"
        )
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
    expected = "--image_size: expected a canvas like 512x512"
    if config.strategy == "tpu":
        # Two canvases in one data set are a dynamic shape to TensorFlow.
        raise ValueError(f"{expected} with --strategy=tpu, got {config.image_size}")
    if num_hosts > 1 and not config.orientation_buckets:
        or_buckets = "or --orientation_buckets, with several hosts"
        raise ValueError(f"{expected}, {or_buckets}, got {config.image_size}")


def model_class(config: Config) -> type[ImageModel]:
    """The class of `config.model`.

    Raises:
        ValueError: There is no such model, or it lacks an option that is given, or `metrics`.
    """
    kind = MODELS.get(config.model)
    if kind is None:
        raise ValueError(f"--model: expected one of {', '.join(MODELS)}, got {config.model!r}")
    foreign = changed_options(config, ModelOptions, DetectionOptions).keys() - parameters_of(kind)
    # With initial weights of this model its options have no effect; `make_model` warns.
    if foreign and not config.initial_weights:
        names = ", ".join(f"--{name}" for name in sorted(foreign))
        raise ValueError(f"{names}: not an option of --model={config.model}; leave it out")
    if not kind.protocols and changed_options(config, EvaluationOptions).get("metrics"):
        raise ValueError(
            f"--metrics: expected none, as --model={config.model} is evaluated by numbers of its "
            f"own, got {','.join(config.metrics)}; leave it out"
        )
    return kind


def make_model(
    config: Config,
    class_names: Sequence[str],
    category_ids: Sequence[int] | None = None,
    *,
    dataset: Any = None,
) -> keras.Model:
    """The model for these classes, not compiled.

    Args:
        config: The options.
        class_names: Of the data set.
        category_ids: The data set's ids of the classes.
        dataset: The data to train on, which may have one class an image.

    Raises:
        ValueError: A detector and data without boxes, `num_classes` is neither 0 nor the number of
            `class_names`, `initial_weights` is of another `model` with which no backbone can be
            shared, or see `model_class`.
        FileNotFoundError: No such file.
    """
    if config.num_classes and config.num_classes != len(class_names):
        raise ValueError(
            f"--num_classes: expected 0 or {len(class_names)}, the number of classes of "
            f"--dataset={config.dataset} ({', '.join(class_names)}), got {config.num_classes}"
        )
    kind = model_class(config)
    check_labels(kind, dataset)
    given = {"category_ids": category_ids, "dtype": config.precision}
    new = {"num_classes": len(class_names), "class_names": tuple(class_names)}
    if config.label_mode == "auto" and getattr(dataset, "single_label", False):
        new["label_mode"] = "single"
    if not config.initial_weights:
        return kind(**options_for(config, kind, **given, **new))
    model = load_model(config.initial_weights)
    idle = changed_options(config, ModelOptions, DetectionOptions)
    shared = None
    if _share_backbone(kind, type(model)):
        model_class(dataclasses.replace(config, initial_weights=""))
        file = str(weights_file(config.initial_weights))
        shared = model.backbone_settings() | {"backbone_weights": file}
        idle = {name: text for name, text in idle.items() if name in shared}
    if idle:
        names = " ".join(f"--{name}={value}" for name, value in idle.items())
        text = f"the model is that of --initial_weights={config.initial_weights}; of no effect: "
        warnings.warn(text + names, stacklevel=2)
    if shared:
        return kind(**options_for(config, kind, **given, **new, **shared))
    if not isinstance(model, kind):
        raise ValueError(
            f"--initial_weights: expected a file of --model={config.model}, got a "
            f"{type(model).__name__} in {config.initial_weights}"
        )
    wanted = new.get("label_mode", "multi")
    got = getattr(model, "label_mode", wanted)
    if dataset is not None and config.label_mode == "auto" and got != wanted:
        raise ValueError(
            f"--initial_weights: expected a classifier with --label_mode={wanted}, as the data "
            f"need it, got {got} in {config.initial_weights}; --label_mode={got} continues it "
            "all the same"
        )
    model = model.with_classes(class_names, **given)
    model.apply_exif, model.image_size = config.apply_exif, config.image_size
    return model


def _share_backbone(kind: type[ImageModel], other: type[ImageModel]) -> bool:
    """Whether a new model of one class begins with the backbone of another: of a classifier."""
    both = (kind, other)
    return all(issubclass(each, BackboneModel) for each in both) and (
        issubclass(kind, ImageClassifier) != issubclass(other, ImageClassifier)
    )


def with_input_of(model: ImageModel, config: Config, given: Collection[str]) -> Config:
    """The config with the `image_size`, `apply_exif` and classes of a model, but for given ones."""
    of_model = {name: getattr(model, name) for name in {"image_size", "apply_exif"} - {*given}}
    if model.class_names and not config.classes:
        of_model["classes"] = detectable(model.class_names)
    return dataclasses.replace(config, **{n: v for n, v in of_model.items() if v is not None})


def given_thresholds(
    config: Config, given: Collection[str], model: ImageModel, path: str | os.PathLike
) -> dict[str, Any]:
    """The given options of a detection that replace those of a loaded model.

    The file of a run has the options of all models: those that leave the model its own value are
    left out, as are the defaults of those that it lacks.

    Args:
        config: The options.
        given: The names of the given ones.
        model: The detector.
        path: Its file, for the message.

    Raises:
        ValueError: An option that the model lacks.
    """
    found = {}
    for name, field in fields_of(DetectionOptions).items():
        value = argument_of(config, name)
        if name not in given or value is None:
            continue
        if name in model.thresholds:
            found[name] = value
        elif value != field.default:
            raise ValueError(f"--{name}: not an option of the {type(model).__name__} in {path}")
    return found


def make_schedule(config: Config, total_steps: int) -> schedules.WarmupConstant:
    """The config's learning rate: a function of the step."""
    # Scaled as by Goyal et al., Accurate, Large Minibatch SGD.
    scale = config.batch_size / config.base_batch_size if config.base_batch_size else 1.0
    rate = config.learning_rate * scale
    warm = options_for(config, schedules.WarmupConstant, learning_rate=rate)
    if config.warmup_steps < 0:
        warm["warmup_steps"] = min(1000, total_steps // 10)
    late = [f"--warmup_steps={warm['warmup_steps']}"] * (warm["warmup_steps"] >= total_steps)
    if config.schedule == "step" and (steps := [s for s in config.decay_steps if s >= total_steps]):
        late.append(f"--decay_steps={','.join(map(str, steps))}")
    if late and config.schedule != "cosine":  # which refuses that
        text = f"{' and '.join(late)}: expected less than the {total_steps} steps of the run"
        warnings.warn(f"{text}; the learning rate is another than planned", stacklevel=2)
    if config.schedule == "cosine":
        return schedules.WarmupCosine(total_steps=total_steps, **warm)
    if config.schedule == "step":
        # Short runs are better with later decays than the 60k and 80k of 90k steps of COCO.
        default = sorted({max(1, total_steps * 4 // 5), max(1, total_steps * 19 // 20)})
        decay = {"decay_steps": config.decay_steps or default, "decay_factor": config.decay_factor}
        return schedules.WarmupStepDecay(**decay, **warm)
    return schedules.WarmupConstant(**warm)


def make_optimizer(config: Config, total_steps: int) -> keras.optimizers.Optimizer:
    """The config's optimizer, with its schedule over `total_steps` updates."""
    schedule = make_schedule(config, total_steps)
    kind = OPTIMIZERS[config.optimizer]
    more = {"global_clipnorm": config.clip_norm or None, "use_ema": config.ema_momentum > 0}
    optimizer = kind(**options_for(config, kind, learning_rate=schedule, **more))
    if config.max_bad_steps and config.precision != "mixed_float16":
        # It skips non-finite steps; for float16 Keras adds one by itself.
        scaling = {"initial_scale": 1.0, "dynamic_growth_steps": 2**31 - 1}
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer, **scaling)
    return optimizer


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
    text = "batch norms of the model use the statistics of "
    if not one_replica and not all(norm.synchronized for norm in norms):
        more = "their own device only; for those of all devices give --backbone_norm=sync"
        warnings.warn(text + more, stacklevel=3)
    if parts > 1 and norms:
        more = f"one of the {parts} parts of --accumulation_steps at a time, not of the batch"
        warnings.warn(f"{text}{more}; --backbone_norm=frozen uses none", stacklevel=3)


def make_callbacks(
    config: Config,
    val_data: Iterable,
    writers: Iterable,
    *,
    model: ImageModel | None = None,
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
        model: Whose metrics choose the best one; None: those of its class.
        input_clock: The clock of the training data.
        first_step: Updates done before the first `fit`.
        share: This host's share. The chief alone saves models; the others read the numbers at the
            same steps, which is a collective operation.
        stop: The stop signals, see `callbacks.Checkpoint`.

    Raises:
        ValueError: `best_metric` is none of `metrics`.
    """
    start = {"first_step": first_step}

    def make(kind, **others):
        return kind(**options_for(config, kind, **others))

    kind = model or model_class(config)
    best_metric = _best_metric(**options_for(config, _best_metric, kind=kind))
    writers = list(writers)
    galleries = [w for w in writers if kind.protocols and hasattr(w, "write_pictures")]
    # Hosts evaluate together: none can stop alone.
    interrupt = stop.raise_if_received if stop and share.num_hosts == 1 else None
    guard = make(
        NonFiniteGuard,
        make_batch=lambda step: next(iter(load_train_data(config, start_step=step, share=share))),
        host=share.host if share.num_hosts > 1 else None,
        **start,
    )
    saving = {"stop": stop, "writes": share.is_chief, "before_saving": guard.look}
    best = {"best_metric": best_metric, "goal": kind.best_metrics.get(best_metric, "max")}
    return [
        # First: excludes the time of the others at the end of an epoch from the training time.
        make(callbacks.TrainingLog, writers=writers, input_clock=input_clock, **start),
        *(writer for writer in writers if isinstance(writer, keras.callbacks.Callback)),
        guard,
        # A checkpoint is saved after the training lines up to its step. An evaluation is complete
        # with its line; a resumed run repeats an incomplete one.
        make(callbacks.Checkpoint, **saving, **start),
        make(callbacks.DetectionMetrics, dataset=val_data, progress=interrupt),
        *(DetectionPictures(val_data, each, **start) for each in galleries),
        *([make(callbacks.BestModel, **best, **start)] if share.is_chief else []),
        callbacks.EvaluationLog(writers, **start),
        # Last: the time of the others before a step does not count as waiting for input.
        *([input_clock] if input_clock else []),
    ]


def _best_metric(*, metrics: Sequence[str], best_metric: str | None, kind: Any) -> str:
    names = evaluation.metric_names(metrics) if kind.protocols else tuple(kind.best_metrics)
    if best_metric is not None and best_metric not in names:
        source = f"as --metrics={','.join(metrics)} give" if kind.protocols else "of this --model"
        raise ValueError(
            f"--best_metric: expected one of {', '.join(names)}, {source}, got {best_metric!r}"
        )
    return best_metric or names[0]
