"""What a reader hands over: examples, and a split of them; and the checks that every reader runs.

M is the number of boxes of one example. Boxes are xyxy in pixels of the image on disk, with
continuous edges: width = x2 - x1.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import tensorflow as tf
from absl import logging

MAX_LOGGED = 10


@dataclass(frozen=True, eq=False)
class Example:
    """One image and what is known to be in it.

    Args:
        file: Path of the image; messages name it.
        image_id: The image's id in the data set's own numbering.
        boxes: float32 [M, 4], xyxy in pixels of the image on disk.
        labels: int32 [M], 0..C-1.
        height: Rows of the image on disk, None where the reader does not know.
        width: Columns of the image on disk, None where the reader does not know.
    """

    file: str
    image_id: int
    boxes: np.ndarray
    labels: np.ndarray
    height: int | None = None
    width: int | None = None


@dataclass(frozen=True, eq=False)
class Source:
    """One split as `pipeline.batches` takes it: how many images, and how to read one.

    Args:
        read: Graph function, int64 scalar index in [0, num_images) -> dict with `image` uint8
            [h, w, 3] RGB, `boxes` float32 [M, 4], `labels` int32 [M] and `image_id` int64.
        num_images: Images in the split.
        most_boxes: The largest M that `read` returns.
        class_names: Name of each label.
        category_ids: The data set's own id of each label.
        dropped: Every thing that was left out, named.
        can_flip: Whether a mirrored image is still a fair example (mirrored digits are not).
    """

    read: Callable[[tf.Tensor], dict[str, tf.Tensor]]
    num_images: int
    most_boxes: int
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    dropped: tuple[str, ...] = ()
    can_flip: bool = True


def clean_example(
    example: Example, numbers: Sequence[int] | None = None
) -> tuple[Example, list[str]]:
    """Drops boxes that no detector can learn and clips the others to the image.

    Dropped are boxes with a value that is not finite, without area (x2 <= x1 or y2 <= y1), or
    wholly outside the image. Clipping needs `height` and `width`; where they are None only the
    first two checks run.

    Args:
        example: What the reader read.
        numbers: The number of each box in its file, counted from 1, for the messages. Default:
            1..M.

    Returns:
        The cleaned example and one message for every box dropped.

    Raises:
        ValueError: Boxes or labels of the wrong shape.
    """
    boxes = np.asarray(example.boxes, np.float32)
    labels = np.asarray(example.labels, np.int32)
    if boxes.shape != (len(labels), 4) or labels.ndim != 1:
        raise ValueError(
            f"{example.file}: expected boxes [M, 4] and labels [M], "
            f"got {boxes.shape} and {labels.shape}"
        )
    clipped = boxes
    if example.width is not None and example.height is not None:
        limit = np.array([example.width, example.height] * 2, np.float32)
        clipped = np.clip(boxes, 0.0, limit)  # NaN stays NaN

    messages, keep = [], []
    for i, (before, after) in enumerate(zip(boxes, clipped, strict=True)):
        if not np.isfinite(before).all():
            reason = "is not finite"
        elif not _has_area(before):
            reason = "has no area"
        elif not _has_area(after):
            reason = f"lies outside the image of {example.width}x{example.height} pixels"
        else:
            keep.append(i)
            continue
        number = numbers[i] if numbers is not None else i + 1
        corners = ", ".join(f"{value:g}" for value in before)
        messages.append(f"{example.file}: box {number} ({corners}) {reason}")
    return replace(example, boxes=clipped[keep], labels=labels[keep]), messages


def limit_boxes(examples: Sequence[Example], max_boxes: int) -> tuple[list[Example], list[str]]:
    """Keeps the first `max_boxes` boxes of every example and names what that leaves out."""
    kept, messages = [], []
    for example in examples:
        surplus = len(example.labels) - max_boxes
        if surplus > 0:
            messages.append(
                f"{example.file}: the last {surplus} of {len(example.labels)} boxes "
                f"are over max_boxes={max_boxes}"
            )
            example = replace(
                example, boxes=example.boxes[:max_boxes], labels=example.labels[:max_boxes]
            )
        kept.append(example)
    return kept, messages


def log_left_out(what: str, messages: Sequence[str], level: int = logging.WARNING) -> None:
    """Logs once how many things were left out, and the first few by name.

    Args:
        what: The kind of thing, in the plural, for example "boxes of voc train".
        messages: One line for each thing; all of them are in `dataset.dropped`.
        level: absl log level.
    """
    if not messages:
        return
    lines = [f"left out {what}: {len(messages)}", *messages[:MAX_LOGGED]]
    if len(messages) > MAX_LOGGED:
        lines.append(f"... and {len(messages) - MAX_LOGGED} more, all in dataset.dropped")
    logging.log(level, "%s", "\n  ".join(lines))


def _has_area(box: np.ndarray) -> bool:
    return bool(box[2] > box[0] and box[3] > box[1])
