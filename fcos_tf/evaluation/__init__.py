"""Average precision from plain records, and evaluation of a model over a data set."""

from fcos_tf.evaluation.coco import (
    CocoResult,
    coco_evaluation,
    coco_metrics,
    format_per_class,
    format_table,
)
from fcos_tf.evaluation.evaluate import (
    Records,
    compile_detect,
    evaluate,
    run_detector,
    score_records,
)
from fcos_tf.evaluation.records import detections_to_records, ground_truth_to_coco

__all__ = [
    "CocoResult",
    "Records",
    "coco_evaluation",
    "coco_metrics",
    "compile_detect",
    "detections_to_records",
    "evaluate",
    "format_per_class",
    "format_table",
    "ground_truth_to_coco",
    "run_detector",
    "score_records",
]
