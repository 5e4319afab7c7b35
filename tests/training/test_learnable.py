"""Warnings about boxes without points and levels without boxes."""

import numpy as np
import pytest

import fcos_tf
from fcos_tf.data.annotations import Annotations
from fcos_tf.training.learnable import unlearnable, unmeasurable


def annotations(boxes):
    count = len(boxes)
    return Annotations(
        files=["a.jpg"], image_ids=np.array([1]), sizes=np.int32([[256, 128]]),
        owners=np.zeros(count, int), boxes=np.float64(boxes).reshape(-1, 4),
        labels=np.zeros(count, np.int32), areas=np.full(count, np.nan),
        ignored=np.zeros(count, bool), numbers=np.arange(count), class_names=("a",),
        category_ids=(1,),
    )  # fmt: skip


@pytest.fixture(scope="module")
def model():
    return fcos_tf.FCOS(1, backbone="simple_cnn", fpn_levels=3, fpn_channels=32, head_convs=0)


def test_boxes_between_the_points_are_counted(model):
    # On a canvas of 128x128 an image of 256x128 (height x width) becomes 128x64: all is halved.
    # Points of stride 8 are at 4, 12, 20 ...: (10, 10, 22, 22) becomes (5, 5, 11, 11), which holds
    # none; (0, 0, 60, 60) becomes (0, 0, 30, 30) of the first level.
    small, fair = [10, 10, 22, 22], [0, 0, 60, 60]
    lines = unlearnable(model, annotations([small, fair]), "128x128")
    assert lines[0].startswith("1 of 2 boxes in 1 training images at --image_size=128x128 have no")
    assert "median side 6.0 px" in lines[0]
    # At its own size it is (10, 10, 22, 22), with the point (12, 12).
    lines = unlearnable(model, annotations([small, fair]), "256x128")
    assert not any("have no point" in line for line in lines)


def test_levels_without_boxes_are_named(model):
    # Sides of 30 and 140 px: the largest distances from points near the centre are 15 to 27 and
    # about 80, of the levels with 0..64 and 64..128; none of 128 and more.
    boxes = [[0, 0, 30, 30], [0, 0, 100, 140]]
    (line,) = unlearnable(model, annotations(boxes), "256x128")
    assert "by points of stride 32;" in line and "--fpn_levels" in line


def test_an_evaluation_without_boxes_is_named(model):
    (line,) = unmeasurable(model, annotations([]))
    assert line.startswith("none of the 1 images to evaluate on has a box to find")
    assert unmeasurable(model, annotations([[0, 0, 30, 30]])) == []


def test_nothing_to_say(model):
    assert unlearnable(model, annotations([]), "128x128") == []
    assert unlearnable(object(), annotations([[0, 0, 30, 30]]), "128x128") == []
