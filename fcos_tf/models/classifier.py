"""Image classification: the classes in an image, from the boxes of detection data, or its class.

    images -> preprocess -> backbone's last map -> mean over the image -> F features -> C logits

Shape shorthand: B images of H x W pixels, F features, M and K padded objects, C classes.
"""

from collections.abc import Mapping

import keras
from keras import ops

from fcos_tf.layers.blocks import check_choices
from fcos_tf.models.backbone_model import BackboneModel
from fcos_tf.models.image_model import spatial_size, sum_over_replicas, unpack_inputs
from fcos_tf.ops.dtypes import at_least_float32
from fcos_tf.ops.losses import binary_cross_entropy

LAST_STRIDE = 32
LABEL_MODES = ("single", "multi")


@keras.saving.register_keras_serializable(package="fcos_tf")
class ImageClassifier(BackboneModel):
    """Class probabilities of whole images; several classes may be in one image, or one.

    It learns from the targets of `fcos_tf.data.load` by the protocol of PASCAL VOC's
    classification task: an image holds the classes of its objects; a class with only ignored
    objects there (VOC's difficult ones, COCO's crowds) is neither right nor wrong.

    Args:
        num_classes: C; None: the number of `class_names`.
        label_mode: "multi" (None): a sigmoid for each class; "single": softmax over the classes,
            one of which an image has. Of an image that has k all the same, each is 1 / k of the
            target (Mahajan et al., arXiv:1805.00932).
        **kwargs: `backbone`, `backbone_weights`, `frozen_stages` and more, see `BackboneModel`;
            `class_names`, `image_size`, `name` and more, see `ImageModel`.

    Raises:
        ValueError: names the argument that is out of its range.

    Example:
        >>> model = ImageClassifier(3, backbone="simple_cnn", image_size="64x64")
        >>> model.predict(np.zeros([2, 64, 64, 3], np.uint8), verbose=0).shape
        (2, 3)
    """

    loss_names: Mapping[str, str] = {
        "classification_loss": "cross-entropy, mean over images, and classes if several are in one"
    }
    raw_outputs: Mapping[str, str] = {"class_logits": "[B, C]"}
    chosen_outputs = ()
    best_metrics: Mapping[str, str] = dict.fromkeys(("mAP_all", "mAP_11"), "max")
    class_layers = ("class_logits",)
    thresholds = ()
    learns_boxes = True
    last_conv = True

    def __init__(self, num_classes: int | None = None, *, label_mode: str | None = None, **kwargs):
        check_choices(label_mode=(label_mode or "multi", LABEL_MODES))
        super().__init__(num_classes, **kwargs)
        self.label_mode = label_mode or "multi"
        if self.label_mode == "single":
            self.best_metrics = {"accuracy": "max", **self.best_metrics}
        # Float32 also under mixed precision.
        self.class_logits = keras.layers.Dense(
            self.num_classes, dtype=at_least_float32(self.compute_dtype), name="class_logits"
        )
        self.build((None, None, None, 3))

    def build(self, input_shape):
        """Creates all variables, for any image size."""
        if self.built:
            return
        self.class_logits.build((None, self.backbone.output[self._last_map()].shape[-1]))
        super().build(input_shape)

    def call(self, inputs, training=False):
        """`class_logits` [B, C] float32, from images or a dict with `images`, `image_sizes`."""
        return {"class_logits": self.class_logits(self.image_features(inputs, training=training))}

    def image_features(self, inputs, *, training: bool = False):
        """The mean of the backbone's last map over the valid part of each image.

        Args:
            inputs: as for `call`.
            training: mode of the backbone.

        Returns:
            [B, F] float32.
        """
        images, image_sizes = unpack_inputs(inputs)
        maps = self.backbone(self.preprocess(images, image_sizes), training=training)
        return mean_of_valid(maps[self._last_map()], spatial_size(images), image_sizes)

    def _last_map(self) -> str:
        return "last" if "last" in self.backbone.output else "c5"

    def classify(self, images, image_sizes=None, *, jit_compile: bool = False):
        """Class probabilities [B, C] float32 of a batch; may be traced into a graph.

        Args:
            images: [B, H, W, 3] uint8 or float RGB 0-255, or the input dict of `call`.
            image_sizes: [B, 2] float, (height, width) before padding; None: the whole image.
            jit_compile: whether XLA compiles the caller.
        """
        del jit_compile
        inputs = images if isinstance(images, dict) else {"images": images}
        if image_sizes is not None:
            inputs = {**inputs, "image_sizes": image_sizes}
        return self.probabilities(self(inputs, training=False)["class_logits"])

    def probabilities(self, class_logits):
        """Of the classes, [B, C], from `class_logits`."""
        if self.label_mode == "single":
            return ops.softmax(class_logits)
        return ops.sigmoid(class_logits)

    def predict_outputs(self, inputs, *, jit_compile=False):
        """Class probabilities [B, C]."""
        return self.classify(inputs, jit_compile=jit_compile)

    def compute_losses(self, predictions, targets, image_size, totals=None):
        """Cross-entropy over the known pairs of an image and a class, or images with a class."""
        positive, known = image_labels(targets, self.num_classes)
        if totals is None:
            totals = sum_over_replicas(self.compute_totals(targets, image_size))
        logits = predictions["class_logits"]
        ones = ops.cast(positive, logits.dtype)
        if self.label_mode == "single":
            shares = ones / ops.maximum(ops.sum(ones, axis=1, keepdims=True), 1.0)
            losses = -shares * ops.log_softmax(logits)
        else:
            losses = ops.where(known, binary_cross_entropy(logits, ones), 0.0)
        # Several images may leave no pair.
        totals = ops.maximum(ops.cast(totals, losses.dtype), 1.0)
        return {"classification_loss": ops.sum(losses) / totals}

    def compute_totals(self, targets, image_size):
        """The number of known pairs of an image and a class, or of images with a class."""
        positive, known = image_labels(targets, self.num_classes)
        counted = ops.any(positive, axis=1) if self.label_mode == "single" else known
        return ops.sum(ops.cast(counted, "float32"))

    def get_config(self):
        """The constructor's arguments."""
        return {**super().get_config(), "label_mode": self.label_mode}


def image_labels(targets: Mapping, num_classes: int):
    """Which classes are in the images, and which of these are known.

    Args:
        targets: `labels` [B, M] int, padding -1; optionally `ignored_labels` [B, K], likewise.
        num_classes: C.

    Returns:
        [B, C] bool: the image has an object of the class; and [B, C] bool, false where all objects
        of the class are ignored ones.

    Source: VOC2007 development kit, section 4.1: labels 1, -1 and 0.
    """

    def present(labels):  # [B, M] to [B, C]
        one_hot = ops.one_hot(ops.cast(labels, "int32"), num_classes, dtype="float32")
        return ops.sum(one_hot, axis=1) > 0

    positive = present(targets["labels"])
    if "ignored_labels" not in targets:
        return positive, ops.ones_like(positive)
    return positive, positive | ~present(targets["ignored_labels"])


def mean_of_valid(x, image_size, image_sizes=None):
    """The mean of a map over the valid part of each image; a cell counts by its valid share.

    Args:
        x: [B, h, w, F], a map of stride `LAST_STRIDE`.
        image_size: (height, width) of the padded images.
        image_sizes: [B, 2] (height, width) of their valid parts; None: the whole.

    Returns:
        [B, F] float32.
    """
    x = ops.cast(x, at_least_float32(x.dtype))
    if image_sizes is None:
        image_sizes = ops.cast(ops.stack(list(image_size)), "float32")[None]
    ends = ops.cast(image_sizes, x.dtype) / LAST_STRIDE  # in cells
    rows, columns = (
        ops.clip(ends[:, axis, None] - ops.arange(ops.shape(x)[axis + 1], dtype=x.dtype), 0, 1)
        for axis in (0, 1)
    )  # [B, h], [B, w]
    shares = (rows[:, :, None] * columns[:, None, :])[..., None]  # [B, h, w, 1]
    return ops.sum(x * shares, axis=(1, 2)) / ops.sum(shares, axis=(1, 2))
