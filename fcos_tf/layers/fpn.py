"""Feature pyramid (Lin et al., Feature Pyramid Networks; FCOS, section 3.2): P3-P7, P2-P6 ..."""

import keras
from keras import ops

from fcos_tf.layers.blocks import LAYER_NORMS, check_choices, check_range, normalization

UPSAMPLINGS = ("nearest", "bilinear")
EXTRAS = ("conv", "pool")


@keras.saving.register_keras_serializable(package="fcos_tf")
class FeaturePyramid(keras.layers.Layer):
    """Lateral 1x1 convolutions, a top-down path, 3x3 outputs, and coarser levels on top.

    The top-down path enlarges a map to the size of its lateral, odd sizes included.

    Args:
        channels: of every level.
        levels: number of levels, up to two more than inputs: 5 for p3 to p7 from c3 to c5.
        upsampling: "nearest" or "bilinear".
        first_level: number of the finest level: 3 for p3. The maps from c3 to c5 are its inputs.
        extra: the coarser levels. "conv": a stride-2 3x3 convolution of the level below, of its
            ReLU from the second on (P6 and P7 of FCOS); "pool": every other cell of the level
            below (P6 of Faster R-CNN).
        norm: after each convolution, "none", or a kind of `normalization`; they then have no bias.

    Attributes:
        input_names: names of the backbone's maps, "c3" ...
        levels: names of the levels, "p3" ...
        strides: of each level, in pixels: 8 for p3.

    Example:
        >>> maps = {"c3": keras.ops.ones((1, 8, 8, 128)), "c4": keras.ops.ones((1, 4, 4, 256)),
        ...         "c5": keras.ops.ones((1, 2, 2, 512))}
        >>> tuple(FeaturePyramid(64)(maps)["p7"].shape)
        (1, 1, 1, 64)
    """

    def __init__(
        self,
        channels: int = 256,
        *,
        levels: int = 5,
        upsampling: str = "nearest",
        first_level: int = 3,
        extra: str = "conv",
        norm: str = "none",
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_choices(
            upsampling=(upsampling, UPSAMPLINGS), extra=(extra, EXTRAS), norm=(norm, LAYER_NORMS)
        )
        check_range(first_level=(first_level, 2, 5))
        self.input_names = tuple(f"c{number}" for number in range(first_level, 6))
        count = len(self.input_names)
        if not count <= levels <= count + 2:
            raise ValueError(
                f"levels must be {count} to {count + 2}, from P{first_level} on; got {levels!r}"
            )
        numbers = range(first_level, first_level + levels)
        self.first_level = first_level
        self.channels = channels
        self.levels = tuple(f"p{number}" for number in numbers)
        self.strides = tuple(2**number for number in numbers)
        self.upsampling = upsampling
        self.extra = extra

        def conv(kernel_size, name, strides=1, padding="same"):
            # Uniform with bound sqrt(3 / fan_in): Caffe2's XavierFill, as in the references.
            return keras.layers.Conv2D(
                channels,
                kernel_size,
                strides=strides,
                padding=padding,
                use_bias=norm == "none",
                kernel_initializer=keras.initializers.VarianceScaling(
                    1.0, mode="fan_in", distribution="uniform"
                ),
                name=name,
                dtype=self.dtype_policy,
            )

        own, coarser = self.levels[:count], self.levels[count:]
        self.laterals = [conv(1, f"lateral_{level}") for level in own]
        self.output_convs = [conv(3, f"output_{level}") for level in own]
        self.pad = keras.layers.ZeroPadding2D(1, dtype=self.dtype_policy)
        self.extra_convs = [
            conv(3, f"output_{level}", strides=2, padding="valid")
            for level in (coarser if extra == "conv" else ())
        ]
        self.norm = norm
        convs = (*self.laterals, *self.output_convs, *self.extra_convs) if norm != "none" else ()
        self.norms = {
            each.name: normalization(norm, name=f"{each.name}_norm", dtype=self.dtype_policy)
            for each in convs
        }

    def build(self, input_shape):
        """Builds the convolutions for the channels of the backbone's maps."""
        for lateral, key in zip(self.laterals, self.input_names, strict=True):
            lateral.build(input_shape[key])
        for output in self.output_convs + self.extra_convs:
            output.build((None, None, None, self.channels))
        for norm in self.norms.values():
            norm.build((None, None, None, self.channels))

    def call(self, features, training=False):
        """Maps from the backbone to pyramid levels.

        Args:
            features: dict of [B, Hl, Wl, Cl], with the keys `input_names`.
            training: mode of the normalisation.

        Returns:
            dict `p3`.. of [B, Hl, Wl, channels].
        """

        def apply(conv, x):
            norm = self.norms.get(conv.name)
            return conv(x) if norm is None else norm(conv(x), training=training)

        maps = [features[name] for name in self.input_names]
        merged = [apply(lateral, x) for lateral, x in zip(self.laterals, maps, strict=True)]
        for k in reversed(range(len(merged) - 1)):
            merged[k] = merged[k] + self._enlarge(merged[k + 1], merged[k])
        levels = [apply(output, x) for output, x in zip(self.output_convs, merged, strict=True)]
        for k in range(len(self.levels) - len(levels)):
            x = levels[-1]
            if self.extra == "pool":
                levels.append(x[:, ::2, ::2])
            else:
                levels.append(apply(self.extra_convs[k], self.pad(x if k == 0 else ops.relu(x))))
        return dict(zip(self.levels, levels, strict=True))

    def _enlarge(self, x, like):
        """Enlarges a map to the size of another: [B, h, w, C] to [B, H, W, C]."""
        size = ops.shape(like)[1:3]
        if self.upsampling == "bilinear":
            return ops.image.resize(x, size, interpolation="bilinear")
        # Doubled and cropped: nearest neighbours, faster than resizing.
        return ops.repeat(ops.repeat(x, 2, axis=1), 2, axis=2)[:, : size[0], : size[1]]

    def get_config(self):
        """The constructor's arguments."""
        names = ("channels", "upsampling", "first_level", "extra", "norm")
        config = super().get_config() | {name: getattr(self, name) for name in names}
        return {**config, "levels": len(self.levels)}
