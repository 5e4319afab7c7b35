"""Base classes of detectors: from images to detections; backbone and pyramid.

Shape shorthand: B images of H x W pixels, D detections, K candidates, C classes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from keras import ops

from fcos_tf.layers.blocks import check_range
from fcos_tf.layers.fpn import FeaturePyramid
from fcos_tf.models.backbone_model import BackboneModel
from fcos_tf.models.best_f1 import checked_best_f1, resolve_word
from fcos_tf.models.from_preset import FromPreset
from fcos_tf.models.image_model import ImageModel, spatial_size, unpack_inputs
from fcos_tf.models.input_checks import check_images
from fcos_tf.ops.nms import keep_valid

# Outputs of published detectors that stand for no class of objects.
BACKGROUND, UNUSED = "__background__", "N/A"
MOST_DETECTIONS = 100_000  # of an image: their arrays are made before the first is found


class Detector(FromPreset, ImageModel):
    """Base class of the detectors.

    A subclass implements `call` and `choose` beside the losses.

    Args:
        score_threshold: least score of a detection; "best_f1": the thresholds of `best_f1`.
        nms_threshold: IoU above which the weaker of two boxes of a class is dropped. None: the
            `usual_nms_threshold` of the class.
        max_detections: D.
        best_f1: least scores of the classes at their best F1, kept with the model, see
            `best_f1.checked_best_f1` and `evaluation.best_f1_of`.
        **kwargs: of `ImageModel`.

    Attributes, beside those of `ImageModel` and `FromPreset`:
        raw_outputs: name -> shape and meaning of each output of `call`, for exported models.
        thresholds: constructor arguments for detection only; an exported model may have others.
        usual_nms_threshold: see `nms_threshold`.
        chosen_outputs: names of `raw_outputs` that come out of a choice, such as a suppression,
            which `call` also takes as inputs.
        inclusive_pixels: whether x2, y2 are the last pixel inside; the original image adds 1.
    """

    raw_outputs: Mapping[str, str] = {}
    thresholds: Sequence[str] = ("score_threshold", "nms_threshold", "max_detections")
    usual_nms_threshold = 0.6
    protocols = ("coco", "voc07", "voc12")
    best_metrics: Mapping[str, str] = dict.fromkeys(("AP", "AP50", "mAP_voc07", "mAP_voc12"), "max")
    chosen_outputs: Sequence[str] = ()
    inclusive_pixels = False
    learns_boxes = True

    def __init__(
        self,
        num_classes: int | None = None,
        *,
        score_threshold: float | str = 0.05,
        nms_threshold: float | None = None,
        max_detections: int = 100,
        best_f1: Mapping[str, Any] | None = None,
        **kwargs,
    ):
        super().__init__(num_classes, **kwargs)
        self.best_f1 = None if best_f1 is None else checked_best_f1(best_f1, self.num_classes)
        if isinstance(score_threshold, str):
            resolve_word(score_threshold, self.best_f1)  # refuses other words
        else:
            check_range(score_threshold=(score_threshold, 0.0, 1.0))
        nms_threshold = self.usual_nms_threshold if nms_threshold is None else nms_threshold
        check_range(
            nms_threshold=(nms_threshold, 0.0, 1.0),
            max_detections=(max_detections, 1, MOST_DETECTIONS),
        )
        self.score_threshold, self.nms_threshold = score_threshold, float(nms_threshold)
        self.max_detections = max_detections

    def predict_raw(self, inputs, *, jit_compile: bool = False) -> dict:
        """The outputs of `call`; for models with a suppression in it, see `detect`."""
        del jit_compile
        return self(inputs, training=False)

    def decode(
        self,
        raw: dict,
        image_size,
        image_sizes=None,
        *,
        score_threshold=None,
        max_detections: int | None = None,
        jit_compile: bool = False,
    ) -> dict:
        """Detections from raw predictions.

        Args:
            raw: outputs of `call`.
            image_size: (height, width) of the padded images.
            image_sizes: [B, 2] (height, width) to clip the boxes to; None: the padded size.
            score_threshold: see `detect`.
            max_detections: see `detect`.
            jit_compile: see `detect`.

        Returns:
            dict, see `detect`.
        """
        given = self.score_threshold if score_threshold is None else score_threshold
        threshold, by_class = given, None
        if isinstance(given, str):
            threshold, by_class = resolve_word(given, self.best_f1)
        found = self.choose(
            raw,
            image_size,
            image_sizes,
            score_threshold=threshold,
            nms_threshold=self.nms_threshold,
            max_detections=self.max_detections if max_detections is None else max_detections,
            jit_compile=jit_compile,
        )
        if by_class is None:
            return found
        # After the choice, as when F1 was measured.
        labels, scores = found["labels"], found["scores"]
        least = ops.take(ops.convert_to_tensor(by_class, scores.dtype), ops.maximum(labels, 0))
        return keep_valid(found, (labels >= 0) & (scores >= least))

    def choose(self, raw: dict, image_size, image_sizes, **limits) -> dict:
        """For subclasses: the result of `decode`, with all limits given."""
        raise NotImplementedError

    def points(self, image_size) -> tuple | None:
        """The points of all levels, for pictures; None: the model has none.

        Args:
            image_size: (height, width) of the padded images.

        Returns:
            [N, 2] float32, (x, y) pixels; and [N] float32, the stride of each point.
        """
        return None

    def point_predictions(self, raw: dict, image_size) -> dict:
        """What each point predicts, before any selection; for models with `points`.

        The arguments are those of `decode`.

        Returns:
            dict of float32: `boxes` [B, N, 4] xyxy pixels, not clipped; `class_scores` [B, N, C],
            `quality` [B, N] and the `scores` [B, N, C] of both, from 0 to 1; no `quality` where
            the class scores are the scores.
        """
        raise NotImplementedError

    def assigned_boxes(self, targets: dict, image_size, predictions=None) -> tuple | None:
        """Which box each point learns, for pictures and warnings; None: nothing to show.

        Args:
            targets: dict with `boxes` [B, M, 4] and `labels` [B, M].
            image_size: (height, width) of the padded images.
            predictions: outputs of `call`, for assigners that use them.

        Returns:
            [B, N] int32, index into the M boxes or -1; and [N], the stride of each point.
        """
        return None

    def detect(
        self,
        images,
        image_sizes=None,
        *,
        score_threshold=None,
        max_detections: int | None = None,
        jit_compile: bool = False,
    ) -> dict:
        """Detections of a batch of images; may be traced into a graph.

        Args:
            images: [B, H, W, 3] uint8 or float RGB 0-255, or the input dict of `call`.
            image_sizes: [B, 2] float, (height, width) before padding; None: the whole image.
            score_threshold: scalar, or [B], one an image; "best_f1": of each class, see
                `Detector`; None: the model's.
            max_detections: D; None: the model's.
            jit_compile: whether XLA compiles the caller, or another system takes its graph.

        Returns:
            dict: `boxes` [B, D, 4] float32 xyxy pixels, `scores` [B, D] float32 in descending
            order, `labels` [B, D] int32, `num_detections` [B] int32. Padding: 0, 0 and -1.

        Raises:
            ValueError: images of another form.
        """
        check_images(images)
        inputs = images if isinstance(images, dict) else {"images": images}
        if image_sizes is not None:
            inputs = {**inputs, "image_sizes": ops.convert_to_tensor(image_sizes)}
        return self.decode(
            self.predict_raw(inputs, jit_compile=jit_compile),
            spatial_size(inputs["images"]),
            inputs.get("image_sizes"),
            score_threshold=score_threshold,
            max_detections=max_detections,
            jit_compile=jit_compile,
        )

    def predict_outputs(self, inputs, *, jit_compile=False):
        """Detections."""
        return self.detect(inputs, jit_compile=jit_compile)

    def config_without_weights(self):
        """See `ImageModel`: without the thresholds of the best F1."""
        config = self.get_config()
        best_f1 = config.pop("best_f1")
        if isinstance(self.score_threshold, str):
            config["score_threshold"] = best_f1["score_threshold"]
        return config

    def get_config(self):
        """The constructor's arguments."""
        names = ("score_threshold", "nms_threshold", "max_detections", "best_f1")
        return super().get_config() | {name: getattr(self, name) for name in names}


class PyramidDetector(BackboneModel, Detector):
    """Base class of detectors on a feature pyramid.

    A subclass adds its own layers and arguments, builds them in `build`, and calls `features`.

    Args:
        num_classes: C; None: the number of `class_names`.
        fpn_levels: levels of the pyramid.
        fpn_channels: of the pyramid and of the heads.
        fpn_upsampling: "nearest" or "bilinear", in the top-down path.
        pyramid: further arguments of `FeaturePyramid`, set by the subclass.
        **kwargs: `backbone`, `backbone_weights` and more, see `BackboneModel`; `score_threshold`,
            `nms_threshold` and more, see `Detector`; `class_names`, `category_ids`,
            `image_size`, `name` and `dtype`, see `ImageModel`.

    Attributes:
        strides: of the levels, in pixels.

    Raises:
        ValueError: names the argument that is out of its range.
    """

    def __init__(
        self,
        num_classes: int | None = None,
        *,
        fpn_levels: int = 5,
        fpn_channels: int = 256,
        fpn_upsampling: str = "nearest",
        pyramid: Mapping[str, Any] | None = None,
        **kwargs,
    ):
        super().__init__(num_classes, **kwargs)
        self._architecture |= {
            "fpn_levels": fpn_levels,
            "fpn_channels": fpn_channels,
            "fpn_upsampling": fpn_upsampling,
        }
        self.fpn = FeaturePyramid(
            fpn_channels,
            levels=fpn_levels,
            upsampling=fpn_upsampling,
            dtype=self.dtype_policy,
            name="fpn",
            **(pyramid or {}),
        )
        if missing := [name for name in self.fpn.input_names if name not in self.backbone.output]:
            raise ValueError(
                f"backbone must have maps {', '.join(self.fpn.input_names)}; got "
                f"{self._architecture['backbone']!r}, which has no {', '.join(missing)}"
            )
        self.strides = self.fpn.strides

    def build(self, input_shape):
        """Creates all variables, for any image size."""
        if self.built:
            return
        self.fpn.build({name: x.shape for name, x in self.backbone.output.items()})
        self.build_heads((None, None, None, self.fpn.channels))
        super().build(input_shape)

    def build_heads(self, shape):
        """For subclasses: builds the layers after the pyramid, from the shape of a level."""
        raise NotImplementedError

    def features(self, inputs, *, training: bool) -> list:
        """The levels of the pyramid, finest first, from the inputs of `call`."""
        x = self.preprocess(*unpack_inputs(inputs))
        levels = self.fpn(self.backbone(x, training=training), training=training)
        return list(levels.values())


def category_ids_of(model) -> tuple[int, ...]:
    """The data set's id of each label of a detector; 1, 2, ... if unknown."""
    return model.category_ids or tuple(range(1, model.num_classes + 1))


def detectable(class_names: Sequence[str]) -> tuple[str, ...]:
    """The names of classes of objects: without `BACKGROUND` and `UNUSED`."""
    return tuple(name for name in class_names if name not in (BACKGROUND, UNUSED))
