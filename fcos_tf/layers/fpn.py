"""Feature pyramid P3-P7 (Lin et al., Feature Pyramid Networks; FCOS, section 3.2)."""

from collections.abc import Sequence

import keras
from keras import ops

LEVELS = ("p3", "p4", "p5", "p6", "p7")


@keras.saving.register_keras_serializable(package="fcos_tf")
class FeaturePyramid(keras.layers.Layer):
    """Lateral 1x1 convolutions, a top-down path, 3x3 outputs, and two coarser levels on top.

    P6 is a stride-2 3x3 convolution of P5, P7 one of ReLU(P6). The top-down path enlarges a map to
    the size of its lateral, which is the nearest-neighbour rule for odd sizes too.

    Args:
        channels: of every level.
        inputs: names of the backbone's maps for P3, P4 and P5.

    Example:
        >>> maps = {"c3": keras.ops.ones((1, 8, 8, 128)), "c4": keras.ops.ones((1, 4, 4, 256)),
        ...         "c5": keras.ops.ones((1, 2, 2, 512))}
        >>> FeaturePyramid(64)(maps)["p7"].shape
        (1, 1, 1, 64)
    """

    def __init__(
        self, channels: int = 256, *, inputs: Sequence[str] = ("c3", "c4", "c5"), **kwargs
    ):
        super().__init__(**kwargs)
        self.channels = channels
        self.input_names = tuple(inputs)

        def conv(kernel_size, name, strides=1, padding="same"):
            # Uniform with bound sqrt(3 / fan_in): Caffe2's XavierFill, as in the references.
            return keras.layers.Conv2D(
                channels,
                kernel_size,
                strides=strides,
                padding=padding,
                kernel_initializer=keras.initializers.VarianceScaling(
                    1.0, mode="fan_in", distribution="uniform"
                ),
                name=name,
                dtype=self.dtype_policy,
            )

        self.laterals = [conv(1, f"lateral_{level}") for level in LEVELS[:3]]
        self.output_convs = [conv(3, f"output_{level}") for level in LEVELS[:3]]
        self.pad = keras.layers.ZeroPadding2D(1, dtype=self.dtype_policy)
        self.p6 = conv(3, "output_p6", strides=2, padding="valid")
        self.p7 = conv(3, "output_p7", strides=2, padding="valid")

    def build(self, input_shape):
        """Builds the convolutions for the channels of the backbone's maps."""
        for lateral, key in zip(self.laterals, self.input_names, strict=True):
            lateral.build(input_shape[key])
        for output in self.output_convs:
            output.build((None, None, None, self.channels))
        self.p6.build((None, None, None, self.channels))
        self.p7.build((None, None, None, self.channels))

    def call(self, features):
        """Maps from the backbone to pyramid levels.

        Args:
            features: dict of [B, Hl, Wl, Cl], with the keys `inputs`.

        Returns:
            dict `p3`..`p7` of [B, Hl, Wl, channels].
        """
        maps = [features[name] for name in self.input_names]
        p3, p4, p5 = (lateral(x) for lateral, x in zip(self.laterals, maps, strict=True))
        p4 = p4 + _enlarge(p5, p4)
        p3 = p3 + _enlarge(p4, p3)
        p3, p4, p5 = (output(x) for output, x in zip(self.output_convs, (p3, p4, p5), strict=True))
        p6 = self.p6(self.pad(p5))
        p7 = self.p7(self.pad(ops.relu(p6)))
        return dict(zip(LEVELS, (p3, p4, p5, p6, p7), strict=True))

    def get_config(self):
        """The constructor's arguments."""
        return {**super().get_config(), "channels": self.channels, "inputs": self.input_names}


def _enlarge(x, like):
    """Doubles a map and cuts it to the size of another: [B, h, w, C] to [B, H, W, C]."""
    x = ops.repeat(ops.repeat(x, 2, axis=1), 2, axis=2)
    return x[:, : ops.shape(like)[1], : ops.shape(like)[2]]
