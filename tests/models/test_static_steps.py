"""What a TPU runs: steps that XLA compiles with static shapes, and that never ask the host.

XLA compiles them for the CPU here; the text of what comes out names every shape and operation.
"""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from fcos_tf import FCOS, FasterRCNN
from fcos_tf.training.optimizers import SGD
from tests.models.test_faster_rcnn import SMALL
from tests.models.test_fcos import scene

SIZE = (64, 96)


def compiled_text(function, *arguments):
    compiled = tf.function(function, jit_compile=True, autograph=False)
    return compiled.experimental_get_compiler_ir(*arguments)(stage="hlo")


def faults(text):
    """What in a compiled program needs the host, or a size known only when it runs."""
    # Sizes set to a constant are no news; TensorFlow's top k does it.
    constants = "|".join(map(re.escape, re.findall(r"(%\S+) = s32\[\] constant\(", text)))
    text = re.sub(rf"set-dimension-size\(\S+ %\S+, s32\[\] ({constants})\)", "", text)
    operations = set(re.findall(r" ([a-z][a-z-]*)\(", text))
    dynamic = {"set-dimension-size", "get-dimension-size", "dynamic-reshape"}
    host = {"infeed", "outfeed", "send", "recv", "custom-call"}
    bounded = re.findall(r"\[[\d,]*<=[\d<=,]*\]", text)  # f32[<=10]: ten at most
    return (operations & (dynamic | host)) | set(bounded)


FCOS_SMALL = {"backbone": "simple_cnn", "fpn_levels": 3, "fpn_channels": 32, "head_convs": 1}
KINDS = {
    "fcos": (FCOS, FCOS_SMALL),
    "task_aligned": (FCOS, FCOS_SMALL | {"assigner": "tal", "quality": "joint"}),
    "faster_rcnn": (FasterRCNN, SMALL | {"fpn_levels": 3}),
}


@pytest.fixture(scope="module", params=KINDS)
def model(request):
    keras.utils.set_random_seed(0)
    kind, options = KINDS[request.param]
    model = kind(3, backbone_norm="sync", dtype="mixed_bfloat16", image_size="64x96", **options)
    optimizer = SGD(0.01, momentum=0.9, weight_decay=1e-4, global_clipnorm=10.0)
    model.compile(optimizer, jit_compile=True)
    model.optimizer.build(model.trainable_variables)
    return model


def test_the_train_step(model):
    images, targets = tf.nest.map_structure(tf.constant, scene(batch=2, size=SIZE))
    text = compiled_text(model.train_step, (images, targets))
    # The whole step: forward, backward and the update of every weight.
    assert text.count(" convolution(") > 2 * len(model.backbone.trainable_weights) / 3
    assert not faults(text)


def test_detection(model):
    images, targets = scene(batch=2, size=SIZE)

    def detect(images, image_sizes):
        return model.detect(images, image_sizes, jit_compile=True)

    text = compiled_text(detect, tf.constant(images), tf.constant(targets["image_sizes"]))
    assert " convolution(" in text and not faults(text)


def test_faults_are_found():
    numbers = tf.constant(np.arange(4, dtype="float32"))
    found = faults(compiled_text(lambda x: tf.boolean_mask(x, x > 1), numbers))
    assert {"set-dimension-size", "[<=4]"} <= found
    assert not faults(compiled_text(lambda x: tf.where(x > 1, x, 0.0), numbers))
