"""Anchors and box deltas: by hand and against torchvision."""

import math

import numpy as np
import pytest
import tensorflow as tf

from fcos_tf.ops.anchors import cell_anchors, decode_deltas, encode_deltas, pyramid_anchors

LIMIT = math.log(1000 / 16)
SIZES, STRIDES = (32, 64, 128, 256, 512), (4, 8, 16, 32, 64)


def cells(rounded=True):
    return [cell_anchors(size, (0.5, 1, 2), rounded=rounded) for size in SIZES]


def random_boxes(seed, *shape):
    rng = np.random.default_rng(seed)
    low = rng.uniform(-50, 300, (*shape, 2))
    return np.concatenate([low, low + rng.uniform(1, 200, (*shape, 2))], -1).astype("float32")


def test_rounded_cell_anchors():
    # h = 32 sqrt(.5) = 22.63, w = 45.25: halves 11.31 and 22.63. Torchvision's published P2.
    expected = [[-23, -11, 23, 11], [-16, -16, 16, 16], [-11, -23, 11, 23]]
    np.testing.assert_array_equal(cells()[0], expected)
    # A half of 2.5 and of 3.5: half to even.
    np.testing.assert_array_equal(cell_anchors(5, [1], rounded=True), [[-2, -2, 2, 2]])
    np.testing.assert_array_equal(cell_anchors(7, [1], rounded=True), [[-4, -4, 4, 4]])


def test_exact_cell_anchors_have_one_area():
    anchors = cell_anchors(32, (0.25, 1, 4), rounded=False)
    # h / w = 1 / 4 at an area of 32 * 32: 16 high, 64 wide.
    np.testing.assert_allclose(anchors[0], [-32, -8, 32, 8], rtol=1e-6)
    np.testing.assert_allclose(anchors[2], [-8, -32, 8, 32], rtol=1e-6)
    assert anchors.dtype == np.float32


def test_order_is_level_row_column_anchor():
    two = [np.float32([[-1, -1, 1, 1], [-2, -2, 2, 2]]), np.float32([[-8, -8, 8, 8]])]
    anchors, levels = pyramid_anchors([(2, 2), (1, 2)], (4, 8), two)
    expected = [
        [-1, -1, 1, 1], [-2, -2, 2, 2], [3, -1, 5, 1], [2, -2, 6, 2],
        [-1, 3, 1, 5], [-2, 2, 2, 6], [3, 3, 5, 5], [2, 2, 6, 6],
        [-8, -8, 8, 8], [0, -8, 16, 8],
    ]  # fmt: skip
    np.testing.assert_array_equal(anchors, expected)
    np.testing.assert_array_equal(levels, [0] * 8 + [1] * 2)
    middle, _ = pyramid_anchors([(2, 2), (1, 2)], (4, 8), two, offset=0.5)
    np.testing.assert_array_equal(middle - anchors, [[2] * 4] * 8 + [[4] * 4] * 2)


@pytest.mark.parametrize("canvas", [(800, 1088), (96, 160), (224, 224)])
def test_anchors_equal_torchvision(torchvision, canvas):
    import torch
    from torchvision.models.detection.image_list import ImageList

    grids = [tuple(-(-side // stride) for side in canvas) for stride in STRIDES]
    generator = torchvision.models.detection.anchor_utils.AnchorGenerator(
        [(size,) for size in SIZES], [(0.5, 1.0, 2.0)] * 5
    )
    images = ImageList(torch.zeros(1, 3, *canvas), [canvas])
    theirs = generator(images, [torch.zeros(1, 1, *grid) for grid in grids])[0]
    ours, _ = pyramid_anchors(grids, STRIDES, cells(), image_size=canvas)
    np.testing.assert_array_equal(ours, theirs)
    if canvas == (800, 1088):
        assert len(ours) == 217413


def test_encode_by_hand():
    anchor, box = np.float32([10, 10, 30, 50]), np.float32([25, 10, 35, 90])
    # Centres (20, 30) and (30, 50), sides (20, 40) and (10, 80): 10 / 20, 20 / 40, ln .5, ln 2.
    expected = [0.5, 0.5, -math.log(2), math.log(2)]
    np.testing.assert_allclose(encode_deltas(anchor, box), expected, rtol=1e-6)
    weighted = encode_deltas(anchor, box, weights=(10, 10, 5, 5))
    np.testing.assert_allclose(weighted, np.multiply(expected, [10, 10, 5, 5]), rtol=1e-6)


def test_decode_limits_growth():
    anchor = np.float32([0, 0, 16, 16])
    deltas = np.float32([0, 0, 9, -9])
    # The centre stays at 8. 16 * 1000 / 16 wide; 16 e^-9 = .00197 high: no lower limit.
    high = 16 * math.exp(-9) / 2
    found = decode_deltas(anchor, deltas, limit=LIMIT)
    np.testing.assert_allclose(found, [-492, 8 - high, 508, 8 + high], rtol=1e-5)


@pytest.mark.parametrize("weights", [(1, 1, 1, 1), (10, 10, 5, 5)])
def test_decode_inverts_encode(weights):
    anchors, boxes = random_boxes(0, 50), random_boxes(1, 3, 50)
    deltas = encode_deltas(anchors, boxes, weights=weights)
    again = decode_deltas(anchors, deltas, weights=weights, limit=9.0)
    np.testing.assert_allclose(again, boxes, atol=1e-3)


def test_nothing_is_infinite_without_area():
    none, box = np.zeros(4, "float32"), np.float32([3, 4, 50, 60])
    for anchor, other in ((none, none), (none, box), (box, none)):
        assert np.isfinite(encode_deltas(anchor, other)).all()
    assert np.isfinite(decode_deltas(none, np.float32([1e9] * 4), limit=LIMIT)).all()


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0)])
def test_deltas_equal_torchvision(torchvision, weights):
    import torch

    coder = torchvision.models.detection._utils.BoxCoder(weights)
    anchors, boxes = random_boxes(2, 500), random_boxes(3, 500)
    theirs = coder.encode_single(torch.tensor(boxes), torch.tensor(anchors)).numpy()
    ours = encode_deltas(anchors, boxes, weights=weights)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    # Three classes of each anchor, some beyond the limit.
    deltas = np.random.default_rng(4).normal(size=(500, 3, 4)).astype("float32") * 3 * weights[2]
    theirs = coder.decode_single(torch.tensor(deltas.reshape(500, 12)), torch.tensor(anchors))
    ours = decode_deltas(anchors[:, None], deltas, weights=weights, limit=LIMIT)
    np.testing.assert_allclose(ours, theirs.numpy().reshape(500, 3, 4), rtol=1e-5, atol=1e-3)


def test_graph_and_xla_equal_eager():
    def both(boxes):
        anchors, levels = pyramid_anchors([(6, 8), (3, 4)], (4, 8), cells()[:2], offset=0.5)
        deltas = encode_deltas(anchors, boxes)
        return deltas, decode_deltas(anchors, deltas, limit=LIMIT), levels

    boxes = tf.constant(random_boxes(5, 2, 180))
    eager = both(boxes)
    for jit in (False, True):
        for found, expected in zip(tf.function(both, jit_compile=jit)(boxes), eager, strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)
    one = both(boxes[:1])
    np.testing.assert_array_equal(one[1], eager[1][:1])  # batch equals single
