"""Base class of detectors: from images to detections, new classes, published settings.

Shape shorthand: B images of H x W pixels, D detections, K candidates, C classes.
"""

import inspect
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from fcos_tf.models.image_model import ImageModel, spatial_size
from fcos_tf.models.weights import copy_weights, load_model
from fcos_tf.published import DETECTORS

# Outputs of published detectors that stand for no class of objects.
BACKGROUND, UNUSED = "__background__", "N/A"


class Detector(ImageModel):
    """Base class of the detectors.

    A subclass implements `call` and `choose` beside the losses.

    Args:
        score_threshold: least score of a detection.
        nms_threshold: IoU above which the weaker of two boxes of a class is dropped. None: the
            `usual_nms_threshold` of the class.
        max_detections: D.
        **kwargs: of `ImageModel`.

    Attributes:
        raw_outputs: name -> shape and meaning of each output of `call`, for exported models.
        thresholds: constructor arguments for detection only; an exported model may have others.
        usual_nms_threshold: see `nms_threshold`.
        class_layers: names of the layers whose weights depend on the classes.
        presets: name -> constructor arguments of a published detector.
        published_prefix: before the name of a preset among `published.DETECTORS`.
        weight_arguments: names of constructor arguments that weights are trained for.
        chosen_outputs: names of `raw_outputs` that come out of a choice, such as a suppression,
            which `call` also takes as inputs.
        inclusive_pixels: whether x2, y2 are the last pixel inside; the original image adds 1.
    """

    raw_outputs: Mapping[str, str] = {}
    thresholds: Sequence[str] = ("score_threshold", "nms_threshold", "max_detections")
    usual_nms_threshold = 0.6
    class_layers: Sequence[str] = ()
    presets: Mapping[str, Mapping[str, Any]] = {}
    published_prefix = ""
    weight_arguments: Sequence[str] = ()
    protocols = ("coco", "voc07", "voc12")
    best_metrics: Mapping[str, str] = dict.fromkeys(("AP", "AP50", "mAP_voc07", "mAP_voc12"), "max")
    chosen_outputs: Sequence[str] = ()
    inclusive_pixels = False
    learns_boxes = True

    def __init__(
        self,
        num_classes: int | None = None,
        *,
        score_threshold: float = 0.05,
        nms_threshold: float | None = None,
        max_detections: int = 100,
        **kwargs,
    ):
        super().__init__(num_classes, **kwargs)
        self.score_threshold = score_threshold
        self.nms_threshold = self.usual_nms_threshold if nms_threshold is None else nms_threshold
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
        return self.choose(
            raw,
            image_size,
            image_sizes,
            score_threshold=self.score_threshold if score_threshold is None else score_threshold,
            nms_threshold=self.nms_threshold,
            max_detections=self.max_detections if max_detections is None else max_detections,
            jit_compile=jit_compile,
        )

    def choose(self, raw: dict, image_size, image_sizes, **limits) -> dict:
        """For subclasses: the result of `decode`, with all limits given."""
        raise NotImplementedError

    def candidates(self, raw: dict, image_size) -> dict:
        """All boxes and scores before any suppression, for runtimes with their own NMS.

        The arguments are those of `decode`.

        Returns:
            dict of float32: `boxes` [B, K, 4] xyxy pixels, not clipped; `scores` [B, K, C].
        """
        raise NotImplementedError

    def assigned_boxes(self, targets: dict, image_size) -> tuple | None:
        """Which box each point learns, for pictures and warnings; None: nothing to show.

        Args:
            targets: dict with `boxes` [B, M, 4] and `labels` [B, M].
            image_size: (height, width) of the padded images.

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
            score_threshold: scalar, or [B], one an image; None: the model's.
            max_detections: D; None: the model's.
            jit_compile: whether XLA compiles the caller, or another system takes its graph.

        Returns:
            dict: `boxes` [B, D, 4] float32 xyxy pixels, `scores` [B, D] float32 in descending
            order, `labels` [B, D] int32, `num_detections` [B] int32. Padding: 0, 0 and -1.
        """
        inputs = images if isinstance(images, dict) else {"images": images}
        if image_sizes is not None:
            inputs = {**inputs, "image_sizes": image_sizes}
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

    @classmethod
    def from_preset(
        cls,
        name: str,
        weights: str | None = None,
        *,
        load_weights: bool | None = None,
        **overrides,
    ) -> "Detector":
        """A detector with the settings of a published one, and its weights where they are known.

        Published weights are those of `published.DETECTORS`: "torchvision_coco". They are
        downloaded once, see `fetch_weights`. The other presets are settings only. With other
        classes, the layers of the classes stay random.

        Args:
            name: a key of `presets`, such as "torchvision_coco".
            weights: a `.keras` file of such a detector, converted by `tools/convert.py`; None: as
                `load_weights` says.
            load_weights: True: the published weights; False: random ones; None: the published
                weights, or random ones, with a warning, where there are none for this preset and
                these overrides.
            **overrides: see `preset_arguments`.

        Raises:
            ValueError: for an unknown name, weights of another architecture, or none to load.
            FileNotFoundError: if the weights file is missing.
            OSError: if the weights cannot be downloaded.

        Example:
            >>> classes = {"class_names": ("cat", "dog")}
            >>> model = FCOS.from_preset("torchvision_coco", load_weights=False, **classes)
            >>> model.num_classes, model.image_size
            (2, '800,1333')
        """
        arguments = cls.preset_arguments(name, overrides)
        if weights is None and load_weights is not False:
            weights = cls._published_weights(name, overrides, required=bool(load_weights))
        model = cls(**arguments)
        if weights is not None:
            model._take_weights(load_model(weights), file=weights)
        return model

    @classmethod
    def _published_weights(cls, name, overrides, *, required: bool) -> str | None:
        """The name of a preset's published weights, if they fit the overrides."""
        defaults = {
            n: each.default
            for base in reversed(cls.__mro__)
            if issubclass(base, Detector) and "__init__" in vars(base)
            for n, each in inspect.signature(base.__init__).parameters.items()
        }
        defaults |= cls.presets[name]
        changed = [n for n in cls.weight_arguments if overrides.get(n, defaults[n]) != defaults[n]]
        published = cls.published_prefix + name
        if published in DETECTORS and not changed:
            return published
        other = f" with another {', '.join(changed)}" if published in DETECTORS else ""
        missing = (
            f"no published weights of {name}{other}; give weights=FILE of a converted detector, or "
            "load_weights=False for random weights"
        )
        if required:
            raise ValueError(f"load_weights: {missing}")
        warnings.warn(f"the weights are random: {missing}", stacklevel=3)
        return None

    @classmethod
    def preset_arguments(cls, name: str, overrides: Mapping[str, Any]) -> dict[str, Any]:
        """The constructor's arguments of a preset.

        Args:
            name: a key of `presets`.
            overrides: arguments that differ. One of `num_classes` and `class_names` is enough;
                other classes drop the published ids.

        Raises:
            ValueError: for an unknown name.
        """
        if name not in cls.presets:
            raise ValueError(f"preset must be one of {', '.join(cls.presets)}; got {name!r}")
        settings = {**cls.presets[name], **overrides}
        published = cls.presets[name]["class_names"]
        other_number = settings.get("num_classes", len(published)) != len(published)
        if "class_names" not in overrides and other_number:
            settings["class_names"] = None
        if "category_ids" not in overrides and settings["class_names"] != published:
            settings["category_ids"] = None
        settings.setdefault("num_classes", len(settings["class_names"] or ()))
        return settings

    def with_classes(
        self, class_names: Sequence[str], *, category_ids: Sequence[int] | None = None, dtype=None
    ) -> "Detector":
        """This detector for other classes, with all weights except those of the class layers.

        Args:
            class_names: the new classes in the order of their labels.
            category_ids: their ids in the data set.
            dtype: dtype policy of the new model; None: this model's.

        Returns:
            A new model; a copy of this one for the same names in the same order.
        """
        names = tuple(class_names)
        config = {"num_classes": len(names), "class_names": names, "category_ids": category_ids}
        if dtype is not None:
            config["dtype"] = dtype
        model = type(self).from_config({**self.get_config(), **config})
        model._take_weights(self, file=self.name)
        return model

    def _take_weights(self, source: "Detector", *, file: str) -> None:
        """Copies all weights; those of the class layers only if the classes are the same."""
        same = (source.num_classes, source.class_names) == (self.num_classes, self.class_names)
        copy_weights(source, self, file=file, skip=() if same else self.class_layers)

    def get_config(self):
        """The constructor's arguments."""
        names = ("score_threshold", "nms_threshold", "max_detections")
        return super().get_config() | {name: getattr(self, name) for name in names}


def category_ids_of(model) -> tuple[int, ...]:
    """The data set's id of each label of a detector; 1, 2, ... if unknown."""
    return model.category_ids or tuple(range(1, model.num_classes + 1))


def detectable(class_names: Sequence[str]) -> tuple[str, ...]:
    """The names of classes of objects: without `BACKGROUND` and `UNUSED`."""
    return tuple(name for name in class_names if name not in (BACKGROUND, UNUSED))
