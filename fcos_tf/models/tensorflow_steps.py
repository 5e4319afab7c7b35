"""The custom train, test and predict steps of `fit`, `evaluate` and `predict` under TensorFlow."""

import keras
import tensorflow as tf


class TensorFlowSteps:
    """Steps that know about replicas; mixed into `Detector` when TensorFlow is the backend.

    Each replica's loss is its own sum divided by the normaliser of all replicas, and the
    optimizer adds the gradients up: k replicas with b images each step like one with k * b.
    """

    def train_step(self, data):
        """One optimizer step on a batch `(images, targets)`; returns the running means."""
        inputs, targets = unpack(data)
        with tf.GradientTape() as tape:
            predictions = self(inputs, training=True)
            loss, parts = self.compute_loss_parts(inputs, targets, predictions)
            scaled_loss = self.optimizer.scale_loss(loss)
        gradients = tape.gradient(scaled_loss, self.trainable_weights)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_weights, strict=True))
        return self._track(loss, parts)

    def test_step(self, data):
        """The losses of a batch `(images, targets)` in inference mode, as running means."""
        inputs, targets = unpack(data)
        predictions = self(inputs, training=False)
        loss, parts = self.compute_loss_parts(inputs, targets, predictions)
        return self._track(loss, parts)

    def predict_step(self, data):
        """Detections of a batch of images, of `(images, targets)` or of a dict of inputs."""
        inputs, _ = unpack(data)
        return self.detect(inputs, jit_compile=bool(self.jit_compile))

    def _track(self, loss, parts):
        # The same sums on every replica, so that any of them can speak for all. The counts and
        # the normalisers are global already.
        self._loss_tracker.update_state(sum_over_replicas(loss))
        for name, value in parts.items():
            total = sum_over_replicas(value) if name in self.loss_names else value
            self.loss_trackers[name].update_state(total)
        results = self.get_metrics_result()
        if has_hosts(tf.distribute.get_strategy()):
            # Keras takes the mean over the first axis, too.
            results = {name: value[None] for name, value in results.items()}
        return results

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        """Builds the optimizer; all else of a detector is built from the start.

        Keras adds up the batches of all replicas here, which it cannot do with several hosts.
        """
        with self.distribute_strategy.scope():
            if not self.optimizer.built:
                self.optimizer.build(self.trainable_variables)


def has_hosts(strategy) -> bool:
    """Whether the replicas of a strategy are those of the hosts in `TF_CONFIG`."""
    multi_worker = isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)
    return multi_worker and bool(strategy.cluster_resolver.cluster_spec())


def sum_over_replicas(value):
    """The sum of a scalar over all replicas of the current strategy; itself without one."""
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return value
    return context.all_reduce(tf.distribute.ReduceOp.SUM, value)


def unpack(data):
    """Splits what a data set yields into model inputs and targets.

    Args:
        data: images, a dict of inputs, or `(images, targets)`.

    Returns:
        (inputs, targets): a dict with `images` and, where known, `image_sizes`; a dict or None.

    Raises:
        ValueError: for sample weights, which detection has no meaning for.
    """
    inputs, targets, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    if sample_weight is not None:
        raise ValueError("detectors take (images, targets) batches; got sample weights as well")
    if not isinstance(inputs, dict):
        inputs = {"images": inputs}
    if targets is not None and "image_sizes" in targets:
        inputs = {**inputs, "image_sizes": targets["image_sizes"]}
    return inputs, targets
