"""What detectors share: preprocessing, the steps of training and prediction, loss trackers.

Shape shorthand: B images of H x W pixels, M padded boxes, D detections.
"""

from collections.abc import Sequence

import keras
from keras import ops

from fcos_tf.models import running_means
from fcos_tf.models.step_faults import StepFaults

if keras.backend.backend() == "tensorflow":
    from fcos_tf.models.tensorflow_steps import TensorFlowSteps, sum_over_replicas
else:

    class TensorFlowSteps:
        """Other backends run Keras' own steps on `compute_loss`."""

        step_names = ()

        def count_shares(self, totals=None):
            """All of a batch is in one loss."""
            return 1

    def sum_over_replicas(value):
        """Other backends see the whole batch as one."""
        return value


CHANNEL_ORDERS = ("rgb", "bgr")


class Detector(TensorFlowSteps, keras.Model):
    """Base class of the detectors.

    A subclass implements `call`, `compute_losses` and `decode`, and lists `loss_names`.

    Args:
        channel_order: "rgb" or "bgr", what the backbone sees; images always come in as RGB.
        mean: three numbers in 0-255, in `channel_order`, subtracted from the image.
        std: three numbers, the divisor after that.
        class_names: names of the classes, kept with the model.
        category_ids: the data set's own id of each label, kept with the model.
        image_size: to which size images are brought for this model, kept with it.
        count_names: what `compute_losses` counts over all replicas, beside the losses.
    """

    loss_names: tuple[str, ...] = ()
    # Whether boxes x2 and y2 name the last pixel inside; evaluation then adds 1 in the original.
    inclusive_pixels = False

    def __init__(
        self,
        *,
        channel_order: str,
        mean: Sequence[float],
        std: Sequence[float],
        class_names: Sequence[str] | None = None,
        category_ids: Sequence[int] | None = None,
        image_size: str | None = None,
        count_names: Sequence[str] = ("num_positives",),
        **kwargs,
    ):
        # Autocasting would turn image sizes and float images into bfloat16 under mixed precision:
        # 1333 would become 1336.
        super().__init__(autocast=False, **kwargs)
        if channel_order not in CHANNEL_ORDERS:
            raise ValueError(f"channel_order must be 'rgb' or 'bgr'; got {channel_order!r}")
        for name, values in (("mean", mean), ("std", std)):
            if len(values) != 3:
                raise ValueError(f"{name} must be three numbers; got {values!r}")
        self.channel_order = channel_order
        self.mean = tuple(float(v) for v in mean)
        self.std = tuple(float(v) for v in std)
        self.class_names = None if class_names is None else tuple(class_names)
        self.category_ids = None if category_ids is None else tuple(map(int, category_ids))
        self.image_size = image_size
        self.loss_trackers = {
            name: keras.metrics.Mean(name=name)
            for name in (*self.loss_names, *count_names, *self.step_names)
        }
        self.step_faults = StepFaults()

    def compute_losses(self, predictions: dict, targets: dict, image_size, totals=None) -> dict:
        """The named losses and counts, `num_positives` ...; scalars float32. See the subclass."""
        raise NotImplementedError

    def compute_totals(self, targets: dict, image_size):
        """What losses are divided by, of this replica's images. See the subclass."""
        raise NotImplementedError

    def decode(self, predictions: dict, image_size, image_sizes, **options) -> dict:
        """Raw predictions to detections. See the subclass."""
        raise NotImplementedError

    def preprocess(self, images, image_sizes=None):
        """Orders the channels, normalises, and puts zeros where there is no image.

        Args:
            images: [B, H, W, 3] uint8 or float, RGB, 0-255.
            image_sizes: [B, 2] float, (height, width) of the valid part; None: all of it.

        Returns:
            [B, H, W, 3] float32.
        """
        x = ops.cast(images, "float32")
        if self.channel_order == "bgr":
            x = ops.flip(x, axis=-1)
        x = (x - ops.convert_to_tensor(self.mean)) / ops.convert_to_tensor(self.std)
        if image_sizes is None:
            return x
        height, width = spatial_size(images)
        sizes = ops.cast(image_sizes, "int32")[:, None]  # [B, 1, 2]
        rows = ops.arange(height, dtype="int32")[None] < sizes[..., 0]  # [B, H]
        columns = ops.arange(width, dtype="int32")[None] < sizes[..., 1]  # [B, W]
        valid = rows[:, :, None] & columns[:, None, :]
        return ops.where(valid[..., None], x, 0.0)

    def detect(
        self,
        images,
        image_sizes=None,
        *,
        score_threshold=None,
        max_detections: int | None = None,
        jit_compile: bool = False,
    ) -> dict:
        """Detections of a batch of images; may be traced into a graph.

        Args:
            images: [B, H, W, 3] uint8 or float RGB 0-255, or the dict that `call` takes.
            image_sizes: [B, 2] float, (height, width) before padding; None: all of the image.
            score_threshold: in place of the model's, a number or a tensor.
            max_detections: in place of the model's.
            jit_compile: whether the caller is being compiled by XLA.

        Returns:
            dict: `boxes` [B, D, 4] float32 xyxy in pixels of `images`, `scores` [B, D] float32 in
            descending order, `labels` [B, D] int32, `num_detections` [B] int32. Padding: boxes and
            scores 0, labels -1.
        """
        inputs = {"images": images} if not isinstance(images, dict) else images
        if image_sizes is not None:
            inputs = {**inputs, "image_sizes": image_sizes}
        predictions = self(inputs, training=False)
        return self.decode(
            predictions,
            spatial_size(inputs["images"]),
            inputs.get("image_sizes"),
            score_threshold=score_threshold,
            max_detections=max_detections,
            jit_compile=jit_compile,
        )

    def compute_loss_parts(self, inputs: dict, targets: dict, predictions: dict, totals=None):
        """The total to differentiate, regularisation included, and its named parts."""
        parts = self.compute_losses(predictions, targets, spatial_size(inputs["images"]), totals)
        loss = sum(parts[name] for name in self.loss_names)
        if self.losses:
            extra = sum(ops.cast(ops.sum(extra), "float32") for extra in self.losses)
            loss = loss + extra / self.count_shares(totals)
        return loss, parts

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """The total loss, for Keras' own steps on backends without the custom ones.

        Args:
            x: images [B, H, W, 3], or the dict that `call` takes.
            y: targets, a dict with `boxes` [B, M, 4] and `labels` [B, M].
            y_pred: what `call` returned for `x`.
            sample_weight: must be None.
            training: unused; the losses are the same.

        Returns:
            scalar float32.
        """
        del training
        if sample_weight is not None:
            raise ValueError("detectors do not take sample weights")
        inputs = x if isinstance(x, dict) else {"images": x}
        loss, parts = self.compute_loss_parts(inputs, y, y_pred)
        for name, value in parts.items():
            self.loss_trackers[name].update_state(value)
        return loss

    def save_own_variables(self, store):
        """What Keras does not save with the layers: random states, and means of unfinished steps.

        The random state is that of dropout and the like; the means are those of training steps
        that are in no record yet.
        """
        for i, state in enumerate(self._random_states()):
            store[f"random_state_{i}"] = state
        means = running_means.read(self)
        if any(value.any() for value in means.values()):
            for name, value in means.items():
                store[name] = value

    def load_own_variables(self, store):
        """Takes over random state and means where the file has them."""
        for i, state in enumerate(self._random_states()):
            if f"random_state_{i}" in store:
                state.assign(store[f"random_state_{i}"])
        running_means.write(self, store)

    def _random_states(self):
        weights = {id(weight) for weight in self.weights}
        return [variable for variable in self.variables if id(variable) not in weights]

    def get_config(self):
        """The constructor's arguments."""
        return {
            "channel_order": self.channel_order,
            "mean": self.mean,
            "std": self.std,
            "class_names": self.class_names,
            "category_ids": self.category_ids,
            "image_size": self.image_size,
            "name": self.name,
            "dtype": keras.dtype_policies.serialize(self.dtype_policy),
        }


def category_ids_of(model) -> tuple[int, ...]:
    """The data set's id of each label of a detector; counted from 1 where it does not know them."""
    return model.category_ids or tuple(range(1, model.num_classes + 1))


def unpack_inputs(inputs):
    """(images, image_sizes or None) from what `call` takes: a tensor or a dict of both."""
    if isinstance(inputs, dict):
        return inputs["images"], inputs.get("image_sizes")
    return inputs, None


def spatial_size(images):
    """(height, width) of [B, H, W, 3] images: Python ints where static, else scalar tensors."""
    shape = ops.shape(images)
    return shape[1], shape[2]
