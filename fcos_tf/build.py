"""From a config to data sets, model, optimizer and callbacks.

The only module that knows the config and all other parts; those take plain arguments.
"""

import dataclasses
import math
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import keras
import tensorflow as tf

from fcos_tf import data, evaluation
from fcos_tf.config import AUTO, Config, flag_value
from fcos_tf.models.fcos import FCOS
from fcos_tf.models.train_steps import learning_norms
from fcos_tf.models.weights import load_model
from fcos_tf.training import callbacks, non_finite, optimizers, schedules
from fcos_tf.training.input_clock import InputClock
from fcos_tf.training.pictures import DetectionPictures
from fcos_tf.training.stop_signals import StopSignals
from fcos_tf.training.strategy import ALONE, Share, share_of


def load_train_data(
    config: Config, *, start_step: int = 0, share: Share = ALONE
) -> tf.data.Dataset:
    """The endless stream of training batches, or a host's share, from that of `start_step` on."""
    return data.load(
        config.dataset,
        split=config.train_split,
        training=True,
        repeat=True,
        start_step=start_step,
        seed=config.seed,
        # None: flip, unless the data set does not stand it.
        horizontal_flip=None if config.horizontal_flip and not config.overfit else False,
        augment=() if config.overfit else config.augment,
        scale_jitter=config.scale_jitter,
        include_difficult=config.include_difficult,
        skip_empty=config.skip_empty,
        cache=config.cache,
        **share._asdict(),
        **_data_options(config, config.classes),
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
    return data.load(
        config.dataset,
        split=config.train_split if config.overfit else config.val_split,
        training=False,
        seed=config.seed,
        **share._asdict(),
        **_data_options(config, config.classes or class_names),
    )


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


def count_steps(config: Config, num_images: int) -> int:
    """The length of a run in updates, from `steps` or `epochs`.

    Raises:
        ValueError: If neither is given.
    """
    if config.steps:
        return config.steps
    if not config.epochs:
        raise ValueError("--steps or --epochs: expected one of them above 0, got neither")
    return max(1, math.ceil(config.epochs * num_images / config.batch_size))


def make_model(
    config: Config, class_names: Sequence[str], category_ids: Sequence[int] | None = None
) -> FCOS:
    """The detector for these classes, not compiled.

    Args:
        config: The options.
        class_names: Of the data set.
        category_ids: The data set's ids of the classes.

    Raises:
        ValueError: If `num_classes` is set and there are not that many, or `initial_weights` is no
            detector.
        FileNotFoundError: If there is no such file.
    """
    if config.num_classes and config.num_classes != len(class_names):
        raise ValueError(
            f"--num_classes: expected 0 or {len(class_names)}, the number of classes of "
            f"--dataset={config.dataset} ({', '.join(class_names)}), got {config.num_classes}"
        )
    if config.initial_weights:
        _warn_of_idle_options(config)
        model = load_model(config.initial_weights)
        return model.with_classes(class_names, category_ids=category_ids, dtype=config.precision)
    return FCOS(
        len(class_names),
        class_names=tuple(class_names),
        category_ids=category_ids,
        backbone=config.backbone,
        backbone_weights=config.backbone_weights or None,
        backbone_norm=_unless_auto(config.backbone_norm),
        frozen_stages=None if config.frozen_stages < 0 else config.frozen_stages,
        stride_in_3x3={AUTO: None, "true": True, "false": False}[config.stride_in_3x3],
        channel_order=_unless_auto(config.channel_order),
        fpn_levels=config.fpn_levels,
        fpn_channels=config.fpn_channels,
        fpn_upsampling=config.fpn_upsampling,
        head_convs=config.head_convs,
        head_norm=config.head_norm,
        centerness_on=config.centerness_on,
        quality=config.quality,
        rules=config.rules,
        box_loss=config.box_loss,
        box_loss_weight=config.box_loss_weight,
        center_sampling_radius=config.center_sampling_radius or None,
        score_threshold=config.score_threshold,
        nms_threshold=config.nms_threshold,
        topk_per_level=config.topk_per_level,
        max_detections=config.max_detections,
        image_size=config.image_size,
        dtype=config.precision,
    )


def _warn_of_idle_options(config: Config) -> None:
    """Names the options that do not count because the model comes from a file."""
    idle = [
        f"--{field.name}={flag_value(getattr(config, field.name))}"
        for field in dataclasses.fields(config)
        if field.metadata["section"] in ("Model", "Detections")
        and field.name not in ("model", "initial_weights")
        and getattr(config, field.name) != field.default
    ]
    if idle:
        warnings.warn(
            f"the model is that of --initial_weights={config.initial_weights}; of no effect: "
            f"{' '.join(idle)}",
            stacklevel=3,
        )


def make_optimizer(config: Config, total_steps: int) -> keras.optimizers.Optimizer:
    """The config's optimizer, with its schedule over `total_steps` updates."""
    # Goyal et al., Accurate, Large Minibatch SGD: the rate grows with the batch.
    share = config.batch_size / config.base_batch_size if config.base_batch_size else 1.0
    learning_rate = config.learning_rate * share
    warmup = {"warmup_steps": config.warmup_steps, "warmup_factor": config.warmup_factor}
    if config.schedule == "step":
        decay_steps = config.decay_steps or _default_decay_steps(total_steps)
        rate = schedules.WarmupStepDecay(
            learning_rate,
            decay_steps=decay_steps,
            decay_factor=config.decay_factor,
            **warmup,
        )
    elif config.schedule == "cosine":
        if total_steps <= config.warmup_steps:
            raise ValueError(
                f"--warmup_steps: expected fewer than the {total_steps} steps of the run with "
                f"--schedule=cosine, got {config.warmup_steps}"
            )
        rate = schedules.WarmupCosine(learning_rate, total_steps=total_steps, **warmup)
    else:
        rate = schedules.WarmupConstant(learning_rate, **warmup)
    options = {
        "weight_decay": config.weight_decay,
        "bias_lr_factor": config.bias_lr_factor,
        "global_clipnorm": config.clip_norm or None,
        "use_ema": config.ema_momentum > 0,
        "ema_momentum": config.ema_momentum,
    }
    if config.optimizer == "adamw":
        return optimizers.AdamW(rate, **options)
    return optimizers.SGD(rate, momentum=float(config.momentum), **options)


def compile_model(config: Config, model: keras.Model, total_steps: int) -> None:
    """Gives the model its optimizer, the choice of XLA and the number of parts of a batch."""
    # XLA is slower than the plain graph on a CPU, and compiles anew for every image size. A
    # function compiled for one device cannot reach the variables of another.
    one_replica = tf.distribute.get_strategy().num_replicas_in_sync == 1
    if config.jit_compile == "true" and not one_replica:
        raise ValueError(
            "--jit_compile: expected auto or false with several devices, or --strategy=one_device; "
            "got true"
        )
    _warn_of_lonely_norms(model, one_replica=one_replica, parts=config.accumulation_steps)
    has_gpu = bool(tf.config.list_physical_devices("GPU"))
    pays = has_gpu and one_replica and "," not in config.image_size
    jit = {"true": True, "false": False, AUTO: pays}[config.jit_compile]
    optimizer = make_optimizer(config, total_steps)
    if config.max_bad_steps and config.precision != "mixed_float16":
        # It leaves out what is not finite; Keras has one for float16 anyway.
        optimizer = keras.optimizers.LossScaleOptimizer(
            optimizer, initial_scale=1.0, dynamic_growth_steps=2**31 - 1
        )
    model.compile(optimizer=optimizer, jit_compile=jit)
    model.accumulation_steps = config.accumulation_steps


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
    names = evaluation.metric_names(config.metrics)
    monitor = names[0] if config.best_metric == AUTO else config.best_metric
    if monitor not in names:
        raise ValueError(
            f"--best_metric: expected one of {', '.join(names)}, as --metrics="
            f"{','.join(config.metrics)} give, got {config.best_metric!r}"
        )
    writers = list(writers)
    galleries = [writer for writer in writers if hasattr(writer, "write_pictures")]
    # Hosts evaluate together: none can break off alone.
    interrupt = stop.raise_if_received if stop and share.num_hosts == 1 else None
    guard = non_finite.NonFiniteGuard(
        config.model_dir,
        every=config.log_every,
        make_batch=lambda step: next(iter(load_train_data(config, start_step=step, share=share))),
        allowed=config.max_bad_steps,
        first_step=first_step,
        host=share.host if share.num_hosts > 1 else None,
    )
    made = [
        # First: the time that the others take at the end of an epoch is not the training's.
        callbacks.TrainingLog(
            writers,
            every=config.log_every,
            batch_size=config.batch_size,
            input_clock=input_clock,
            first_step=first_step,
        ),
        *(writer for writer in writers if isinstance(writer, keras.callbacks.Callback)),
        guard,
        # When a checkpoint stands, the training's lines up to its step have been written. An
        # evaluation is done when its line stands; until then a resumed run makes up for it.
        callbacks.Checkpoint(
            config.model_dir,
            every=config.checkpoint_every,
            keep=config.keep_checkpoints,
            first_step=first_step,
            stop=stop,
            writes=share.is_chief,
            before_saving=guard.look,
        ),
        callbacks.DetectionMetrics(val_data, metrics=config.metrics, progress=interrupt),
        *(DetectionPictures(val_data, each, first_step=first_step) for each in galleries),
    ]
    if share.is_chief:
        made.append(callbacks.BestModel(config.model_dir, monitor=monitor, first_step=first_step))
    made.append(callbacks.EvaluationLog(writers, first_step=first_step))
    # Behind all others: their time before a step is not spent waiting for input.
    return [*made, input_clock] if input_clock else made


def count_eval_period(config: Config, num_images: int) -> int:
    """Steps between two evaluations."""
    return config.eval_every or math.ceil(num_images / config.batch_size)


def _data_options(config: Config, class_names: Sequence[str] | None) -> dict[str, Any]:
    return {
        "batch_size": config.batch_size,
        "data_dir": config.data_dir or None,
        "annotations": config.annotations or None,
        "images": config.images or None,
        "image_size": config.image_size,
        "orientation_buckets": config.orientation_buckets,
        "limit": config.overfit or None,
        "classes": tuple(class_names) if class_names else None,
        "max_faults": config.max_faults,
        "max_bad_images": config.max_bad_images,
    }


def _default_decay_steps(total_steps: int) -> tuple[int, ...]:
    """60k and 80k of 90k steps, as in the recipe, for a run of any length."""
    return tuple(sorted({max(1, total_steps * 2 // 3), max(1, total_steps * 8 // 9)}))


def _unless_auto(value: str) -> str | None:
    return None if value == AUTO else value
