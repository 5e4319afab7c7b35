"""Metrics as text."""

from fcos_tf.evaluation import format_per_class, format_table, metric_names


def test_the_layout_of_pycocotools():
    metrics = dict.fromkeys(metric_names(("coco",)), 0.25) | {"AP75": -1.0, "step": 7}
    lines = format_table(metrics).splitlines()
    assert len(lines) == 12
    assert lines[0] == (
        " Average Precision  (AP) @[ IoU=0.50:0.95 | area=   all | maxDets=100 ] = 0.250"
    )
    assert lines[2] == (
        " Average Precision  (AP) @[ IoU=0.75      | area=   all | maxDets=100 ] = -1.000"
    )
    assert lines[6] == (
        " Average Recall     (AR) @[ IoU=0.50:0.95 | area=   all | maxDets=  1 ] = 0.250"
    )


def test_voc_alone():
    assert format_table({"mAP_voc12": 0.5, "mAP_voc07": 0.75}).splitlines() == [
        " Average Precision (mAP) @[ IoU=0.50      | 11 points, VOC 2007       ] = 0.750",
        " Average Precision (mAP) @[ IoU=0.50      | all points, VOC 2012      ] = 0.500",
    ]


def test_classes():
    table = format_per_class(
        {
            "cat": {"AP": 0.5, "num_ground_truths": 12, "AP_voc07": 1.0},
            "horse": {"AP": -1.0, "num_ground_truths": 0, "AP_voc07": -1.0},
        }
    )
    assert table.splitlines() == [
        "class           AP   AP_voc07    objects",
        "cat          0.500      1.000         12",
        "horse            -          -          0",
    ]
