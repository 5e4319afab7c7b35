"""A float64 model computes in float64 from the image to loss, gradient and detections."""

import keras
import numpy as np
import pytest

from fcos_tf import FCOS, FasterRCNN, ImageClassifier
from fcos_tf.training.optimizers import SGD
from tests.models.test_faster_rcnn import SMALL as SMALL_RCNN
from tests.models.test_fcos import scene
from tests.models.test_train_step import fit

SMALL = {"backbone": "simple_cnn", "fpn_levels": 3, "fpn_channels": 32, "head_convs": 1}


def compiled(build, dtype, parts, options):
    keras.utils.set_random_seed(0)
    model = build(3, dtype=dtype, **options)
    optimizer = SGD(0.01, momentum=0.9, global_clipnorm=1.0)
    model.compile(optimizer=optimizer, run_eagerly=dtype == "float32")
    model.accumulation_steps = parts
    return model


@pytest.mark.parametrize(
    ("build", "parts", "options"),
    [
        (FCOS, 1, SMALL),
        (FCOS, 2, {**SMALL, "backbone_norm": "frozen", "rules": "official"}),
        (FCOS, 1, {**SMALL, "assigner": "tal", "quality": "joint"}),
        (FCOS, 1, {**SMALL, "assigner": "atss"}),
        (FasterRCNN, 1, {**SMALL_RCNN, "fpn_levels": 3, "rules": "torchvision_v2"}),
        (ImageClassifier, 1, {"backbone": "simple_cnn"}),
    ],
    ids=["fcos", "parts", "tal", "atss", "faster_rcnn", "classifier"],
)
def test_a_step_is_that_of_float32_but_for_rounding(build, parts, options):
    single, double = (compiled(build, dtype, parts, options) for dtype in ("float32", "float64"))
    double.set_weights(single.get_weights())
    images, targets = scene(batch=2, size=(64, 64))
    logs = [fit(model, (images, targets), steps=1) for model in (single, double)]
    for name, values in logs[0].items():
        np.testing.assert_allclose(logs[1][name], values, rtol=1e-4, err_msg=name)
    assert {w.dtype for w in double.weights} == {"float64"}
    outputs = double.predict_step(images)
    outputs = outputs if isinstance(outputs, dict) else {"probabilities": outputs}
    assert {"float64"} <= {x.dtype.name for x in outputs.values()} <= {"float64", "int32"}
