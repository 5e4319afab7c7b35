"""The peer of Keras' own models: RetinaNet of KerasHub, with its preprocessing and suppression.

Weights are random. Its defaults stay: boxes of a score above .5 reach its suppression, which is
not class-wise. Its loss is its own, too. The optimizer is Keras' SGD of the config.
"""

from benchmarks.batches import NUM_CLASSES, random_batch
from benchmarks.processes import Side, timed
from fcos_tf.config import Config
from fcos_tf.tensorflow_words import load_tensorflow

# Backbone -> blocks of its stages, and their kind.
_RESNETS = {
    "resnet18": ((2, 2, 2, 2), "basic_block"),
    "resnet34": ((3, 4, 6, 3), "basic_block"),
    "resnet50": ((3, 4, 6, 3), "bottleneck_block"),
    "resnet101": ((3, 4, 23, 3), "bottleneck_block"),
}
_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, as torchvision's


def import_keras_hub():
    """The package.

    Raises:
        ValueError: it, or a package that it imports, is not installed.
    """
    load_tensorflow()
    try:
        import keras_hub
    except ImportError as error:
        raise ValueError(
            f"--peer=keras_hub: expected KerasHub; pip install keras-hub ({error})"
        ) from error
    return keras_hub


def side(config: Config, what: str) -> Side:
    """A step of RetinaNet with the backbone, image size and precision of a config."""
    import keras
    import tensorflow as tf

    from benchmarks.flops import count_flops

    images, targets = random_batch(config)
    _check(config, images.shape[1:])
    keras.config.set_dtype_policy(config.precision)
    model, preprocess = _make(config, images.shape[1:])
    if what == "inference":

        def detect(images):
            # Its decoder takes no other than float32.
            raw = {name: tf.cast(x, "float32") for name, x in model(preprocess(images)).items()}
            return model.decode_predictions(raw, images)

        detect = tf.function(detect)
        graph = detect.get_concrete_function(images).graph
        step = timed(lambda: detect(images)["boxes"].numpy())
    else:
        options = {"momentum": config.momentum, "global_clipnorm": config.clip_norm or None}
        model.compile(
            optimizer=keras.optimizers.SGD(config.learning_rate, **options), jit_compile=False
        )
        train = model.make_train_function() or model.train_function
        data = tf.data.Dataset.from_tensors((images, targets)).repeat().map(preprocess)
        batches = iter(data.prefetch(1))
        batch = preprocess(images, targets)
        graph = tf.function(lambda: model.train_step(batch)).get_concrete_function().graph
        step = timed(lambda: [float(value) for value in train(batches).values()])
    return Side(step, lambda: count_flops(graph))


def _check(config: Config, shape: tuple[int, ...]) -> None:
    """Refuses what KerasHub's RetinaNet has not, or cannot take."""
    if config.model != "fcos" or config.backbone not in _RESNETS:
        raise ValueError(
            f"--peer=keras_hub: expected --model=fcos and --backbone of {', '.join(_RESNETS)}, got "
            f"{config.model} and {config.backbone}"
        )
    height, width = shape[:2]
    if height % 32 or width % 32:  # its pyramid adds maps of doubled size
        raise ValueError(
            "--peer=keras_hub: expected --image_size of multiples of 32, such as 256x320, got "
            f"{height}x{width}"
        )


def _make(config: Config, shape: tuple[int, ...]):
    """The model and its preprocessing."""
    import keras_hub
    from keras_hub import layers, models

    blocks, kind = _RESNETS[config.backbone]
    encoder = models.ResNetBackbone(
        input_conv_filters=[64],
        input_conv_kernel_sizes=[7],
        stackwise_num_filters=[64, 128, 256, 512],
        stackwise_num_blocks=blocks,
        stackwise_num_strides=[1, 2, 2, 2],
        block_type=kind,
        image_shape=shape,
    )
    backbone = models.RetinaNetBackbone(
        encoder, min_level=3, max_level=7, use_p5=False, image_shape=shape
    )
    converter = layers.RetinaNetImageConverter(
        image_size=shape[:2],
        scale=[1 / 255 / x for x in _DEVIATION],
        offset=[-mean / x for mean, x in zip(_MEAN, _DEVIATION, strict=True)],
        bounding_box_format="xyxy",
    )
    preprocess = models.RetinaNetObjectDetectorPreprocessor(image_converter=converter)
    model = keras_hub.models.RetinaNetObjectDetector(
        backbone, NUM_CLASSES, bounding_box_format="xyxy", preprocessor=preprocess
    )
    return model, preprocess
