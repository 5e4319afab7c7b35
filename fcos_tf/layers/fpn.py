"""Feature pyramid P3-P5 to P3-P7 (Lin et al., Feature Pyramid Networks; FCOS, section 3.2)."""

from collections.abc import Sequence

import keras
from keras import ops

LEVELS = ("p3", "p4", "p5", "p6", "p7")
UPSAMPLINGS = ("nearest", "bilinear")


@keras.saving.register_keras_serializable(package="fcos_tf")
class FeaturePyramid(keras.layers.Layer):
    """Lateral 1x1 convolutions, a top-down path, 3x3 outputs, and coarser levels on top.

    P6 is a stride-2 3x3 convolution of P5, P7 one of ReLU(P6). The top-down path enlarges a map to
    the size of its lateral, which is the nearest-neighbour rule for odd sizes too.

    Args:
        channels: of every level.
        levels: how many levels from P3 on: 3 ends with P5, 5 with P7.
        upsampling: "nearest" or "bilinear".
        inputs: names of the backbone's maps for P3, P4 and P5.

    Example:
        >>> maps = {"c3": keras.ops.ones((1, 8, 8, 128)), "c4": keras.ops.ones((1, 4, 4, 256)),
        ...         "c5": keras.ops.ones((1, 2, 2, 512))}
        >>> FeaturePyramid(64)(maps)["p7"].shape
        (1, 1, 1, 64)
    """

    def __init__(
        self,
        channels: int = 256,
        *,
        levels: int = 5,
        upsampling: str = "nearest",
        inputs: Sequence[str] = ("c3", "c4", "c5"),
        **kwargs,
    ):
        super().__init__(**kwargs)
        if levels not in (3, 4, 5):
            raise ValueError(f"levels must be 3 to 5, from P3 on; got {levels!r}")
        if upsampling not in UPSAMPLINGS:
            raise ValueError(
                f"upsampling must be one of {', '.join(UPSAMPLINGS)}; got {upsampling!r}"
            )
        self.channels = channels
        self.levels = LEVELS[:levels]
        self.upsampling = upsampling
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
        self.extra_convs = [
            conv(3, f"output_{level}", strides=2, padding="valid") for level in self.levels[3:]
        ]

    def build(self, input_shape):
        """Builds the convolutions for the channels of the backbone's maps."""
        for lateral, key in zip(self.laterals, self.input_names, strict=True):
            lateral.build(input_shape[key])
        for output in self.output_convs + self.extra_convs:
            output.build((None, None, None, self.channels))

    def call(self, features):
        """Maps from the backbone to pyramid levels.

        Args:
            features: dict of [B, Hl, Wl, Cl], with the keys `inputs`.

        Returns:
            dict `p3`.. of [B, Hl, Wl, channels].
        """
        maps = [features[name] for name in self.input_names]
        p3, p4, p5 = (lateral(x) for lateral, x in zip(self.laterals, maps, strict=True))
        p4 = p4 + self._enlarge(p5, p4)
        p3 = p3 + self._enlarge(p4, p3)
        levels = [output(x) for output, x in zip(self.output_convs, (p3, p4, p5), strict=True)]
        for k, extra in enumerate(self.extra_convs):
            below = levels[-1] if k == 0 else ops.relu(levels[-1])
            levels.append(extra(self.pad(below)))
        return dict(zip(self.levels, levels, strict=True))

    def _enlarge(self, x, like):
        """Enlarges a map to the size of another: [B, h, w, C] to [B, H, W, C]."""
        size = ops.shape(like)[1:3]
        if self.upsampling == "bilinear":
            return ops.image.resize(x, size, interpolation="bilinear")
        # Doubled and cut to size: nearest neighbours, faster than resizing.
        return ops.repeat(ops.repeat(x, 2, axis=1), 2, axis=2)[:, : size[0], : size[1]]

    def get_config(self):
        """The constructor's arguments."""
        return {
            **super().get_config(),
            "channels": self.channels,
            "levels": len(self.levels),
            "upsampling": self.upsampling,
            "inputs": self.input_names,
        }
