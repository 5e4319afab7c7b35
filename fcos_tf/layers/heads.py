"""The FCOS head: two towers, shared by all levels, and three outputs (FCOS, figure 2)."""

import math
from collections.abc import Sequence

import keras
from keras import ops

from fcos_tf.layers.blocks import Scale, check_choices
from fcos_tf.layers.norms import NORM_EPSILON, GroupNormalization
from fcos_tf.ops.dtypes import at_least_float32

CENTERNESS_BRANCHES = ("box", "class")
HEAD_NORMS = ("group", "none")
ACTIVATIONS = ("relu", "exp")
LARGEST_LOG_DISTANCE = 18.0  # exp of it is 7e7 pixels
PRIOR_PROBABILITY = 0.01
GROUPS = 32  # of the group normalisation
INITIAL_DISTANCE = 4.0  # in strides, where boxes learn from their IoU: as wide as ATSS' anchors


@keras.saving.register_keras_serializable(package="fcos_tf")
class FCOSHead(keras.layers.Layer):
    """Class logits, distances and centerness for every point of every level.

    Each tower is `num_convs` times 3x3 convolution, group normalisation, ReLU. The distances are
    relu(scale * x), in strides, with one learnable scale for each level. The initial probability
    of every class is near 0.01: background must not dominate the first steps (Focal Loss, 4.1).

    Args:
        num_classes: C.
        strides: L strides of the levels, in pixels.
        channels: of the pyramid and of the towers; a multiple of 32 groups.
        num_convs: depth of a tower.
        norm: "group" or "none".
        centerness_on: the tower of the centerness output, "box" (improved form) or "class"; None:
            there is no such output.
        box_activation: "relu", or "exp": distances are exp(scale * x) in pixels (first form of the
            paper); the output is in strides all the same.
        level_scales: whether there are scales.
        initial_distance: of an untrained "relu" head, about, in strides.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        strides: Sequence[int] = (8, 16, 32, 64, 128),
        channels: int = 256,
        num_convs: int = 4,
        norm: str = "group",
        centerness_on: str | None = "box",
        box_activation: str = "relu",
        level_scales: bool = True,
        initial_distance: float = 0.0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_choices(
            norm=(norm, HEAD_NORMS),
            centerness_on=("box" if centerness_on is None else centerness_on, CENTERNESS_BRANCHES),
            box_activation=(box_activation, ACTIVATIONS),
        )
        if norm == "group" and channels % GROUPS:
            raise ValueError(f"channels must be a multiple of {GROUPS} groups; got {channels}")
        self.channels = channels
        self.strides = tuple(strides)
        self.num_convs = num_convs
        self.norm = norm
        self.centerness_on = centerness_on
        self.box_activation = box_activation
        self.class_tower = self._tower("class")
        self.box_tower = self._tower("box")
        prior = -math.log((1 - PRIOR_PROBABILITY) / PRIOR_PROBABILITY)
        self.class_logits = self._output(num_classes, "class_logits", prior)
        self.initial_distance = initial_distance
        self.ltrb = self._output(4, "ltrb", initial_distance if box_activation == "relu" else 0.0)
        self.centerness = self._output(1, "centerness") if centerness_on else None
        count = len(self.strides) if level_scales else 0
        dtype = at_least_float32(self.compute_dtype)
        self.scales = [Scale(name=f"scale_{level}", dtype=dtype) for level in range(count)]

    def _conv(self, filters, name, dtype, **kwargs):
        kwargs["kernel_initializer"] = keras.initializers.RandomNormal(stddev=0.01)
        return keras.layers.Conv2D(filters, 3, padding="same", name=name, dtype=dtype, **kwargs)

    def _tower(self, name):
        dtype, layers = self.dtype_policy, []
        for k in range(self.num_convs):
            layers.append(self._conv(self.channels, f"{name}_conv_{k}", dtype))
            if self.norm == "group":
                options = {"epsilon": NORM_EPSILON, "name": f"{name}_norm_{k}", "dtype": dtype}
                layers.append(GroupNormalization(GROUPS, **options))
            layers.append(keras.layers.ReLU(name=f"{name}_relu_{k}", dtype=dtype))
        return layers

    def _output(self, filters, name, bias=0.0):
        # float32 under mixed precision too: bfloat16 has 8 bits, 4 pixels on a box of 700.
        bias, dtype = keras.initializers.Constant(bias), at_least_float32(self.compute_dtype)
        return self._conv(filters, name, dtype, bias_initializer=bias)

    def build(self, input_shape):
        """Builds both towers and the outputs."""
        shape = (None, None, None, self.channels)
        for layer in self.class_tower + self.box_tower + self.output_layers() + self.scales:
            layer.build(shape)

    def output_layers(self) -> list:
        """The layers of class logits, distances and, if there is one, centerness."""
        layers = [self.class_logits, self.ltrb, self.centerness]
        return [layer for layer in layers if layer is not None]

    def call(self, features):
        """Predicts for a list of levels.

        Args:
            features: L maps [B, Hl, Wl, channels], finest first.

        Returns:
            dict of float32: `class_logits` [B, N, C], `ltrb` [B, N, 4] in strides, >= 0, and, if
            there is one, `centerness_logits` [B, N]; points in the order of `ops.pyramid_points`.
        """
        scales = self.scales or [lambda x: x] * len(self.strides)
        levels = [
            self._level(x, scale, stride)
            for x, scale, stride in zip(features, scales, self.strides, strict=True)
        ]
        class_logits, ltrb, *centerness = (
            ops.concatenate(parts, axis=1) for parts in zip(*levels, strict=True)
        )
        found = {"class_logits": class_logits, "ltrb": ltrb}
        if centerness:
            found["centerness_logits"] = ops.squeeze(centerness[0], axis=-1)
        return found

    def _level(self, x, scale, stride):
        class_features = box_features = x
        for layer in self.class_tower:
            class_features = layer(class_features)
        for layer in self.box_tower:
            box_features = layer(box_features)
        ltrb = scale(self.ltrb(box_features))
        if self.box_activation == "exp":
            ltrb = ops.exp(ops.minimum(ltrb, LARGEST_LOG_DISTANCE)) / stride
        else:
            ltrb = ops.relu(ltrb)
        outputs = [self.class_logits(class_features), ltrb]
        if self.centerness is not None:
            on_box = self.centerness_on == "box"
            outputs.append(self.centerness(box_features if on_box else class_features))
        return tuple(
            ops.reshape(y, (ops.shape(y)[0], -1, y.shape[-1]))  # [B, Hl * Wl, ...]
            for y in outputs
        )

    def get_config(self):
        """The constructor's arguments."""
        names = ("channels", "strides", "num_convs", "norm", "centerness_on", "box_activation")
        names += ("initial_distance",)
        config = super().get_config() | {name: getattr(self, name) for name in names}
        return {
            **config,
            "num_classes": self.class_logits.filters,
            "level_scales": bool(self.scales),
        }
