"""The second stage of Faster R-CNN: classes and refined boxes of proposals (section 3.2)."""

from collections.abc import Callable

import keras
from keras import ops

from fcos_tf.layers.blocks import LAYER_NORMS, HeNormal, check_choices, normalization
from fcos_tf.ops.dtypes import at_least_float32


def _fan_in(scale: float) -> Callable[[], keras.initializers.Initializer]:
    return lambda: keras.initializers.VarianceScaling(scale, mode="fan_in", distribution="uniform")


def _normal(stddev: float) -> Callable[[], keras.initializers.Initializer]:
    return lambda: keras.initializers.RandomNormal(stddev=stddev)


# Of convolutions, hidden layers, class logits and box deltas. PyTorch's own for linear layers is
# uniform with bound sqrt(1 / fan_in), detectron2's with sqrt(3 / fan_in).
INITS = {
    "torchvision": (HeNormal, _fan_in(1 / 3), _fan_in(1 / 3), _fan_in(1 / 3)),
    "detectron2": (HeNormal, _fan_in(1.0), _normal(0.01), _normal(0.001)),
    "normal": (_normal(0.01),) * 4,
}
REFINEMENTS = ("class", "agnostic", "none")


@keras.saving.register_keras_serializable(package="fcos_tf")
class BoxHead(keras.layers.Layer):
    """Class logits and box deltas from the features of proposals.

    3x3 convolutions with ReLU, hidden layers with ReLU, then one linear layer for each output.
    Two hidden layers are torchvision's v1 and detectron2's head, four normalised convolutions and
    one hidden layer torchvision's v2.

    Args:
        num_classes: C, without background.
        num_convs: number of convolutions.
        num_fcs: number of hidden layers.
        channels: of the convolutions.
        fc_channels: of the hidden layers.
        norm: after each convolution: "none", "batch", "sync" or "frozen". Statistics of "sync"
            include rows that pad.
        box_refinement: "class": each class has its own deltas; "agnostic": all share them; "none":
            there are none.
        init: of the weights: "torchvision", "detectron2" or "normal", N(0, 0.01). Biases are 0.

    Example:
        >>> out = BoxHead(3, fc_channels=16)(keras.ops.ones((2, 5, 7, 7, 8)))
        >>> tuple(out["class_logits"].shape), tuple(out["box_deltas"].shape)
        ((2, 5, 4), (2, 5, 3, 4))
    """

    def __init__(
        self,
        num_classes: int,
        *,
        num_convs: int = 0,
        num_fcs: int = 2,
        channels: int = 256,
        fc_channels: int = 1024,
        norm: str = "none",
        box_refinement: str = "class",
        init: str = "torchvision",
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_choices(norm=(norm, LAYER_NORMS), init=(init, INITS))
        check_choices(box_refinement=(box_refinement, REFINEMENTS))
        self.num_classes = num_classes
        self.num_convs = num_convs
        self.num_fcs = num_fcs
        self.channels = channels
        self.fc_channels = fc_channels
        self.norm = norm
        self.box_refinement = box_refinement
        self.init = init
        conv, hidden, logits, deltas = INITS[init]
        dtype = self.dtype_policy
        self.convs, self.norms = [], []
        for k in range(num_convs):
            options = {"padding": "same", "use_bias": norm == "none", "name": f"conv_{k}"}
            options |= {"kernel_initializer": conv(), "dtype": dtype}
            self.convs.append(keras.layers.Conv2D(channels, 3, **options))
            if norm != "none":
                self.norms.append(normalization(norm, name=f"norm_{k}", dtype=dtype))
        self.fcs = [
            self._dense(fc_channels, f"fc_{k}", dtype, hidden, activation="relu")
            for k in range(num_fcs)
        ]
        # float32 under mixed precision too, as in FCOSHead.
        dtype = at_least_float32(self.compute_dtype)
        self.class_logits = self._dense(num_classes + 1, "class_logits", dtype, logits)
        self.box_deltas = None
        if box_refinement != "none":
            sets = 1 if box_refinement == "agnostic" else num_classes
            self.box_deltas = self._dense(4 * sets, "box_deltas", dtype, deltas)

    def _dense(self, units, name, dtype, init, **kwargs):
        kwargs |= {"kernel_initializer": init(), "name": name, "dtype": dtype}
        return keras.layers.Dense(units, **kwargs)

    def build(self, input_shape):
        """Builds the layers for features of [rows, columns, channels]."""
        rows, columns, channels = input_shape[-3:]
        for k, conv in enumerate(self.convs):
            conv.build((None, rows, columns, channels))
            channels = self.channels
            for norm in self.norms[k : k + 1]:
                norm.build((None, rows, columns, channels))
        width = rows * columns * channels
        for layer in self.fcs:
            layer.build((None, width))
            width = self.fc_channels
        self.class_logits.build((None, width))
        if self.box_deltas:
            self.box_deltas.build((None, width))

    def call(self, roi_features, training=None, valid=None):
        """Predicts for proposals.

        Args:
            roi_features: [B, R, rows, columns, channels], rows and columns static.
            training: whether batch normalisation takes the statistics of the batch.
            valid: [B, R] bool, the proposals in these statistics; None: all.

        Returns:
            dict of float32: `class_logits` [B, R, C + 1] and, with `box_refinement`, `box_deltas`
            [B, R, C, 4], or [B, R, 1, 4] if "agnostic".
        """
        num_images, num_rois = ops.shape(roi_features)[:2]
        x = ops.reshape(roi_features, (-1, *roi_features.shape[2:]))  # [B * R, ...]
        masked = {}
        if valid is not None and training and self.norm == "batch":
            ones = ops.ones_like(x[..., 0], dtype="bool")
            masked = {"mask": ones & ops.reshape(valid, (-1, 1, 1))}  # [B * R, rows, columns]
        for k, conv in enumerate(self.convs):
            x = conv(x)
            if self.norms:
                x = self.norms[k](x, training=training, **masked)
            x = ops.relu(x)
        x = ops.reshape(x, (-1, x.shape[1] * x.shape[2] * x.shape[3]))
        for layer in self.fcs:
            x = layer(x)
        shape = (num_images, num_rois)
        outputs = {"class_logits": ops.reshape(self.class_logits(x), (*shape, -1))}
        if self.box_deltas:
            outputs["box_deltas"] = ops.reshape(self.box_deltas(x), (*shape, -1, 4))
        return outputs

    def get_config(self):
        """The constructor's arguments."""
        names = ("num_classes", "num_convs", "num_fcs", "channels", "fc_channels", "norm")
        names += ("box_refinement", "init")
        return super().get_config() | {name: getattr(self, name) for name in names}
