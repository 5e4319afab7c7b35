"""The custom train, test and predict steps of `fit`, `evaluate` and `predict` under TensorFlow."""

from collections.abc import Mapping

import keras
import tensorflow as tf
from keras import ops

from fcos_tf.models.input_checks import PARTS_MARK
from fcos_tf.ops.dtypes import at_least_float32

_CLIPPING = ("clipnorm", "global_clipnorm", "clipvalue")


class TrainSteps:
    """Replica-aware steps; mixed into `ImageModel` under the TensorFlow backend.

    Each replica's loss is its own sum divided by the normaliser of all replicas, and the gradients
    are summed: a step of k replicas with b images each equals a step of one with k * b.

    Attributes:
        step_names: numbers tracked in training steps beside the losses.
        accumulation_steps: number of parts of a batch, for less memory; the step is the same.
        bad_steps: counts the steps whose loss or gradient was not finite.
    """

    step_names = ("gradient_norm",)
    accumulation_steps = 1

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.bad_steps = BadSteps()

    def train_step(self, data):
        """One optimizer step on a batch `(images, targets)`; returns the running means.

        A loss scale skips steps with a non-finite gradient, restores batch norm statistics and
        leaves such steps out of the means.
        """
        inputs, targets = _unpack_both(data)
        skips = isinstance(self.optimizer, keras.optimizers.LossScaleOptimizer)
        statistics = []  # of batch norms, with their values, if the optimizer may skip the step
        if skips:
            weights = (w for norm in learning_norms(self) for w in norm.non_trainable_weights)
            statistics = [(weight, tf.convert_to_tensor(weight)) for weight in weights]
        compute = self._gradients if self.accumulation_steps == 1 else self._accumulated_gradients
        loss, parts, gradients = compute(inputs, targets)
        gradients = sum_over_replicas(gradients)
        scale = self.optimizer.scale_loss(1.0)
        norm = tf.linalg.global_norm(gradients) / scale
        self._apply_sums(gradients)
        values = self._sum_losses(loss, parts)
        losses_are_finite = tf.reduce_all([tf.math.is_finite(value) for value in values.values()])
        finite = losses_are_finite & tf.math.is_finite(norm)
        for weight, before in statistics:
            weight.assign(tf.where(finite, weight, before))
        # A float16 overflow lowers the loss scale; it is a fault only at the lowest scale.
        can_scale = tf.logical_and(self.dtype_policy.name == "mixed_float16", scale > 1)
        self.bad_steps.count(finite | (losses_are_finite & can_scale))
        return self._track({**values, "gradient_norm": norm}, counts=finite if skips else True)

    def _gradients(self, inputs, targets, totals=None):
        """Loss, its named parts, and the gradients of the scaled loss."""
        with tf.GradientTape() as tape:
            loss, parts = self.total_loss(inputs, targets, training=True, totals=totals)
            scaled_loss = self.optimizer.scale_loss(loss)
        weights = self.trainable_weights
        return loss, parts, tape.gradient(scaled_loss, weights, unconnected_gradients="zero")

    def count_shares(self, totals=None) -> int:
        """Number of losses whose sum is the loss of a batch: one for each part on each replica."""
        return (1 if totals is None else self.accumulation_steps) * _count_replicas()

    def _accumulated_gradients(self, inputs, targets):
        """`_gradients` of a batch in parts, with the loss normalisers of the whole batch."""
        steps = self.accumulation_steps
        if learning_norms(self) and _count_replicas() > 1:
            raise ValueError(
                "accumulation_steps: expected 1 with several devices and batch norms that learn; "
                f"got {steps}; give backbone_norm='frozen'"
            )
        totals = self.compute_totals(targets, ops.shape(inputs["images"])[1:3])
        if totals is None:
            raise ValueError(
                f"accumulation_steps: expected 1, as the loss normalisers of {type(self).__name__} "
                f"need a forward pass; got {steps}"
            )
        totals = sum_over_replicas(totals)
        batch = tf.nest.map_structure(lambda x: _cut(x, steps), (inputs, targets))

        def add(i, sums):
            one = tf.nest.map_structure(lambda x: x[i], batch)
            return i + 1, tf.nest.map_structure(tf.add, sums, self._gradients(*one, totals))

        names = (*self.loss_names, *self.count_names)
        gradients = [tf.zeros_like(weight) for weight in self.trainable_weights]
        zero = tf.zeros([], at_least_float32(self.compute_dtype))
        zeros = (zero, dict.fromkeys(names, zero), gradients)
        # In sequence: parallel parts would take the memory of the whole batch.
        _, (loss, parts, gradients) = tf.while_loop(
            lambda i, sums: i < steps, add, (0, zeros), parallel_iterations=1
        )
        for name in self.count_names:  # each part counts the whole batch
            parts[name] = parts[name] / steps
        return loss, parts, gradients

    def _apply_sums(self, gradients):
        """Gives gradients that are summed over the replicas to the optimizer."""
        optimizer = getattr(self.optimizer, "inner_optimizer", self.optimizer)
        if hasattr(optimizer, "adds_up"):
            optimizer.adds_up = False
        elif _count_replicas() > 1 and any(getattr(optimizer, name, None) for name in _CLIPPING):
            raise ValueError(
                f"optimizer: Keras' {type(optimizer).__name__} clips the part of each device; with "
                "several devices expected fcos_tf.training.optimizers.SGD or AdamW"
            )
        else:  # Keras' own optimizers sum them again.
            gradients = [gradient / _count_replicas() for gradient in gradients]
        self.optimizer.apply_gradients(zip(gradients, self.trainable_weights, strict=True))

    def test_step(self, data):
        """The losses of a batch `(images, targets)` in inference mode, as means over images."""
        inputs, targets = _unpack_both(data)
        loss, parts = self.total_loss(inputs, targets, training=False)
        (count,) = sum_over_replicas([tf.cast(tf.shape(inputs["images"])[0], "float32")])
        return self._track(self._sum_losses(loss, parts), weight=count)

    def predict_step(self, data):
        """`predict_outputs` of a batch of images, of `(images, targets)` or of a dict of inputs."""
        inputs, _ = unpack(data)
        return self.predict_outputs(inputs, jit_compile=self.under_xla())

    def under_xla(self) -> bool:
        """Whether XLA compiles the steps."""
        return bool(self.jit_compile) or isinstance(
            self.distribute_strategy, tf.distribute.TPUStrategy
        )

    def _sum_losses(self, loss, parts):
        """The losses by name, summed over replicas; counts are so already."""
        names = ("loss", *self.loss_names)
        sums = sum_over_replicas([loss, *(parts[name] for name in self.loss_names)])
        return {**parts, **dict(zip(names, sums, strict=True))}

    def _track(self, values, counts=True, weight=1.0):
        """Adds a step to the running means, unless `counts` is false, and returns them."""
        counts = tf.convert_to_tensor(counts)
        weight = tf.where(counts, weight, 0.0)
        for name, value in values.items():
            tracker = self._loss_tracker if name == "loss" else self.loss_trackers[name]
            tracker.update_state(tf.where(counts, value, 0.0), weight)
        results = self.get_metrics_result()
        return {name: results[name] for name in values}

    def get_metrics_result(self):
        """The running means by name; NaN without a step."""
        means = {"loss": self._loss_tracker, **self.loss_trackers}
        return {
            name: tf.where(means[name].count > 0, value, float("nan")) if name in means else value
            for name, value in super().get_metrics_result().items()
        }

    def _make_function(self, step_function):
        """Keras' step function; with several hosts the results go as one row.

        Keras averages each result over hosts and a first axis; a row takes one message for all.
        """
        if not has_hosts(self.distribute_strategy):
            return super()._make_function(step_function)
        names = []

        def row_of_results(data):
            results = step_function(data)
            names[:] = results
            return tf.stack(list(results.values()))[None]  # [1, number of results]

        function = super()._make_function(row_of_results)
        return lambda iterator: dict(zip(names, tf.unstack(function(iterator)), strict=True))

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        """Builds the optimizer; the model is already built.

        Keras' own method gathers the batches of all replicas, which fails with several hosts.
        """
        with self.distribute_strategy.scope():
            if not self.optimizer.built:
                self.optimizer.build(self.trainable_variables)


class BadSteps:
    """Counts steps and steps that are not finite, and keeps the first of the latter.

    Counted on the device: reading a number after every step would stall the host.
    """

    def __init__(self):
        # The same on all replicas, and not saved with the model.
        options = {"dtype": "int32", "trainable": False, "aggregation": "only_first_replica"}
        self._steps, self._faults, self._first = (
            keras.Variable(0, name=name, **options) for name in ("steps", "faults", "first_fault")
        )

    def count(self, finite) -> None:
        """Counts a step; `finite` is a scalar bool, the same on all replicas."""
        step = self._steps + 1
        fault = ops.cast(ops.logical_not(finite), "int32")
        is_first = ops.logical_and(self._faults == 0, fault == 1)
        self._first.assign(ops.where(is_first, step, self._first))
        self._faults.assign(self._faults + fault)
        self._steps.assign(step)

    def read(self) -> tuple[int, int]:
        """Number of faults since `reset`, and the step of the first, from 1; (0, 0) if none."""
        # Through numpy: a variable on several devices does not convert to int.
        return int(self._faults.numpy()), int(self._first.numpy())

    def reset(self) -> None:
        """Starts at 0 again."""
        for variable in (self._steps, self._faults, self._first):
            variable.assign(0)


def _cut(x, parts: int):
    """[B, ...] to [parts, B / parts, ...]; static sides stay static."""
    sides = [side or tf.shape(x)[axis] for axis, side in enumerate(x.shape)]
    count, checks = sides[0], []
    is_static = isinstance(count, int)
    text = (
        f"{PARTS_MARK}expected a divisor of {f'{count}, ' if is_static else ''}the images of a "
        f"batch on a device, got {parts}"
    )
    if not is_static:  # XLA drops the check
        checks = [tf.debugging.assert_equal(count // parts * parts, count, message=text)]
    elif count % parts:
        raise ValueError(text)
    with tf.control_dependencies(checks):
        return tf.reshape(x, [parts, count // parts, *sides[1:]])


def learning_norms(model) -> list[keras.layers.BatchNormalization]:
    """The batch norms of a model that use and keep the statistics of training batches."""
    norms = (x for x in model._flatten_layers() if isinstance(x, keras.layers.BatchNormalization))
    return [norm for norm in norms if norm.trainable]


def _count_replicas() -> int:
    return tf.distribute.get_strategy().num_replicas_in_sync


def has_hosts(strategy) -> bool:
    """Whether a strategy spans several hosts of `TF_CONFIG`."""
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return False
    jobs = strategy.cluster_resolver.cluster_spec().as_dict().values()
    return sum(map(len, jobs)) > 1


def sum_over_replicas(value):
    """The sum of a value over all replicas of the current strategy; itself without one."""
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return value
    return context.all_reduce(tf.distribute.ReduceOp.SUM, value)


def replica_index():
    """The number of this replica among all of the current strategy; 0 without one."""
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return 0
    return context.replica_id_in_sync_group


def unpack(data):
    """Splits images, a dict of inputs, or `(images, targets)` into model inputs and targets.

    Returns:
        (inputs, targets): a dict with `images` and, if known, `image_sizes`; a dict or None.

    Raises:
        ValueError: for sample weights, which are not supported.
    """
    inputs, targets, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    if sample_weight is not None:
        raise ValueError("expected batches (images, targets); got sample weights as well")
    if not isinstance(inputs, dict):
        inputs = {"images": inputs}
    if isinstance(targets, Mapping) and "image_sizes" in targets:
        inputs = {**inputs, "image_sizes": targets["image_sizes"]}
    return inputs, targets


def _unpack_both(data):
    """`unpack` of data with targets."""
    inputs, targets = unpack(data)
    if not isinstance(targets, Mapping):
        got = "none" if targets is None else f"a {type(targets).__name__}"
        raise ValueError(f"targets: expected a dict, got {got}")
    return inputs, targets
