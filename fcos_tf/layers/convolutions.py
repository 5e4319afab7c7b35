"""Convolutions that train fast: grouped, depthwise, with the scale of a norm in the kernel.

The weights are those of Keras' layers of the same kind, and a `.keras` file names them by the class
of the layer: `Conv2D` and `DepthwiseConv2D` keep Keras' names.
"""

import functools

import keras
from keras import ops

if keras.backend.backend() == "tensorflow":
    import tensorflow as tf


class ScaledKernel:
    """Mixin: a convolution whose kernel takes the scale of the frozen norm after it.

    Attributes:
        kernel_scale: gives the factor of each output channel, [filters]; None: there is none. Set
            together with `FrozenBatchNormalization.shift_only`; neither is right without the
            other. A copy made from the layer's config has None.
    """

    kernel_scale = None

    def add_weight(self, *args, **kwargs):
        """That of Keras; in mixed precision the kernel is rounded with its scale, once."""
        if kwargs.get("name") == "kernel":
            kwargs["autocast"] = False
        return super().add_weight(*args, **kwargs)

    def _scaled(self, kernel):
        """The kernel times the scale, in the compute dtype."""
        if self.kernel_scale is not None:
            scale = self.kernel_scale()
            if isinstance(self, keras.layers.DepthwiseConv2D):  # [h, w, channels, multiplier]
                scale = ops.reshape(scale, kernel.shape[-2:])
            kernel = kernel * scale
        return ops.cast(kernel, self.compute_dtype)


@keras.saving.register_keras_serializable(package="fcos_tf")
class Conv2D(ScaledKernel, keras.layers.Conv2D):
    """`keras.layers.Conv2D` whose kernel may take the scale of a frozen norm."""

    def convolution_op(self, inputs, kernel):
        """[B, H, W, channels] with [h, w, channels / groups, filters] to [B, H', W', filters]."""
        return self._convolve(inputs, self._scaled(kernel))

    def _convolve(self, inputs, kernel):
        return super().convolution_op(inputs, kernel)


@keras.saving.register_keras_serializable(package="fcos_tf")
class GroupedConv2D(Conv2D):
    """`keras.layers.Conv2D` with `groups` that also trains fast on a CPU.

    Under TensorFlow, Keras puts every grouped convolution into an XLA function of its own. Its
    gradient on a CPU is hundreds of times slower than necessary. This layer calls TensorFlow's
    operation where that has a gradient: on GPU and TPU, and on CPUs with oneDNN. On other CPUs it
    convolves the groups one by one. The choice is made at tracing; with `jit_compile=True` on a
    CPU the gradient stays slow. On other backends it is Keras' layer.

    Weights are those of `keras.layers.Conv2D`: [height, width, channels / groups, filters].

    Example:
        >>> layer = GroupedConv2D(6, 3, groups=2, use_bias=False)
        >>> layer(keras.ops.zeros((1, 8, 8, 4))).shape, layer.kernel.shape
        (TensorShape([1, 6, 6, 6]), TensorShape([3, 3, 2, 6]))
    """

    def _convolve(self, inputs, kernel):
        if (
            self.groups == 1
            or self.data_format != "channels_last"
            or keras.backend.backend() != "tensorflow"
        ):
            return super()._convolve(inputs, kernel)

        def convolve(x, k):
            padding = self.padding.upper()
            return tf.nn.conv2d(x, k, self.strides, padding, dilations=self.dilation_rate)

        if _has_grouped_gradient(keras.backend.standardize_dtype(kernel.dtype)):
            return convolve(inputs, kernel)
        parts = zip(
            tf.split(inputs, self.groups, axis=-1),
            tf.split(kernel, self.groups, axis=-1),
            strict=True,
        )
        return tf.concat([convolve(x, k) for x, k in parts], axis=-1)


@keras.saving.register_keras_serializable(package="fcos_tf")
class DepthwiseConv2D(ScaledKernel, keras.layers.DepthwiseConv2D):
    """`keras.layers.DepthwiseConv2D` that also trains fast in bfloat16 on a CPU.

    oneDNN's gradient of one with a stride takes more than ten times as long as in float32. In
    training, TensorFlow on a CPU computes such a layer in float32, from the same bfloat16 values.
    Its kernel may take the scale of a frozen norm.
    """

    def call(self, inputs, training=None):
        """[B, H, W, channels] to [B, H', W', channels * depth_multiplier]."""
        learns = training and self.trainable
        x = ops.cast(inputs, "float32") if learns and self._is_slow() else inputs
        kernel = ops.cast(self._scaled(self.kernel), x.dtype)
        options = {"padding": self.padding, "dilation_rate": self.dilation_rate}
        options |= {"strides": self.strides, "data_format": self.data_format}
        x = ops.depthwise_conv(x, kernel, **options)
        if self.use_bias:
            bias = ops.cast(self.bias, x.dtype)
            x = x + (bias if self.data_format == "channels_last" else bias[:, None, None])
        return self.activation(ops.cast(x, inputs.dtype))

    def _is_slow(self) -> bool:
        if keras.backend.backend() != "tensorflow":
            return False
        return self.compute_dtype == "bfloat16" and max(self.strides) > 1 and not _accelerators()


def _accelerators() -> list:
    """TensorFlow's GPUs and TPUs."""
    return [x for kind in ("GPU", "TPU") for x in tf.config.list_logical_devices(kind)]


@functools.cache
def _has_grouped_gradient(dtype: str) -> bool:
    """Whether TensorFlow can differentiate a grouped convolution on this machine's devices."""
    if _accelerators():
        return True
    # A CPU can with oneDNN, which depends on build, environment variables and dtype: try.
    with tf.init_scope(), tf.device("CPU:0"):
        image, kernel = tf.zeros((1, 3, 3, 4), dtype), tf.zeros((3, 3, 2, 4), dtype)
        options = {
            "out_backprop": tf.zeros((1, 1, 1, 4), dtype),
            "strides": [1, 1, 1, 1],
            "padding": "VALID",
        }
        try:
            tf.raw_ops.Conv2DBackpropInput(input_sizes=image.shape, filter=kernel, **options)
            tf.raw_ops.Conv2DBackpropFilter(input=image, filter_sizes=kernel.shape, **options)
        except (tf.errors.InvalidArgumentError, tf.errors.UnimplementedError):
            return False
    return True
