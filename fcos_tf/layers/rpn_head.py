"""The head of a region proposal network (Faster R-CNN, section 3.1)."""

import keras
from keras import ops

from fcos_tf.ops.dtypes import at_least_float32


@keras.saving.register_keras_serializable(package="fcos_tf")
class RPNHead(keras.layers.Layer):
    """Objectness and box deltas for every anchor of every level, with weights shared by levels.

    3x3 convolutions with ReLU, then one 1x1 convolution for each output. Initial weights are
    N(0, 0.01), biases 0.

    Args:
        num_anchors: of a cell.
        channels: of the convolutions.
        num_convs: number of 3x3 convolutions.

    Example:
        >>> head = RPNHead(3, channels=8)
        >>> out = head([keras.ops.ones((1, 4, 4, 8)), keras.ops.ones((1, 2, 2, 8))])
        >>> tuple(out["anchor_deltas"].shape)
        (1, 60, 4)
    """

    def __init__(self, num_anchors: int, *, channels: int = 256, num_convs: int = 1, **kwargs):
        super().__init__(**kwargs)
        self.num_anchors = num_anchors
        self.channels = channels
        self.convs = [
            self._conv(channels, 3, f"conv_{k}", self.dtype_policy, activation="relu")
            for k in range(num_convs)
        ]
        # float32 under mixed precision too, as in FCOSHead.
        dtype = at_least_float32(self.compute_dtype)
        self.objectness = self._conv(num_anchors, 1, "objectness", dtype)
        self.deltas = self._conv(4 * num_anchors, 1, "deltas", dtype)

    def _conv(self, filters, kernel_size, name, dtype, **kwargs):
        kwargs["kernel_initializer"] = keras.initializers.RandomNormal(stddev=0.01)
        kwargs |= {"padding": "same", "name": name, "dtype": dtype}
        return keras.layers.Conv2D(filters, kernel_size, **kwargs)

    def build(self, input_shape):
        """Builds the convolutions for the channels of the levels."""
        shape = tuple(input_shape[0])
        for layer in self.convs:
            layer.build(shape)
            shape = (*shape[:-1], self.channels)
        self.objectness.build(shape)
        self.deltas.build(shape)

    def call(self, features):
        """Predicts for a list of levels.

        Args:
            features: L maps [B, Hl, Wl, C], finest first.

        Returns:
            dict of float32: `objectness_logits` [B, A], `anchor_deltas` [B, A, 4]; anchors in the
            order of `ops.anchors.pyramid_anchors`.
        """
        logits, deltas = [], []
        for x in features:
            for layer in self.convs:
                x = layer(x)
            batch = ops.shape(x)[0]
            logits.append(ops.reshape(self.objectness(x), (batch, -1)))
            deltas.append(ops.reshape(self.deltas(x), (batch, -1, 4)))
        return {
            "objectness_logits": ops.concatenate(logits, axis=1),
            "anchor_deltas": ops.concatenate(deltas, axis=1),
        }

    def get_config(self):
        """The constructor's arguments."""
        names = ("num_anchors", "channels")
        config = super().get_config() | {name: getattr(self, name) for name in names}
        return {**config, "num_convs": len(self.convs)}
