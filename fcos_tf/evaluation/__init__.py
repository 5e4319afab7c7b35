"""Average precision from plain records, and evaluation of a model over a data set."""

from fcos_tf.evaluation.analysis import analyse_records, best_f1_of
from fcos_tf.evaluation.classification import classification_evaluation, run_classifier
from fcos_tf.evaluation.coco import coco_evaluation, coco_metrics
from fcos_tf.evaluation.evaluate import (
    METRICS,
    evaluate,
    metric_names,
    run_detector,
    score_records,
)
from fcos_tf.evaluation.records import (
    Records,
    Scores,
    detections_to_records,
    ground_truth_to_coco,
)
from fcos_tf.evaluation.report import analyse
from fcos_tf.evaluation.tables import format_per_class, format_table
from fcos_tf.evaluation.voc import voc_evaluation, voc_metrics

__all__ = [
    "METRICS",
    "Records",
    "Scores",
    "analyse",
    "analyse_records",
    "best_f1_of",
    "classification_evaluation",
    "coco_evaluation",
    "coco_metrics",
    "detections_to_records",
    "evaluate",
    "format_per_class",
    "format_table",
    "ground_truth_to_coco",
    "metric_names",
    "run_classifier",
    "run_detector",
    "score_records",
    "voc_evaluation",
    "voc_metrics",
]
