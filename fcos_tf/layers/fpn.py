"""Feature pyramid (Lin et al., Feature Pyramid Networks; FCOS, section 3.2): P3 to P7."""

import keras
from keras import ops

from fcos_tf.layers.blocks import check_choices

UPSAMPLINGS = ("nearest", "bilinear")
INPUTS = ("c3", "c4", "c5")


@keras.saving.register_keras_serializable(package="fcos_tf")
class FeaturePyramid(keras.layers.Layer):
    """Lateral 1x1 convolutions, a top-down path, 3x3 outputs, and coarser levels on top.

    The top-down path enlarges a map to the size of its lateral, odd sizes included. P6 and P7 are
    stride-2 3x3 convolutions: P6 of P5, P7 of the ReLU of P6.

    Args:
        channels: of every level.
        levels: number of levels, from 3 (P3-P5) to 5 (P3-P7).
        upsampling: "nearest" or "bilinear".

    Attributes:
        levels: names of the levels, "p3" ...
        strides: of each level, in pixels: 8 for p3.

    Example:
        >>> maps = {"c3": keras.ops.ones((1, 8, 8, 128)), "c4": keras.ops.ones((1, 4, 4, 256)),
        ...         "c5": keras.ops.ones((1, 2, 2, 512))}
        >>> tuple(FeaturePyramid(64)(maps)["p7"].shape)
        (1, 1, 1, 64)
    """

    def __init__(
        self, channels: int = 256, *, levels: int = 5, upsampling: str = "nearest", **kwargs
    ):
        super().__init__(**kwargs)
        check_choices(upsampling=(upsampling, UPSAMPLINGS))
        if levels not in (3, 4, 5):
            raise ValueError(f"levels must be 3 to 5, from P3 on; got {levels!r}")
        numbers = range(3, 3 + levels)
        self.channels = channels
        self.levels = tuple(f"p{number}" for number in numbers)
        self.strides = tuple(2**number for number in numbers)
        self.upsampling = upsampling

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

        own, coarser = self.levels[:3], self.levels[3:]
        self.laterals = [conv(1, f"lateral_{level}") for level in own]
        self.output_convs = [conv(3, f"output_{level}") for level in own]
        self.pad = keras.layers.ZeroPadding2D(1, dtype=self.dtype_policy)
        self.extra_convs = [
            conv(3, f"output_{level}", strides=2, padding="valid") for level in coarser
        ]

    def build(self, input_shape):
        """Builds the convolutions for the channels of the backbone's maps."""
        for lateral, key in zip(self.laterals, INPUTS, strict=True):
            lateral.build(input_shape[key])
        for output in self.output_convs + self.extra_convs:
            output.build((None, None, None, self.channels))

    def call(self, features):
        """Maps from the backbone to pyramid levels.

        Args:
            features: dict `c3`, `c4`, `c5` of [B, Hl, Wl, Cl].

        Returns:
            dict `p3`.. of [B, Hl, Wl, channels].
        """
        merged = [lat(features[name]) for lat, name in zip(self.laterals, INPUTS, strict=True)]
        for k in (1, 0):
            merged[k] = merged[k] + self._enlarge(merged[k + 1], merged[k])
        levels = [output(x) for output, x in zip(self.output_convs, merged, strict=True)]
        for k, conv in enumerate(self.extra_convs):
            levels.append(conv(self.pad(levels[-1] if k == 0 else ops.relu(levels[-1]))))
        return dict(zip(self.levels, levels, strict=True))

    def _enlarge(self, x, like):
        """Enlarges a map to the size of another: [B, h, w, C] to [B, H, W, C]."""
        size = ops.shape(like)[1:3]
        if self.upsampling == "bilinear":
            return ops.image.resize(x, size, interpolation="bilinear")
        # Doubled and cropped: nearest neighbours, faster than resizing.
        return ops.repeat(ops.repeat(x, 2, axis=1), 2, axis=2)[:, : size[0], : size[1]]
