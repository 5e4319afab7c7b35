"""Faster R-CNN: Towards Real-Time Object Detection with Region Proposal Networks.

Ren et al., arXiv:1506.01497; on a feature pyramid: Lin et al., arXiv:1612.03144.

    images -> preprocess -> backbone C2-C5 -> pyramid P2-P6 -> RPN -> R proposals
    proposals -> RoIAlign on P2-P5 -> box head -> classes and finer boxes
    training:    rcnn_targets samples anchors and proposals -> rcnn_losses
    prediction:  rcnn_detections: best (proposal, class) pairs -> class-wise NMS -> detections

Shape shorthand: B images, A anchors over all levels, R proposals, S sampled regions, M padded
boxes, C classes, D detections.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import keras
from keras import ops

from fcos_tf.layers.blocks import check_choices, check_range
from fcos_tf.layers.box_head import REFINEMENTS, BoxHead
from fcos_tf.layers.rpn_head import RPNHead
from fcos_tf.models.detector import PyramidDetector
from fcos_tf.models.image_model import spatial_size
from fcos_tf.models.rcnn_detections import (
    RATIOS,
    place_anchors,
    propose,
    rcnn_detections,
)
from fcos_tf.models.rcnn_losses import rcnn_losses
from fcos_tf.models.rcnn_presets import PRESETS
from fcos_tf.models.rcnn_rules import RULES
from fcos_tf.models.rcnn_targets import (
    ANCHORS,
    REGIONS,
    image_seeds,
    match_anchors,
    roi_targets,
    rpn_targets,
)
from fcos_tf.ops.dtypes import at_least_float32
from fcos_tf.ops.points import grid_sizes
from fcos_tf.ops.roi_align import multilevel_roi_align

MOST_REGIONS = 1_000_000  # of an image, as anchors, samples and proposals
ROI_SIZE = 7


@keras.saving.register_keras_serializable(package="fcos_tf")
class FasterRCNN(PyramidDetector):
    """A detector in two stages: boxes of any object, then their classes and finer boxes.

    It is used as `FCOS` is. The background is the last of the C + 1 class logits.

    Training samples anchors and proposals at random. The random numbers of an image depend on the
    state of `seed_generator`, a seed and the number of the training step, and on the image's row
    in the whole batch: they are the same on any number of devices, and the state is saved with
    the model, so a resumed run draws on. `keras.utils.set_random_seed` before the constructor sets
    the seed. `evaluate` draws the same sample every time.

    The normalisers of the losses depend on proposals, so batches are not accumulated in parts.

    Args:
        num_classes: C; None: the number of `class_names`.
        fpn_first_level: finest level of the pyramid: 2 for P2, which needs a backbone with `c2`.
        fpn_levels: levels of the pyramid: 5 from P2 on are P2-P6. Those above P5 serve the RPN.
        fc_channels: of the fully connected layers of the box head.
        box_refinement: "class": each class has its own box deltas; "agnostic": all share them;
            "none": proposals are classified and stay as they are.
        rules: conventions of a published implementation: a key of `models.rcnn_rules.RULES`.
        anchor_scale: root of an anchor's area, in strides.
        anchors_per_image: sample of anchors that the RPN learns. None, here and for the next
            three: as the rules say.
        rois_per_image: sample of proposals that the box head learns.
        proposals_per_level: proposals of a level before NMS, in training and in detection.
        num_proposals: proposals of an image after NMS, in training and in detection.
        **kwargs: `backbone`, `fpn_channels` and more, see `PyramidDetector`.

    Raises:
        ValueError: names the argument that is out of its range.

    Example:
        >>> model = FasterRCNN(3, backbone="resnet18", fpn_channels=32, fc_channels=64)
        >>> tuple(model(keras.ops.zeros((1, 64, 64, 3)))["class_logits"].shape)
        (1, 1000, 4)
    """

    loss_names: Mapping[str, str] = {
        "rpn_objectness_loss": "binary cross-entropy of sampled anchors",
        "rpn_box_loss": "smooth L1 loss of the boxes of positive anchors",
        "classification_loss": "cross-entropy of sampled regions over classes and background",
        "box_loss": "smooth L1 loss of the boxes of positive regions",
    }
    count_names: Mapping[str, str] = {
        "num_positive_anchors": "positive anchors in the sample",
        "num_positive_regions": "positive regions in the sample",
    }
    raw_outputs: Mapping[str, str] = {
        "objectness_logits": "[B, A], of the anchors",
        "anchor_deltas": "[B, A, 4], (dx, dy, dw, dh) from anchors to boxes",
        "proposals": "[B, R, 4], (x1, y1, x2, y2) in pixels of `images`, best first; padding 0",
        "proposal_scores": "[B, R], probabilities of an object; padding 0",
        "class_logits": "[B, R, C + 1], the last of background",
        "box_deltas": "[B, R, C or 1, 4], (dx, dy, dw, dh) from proposals to boxes",
    }
    chosen_outputs = ("proposals", "proposal_scores")
    thresholds = (
        "score_threshold", "nms_threshold", "proposals_per_level", "num_proposals",
        "max_detections",
    )  # fmt: skip
    usual_nms_threshold = 0.5
    class_layers = ("class_logits", "box_deltas")
    presets = PRESETS
    published_prefix = "faster_rcnn_"
    weight_arguments = (
        "backbone", "stride_in_3x3", "fpn_first_level", "fpn_levels", "fpn_channels", "fc_channels",
        "box_refinement", "rules", "anchor_scale", "channel_order",
    )  # fmt: skip

    def __init__(
        self,
        num_classes: int | None = None,
        *,
        fpn_first_level: int = 2,
        backbone_norm: str | None = None,
        fc_channels: int = 1024,
        box_refinement: str = "class",
        rules: str = "fcos_tf",
        anchor_scale: float = 8.0,
        anchors_per_image: int | None = None,
        rois_per_image: int | None = None,
        proposals_per_level: Sequence[int] | None = None,
        num_proposals: Sequence[int] | None = None,
        **kwargs,
    ):
        check_choices(rules=(rules, RULES), box_refinement=(box_refinement, REFINEMENTS))
        check_range(fpn_first_level=(fpn_first_level, 2, 5))
        given = {
            "anchors_per_image": anchors_per_image,
            "rois_per_image": rois_per_image,
            "proposals_per_level": proposals_per_level,
            "num_proposals": num_proposals,
        }
        given = {name: value for name, value in given.items() if value is not None}
        for name in given.keys() & {"proposals_per_level", "num_proposals"}:
            given[name] = tuple(given[name])
            if len(given[name]) != 2:
                raise ValueError(
                    f"{name} must be two numbers, in training and in detection; got {given[name]}"
                )
        for name, value in given.items():
            for each in value if isinstance(value, tuple) else (value,):
                check_range(**{name: (each, 1, MOST_REGIONS)})
        check_range(anchor_scale=(anchor_scale, 0.01, 1e6), fc_channels=(fc_channels, 1, 10**6))
        settled = dataclasses.replace(RULES[rules], **given)
        norm = "sync" if backbone_norm == "sync" else "batch"
        norms = {"none": "none", "batch": norm}
        super().__init__(
            num_classes,
            backbone_norm=backbone_norm,
            pyramid={
                "first_level": fpn_first_level,
                "extra": "pool",
                "norm": norms[settled.fpn_norm],
            },
            **kwargs,
        )
        self.rules, self.anchor_scale = settled, anchor_scale
        self.proposals_per_level = settled.proposals_per_level
        self.num_proposals = settled.num_proposals
        self._architecture |= {
            "fpn_first_level": fpn_first_level,
            "fc_channels": fc_channels,
            "box_refinement": box_refinement,
            "rules": rules,
        }
        if box_refinement == "none":
            self.raw_outputs = {n: x for n, x in self.raw_outputs.items() if n != "box_deltas"}
        if box_refinement != "class":
            self.class_layers = ("class_logits",)
        self.seed_generator = keras.random.SeedGenerator()
        channels, dtype = self.fpn.channels, self.dtype_policy
        self.rpn_head = RPNHead(
            len(RATIOS), channels=channels, num_convs=self.rules.rpn_convs, dtype=dtype,
            name="rpn_head",
        )  # fmt: skip
        self.box_head = BoxHead(
            self.num_classes,
            num_convs=self.rules.box_convs,
            num_fcs=self.rules.box_fcs,
            channels=channels,
            fc_channels=fc_channels,
            norm=norms[self.rules.box_norm],
            box_refinement=box_refinement,
            init=self.rules.head_init,
            dtype=dtype,
            name="box_head",
        )
        self.build((None, None, None, 3))

    def build_heads(self, shape):
        """Builds the RPN and the box head."""
        self.rpn_head.build([shape] * len(self.strides))
        self.box_head.build((None, ROI_SIZE, ROI_SIZE, shape[-1]))

    def call(self, inputs, training=False, jit_compile=False):
        """Raw predictions; in training those of the first stage.

        Args:
            inputs: images [B, H, W, 3], uint8 or float RGB 0-255, or a dict of `images`,
                `image_sizes` [B, 2], the (height, width) of each image before padding, and
                optionally `chosen_outputs`, proposals in place of the RPN's.
            training: whether batch normalisation uses the batch, unless frozen.
            jit_compile: see `Detector.detect`.

        Returns:
            dict of `raw_outputs`, float32; in training `features`, levels of the pyramid, in place
            of the last two.
        """
        first = self._first_stage(inputs, training=training, jit_compile=jit_compile)
        if training:
            return first
        modes = {"training": False, "jit_compile": jit_compile}
        second = self._second_stage(first["features"], first["proposals"], **modes)
        return {**{name: first[name] for name in first if name != "features"}, **second}

    def predict_raw(self, inputs, *, jit_compile=False):
        """See `Detector.predict_raw`."""
        return self(inputs, training=False, jit_compile=jit_compile)

    def _first_stage(self, inputs, *, training: bool, jit_compile: bool) -> dict:
        """The pyramid, the outputs of the RPN and the proposals."""
        inputs = inputs if isinstance(inputs, dict) else {"images": inputs}
        features = self.features(inputs, training=training)
        outputs = self.rpn_head(features)
        chosen = {name: inputs[name] for name in self.chosen_outputs if name in inputs}
        if not chosen:
            image_size = spatial_size(inputs["images"])
            anchors, _ = self._anchors(image_size)
            chosen = propose(
                outputs,
                anchors,
                grid_sizes(*image_size, self.strides),
                _limits(image_size, inputs.get("image_sizes")),
                per_level=self.proposals_per_level[0 if training else 1],
                num_proposals=self.num_proposals[0 if training else 1],
                rules=self.rules,
                jit_compile=jit_compile,
            )
        return {"features": features, **outputs, **chosen}

    def _second_stage(self, features, boxes, *, training, jit_compile, valid=None) -> dict:
        """The outputs of the box head for boxes [B, R, 4]; `valid` [B, R]: those that count."""
        count = len(self.fpn.input_names)
        roi_features = multilevel_roi_align(
            features[:count],
            boxes,
            [1 / stride for stride in self.strides[:count]],
            output_size=ROI_SIZE,
            sampling_ratio=self.rules.sampling_ratio,
            aligned=self.rules.aligned,
            level_epsilon=self.rules.level_epsilon,
            jit_compile=jit_compile,
        )
        return self.box_head(roi_features, training=training, valid=valid)

    def _anchors(self, image_size):
        anchors, levels = place_anchors(
            image_size, self.strides, scale=self.anchor_scale, rules=self.rules
        )
        return ops.cast(anchors, at_least_float32(self.compute_dtype)), levels

    def forward_losses(self, inputs, targets, *, training, totals=None):
        """The four losses of a batch and its counts, see `ImageModel.forward_losses`.

        The targets hold `boxes` [B, M, 4] xyxy pixels and `labels` [B, M], padding -1.
        """
        first = self._first_stage(inputs, training=training, jit_compile=self.under_xla())
        return self._sample_losses(
            first, targets, spatial_size(inputs["images"]), training=training
        )

    def compute_losses(self, predictions, targets, image_size, totals=None):
        """The same from the outputs of `call` in training."""
        return self._sample_losses(predictions, targets, image_size, training=True)

    def _sample_losses(self, first, targets, image_size, *, training: bool):
        boxes, labels = targets["boxes"], targets["labels"]
        state = self.seed_generator.next() if training else ops.zeros((2,), "int32")
        batch = ops.shape(labels)[0]
        anchors, _ = self._anchors(image_size)
        anchors_learn = rpn_targets(
            anchors, boxes, labels, rules=self.rules, seeds=image_seeds(state, batch, ANCHORS)
        )
        rois_learn = roi_targets(
            first,
            boxes,
            labels,
            num_classes=self.num_classes,
            rules=self.rules,
            seeds=image_seeds(state, batch, REGIONS),
        )
        modes = {
            "training": training,
            "jit_compile": self.under_xla(),
            "valid": rois_learn["valid"],
        }
        second = self._second_stage(first["features"], rois_learn["rois"], **modes)
        return rcnn_losses(first, anchors_learn, second, rois_learn, rules=self.rules)

    def assigned_boxes(self, targets, image_size, predictions=None):
        """See `Detector.assigned_boxes`: the anchors are the points."""
        anchors, levels = self._anchors(image_size)
        matched = match_anchors(anchors, targets["boxes"], targets["labels"], self.rules)
        strides = ops.convert_to_tensor(self.strides, "float32")
        return ops.maximum(matched, -1), ops.take(strides, levels)

    def choose(self, raw, image_size, image_sizes, **limits):
        """Detections from raw predictions, see `Detector.decode` and `rcnn_detections`."""
        return rcnn_detections(raw, _limits(image_size, image_sizes), rules=self.rules, **limits)

    def get_config(self):
        """The constructor's arguments, with every None resolved."""
        of_rules = ("anchors_per_image", "rois_per_image")
        config = {name: getattr(self.rules, name) for name in of_rules}
        own = ("anchor_scale", "proposals_per_level", "num_proposals")
        return super().get_config() | config | {name: getattr(self, name) for name in own}


def _limits(image_size, image_sizes):
    """The (height, width) to clip boxes to, [B or 1, 2] float32."""
    if image_sizes is None:
        return ops.cast(ops.stack(image_size)[None], "float32")
    return ops.cast(image_sizes, "float32")
