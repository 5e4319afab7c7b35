"""RoIAlign: by hand, against torchvision, and one form against the other."""

import importlib
import itertools
import math
from functools import partial

import numpy as np
import pytest
import tensorflow as tf

from fcos_tf.ops import roi_align
from fcos_tf.ops.roi_align import box_levels, multilevel_roi_align

SCALES = (1 / 4, 1 / 8, 1 / 16, 1 / 32)
FORMS = pytest.mark.parametrize("jit_compile", [False, True], ids=["sparse", "portable"])
RAMP = np.arange(16, dtype="float32").reshape(1, 4, 4, 1)
# Inside, whole image, across each border, outside, on the last cell, tiny, without area, inside
# out, elongated; pixels of a map of 12 x 17 cells at stride 4: 48 x 68 pixels.
EDGE_BOXES = np.float32(
    [
        [8, 4, 40, 36], [0, 0, 68, 48], [-20, -10, 30, 20], [50, 30, 90, 80], [-3, -3, 5, 5],
        [100, 100, 130, 140], [-90, -90, -60, -50], [64, 44, 68, 48], [67, 47, 68, 48],
        [10, 10, 10.5, 10.25], [12, 8, 12, 8], [0, 0, 0, 0], [30, 30, 20, 10], [0, 20, 68, 23],
    ]
)  # fmt: skip


def maps(batch=2, channels=2, seed=0):
    """Four levels of an image of 512 x 640 pixels."""
    rng = np.random.default_rng(seed)
    sizes = [(128, 160), (64, 80), (32, 40), (16, 20)]
    return [rng.normal(size=(batch, *size, channels)).astype("float32") for size in sizes]


def random_boxes(batch=2, count=40, seed=1):
    """Boxes in the image, of all levels; the last is the whole image."""
    rng = np.random.default_rng(seed)
    low = rng.uniform(-100, 500, (batch, count, 2))
    size = np.exp(rng.uniform(1, 6, (batch, count, 1)) + rng.uniform(-0.5, 0.5, low.shape))
    boxes = np.concatenate([low, low + size], -1).clip(0, [640, 512, 640, 512])
    boxes[:, -1] = [0, 0, 640, 512]
    return boxes.astype("float32")


def value_and_gradients(align, features, boxes):
    """The result, and what a loss that weights each number of it sends back to the maps."""
    features = [tf.convert_to_tensor(x) for x in features]
    with tf.GradientTape() as tape:
        tape.watch(features)
        y = align(features, tf.convert_to_tensor(boxes))
        factors = np.random.default_rng(2).normal(size=y.shape)
        loss = tf.reduce_sum(y * tf.constant(factors, y.dtype))
    return y, [tf.convert_to_tensor(g) for g in tape.gradient(loss, features)]


def check_close(found, expected, tolerance=1e-5):
    for each, other in zip(tf.nest.flatten(found), tf.nest.flatten(expected), strict=True):
        np.testing.assert_allclose(each, other, rtol=tolerance, atol=tolerance)


@FORMS
@pytest.mark.parametrize(
    ("aligned", "expected"), [(False, [5, 6.75, 12, 13.75]), (True, [2.5, 4.5, 10.5, 12.5])]
)
def test_ramp(jit_compile, aligned, expected):
    # The value of a sample is x + 4 y. Not aligned: samples at .5, 1.5, 2.5 and 3.5, which is held
    # at 3: means 1 and 2.75 for x, 4 and 11 for y. Aligned: at 0, 1, 2, 3: means .5, 2.5, 2, 10.
    options = {"output_size": 2, "aligned": aligned, "jit_compile": jit_compile}
    found = multilevel_roi_align([RAMP], np.float32([[[0, 0, 4, 4]]]), [1.0], **options)
    np.testing.assert_allclose(np.ravel(found), expected)


@FORMS
def test_borders(jit_compile):
    # One bin of one sample, in the middle of the box, at x = -1, -1.01, 4, 4.01 and y = 1 (value
    # 4 + x): -1 and 4 are held at 0 and 3, beyond is 0.
    middles = np.float32([-1, -1.01, 4, 4.01])
    boxes = np.stack([middles - 1, 0 * middles, middles + 1, 0 * middles + 2], axis=-1)[None]
    options = {"output_size": 1, "sampling_ratio": 1, "jit_compile": jit_compile}
    np.testing.assert_allclose(
        np.ravel(multilevel_roi_align([RAMP], boxes, [1.0], **options)), [4, 0, 7, 0]
    )


@FORMS
def test_adaptive_sampling(jit_compile, monkeypatch):
    # One bin on the square numbers. A box of 3 cells takes samples at .5, 1.5, 2.5, in between two
    # squares: (.5 + 2.5 + 6.5) / 3. At most two: at .75 and 2.25: .75 and 5.25.
    row = np.square(np.arange(5, dtype="float32")).reshape(1, 1, 5, 1)
    box = np.float32([[[0, 0, 3, 1]]])
    options = {"output_size": 1, "sampling_ratio": 0, "jit_compile": jit_compile}
    np.testing.assert_allclose(
        np.ravel(multilevel_roi_align([row], box, [1.0], **options)), [9.5 / 3], rtol=1e-6
    )
    monkeypatch.setattr(roi_align, "MAX_SAMPLES", 2)
    at_most = multilevel_roi_align([row], box, [1.0], **options)
    np.testing.assert_allclose(np.ravel(at_most), [3.0], rtol=1e-6)


def test_levels_at_the_borders():
    # floor(4 + log2(side / 224)), level 2 at least and 5 at most: side 112 is level 3.
    boxes = np.float32([[0, 0, side, side] for side in (0, 1, 111.9, 112, 223.9999, 224, 448, 9e4)])
    for epsilon, almost in (("torchvision", 2), ("detectron2", 1), ("none", 1)):
        found = box_levels(boxes, SCALES, epsilon=epsilon)
        np.testing.assert_array_equal(found, [0, 0, 0, 1, almost, 2, 3, 3], err_msg=epsilon)
    # From P3 on: level 3 is the first.
    found = box_levels(boxes, SCALES[1:], epsilon="none")
    np.testing.assert_array_equal(found, [0, 0, 0, 0, 0, 1, 2, 2])


@FORMS
def test_each_box_from_its_level(jit_compile):
    features = [np.full((2, 16, 16, 1), k, "float32") for k in range(4)]
    features = [x + np.float32([0, 10]).reshape(2, 1, 1, 1) for x in features]
    boxes = np.float32([[0, 0, side, side] for side in (30, 120, 230, 500)])
    found = multilevel_roi_align(
        features, np.stack([boxes, boxes[::-1]]), SCALES, output_size=1, jit_compile=jit_compile
    )
    np.testing.assert_allclose(np.ravel(found), [0, 1, 2, 3, 13, 12, 11, 10], rtol=1e-6)


@pytest.fixture(scope="module")
def peer(torchvision):
    """torchvision's plain Python form for maps of ours: features, boxes, scale, options."""
    import torch

    function = importlib.import_module("torchvision.ops.roi_align")._roi_align.__wrapped__

    def align(features, boxes, scale, output_size=7, sampling_ratio=2, aligned=False):
        x = torch.tensor(features.transpose(0, 3, 1, 2), requires_grad=True)
        batch, count = boxes.shape[:2]
        rows = np.concatenate(
            [np.repeat(np.arange(batch), count)[:, None], boxes.reshape(-1, 4)], 1
        )
        y = function(
            x, torch.tensor(rows, dtype=x.dtype), scale, *[output_size] * 2, sampling_ratio, aligned
        )
        y = y.permute(0, 2, 3, 1).reshape(batch, count, output_size, output_size, -1)
        factors = np.random.default_rng(2).normal(size=y.shape)
        (y * torch.tensor(factors, dtype=y.dtype)).sum().backward()
        return y.detach().numpy(), [x.grad.numpy().transpose(0, 2, 3, 1)]

    return align


def plain_loops(features, boxes, scale, *, sampling_ratio, aligned, factors, size=7):
    """One number at a time, as in torchvision's compiled operator: the result and the gradient."""
    _, rows, columns, _ = features.shape
    result, gradient = np.zeros(factors.shape), np.zeros(features.shape)

    def samples(low, high):
        low, high = (side * scale - 0.5 * aligned for side in (low, high))
        length = (high - low if aligned else max(high - low, 1.0)) / size
        count = sampling_ratio or max(math.ceil(length), 0)
        return [[low + (i + (k + 0.5) / count) * length for k in range(count)] for i in range(size)]

    def neighbours(at, most):
        if not -1 <= at <= most:
            return []
        at = min(max(at, 0), most - 1)
        first = int(at)
        return [(first, 1 - at + first), (min(first + 1, most - 1), at - first)]

    for image, box in np.ndindex(boxes.shape[:2]):
        x1, y1, x2, y2 = boxes[image, box].astype(float)
        xs, ys = samples(x1, x2), samples(y1, y2)
        for i, j in np.ndindex(size, size):
            for y, x in itertools.product(ys[i], xs[j]):
                share = 1 / (len(ys[i]) * len(xs[j]))
                for (r, a), (c, b) in itertools.product(
                    neighbours(y, rows), neighbours(x, columns)
                ):
                    result[image, box, i, j] += share * a * b * features[image, r, c]
                    gradient[image, r, c] += share * a * b * factors[image, box, i, j]
    return result, [gradient]


OPTIONS = pytest.mark.parametrize(
    "options",
    [{"sampling_ratio": n, "aligned": aligned} for n in (2, 0) for aligned in (False, True)],
    ids=str,
)


@OPTIONS
def test_boxes_on_all_edges_equal_plain_loops(options):
    features = np.random.default_rng(0).normal(size=(2, 12, 17, 3)).astype("float32")
    boxes = np.stack([EDGE_BOXES, EDGE_BOXES[::-1]])
    factors = np.random.default_rng(2).normal(size=(*boxes.shape[:2], 7, 7, 3))
    expected = plain_loops(features, boxes, 1 / 4, factors=factors, **options)
    for jit_compile in (False, True):

        def align(features, boxes, jit_compile=jit_compile):
            return multilevel_roi_align(
                features, boxes, [1 / 4], jit_compile=jit_compile, **options
            )

        check_close(value_and_gradients(align, [features], boxes), expected)


@OPTIONS
def test_one_level_equals_torchvision(peer, options):
    # Its Python form never counts a sample outside as 0, unlike the compiled one: boxes here begin
    # at least one cell within the image.
    features = np.random.default_rng(0).normal(size=(2, 12, 17, 3)).astype("float32")
    edges = EDGE_BOXES.clip(0, [68, 48, 68, 48])
    edges = edges[(edges[:, :2] <= [64, 44]).all(axis=1)]
    if not options["sampling_ratio"]:  # its gradient is not a number for boxes without area
        edges = edges[(edges[:, 2:] > edges[:, :2]).all(axis=1)]
    boxes = np.stack([edges, edges / 2])

    def align(features, boxes):
        return multilevel_roi_align(features, boxes, [1 / 4], **options)

    found = value_and_gradients(align, [features], boxes)
    check_close(found, peer(features, boxes, 1 / 4, **options))


@FORMS
def test_levels_equal_torchvision(torchvision, peer, jit_compile):
    import torch

    features, boxes = maps(), random_boxes()
    align = partial(multilevel_roi_align, scales=SCALES, jit_compile=jit_compile)
    found, gradients = value_and_gradients(align, features, boxes)
    levels = torchvision.ops.poolers.LevelMapper(2, 5)([torch.tensor(b) for b in boxes])
    levels = levels.numpy().reshape(boxes.shape[:2])
    np.testing.assert_array_equal(box_levels(boxes, SCALES), levels)
    assert set(levels.ravel()) == {0, 1, 2, 3}
    for level, (x, scale) in enumerate(zip(features, SCALES, strict=True)):
        y, _ = peer(x, boxes, scale)
        check_close(found.numpy()[levels == level], y[levels == level])
    assert all(np.abs(g).max() > 0 for g in gradients)


@pytest.mark.parametrize("sampling_ratio", [2, 0])
def test_all_forms_agree(sampling_ratio):
    features, boxes = maps(), random_boxes()
    boxes[:, :3] = [[0, 0, 0, 0], [5, 5, 5, 5], [-900, -900, 2000, 2000]]
    align = partial(multilevel_roi_align, scales=SCALES, sampling_ratio=sampling_ratio)
    eager = value_and_gradients(align, features, boxes)
    assert all(np.isfinite(x).all() for x in tf.nest.flatten(eager))
    for jit in (False, True):
        run = tf.function(
            partial(value_and_gradients, partial(align, jit_compile=jit)), jit_compile=jit
        )
        # XLA fuses what else is rounded on its own: places of up to 500 cells by 3e-5, times
        # differences between cells of up to 4.
        check_close(run([tf.constant(x) for x in features], tf.constant(boxes)), eager, 1e-4)
        graph = tf.function(partial(align, jit_compile=jit), jit_compile=jit)
        check_close(value_and_gradients(graph, features, boxes), eager, 1e-4)  # tape outside
    single = value_and_gradients(align, [x[1:] for x in features], boxes[1:])
    check_close(single[0], eager[0][1:])


def test_unknown_sizes():
    align = partial(multilevel_roi_align, scales=SCALES[:2])
    features, boxes = maps()[:2], random_boxes()
    shape = tf.TensorSpec((None, None, None, 2))
    run = tf.function(align, input_signature=[[shape] * 2, tf.TensorSpec((None, 40, 4))])
    check_close(run(features, boxes), align(features, boxes))


@FORMS
def test_half_precision_stays_that_of_the_features(jit_compile):
    features, boxes = maps(), random_boxes()
    exact = multilevel_roi_align(features, boxes, SCALES)
    half = [tf.cast(x, tf.bfloat16) for x in features]
    found = multilevel_roi_align(half, boxes, SCALES, jit_compile=jit_compile)
    assert found.dtype == tf.bfloat16
    # 8 bits: 1 / 256 of features of up to 4.
    np.testing.assert_allclose(tf.cast(found, tf.float32), exact, atol=4 / 128)
