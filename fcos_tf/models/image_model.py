"""Base class of image models: preprocessing, class names, losses and their running means.

Shape shorthand: B images of H x W pixels.
"""

from collections.abc import Mapping, Sequence

import keras
import numpy as np
from keras import ops

from fcos_tf.image_size import parse_image_size
from fcos_tf.layers.blocks import check_choices, check_range
from fcos_tf.models.input_checks import CheckedInputs
from fcos_tf.models.weights import copy_weights
from fcos_tf.ops.dtypes import at_least_float32

if keras.backend.backend() == "tensorflow":
    from fcos_tf.models.train_steps import TrainSteps, replica_index, sum_over_replicas
else:

    class TrainSteps:
        """Other backends run Keras' own steps on `compute_loss`."""

        step_names = ()

        def count_shares(self, totals=None):
            """One loss holds the whole batch."""
            return 1

        def under_xla(self):
            """All of it is compiled."""
            return True

    def replica_index():
        """There is one replica."""
        return 0

    def sum_over_replicas(value):
        """There is one replica."""
        return value


CHANNEL_ORDERS = ("rgb", "bgr")
MOST_CLASSES = 1_000_000
# torchvision's ImageNet statistics, 0-255 RGB.
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


class ImageModel(TrainSteps, CheckedInputs, keras.Model):
    """Base class of all models.

    A subclass implements `call`, and `compute_losses` or, for a loss of more than predictions and
    targets, `forward_losses` (backends other than TensorFlow call the former). Records, curves,
    checkpoints and export read its attributes. `compile` takes an optimizer only.

    Args:
        num_classes: C; None: the number of `class_names`.
        class_names: names of the classes, kept with the model.
        category_ids: the data set's own id of each label, kept with the model.
        image_size: input size, such as "800,1333" (short, long) or "512x512", kept with the model.
        apply_exif: whether images are turned upright by their EXIF orientation, likewise.
        channel_order: input of the network, "rgb" (None) or "bgr". Images are always given as RGB.
        mean: three numbers in 0-255, in `channel_order`, to subtract. None: torchvision's.
        std: three numbers, the divisor after that. None: torchvision's.
        count_names: in place of the class's, if they depend on other arguments.
        loss_names: likewise.

    Attributes:
        loss_names: name -> meaning of each loss; training minimises their sum.
        count_names: name -> meaning of each further number of `forward_losses`.
        detail_names: the counts for files only, not for the terminal.
        protocols: names of the `evaluation.METRICS` of the predictions; empty: the mean losses.
        class_layers: names of the layers whose weights depend on the classes.
        backbone: functional model of the features; export folds its batch norms, and its weights
            are known by their order, not by name. None: the model has none.
        learns_boxes: whether targets hold `boxes` and `labels`, which are then checked.
        best_metrics: name -> "max" or "min" of the numbers that choose the best model. The curves
            of a run show them, and all losses whose names end in "_loss".

    Raises:
        ValueError: names the argument that is out of its range.
    """

    loss_names: Mapping[str, str] = {}
    count_names: Mapping[str, str] = {}
    detail_names: Sequence[str] = ()
    protocols: Sequence[str] = ()
    class_layers: Sequence[str] = ()
    backbone: keras.Model | None = None
    learns_boxes = False
    best_metrics: Mapping[str, str] = {"loss": "min"}

    def __init__(
        self,
        num_classes: int | None = None,
        *,
        class_names: Sequence[str] | None = None,
        category_ids: Sequence[int] | None = None,
        image_size: str | None = None,
        apply_exif: bool = False,
        channel_order: str | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        count_names: Mapping[str, str] | None = None,
        loss_names: Mapping[str, str] | None = None,
        **kwargs,
    ):
        if keras.config.image_data_format() != "channels_last":
            raise ValueError(
                "image_data_format: expected channels_last, got channels_first; call "
                "keras.config.set_image_data_format('channels_last')"
            )
        # Autocasting would make image sizes bfloat16 under mixed precision: 1333 becomes 1336.
        super().__init__(autocast=False, **kwargs)
        num_classes = _count_classes(num_classes, class_names)
        category_ids = None if category_ids is None else tuple(map(int, category_ids))
        if category_ids is not None and not (
            len(category_ids) == len({*category_ids}) == num_classes
        ):
            raise ValueError(f"expected {num_classes} different category_ids; got {category_ids}")
        if image_size is not None:
            parse_image_size(image_size)
        channel_order = channel_order or "rgb"
        check_choices(channel_order=(channel_order, CHANNEL_ORDERS))
        step = -1 if channel_order == "bgr" else 1
        mean, std = MEAN[::step] if mean is None else mean, STD[::step] if std is None else std
        for name, values in {"mean": mean, "std": std}.items():
            if len(values) != 3:
                raise ValueError(f"{name} must be three numbers; got {values!r}")
            for value in values:
                check_range(**{name: (value, 1e-6 if name == "std" else -1e6, 1e6)})
        self.num_classes = num_classes
        self.class_names = None if class_names is None else tuple(class_names)
        self.category_ids = category_ids
        self.image_size, self.apply_exif = image_size, apply_exif
        self.channel_order = channel_order
        self.mean, self.std = tuple(map(float, mean)), tuple(map(float, std))
        self.count_names = dict(self.count_names if count_names is None else count_names)
        self.loss_names = dict(self.loss_names if loss_names is None else loss_names)
        self.loss_trackers = {
            name: keras.metrics.Mean(name=name)
            for name in (*self.loss_names, *self.count_names, *self.step_names)
        }

    def forward_losses(self, inputs: dict, targets: dict, *, training: bool, totals=None) -> dict:
        """The named losses and counts of a batch, the forward pass included.

        Args:
            inputs: `images` [B, H, W, 3] and optionally `image_sizes` [B, 2], as for `call`.
            targets: dict of the ground truth.
            training: mode of the layers.
            totals: `compute_totals` of the whole batch on all replicas, if these images are a part
                of it; None: they are this replica's whole batch.

        Returns:
            dict of float32 scalars: `loss_names`, each this replica's sum divided by the
            normaliser of all replicas; and `count_names`, of the whole batch on all replicas.
        """
        predictions = self(inputs, training=training)
        return self.compute_losses(predictions, targets, spatial_size(inputs["images"]), totals)

    def compute_losses(self, predictions, targets: dict, image_size, totals=None) -> dict:
        """The result of `forward_losses`, from the outputs of `call` for images of (H, W)."""
        raise NotImplementedError(
            f"{type(self).__name__} has no compute_losses; backends other than TensorFlow need it"
        )

    def compute_totals(self, targets: dict, image_size):
        """The loss normalisers of this replica's images of (H, W), from the targets alone.

        Returns:
            A tensor to be summed over replicas; None if the normalisers need a forward pass, which
            rules out gradient accumulation.
        """
        return None

    def predict_outputs(self, inputs: dict, *, jit_compile: bool = False):
        """The result of `predict` for a batch; by default the outputs of `call`."""
        return self(inputs, training=False)

    def image_features(self, inputs):
        """The input of the last layer, [B, F], from that of `call`, for pictures of classifiers.

        None: the model has no features of whole images.
        """
        return None

    def preprocess(self, images, image_sizes=None):
        """Orders the channels, normalises, and sets the padding to zero.

        Args:
            images: [B, H, W, 3] uint8 or float, RGB, 0-255.
            image_sizes: [B, 2] float, (height, width) of the valid part; None: the whole image.

        Returns:
            [B, H, W, 3] float32, or float64 in a float64 model.
        """
        x = ops.cast(images, at_least_float32(self.compute_dtype))
        if self.channel_order == "bgr":
            x = ops.flip(x, axis=-1)
        mean, std = (ops.convert_to_tensor(each, x.dtype) for each in (self.mean, self.std))
        x = (x - mean) / std
        if image_sizes is None:
            return x
        height, width = spatial_size(images)
        sizes = ops.cast(image_sizes, "int32")[:, None]  # [B, 1, 2]
        rows = ops.arange(height, dtype="int32")[None] < sizes[..., 0]  # [B, H]
        columns = ops.arange(width, dtype="int32")[None] < sizes[..., 1]  # [B, W]
        valid = rows[:, :, None] & columns[:, None, :]
        return ops.where(valid[..., None], x, 0.0)

    def total_loss(self, inputs: dict, targets: dict, *, training: bool, totals=None):
        """The loss to differentiate, regularisation included, and `forward_losses`."""
        parts = self.forward_losses(inputs, targets, training=training, totals=totals)
        return self._add_up(parts, totals), parts

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """The total loss, for Keras' own steps on other backends; sample weights are refused."""
        if sample_weight is not None:
            raise ValueError(f"{type(self).__name__} does not take sample weights")
        inputs = x if isinstance(x, dict) else {"images": x}
        if training:
            parts = self.compute_losses(y_pred, y, spatial_size(inputs["images"]))
        else:  # `y_pred` may lack what the losses need
            parts = self.forward_losses(inputs, y, training=False)
        weight = 1 if training else ops.shape(inputs["images"])[0]  # of Keras' own mean of the loss
        for name, value in parts.items():
            self.loss_trackers[name].update_state(value, sample_weight=weight)
        return self._add_up(parts)

    def _add_up(self, parts: dict, totals=None):
        loss = sum(parts[name] for name in self.loss_names)
        if self.losses:
            extra = sum(ops.cast(ops.sum(extra), loss.dtype) for extra in self.losses)
            loss = loss + extra / self.count_shares(totals)
        return loss

    def save_own_variables(self, store):
        """Saves random states (of dropout, say) and running means, which Keras does not save."""
        for i, state in enumerate(self._random_states()):
            store[f"random_state_{i}"] = state
        means = read_means(self)
        if any(value.any() for value in means.values()):
            for name, value in means.items():
                store[name] = value

    def load_own_variables(self, store):
        """Loads random states and running means that the file holds."""
        for i, state in enumerate(self._random_states()):
            if f"random_state_{i}" in store:
                state.assign(store[f"random_state_{i}"])
        write_means(self, store)

    def _random_states(self):
        weights = {id(weight) for weight in self.weights}
        return [variable for variable in self.variables if id(variable) not in weights]

    def with_classes(
        self, class_names: Sequence[str], *, category_ids: Sequence[int] | None = None, dtype=None
    ) -> "ImageModel":
        """This model for other classes, with all weights except those of the class layers.

        Args:
            class_names: the new classes in the order of their labels.
            category_ids: their ids in the data set.
            dtype: dtype policy of the new model; None: this model's.

        Returns:
            A new model; a copy of this one for the same names in the same order.
        """
        names = tuple(class_names)
        config = {"num_classes": len(names), "class_names": names, "category_ids": category_ids}
        if dtype is not None:
            config["dtype"] = dtype
        model = type(self).from_config({**self.config_without_weights(), **config})
        model._take_weights(self, file=self.name)
        return model

    def config_without_weights(self) -> dict:
        """The config, without what was measured with the weights."""
        return self.get_config()

    def _take_weights(self, source: "ImageModel", *, file: str) -> None:
        """Copies all weights; those of the class layers only if the classes are the same."""
        same = (source.num_classes, source.class_names) == (self.num_classes, self.class_names)
        copy_weights(source, self, file=file, skip=() if same else self.class_layers)

    def get_config(self):
        """The constructor's arguments."""
        names = ("num_classes", "class_names", "category_ids", "image_size", "apply_exif")
        names += ("channel_order", "mean", "std", "name")
        config = {name: getattr(self, name) for name in names}
        return {**config, "dtype": keras.dtype_policies.serialize(self.dtype_policy)}


def read_means(model: keras.Model) -> dict[str, np.ndarray]:
    """The state of a model's metrics, which Keras does not save and resets with every epoch.

    After training steps it is the same on all replicas, so the first local copy is read, without
    communication between devices or hosts.

    Returns:
        The state by names that are the same in every such model, such as `metric_box_loss_0`.
    """
    copies = _metric_variables(model)
    return {name: ops.convert_to_numpy(first) for name, (first, *_) in copies.items()}


def write_means(model: keras.Model, values: Mapping[str, np.ndarray]) -> None:
    """Restores the result of `read_means`; metrics that `values` lacks keep their state."""
    for name, copies in _metric_variables(model).items():
        if name in values:
            # Each copy on its own: assigned together, they would share a sum.
            for copy in copies:
                copy.assign(np.asarray(values[name]))


def _metric_variables(model) -> dict:
    """Name -> the variable, or its copy on each device of this host."""
    strategy = getattr(model, "distribute_strategy", None)
    return {
        f"metric_{metric.name}_{i}": (
            [variable] if strategy is None else strategy.experimental_local_results(variable.value)
        )
        for metric in model.metrics
        for i, variable in enumerate(metric.variables)
    }


def _count_classes(num_classes, class_names):
    """The number of classes, from either or both."""
    if isinstance(class_names, str):
        raise ValueError(f"class_names: expected a list of names; got {class_names!r}")
    if num_classes is None:
        if class_names is None:
            raise ValueError("num_classes or class_names: expected one of them; got neither")
        num_classes = len(class_names)
    check_range(num_classes=(num_classes, 1, MOST_CLASSES))
    if class_names is not None and len(class_names) != num_classes:
        raise ValueError(f"expected {num_classes} class_names; got {len(class_names)}")
    return num_classes


def unpack_inputs(inputs):
    """(images, image_sizes or None) from the inputs of `call`: a tensor or a dict of both."""
    if isinstance(inputs, dict):
        return inputs["images"], inputs.get("image_sizes")
    return inputs, None


def spatial_size(images):
    """(height, width) of [B, H, W, 3] images: Python ints where static, else scalar tensors."""
    return ops.shape(images)[1:3]
