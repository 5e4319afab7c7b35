"""Metrics as tables to print."""

from collections.abc import Mapping

from fcos_tf.evaluation.coco import COCO_DEFINITIONS
from fcos_tf.tensorflow_words import escaped

_TITLES = {"precision": "Average Precision  (AP)", "recall": "Average Recall     (AR)"}
_VOC_TITLES = {"mAP_voc07": "11 points, VOC 2007", "mAP_voc12": "all points, VOC 2012"}


def format_table(metrics: Mapping[str, float]) -> str:
    """Returns a line for each number of the metrics: COCO's familiar table, then VOC's means.

    Args:
        metrics: what `evaluate` returned; other names in it are left out, unless there are none
            but others, such as losses.
    """
    lines = []
    for name, (kind, iou, area, limit) in COCO_DEFINITIONS.items():
        iou_text = "0.50:0.95" if iou is None else f"{iou:.2f}"
        title = f" {_TITLES[kind]} @[ IoU={iou_text:<9} | area={area:>6} | maxDets={limit:>3} ]"
        lines.append((name, title))
    for name, points in _VOC_TITLES.items():
        lines.append((name, f" Average Precision (mAP) @[ IoU=0.50      | {points:<25} ]"))
    lines = [f"{title} = {metrics[name]:.3f}" for name, title in lines if name in metrics]
    others = (f" {name} = {value:.4g}" for name, value in metrics.items() if name != "step")
    return "\n".join(lines or others)


def format_per_class(per_class: Mapping[str, Mapping[str, float]]) -> str:
    """Returns a line for each class; `-` where there was no ground truth to measure on.

    Args:
        per_class: of a `Scores`; the last column is the number of objects.
    """
    columns = list(dict.fromkeys(name for row in per_class.values() for name in row))
    columns.remove("num_ground_truths")
    per_class = {escaped(name): row for name, row in per_class.items()}
    width = max(len(name) for name in ("class", *per_class))
    lines = [f"{'class':<{width}}  " + "".join(f"{name:>11}" for name in (*columns, "objects"))]
    for class_name, row in per_class.items():
        cells = ["-" if row[name] < 0 else f"{row[name]:.3f}" for name in columns]
        cells.append(str(row["num_ground_truths"]))
        lines.append(f"{class_name:<{width}}  " + "".join(f"{cell:>11}" for cell in cells))
    return "\n".join(lines)
