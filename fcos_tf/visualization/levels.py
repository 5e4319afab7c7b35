"""What the points of each level learn and predict, drawn over one image.

The image is shown as the model sees it, with its padding.

Shape shorthand: an image of H x W pixels, N points over all levels, n of a level, M boxes.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from keras import ops
from PIL import Image

from fcos_tf.models.best_f1 import resolve_word
from fcos_tf.ops.boxes import pairwise_iou
from fcos_tf.ops.points import centerness, encode_ltrb
from fcos_tf.visualization.detections import (
    class_colour,
    class_name,
    draw_boxes,
    select_detections,
)
from fcos_tf.visualization.panels import (
    Level,
    boxes_panel,
    dim_image,
    draw_arrows,
    draw_dots,
    factor_of,
    heat_panel,
    make_sheet,
    scale_image,
)

MOST_BOXES = 100  # of a level; more hide each other
MATCHED = 0.5  # least IoU of a box that is found


def find_levels(model: Any, image_size: tuple[int, int]) -> list[Level]:
    """The levels of a model, finest first.

    Args:
        model: a detector with points.
        image_size: (height, width) of the padded image.

    Raises:
        ValueError: the model has no points; names it.
    """
    placed = model.points(image_size) if hasattr(model, "points") else None
    if placed is None:
        raise ValueError(
            f"{type(model).__name__} has no points to draw; expected a model with points, such as "
            "FCOS"
        )
    points, strides = map(ops.convert_to_numpy, placed)
    starts = [*np.flatnonzero(np.diff(strides, prepend=0)), len(strides)]
    parts = [slice(start, stop) for start, stop in itertools.pairwise(starts)]
    return [Level(float(strides[part.start]), points[part], part) for part in parts]


def draw_points(model: Any, image: Any, targets: Mapping[str, Any]) -> Image.Image:
    """Draws the points of each level, and the boxes to compare them with.

    Args:
        model: a detector with points.
        image: [H, W, 3] RGB 0-255, padded.
        targets: `boxes` [M, 4] xyxy pixels of `image` and `labels` [M] with -1 as padding.

    Raises:
        ValueError: the model has no points.
    """
    boxes, labels = _objects(targets)
    panels = []
    for level in find_levels(model, image.shape[:2]):
        pixels, scale = boxes_panel(image, boxes, labels, text_size=0), factor_of(image)
        draw_dots(pixels, level.points, 255, scale, stride=level.stride)
        panels.append((pixels, f"stride {level.stride:g}: {len(level.points)} points"))
    return make_sheet([panels[start : start + 3] for start in range(0, len(panels), 3)])


def draw_targets(
    model: Any,
    image: Any,
    targets: Mapping[str, Any],
    class_names: Sequence[str] | None = None,
) -> Image.Image:
    """Draws which box each point learns, in the box's colour, and the centerness.

    Arrows show the distances l, t, r and b, in strides, of one point of the two largest boxes of a
    level. Levels whose points learn no box are named only.

    Args:
        model: a detector with points, of any assigner.
        image: see `draw_points`, also for `targets`.
        targets: likewise.
        class_names: name of each label; None writes the label.

    Raises:
        ValueError: the model has no points.
    """
    boxes, labels = _objects(targets)
    levels = find_levels(model, image.shape[:2])
    owners = _owners(model, image, targets)  # [N]
    lost = ~np.isin(np.arange(len(boxes)), owners)
    names = [
        f"{class_name(label, class_names)}{': no point' if alone else ''}"
        for label, alone in zip(labels, lost, strict=True)
    ]
    pixels = boxes_panel(image, boxes, np.arange(len(boxes)), class_names=names)
    idle = [f"{level.stride:g}" for level in levels if (owners[level.rows] < 0).all()]
    note = f"no box learnt at stride {', '.join(idle)}" if idle else "boxes learnt at every stride"
    plain, scale = scale_image(image), factor_of(image)
    rows = [[(pixels, f"{len(boxes)} boxes, {lost.sum()} without a point; {note}")]]
    for level in levels:
        owner = owners[level.rows]
        used = owner >= 0
        if not used.any():
            continue
        distances = np.zeros([len(owner), 4], np.float32)
        strides = np.full(used.sum(), level.stride, np.float32)
        distances[used] = encode_ltrb(level.points[used], strides, boxes[owner[used]])
        quality = ops.convert_to_numpy(centerness(distances))
        learnt = np.unique(owner[used])
        dim = dim_image(plain)
        draw_dots(dim, level.points[~used], 130, scale, stride=0)
        dim = draw_boxes(dim, boxes[learnt] * scale, learnt, line_width=1, text_size=0)
        colours = [class_colour(index) for index in owner[used]]
        draw_dots(dim, level.points[used], colours, scale, stride=level.stride)
        for index in sorted(learnt, key=lambda i: -np.prod(boxes[i, 2:] - boxes[i, :2]))[:2]:
            own = np.flatnonzero(owner == index)
            point = own[np.argmin(quality[own])]  # not at the middle: four different distances
            dim = draw_arrows(dim, level.points[point], distances[point], level.stride, scale)
        count = f"stride {level.stride:g}: {used.sum()} of {len(owner)} points learn boxes"
        heat = heat_panel(plain, level, quality, scale, shown=used)
        rows.append(
            [
                (dim, f"{count}; l, t, r, b in strides"),
                (heat, f"stride {level.stride:g}: centerness, {quality[used].min():.2f} to "
                       f"{quality.max():.2f}"),
            ]
        )  # fmt: skip
    return make_sheet(rows, bar=True)


def draw_predictions(
    model: Any,
    image: Any,
    targets: Mapping[str, Any],
    class_names: Sequence[str] | None = None,
    *,
    score_threshold: float = 0.3,
) -> Image.Image:
    """Draws what each level predicts before NMS, under the truth and the detections.

    A box of the truth is missed without a detection of its class of IoU 0.5 or more. It is labelled
    with the best prediction of it before NMS, that of the highest score among those of such an IoU,
    or else that of the largest IoU: class score · quality, IoU. Without a quality in the model's
    `point_predictions`, neither label nor panel has one.

    Args:
        model: a detector with points.
        image: see `draw_points`.
        targets: likewise, with the model's labels, and optionally `image_sizes` [2], the (height,
            width) of the image without its padding.
        class_names: name of each label; None writes the label.
        score_threshold: least score of the boxes drawn.

    Raises:
        ValueError: the model has no points.
    """
    size = image.shape[:2]
    levels, (boxes, labels) = find_levels(model, size), _objects(targets)
    valid = np.float32(targets.get("image_sizes", size))[None]
    raw = model({"images": image[None], "image_sizes": valid}, training=False)
    own = model.score_threshold
    own = resolve_word(own, model.best_f1)[0] if isinstance(own, str) else own
    least = min(score_threshold, own)
    found = model.decode(raw, size, valid, score_threshold=np.float32([least]))
    found = select_detections(found, score_threshold)
    predicted = {
        name: ops.convert_to_numpy(value)[0]
        for name, value in model.point_predictions(raw, size).items()
    }
    kinds = ["class score", *(["quality"] if "quality" in predicted else [])]
    missed = _missed(boxes, labels, *found[:2])
    causes = [
        f"{class_name(labels[i], class_names)} {_best_prediction(predicted, boxes[i], labels[i])}"
        for i in missed
    ]
    limit = f"score ≥ {score_threshold:g}"
    truth = boxes_panel(image, boxes, labels, class_names=class_names)
    detected = boxes_panel(image, *found, class_names=class_names)
    rows = [
        [
            (truth, f"ground truth: {len(boxes)} boxes"),
            (detected, f"detections: {len(found[0])} of {limit}"),
            (boxes_panel(image, boxes[missed], labels[missed], texts=causes),
             f"{len(missed)} missed: {' · '.join(kinds)}, IoU before NMS"),
        ]
    ]  # fmt: skip
    plain, scale = scale_image(image), factor_of(image)
    for level in levels:
        part = {name: value[level.rows] for name, value in predicted.items()}
        best = part["scores"].max(-1)
        order = np.argsort(-best, kind="stable")
        over = order[best[order] >= score_threshold]
        kept = over[:MOST_BOXES]
        near = boxes_panel(
            image, part["boxes"][kept], part["scores"][kept].argmax(-1), best[kept],
            text_size=0, line_width=1,
        )  # fmt: skip
        count = f"best {len(kept)} of {len(over)}" if len(over) > len(kept) else len(over)
        stride = f"stride {level.stride:g}"
        shown = zip(kinds, (part["class_scores"].max(-1), part.get("quality")), strict=False)
        rows.append(
            [
                *((heat_panel(plain, level, values, scale),
                   f"{stride}: {kind}, highest {values.max():.2f}") for kind, values in shown),
                (near, f"{stride} before NMS: {count} of {limit}, highest {best.max():.2f}"),
            ]
        )  # fmt: skip
    return make_sheet(rows, bar=True)


def _objects(targets: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Boxes [M, 4] float32 and labels [M] without padding."""
    labels = np.asarray(targets["labels"])
    return np.asarray(targets["boxes"], np.float32)[labels >= 0], labels[labels >= 0]


def _owners(model: Any, image: Any, targets: Mapping[str, Any]) -> np.ndarray:
    """[N], the box of each point or -1; the model predicts for assigners that ask for it."""
    boxes, labels = _objects(targets)
    learnt, size = {"boxes": boxes[None], "labels": labels[None]}, image.shape[:2]
    assigned = model.assigned_boxes(learnt, size)
    if assigned is None:
        valid = np.float32(targets.get("image_sizes", size))[None]
        raw = model({"images": image[None], "image_sizes": valid}, training=False)
        assigned = model.assigned_boxes(learnt, size, raw)
    return ops.convert_to_numpy(assigned[0])[0]


def _missed(
    boxes: np.ndarray, labels: np.ndarray, found: np.ndarray, found_labels: np.ndarray
) -> np.ndarray:
    """The indices of the boxes that no box of their class covers."""
    same = labels[:, None] == found_labels
    overlaps = ops.convert_to_numpy(pairwise_iou(boxes, np.float32(found)))  # [M, D]
    return np.flatnonzero(~(same & (overlaps >= MATCHED)).any(axis=1))


def _best_prediction(predicted: Mapping[str, np.ndarray], box: np.ndarray, label: int) -> str:
    """The class score, quality and IoU of the best prediction of a box."""
    overlaps = ops.convert_to_numpy(pairwise_iou(box[None], predicted["boxes"]))[0]  # [N]
    scores = np.where(overlaps >= MATCHED, predicted["scores"][:, label], -1)
    best = scores.argmax() if scores.max() >= 0 else overlaps.argmax()
    text = f"{predicted['class_scores'][best, label]:.2f}"
    if "quality" in predicted:
        text += f" · {predicted['quality'][best]:.2f}"
    return f"{text}, {overlaps[best]:.2f}"
