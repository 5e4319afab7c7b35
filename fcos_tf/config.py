"""Every option of a run: its name, type, default, help and check.

The tools make their flags from these fields and `build.py` hands the values on, so a flag, a line
of a config file, a field and a parameter have one name. A section remembers nothing about tools; a
tool says which sections it uses.
"""

import dataclasses

from fcos_tf.image_size import parse_image_size
from fcos_tf.options import Options, option

# What other programs call the option that names a file of weights, or where files go.
WEIGHTS_WORDS = ("weights", "checkpoint", "ckpt", "pretrained", "load_from", "model")
OUTPUT_WORDS = ("output", "out", "output_dir", "save_dir", "out_dir", "work_dir", "project", "name")
_AUTO = {"auto": None}
_AUTO_OR_BOOL = {"auto": None, "true": True, "false": False}
_NOTHING = {"": None}


# fmt: off
@dataclasses.dataclass(frozen=True)
class DataOptions(Options):
    """Which data set, where it is, and what of it."""

    title = "Data"

    dataset: str = option(
        "digits", "digits (made on the fly, nothing to download), coco, voc, or tfds:NAME "
        "(prepared by TFDS, such as tfds:voc/2007).")
    data_dir: str = option(
        "", "Folder of the data set, for voc also several with commas; digits needs none.",
        means=_NOTHING, harmless=True, per_host=True,
        also=("data", "data_path", "data_root", "dataset_dir", "root"))
    annotations: str = option(
        "", "With --dataset=coco: the JSON file, {split} in it standing for the split; empty = "
        "DATA_DIR/annotations/instances_SPLIT.json.",
        means=_NOTHING, harmless=True, per_host=True, also=("ann_file", "json", "labels"))
    images: str = option(
        "", "With --dataset=coco: the folder of images, likewise; empty = DATA_DIR/SPLIT.",
        means=_NOTHING, harmless=True, per_host=True, also=("img_dir", "image_dir"))
    train_split: str = option("train", "Split to train on.")
    classes: tuple[str, ...] = option(
        (), "Names of the classes in the order of their labels; objects of others are left out; "
        "empty = all of the data set.", means={(): None}, also=("names", "class_names"))
    overfit: int = option(
        0, "Train on the first N images of the training split, unflipped, and evaluate on these "
        "same images; 0 = off. All else stays as the flags say.", least=0)
    max_faults: int = option(
        100, "Stop if more annotations than this are faulty and have to be dropped.", least=0,
        harmless=True)
    max_bad_images: int = option(
        10, "Stop after this many images that cannot be read; those before are skipped.", least=0,
        harmless=True)

    def __post_init__(self):
        super().__post_init__()
        if len(set(self.classes)) != len(self.classes):
            raise ValueError(f"--classes: expected different names, got {','.join(self.classes)}")


@dataclasses.dataclass(frozen=True)
class InputOptions(Options):
    """To what size images are brought, and how many go together."""

    title = "Images"

    image_size: str = option(
        "512x512", "512x512: height and width of a fixed canvas; 800,1333: short side, and at most "
        "the long side; 640-800,1333: the short side drawn for every training image. The aspect "
        "ratio is kept, the rest padded.",
        also=("imgsz", "img_size", "img", "size", "input_size", "resolution"))
    orientation_buckets: bool = option(
        False, "With an --image_size like 800,1333: batches of one orientation on one of two "
        "static canvases (800x1344, 1344x800).")
    batch_size: int = option(
        16, "Images in a batch, over all devices.", least=1, also=("batch", "bs", "ims_per_batch"))

    def __post_init__(self):
        super().__post_init__()
        try:
            size = parse_image_size(self.image_size)
        except ValueError as error:
            raise ValueError(f"--{error}") from None
        if self.orientation_buckets and size.canvas is not None:
            raise ValueError(
                "--orientation_buckets: expected with an --image_size like 800,1333, "
                f"got --image_size={self.image_size}")


@dataclasses.dataclass(frozen=True)
class AugmentationOptions(Options):
    """What is done to training images alone."""

    title = "Training images"

    horizontal_flip: bool = option(
        True, "Mirror half of the training images, where the data set allows it.",
        means={True: None}, also=("hflip", "fliplr", "flip"))
    augment: tuple[str, ...] = option(
        (), "What else is done to training images.", also=("aug", "augmentation", "mosaic"),
        choices=("color_jitter", "rand_augment", "mosaic", "scale_jitter"))
    scale_jitter: tuple[float, ...] = option(
        (0.1, 2.0), "With --augment=scale_jitter: the least and the largest factor on the size "
        "that fits the canvas; what is larger is cropped to it.")
    include_difficult: bool = option(False, "Learn VOC's difficult objects like others.")
    skip_empty: bool = option(False, "Train without the images that have no boxes.")
    cache: bool = option(
        False, "Keep the resized training images in memory (height x width x 3 bytes each).",
        harmless=True, per_host=True)

    def __post_init__(self):
        super().__post_init__()
        if len(self.scale_jitter) != 2 or not 0 < self.scale_jitter[0] <= self.scale_jitter[1]:
            raise ValueError(
                "--scale_jitter: expected two increasing factors above 0 such as 0.1,2.0, "
                f"got {','.join(map(str, self.scale_jitter))}")


@dataclasses.dataclass(frozen=True)
class StartOptions(Options):
    """What a run starts from."""

    title = "Start"

    model: str = option("fcos", "The kind of model: fcos.", also=("arch", "architecture"))
    num_classes: int = option(
        0, "Number of classes; 0 = from the data set. Another number than it has stops.", least=0,
        also=("nc",))
    initial_weights: str = option(
        "", "A .keras file of a detector to start from, trained or converted. Its own settings "
        "count in place of those of the next two sections; where the data set has other classes, "
        "its class logits start anew. Empty = none.",
        also=(*WEIGHTS_WORDS[:-1], "finetune", "init_checkpoint"))


@dataclasses.dataclass(frozen=True)
class ModelOptions(Options):
    """How a model is built and what it learns."""

    title = "Model"

    backbone: str = option(
        "resnet50", "resnet18, resnet34, resnet50, resnet101, resnext50_32x4d, resnext101_32x8d, "
        "resnext101_64x4d, regnetx_400mf and others of that family, mobilenet_v2, simple_cnn, or "
        "keras_cv/PRESET, such as keras_cv/efficientnetv2_b0_imagenet.")
    backbone_weights: str = option(
        "", "Empty = random; imagenet = what Keras distributes, downloaded; or a .keras file, such "
        "as tools/convert.py makes.", means=_NOTHING, also=("weights_backbone",))
    backbone_norm: str = option(
        "auto", "Batch norm of the backbone: trained per device, frozen, or synchronised over "
        "devices; auto = frozen with backbone weights, else batch.",
        choices=("auto", "batch", "frozen", "sync"), means=_AUTO, also=("sync_bn",))
    frozen_stages: int = option(
        -1, "Parts of the backbone that do not learn: 1 = stem, 2 = stem and first stage ...; -1 = "
        "2 with backbone weights, else 0.", least=-1, most=5, means={-1: None},
        also=("freeze", "freeze_at", "trainable_backbone_layers"))
    stride_in_3x3: str = option(
        "auto", "Whether a bottleneck halves the map in its 3x3 or in its first 1x1 convolution; "
        "auto = as the backbone weights need it.",
        choices=("auto", "true", "false"), means=_AUTO_OR_BOOL)
    channel_order: str = option(
        "auto", "What the backbone sees; auto = as the backbone weights need it.",
        choices=("auto", "rgb", "bgr"), means=_AUTO)
    fpn_levels: int = option(
        5, "Levels of the pyramid: 3 = P3-P5, 5 = P3-P7.", least=3, most=5)
    fpn_channels: int = option(
        256, "Channels of the pyramid and the heads, a multiple of 32.", least=32)
    fpn_upsampling: str = option(
        "nearest", "How the pyramid enlarges maps on its way down.",
        choices=("nearest", "bilinear"))
    head_convs: int = option(4, "Convolutions in each tower of the head.", least=0)
    head_norm: str = option(
        "group", "Normalisation after each of them.", choices=("group", "none"))
    centerness_on: str = option(
        "box", "The tower that carries centerness.", choices=("box", "class"))
    quality: str = option(
        "centerness", "What the third output learns: centerness, or the box's IoU.",
        choices=("centerness", "iou"))
    rules: str = option(
        "fcos_tf", "The conventions in which published implementations differ (where points lie, "
        "ties, what the score threshold is for ...) by the name of one of them.",
        choices=("fcos_tf", "official", "official_improved", "adelaidet", "torchvision",
                 "detectron2"))
    assigner: str = option("fcos", "Which point learns which box.", choices=("fcos",))
    box_loss: str = option("giou", "Box loss.", choices=("giou", "iou", "l1"))
    box_loss_weight: float = option(1.0, "Factor of the box loss in the total.", above=0)
    center_sampling_radius: float = option(
        1.5, "In strides: only points this near a box's centre learn it; 0 = all inside.", least=0,
        means={0: None})

    def __post_init__(self):
        super().__post_init__()
        if self.fpn_channels % 32:
            # The heads' GroupNorm has 32 groups.
            raise ValueError(f"--fpn_channels: expected a multiple of 32, got {self.fpn_channels}")


@dataclasses.dataclass(frozen=True)
class DetectionOptions(Options):
    """What a model makes of its predictions."""

    title = "Detections"

    score_threshold: float = option(
        0.05, "Least class probability of a detection; with the --rules of torchvision and "
        "detectron2 least score.", least=0, most=1,
        also=("conf", "conf_thres", "confidence", "score_thresh", "score_thr", "threshold"))
    nms_threshold: float = option(
        0.6, "IoU above which the weaker of two boxes of a class goes.", least=0, most=1,
        also=("iou", "iou_thres", "nms_thresh", "nms"))
    topk_per_level: int = option(
        1000, "Candidates of each pyramid level that reach NMS.", least=1,
        also=("topk", "pre_nms_topk", "topk_candidates"))
    max_detections: int = option(
        100, "Most detections per image.", least=1, also=("max_det", "detections_per_image"))


@dataclasses.dataclass(frozen=True)
class EvaluationOptions(Options):
    """What detections are scored on, and how."""

    title = "Evaluation"

    val_split: str = option("val", "Split to evaluate on.", also=("split",))
    metrics: tuple[str, ...] = option(
        ("coco",), "coco (the twelve numbers), voc07 and voc12 (mAP at IoU .5, by 11 points and by "
        "all).", choices=("coco", "voc07", "voc12"), harmless=True)
    tta: tuple[str, ...] = option(
        (), "Detect on further views of each image and merge: flip, and image sizes such as "
        "640x640.", harmless=True)


@dataclasses.dataclass(frozen=True)
class TrainingOptions(Options):
    """A step of training, and how its size changes over a run."""

    title = "Training"

    accumulation_steps: int = option(
        1, "In how many parts each device's share of a batch goes through the network: less "
        "memory, the same step (but for batch norms that learn, which see a part at a time).",
        least=1, harmless=True, also=("accumulate", "gradient_accumulation_steps", "accum_iter"))
    optimizer: str = option("sgd", "The optimizer.", choices=("sgd", "adamw"), also=("opt",))
    learning_rate: float = option(
        0.01, "Learning rate after warm-up.", above=0, also=("lr", "lr0", "base_lr"))
    base_batch_size: int = option(
        0, "The batch size that --learning_rate is for: at another --batch_size the rate is in "
        "proportion; 0 = for the one given.", least=0, means={0: None})
    bias_lr_factor: float = option(
        1.0, "Factor on the learning rate of biases and of the offsets of norms; 2 in the code of "
        "the paper's authors.", above=0)
    momentum: float = option(0.9, "Momentum of SGD.", least=0, most=1)
    weight_decay: float = option(
        1e-4, "Of all but biases and norms: with sgd the L2 term in the gradient, with adamw the "
        "decay beside it.", least=0, also=("wd",))
    warmup_steps: int = option(
        1000, "Steps of linear warm-up; 0 = none.", least=0, also=("warmup", "warmup_iters"))
    warmup_factor: float = option(
        0.001, "Share of the learning rate at the first step of warm-up.", least=0, most=1)
    schedule: str = option(
        "step", "Learning rate after warm-up.", choices=("step", "cosine", "constant"),
        also=("scheduler", "lr_scheduler", "lr_schedule", "cos_lr"))
    decay_steps: tuple[int, ...] = option(
        (), "With --schedule=step: the steps from which the learning rate is multiplied by "
        "--decay_factor; empty = at 2/3 and 8/9 of the run.",
        also=("milestones", "lr_steps", "lr_step_size"))
    decay_factor: float = option(
        0.1, "See --decay_steps.", above=0, most=1, also=("gamma", "lr_gamma"))
    clip_norm: float = option(
        10.0, "Longest gradient, over all variables together; 0 = any length.", least=0,
        means={0: None}, also=("grad_clip", "clip_grad", "clip_grad_norm", "max_norm"))
    ema_momentum: float = option(
        0.0, "Moving average of the weights, which is what is evaluated and exported, such as "
        "0.999; 0 = none.", least=0, most=1, also=("ema", "model_ema_decay"))
    precision: str = option(
        "float32", "Losses, targets and decoding are float32 in all of them.",
        choices=("float32", "mixed_bfloat16", "mixed_float16"),
        also=("amp", "fp16", "bf16", "half", "dtype"))
    jit_compile: str = option(
        "auto", "Compile the step with XLA; auto = on GPUs, with a fixed canvas.",
        choices=("auto", "true", "false"), means=_AUTO_OR_BOOL, harmless=True,
        also=("xla", "compile"))
    max_bad_steps: int = option(
        0, "Leave out up to so many steps whose loss or gradient is not finite, counted from each "
        "start of the tool; one more stops.", least=0, harmless=True)

    def __post_init__(self):
        super().__post_init__()
        if self.ema_momentum == 1:
            raise ValueError("--ema_momentum: expected a number below 1, got 1")
        steps = list(self.decay_steps)
        if steps and self.schedule != "step":
            raise ValueError(
                "--decay_steps: expected with --schedule=step only, "
                f"got --schedule={self.schedule}")
        if steps != sorted(set(steps)) or min(steps, default=1) < 1:
            raise ValueError(
                f"--decay_steps: expected increasing steps >= 1, got {','.join(map(str, steps))}")


@dataclasses.dataclass(frozen=True)
class DeviceOptions(Options):
    """The devices that share the work."""

    title = "Devices"

    strategy: str = option(
        "auto", "One device, all GPUs of this machine, those of all hosts in the environment "
        "variable TF_CONFIG, or a TPU; auto = multi_worker where TF_CONFIG names several hosts, "
        "mirrored where there are several GPUs, else one device.", harmless=True,
        choices=("auto", "one_device", "mirrored", "multi_worker", "tpu"),
        also=("device", "devices", "gpu", "gpus", "num_gpus", "distributed"))
    tpu: str = option(
        "", "With --strategy=tpu: the name of the TPU; local = of this machine.", harmless=True)


def _has_fixed_rates(config) -> bool:
    """Whether learning rates do not depend on the length of the run."""
    return config.schedule == "constant" or bool(config.decay_steps)


@dataclasses.dataclass(frozen=True)
class RunOptions(Options):
    """Where a run is kept, how long it is and how it is watched."""

    title = "Run"

    model_dir: str = option(
        "", "Folder of the run; running again there resumes.", harmless=True, per_host=True,
        also=(*OUTPUT_WORDS, "log_dir", "logdir", "resume"))
    epochs: float = option(
        0.0, "Passes over the training split; 0 = --steps says how long.", least=0,
        harmless=_has_fixed_rates, also=("max_epochs", "num_epochs"))
    steps: int = option(
        0, "Updates; 0 = --epochs says how long.", least=0, harmless=_has_fixed_rates,
        also=("max_iter", "iterations", "iters", "max_steps", "num_steps"))
    eval_every: int = option(
        0, "Steps between two evaluations; 0 = one epoch. The last step has one always.", least=0,
        harmless=True, also=("eval_period", "eval_interval", "val_interval"))
    best_metric: str = option(
        "auto", "The model with the best of this is kept as best.keras: AP, AP50 ..., mAP_voc07; "
        "auto = the first number of --metrics.", means=_AUTO, harmless=True,
        also=("monitor",))
    checkpoint_every: int = option(
        1000, "Steps between two checkpoints; steps with an evaluation have one always.", least=1,
        harmless=True, also=("save_period", "save_every", "checkpoint_period"))
    keep_checkpoints: int = option(
        3, "How many of the newest checkpoints stay.", least=1, harmless=True)
    log_every: int = option(
        20, "Steps between two lines of metrics.jsonl; steps with an evaluation have one always.",
        least=1, harmless=True, also=("print_freq", "log_interval", "log_period"))
    allow_config_change: bool = option(
        False, "Resume although flags that change what is learnt are not those that the run began "
        "with.", harmless=True)
    seed: int = option(
        0, "Of the weights and the order of the images.", least=0, also=("random_seed",))

    def __post_init__(self):
        super().__post_init__()
        if self.epochs and self.steps:
            raise ValueError(
                "--epochs and --steps: expected one of them and the other 0, "
                f"got --epochs={self.epochs:g} and --steps={self.steps}")
# fmt: on


@dataclasses.dataclass(frozen=True)
class Config(
    DataOptions,
    InputOptions,
    AugmentationOptions,
    StartOptions,
    ModelOptions,
    DetectionOptions,
    EvaluationOptions,
    TrainingOptions,
    DeviceOptions,
    RunOptions,
):
    """The options of one run; immutable and checked when made.

    Raises:
        ValueError: For a value out of its range, naming the flag, what was expected and what came.

    Example:
        >>> Config(backbone="resnet18", steps=600).batch_size
        16
    """

    def __post_init__(self):
        super().__post_init__()
        if self.batch_size % self.accumulation_steps:
            raise ValueError(
                f"--accumulation_steps: expected a divisor of --batch_size={self.batch_size}, "
                f"got {self.accumulation_steps}"
            )
