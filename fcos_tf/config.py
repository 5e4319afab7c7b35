"""Every option of the command-line tools: its name, default, help and check.

The tools make their flags from these fields and `build.py` hands the values on, so a flag, a line
of a config file and a field have one name; where an option is an argument of a class or function
in the package, that is its name there too.
"""

import dataclasses
import math
import re
from typing import Any

SECTIONS = ("Data", "Model", "Detections", "Evaluation", "Training", "Run")
AUTO = "auto"
_IMAGE_SIZE = r"[1-9]\d*([xX]|(-[1-9]\d*)?,)[1-9]\d*"


def _option(
    default: Any,
    section: str,
    text: str,
    *,
    choices: tuple[str, ...] = (),
    least: float | None = None,
    most: float | None = None,
    above: float | None = None,
) -> Any:
    metadata = {
        "section": section,
        "help": text,
        "choices": choices,
        "least": least,
        "most": most,
        "above": above,
    }
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class Config:
    """The options of one run; immutable and checked when made.

    Raises:
        ValueError: For a value out of its range, naming the flag, what was expected and what came.

    Example:
        >>> Config(backbone="resnet18", steps=600).batch_size
        16
    """

    # Data
    dataset: str = _option(
        "digits", "Data",
        "digits (made on the fly, nothing to download), coco, voc, or tfds:NAME (prepared by TFDS, "
        "such as tfds:voc/2007).",
    )  # fmt: skip
    data_dir: str = _option(
        "", "Data", "Folder of the data set, for voc also several with commas; digits needs none."
    )
    annotations: str = _option(
        "", "Data",
        "With --dataset=coco: the JSON file, {split} in it standing for the split; "
        "empty = DATA_DIR/annotations/instances_SPLIT.json.",
    )  # fmt: skip
    images: str = _option(
        "", "Data", "With --dataset=coco: the folder of images, likewise; empty = DATA_DIR/SPLIT."
    )
    train_split: str = _option("train", "Data", "Split to train on.")
    val_split: str = _option("val", "Data", "Split to evaluate on.")
    classes: tuple[str, ...] = _option(
        (), "Data",
        "Names of the classes in the order of their labels; objects of others are left out; "
        "empty = all of the data set.",
    )  # fmt: skip
    num_classes: int = _option(
        0, "Data", "Number of classes; 0 = from the data set. Another number than it has stops.",
        least=0,
    )  # fmt: skip
    image_size: str = _option(
        "512x512", "Data",
        "512x512: height and width of a fixed canvas; 800,1333: short side, and at most the long "
        "side; 640-800,1333: the short side drawn for every training image. The aspect ratio is "
        "kept, the rest padded.",
    )  # fmt: skip
    orientation_buckets: bool = _option(
        False, "Data",
        "With an --image_size like 800,1333: batches of one orientation on one of two static "
        "canvases (800x1344, 1344x800).",
    )  # fmt: skip
    horizontal_flip: bool = _option(
        True, "Data", "Mirror half of the training images, where the data set allows it."
    )
    augment: tuple[str, ...] = _option(
        (), "Data", "What else is done to training images.",
        choices=("color_jitter", "rand_augment", "mosaic", "scale_jitter"),
    )  # fmt: skip
    scale_jitter: tuple[float, ...] = _option(
        (0.1, 2.0), "Data",
        "With --augment=scale_jitter: the least and the largest factor on the size that fits the "
        "canvas; what is larger is cropped to it.",
    )  # fmt: skip
    include_difficult: bool = _option(False, "Data", "Learn VOC's difficult objects like others.")
    skip_empty: bool = _option(False, "Data", "Train without the images that have no boxes.")
    cache: bool = _option(
        False, "Data", "Keep the resized training images in memory (height x width x 3 bytes each)."
    )
    max_faults: int = _option(
        100,
        "Data",
        "Stop if more annotations than this are faulty and have to be dropped.",
        least=0,
    )
    max_bad_images: int = _option(
        10, "Data", "Stop after this many images that cannot be read; those before are skipped.",
        least=0,
    )  # fmt: skip
    overfit: int = _option(
        0, "Data",
        "Train on the first N images of the training split, unflipped, and evaluate on these same "
        "images; 0 = off. All else stays as the flags say.",
        least=0,
    )  # fmt: skip

    # Model
    model: str = _option("fcos", "Model", "The detector.", choices=("fcos",))
    initial_weights: str = _option(
        "", "Model",
        "A .keras file of a detector to start from, trained or converted. Its own settings count "
        "in place of those of this section and the next; where the data set has other classes, "
        "its class logits start anew. Empty = none.",
    )  # fmt: skip
    backbone: str = _option(
        "resnet50", "Model",
        "resnet18, resnet34, resnet50, resnet101, resnext50_32x4d, resnext101_32x8d, "
        "resnext101_64x4d, regnetx_400mf and others of that family, mobilenet_v2, simple_cnn, or "
        "keras_cv/PRESET, such as keras_cv/efficientnetv2_b0_imagenet.",
    )  # fmt: skip
    backbone_weights: str = _option(
        "", "Model",
        "Empty = random; imagenet = what Keras distributes, downloaded; or a .keras file, such as "
        "tools/convert.py makes.",
    )  # fmt: skip
    backbone_norm: str = _option(
        AUTO, "Model",
        "Batch norm of the backbone: trained per device, frozen, or synchronised over devices; "
        "auto = frozen with backbone weights, else batch.",
        choices=(AUTO, "batch", "frozen", "sync"),
    )  # fmt: skip
    frozen_stages: int = _option(
        -1, "Model",
        "Parts of the backbone that do not learn: 1 = stem, 2 = stem and first stage ...; "
        "-1 = 2 with backbone weights, else 0.",
        least=-1, most=5,
    )  # fmt: skip
    stride_in_3x3: str = _option(
        AUTO, "Model",
        "Whether a bottleneck halves the map in its 3x3 or in its first 1x1 convolution; "
        "auto = as the backbone weights need it.",
        choices=(AUTO, "true", "false"),
    )  # fmt: skip
    channel_order: str = _option(
        AUTO, "Model", "What the backbone sees; auto = as the backbone weights need it.",
        choices=(AUTO, "rgb", "bgr"),
    )  # fmt: skip
    fpn_levels: int = _option(
        5, "Model", "Levels of the pyramid: 3 = P3-P5, 5 = P3-P7.", least=3, most=5
    )
    fpn_channels: int = _option(
        256, "Model", "Channels of the pyramid and the heads, a multiple of 32.", least=32
    )
    fpn_upsampling: str = _option(
        "nearest", "Model", "How the pyramid enlarges maps on its way down.",
        choices=("nearest", "bilinear"),
    )  # fmt: skip
    head_convs: int = _option(4, "Model", "Convolutions in each tower of the head.", least=0)
    head_norm: str = _option(
        "group", "Model", "Normalisation after each of them.", choices=("group", "none")
    )
    centerness_on: str = _option(
        "box", "Model", "The tower that carries centerness.", choices=("box", "class")
    )
    quality: str = _option(
        "centerness", "Model", "What the third output learns: centerness, or the box's IoU.",
        choices=("centerness", "iou"),
    )  # fmt: skip
    rules: str = _option(
        "fcos_tf", "Model",
        "The conventions in which published implementations differ (where points lie, ties, what "
        "the score threshold is for ...) by the name of one of them.",
        choices=(
            "fcos_tf", "official", "official_improved", "adelaidet", "torchvision", "detectron2"
        ),
    )  # fmt: skip
    box_loss: str = _option("giou", "Model", "Box loss.", choices=("giou", "iou", "l1"))
    box_loss_weight: float = _option(1.0, "Model", "Factor of the box loss in the total.", above=0)
    center_sampling_radius: float = _option(
        1.5, "Model", "In strides: only points this near a box's centre learn it; 0 = all inside.",
        least=0,
    )  # fmt: skip

    # Detections
    score_threshold: float = _option(
        0.05, "Detections",
        "Least class probability of a detection; with the --rules of torchvision and detectron2 "
        "least score.",
        least=0, most=1,
    )  # fmt: skip
    nms_threshold: float = _option(
        0.6, "Detections", "IoU above which the weaker of two boxes of a class goes.",
        least=0, most=1,
    )  # fmt: skip
    topk_per_level: int = _option(
        1000, "Detections", "Candidates of each pyramid level that reach NMS.", least=1
    )
    max_detections: int = _option(100, "Detections", "Most detections per image.", least=1)

    # Evaluation
    metrics: tuple[str, ...] = _option(
        ("coco",), "Evaluation",
        "coco (the twelve numbers), voc07 and voc12 (mAP at IoU .5, by 11 points and by all).",
        choices=("coco", "voc07", "voc12"),
    )  # fmt: skip
    best_metric: str = _option(
        AUTO, "Evaluation",
        "The model with the highest of this is kept as best.keras: AP, AP50 ..., mAP_voc07; "
        "auto = the first number of --metrics.",
    )  # fmt: skip
    tta: tuple[str, ...] = _option(
        (), "Evaluation",
        "evaluate.py: detect on further views of each image and merge: flip, and image sizes such "
        "as 640x640.",
    )  # fmt: skip

    # Training
    batch_size: int = _option(16, "Training", "Images per step over all devices.", least=1)
    epochs: float = _option(
        0.0, "Training", "Passes over the training split; 0 = --steps says how long.", least=0
    )
    steps: int = _option(0, "Training", "Updates; 0 = --epochs says how long.", least=0)
    accumulation_steps: int = _option(
        1, "Training",
        "In how many parts each device's share of a batch goes through the network: less memory, "
        "the same step (but for batch norms that learn, which see a part at a time).",
        least=1,
    )  # fmt: skip
    optimizer: str = _option("sgd", "Training", "The optimizer.", choices=("sgd", "adamw"))
    learning_rate: float = _option(0.01, "Training", "Learning rate after warm-up.", above=0)
    base_batch_size: int = _option(
        0, "Training",
        "The batch size that --learning_rate is for: at another --batch_size the rate is in "
        "proportion; 0 = for the one given.",
        least=0,
    )  # fmt: skip
    bias_lr_factor: float = _option(
        1.0, "Training",
        "Factor on the learning rate of biases and of the offsets of norms; 2 in the code of the "
        "paper's authors.",
        above=0,
    )  # fmt: skip
    momentum: float = _option(0.9, "Training", "Momentum of SGD.", least=0, most=1)
    weight_decay: float = _option(
        1e-4, "Training",
        "Of all but biases and norms: with sgd the L2 term in the gradient, with adamw the decay "
        "beside it.",
        least=0,
    )  # fmt: skip
    warmup_steps: int = _option(1000, "Training", "Steps of linear warm-up; 0 = none.", least=0)
    warmup_factor: float = _option(
        0.001, "Training", "Share of the learning rate at the first step of warm-up.",
        least=0, most=1,
    )  # fmt: skip
    schedule: str = _option(
        "step", "Training", "Learning rate after warm-up.", choices=("step", "cosine", "constant")
    )
    decay_steps: tuple[int, ...] = _option(
        (), "Training",
        "With --schedule=step: the steps from which the learning rate is multiplied by "
        "--decay_factor; empty = at 2/3 and 8/9 of the run.",
    )  # fmt: skip
    decay_factor: float = _option(0.1, "Training", "See --decay_steps.", above=0, most=1)
    clip_norm: float = _option(
        10.0, "Training", "Longest gradient, over all variables together; 0 = any length.", least=0
    )
    ema_momentum: float = _option(
        0.0, "Training",
        "Moving average of the weights, which is what is evaluated and exported, such as 0.999; "
        "0 = none.",
        least=0, most=1,
    )  # fmt: skip
    precision: str = _option(
        "float32", "Training", "Losses, targets and decoding are float32 in all of them.",
        choices=("float32", "mixed_bfloat16", "mixed_float16"),
    )  # fmt: skip
    max_bad_steps: int = _option(
        0, "Training",
        "Leave out up to so many steps whose loss or gradient is not finite, counted from each "
        "start of the tool; one more stops.",
        least=0,
    )  # fmt: skip
    strategy: str = _option(
        AUTO, "Training",
        "Devices: one, all GPUs of this machine, those of all hosts in the environment variable "
        "TF_CONFIG, or a TPU; auto = multi_worker where TF_CONFIG names several hosts, mirrored "
        "where there are several GPUs, else one device.",
        choices=(AUTO, "one_device", "mirrored", "multi_worker", "tpu"),
    )  # fmt: skip
    tpu: str = _option(
        "", "Training", "With --strategy=tpu: the name of the TPU; local = of this machine."
    )
    jit_compile: str = _option(
        AUTO, "Training", "Compile the step with XLA; auto = on GPUs, with a fixed canvas.",
        choices=(AUTO, "true", "false"),
    )  # fmt: skip

    # Run
    model_dir: str = _option("", "Run", "Folder of the run; running again there resumes.")
    allow_config_change: bool = _option(
        False, "Run",
        "Resume although flags that change what is learnt are not those that the run began with.",
    )  # fmt: skip
    checkpoint_every: int = _option(
        1000, "Run",
        "Steps between two checkpoints; steps with an evaluation have one always.", least=1,
    )  # fmt: skip
    keep_checkpoints: int = _option(3, "Run", "How many of the newest checkpoints stay.", least=1)
    log_every: int = _option(
        20, "Run", "Steps between two lines of metrics.jsonl; steps with an evaluation have one "
        "always.", least=1,
    )  # fmt: skip
    eval_every: int = _option(
        0, "Run", "Steps between two evaluations; 0 = one epoch. The last step has one always.",
        least=0,
    )  # fmt: skip
    seed: int = _option(0, "Run", "Of the weights and the order of the images.", least=0)

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            _check_type(field, value)
            _check_range(field, value)
        if not re.fullmatch(_IMAGE_SIZE, self.image_size):
            raise ValueError(
                "--image_size: expected a canvas like 512x512 (height x width) or sides like "
                f"800,1333 or 640-800,1333 (short, long), got {self.image_size!r}"
            )
        if self.orientation_buckets and "," not in self.image_size:
            raise ValueError(
                "--orientation_buckets: expected with an --image_size like 800,1333, "
                f"got --image_size={self.image_size}"
            )
        if len(self.scale_jitter) != 2 or not 0 < self.scale_jitter[0] <= self.scale_jitter[1]:
            raise ValueError(
                "--scale_jitter: expected two increasing factors above 0 such as 0.1,2.0, "
                f"got {','.join(map(str, self.scale_jitter))}"
            )
        if self.batch_size % self.accumulation_steps:
            raise ValueError(
                f"--accumulation_steps: expected a divisor of --batch_size={self.batch_size}, "
                f"got {self.accumulation_steps}"
            )
        if self.ema_momentum == 1:
            raise ValueError("--ema_momentum: expected a number below 1, got 1")
        if self.epochs and self.steps:
            raise ValueError(
                "--epochs and --steps: expected one of them and the other 0, "
                f"got --epochs={self.epochs:g} and --steps={self.steps}"
            )
        if self.decay_steps and self.schedule != "step":
            raise ValueError(
                f"--decay_steps: expected with --schedule=step only, got --schedule={self.schedule}"
            )
        if (
            list(self.decay_steps) != sorted(set(self.decay_steps))
            or min(self.decay_steps, default=1) < 1
        ):
            raise ValueError(
                "--decay_steps: expected increasing steps >= 1, "
                f"got {','.join(map(str, self.decay_steps))}"
            )
        if self.fpn_channels % 32:
            # The heads' GroupNorm has 32 groups.
            raise ValueError(f"--fpn_channels: expected a multiple of 32, got {self.fpn_channels}")
        if len(set(self.classes)) != len(self.classes):
            raise ValueError(f"--classes: expected different names, got {','.join(self.classes)}")


def item_type(field: dataclasses.Field) -> type:
    """The type of an option's value, or of the items of its list: bool, int, float or str."""
    if isinstance(field.default, tuple):
        return {"int": int, "float": float, "str": str}[
            re.match(r"tuple\[(\w+)", str(field.type))[1]
        ]
    return type(field.default)


def to_flags(config: Config) -> str:
    """A config file that holds every option of a run, one `--name=value` per line, by section."""
    lines = []
    for section in SECTIONS:
        lines += ["", f"# {section}"]
        for field in dataclasses.fields(config):
            if field.metadata["section"] == section:
                lines.append(f"--{field.name}={flag_value(getattr(config, field.name))}")
    return "\n".join(lines[1:]) + "\n"


def flag_value(value: Any) -> str:
    """A value as a config file spells it: true / false, and lists with commas."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return str(value)


def _check_type(field: dataclasses.Field, value: Any) -> None:
    expected = item_type(field)
    is_list = isinstance(field.default, tuple)
    if is_list and not isinstance(value, tuple):
        raise ValueError(f"--{field.name}: expected a tuple of {expected.__name__}, got {value!r}")
    for item in value if is_list else (value,):
        # A whole number is a fine float; a bool is not a fine number.
        if type(item) is expected or (expected is float and type(item) is int):
            if expected is float and not math.isfinite(item):
                raise ValueError(f"--{field.name}: expected a finite number, got {item}")
            continue
        raise ValueError(f"--{field.name}: expected {expected.__name__}, got {item!r}")


def _check_range(field: dataclasses.Field, value: Any) -> None:
    limits = field.metadata
    is_list = isinstance(value, tuple)
    for item in value if is_list else (value,):
        if limits["choices"] and item not in limits["choices"]:
            raise ValueError(
                f"--{field.name}: expected {'some' if is_list else 'one'} of "
                f"{', '.join(limits['choices'])}, got {item!r}"
            )
    words = []
    if limits["above"] is not None:
        words.append(f"above {limits['above']:g}")
    if limits["least"] is not None:
        words.append(f"at least {limits['least']:g}")
    if limits["most"] is not None:
        words.append(f"at most {limits['most']:g}")
    inside = (
        (limits["above"] is None or value > limits["above"])
        and (limits["least"] is None or value >= limits["least"])
        and (limits["most"] is None or value <= limits["most"])
    )
    if words and not inside:
        raise ValueError(f"--{field.name}: expected a number {' and '.join(words)}, got {value}")
