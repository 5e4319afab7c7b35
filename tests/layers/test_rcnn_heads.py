"""The two heads of Faster R-CNN: order, sizes, initial weights, and torchvision's."""

import keras
import numpy as np
import pytest

from fcos_tf.layers.box_head import BoxHead
from fcos_tf.layers.rpn_head import RPNHead

# Of 256 channels and 91 classes with background, as torchvision counts them.
V1 = {"num_convs": 0, "num_fcs": 2}
V2 = {"num_convs": 4, "num_fcs": 1, "norm": "batch"}
COURSE = {"num_convs": 2, "num_fcs": 0, "channels": 64, "box_refinement": "none", "init": "normal"}


def maps(channels=8, batch=2):
    rng = np.random.default_rng(0)
    return [rng.normal(size=(batch, *s, channels)).astype("float32") for s in ((4, 6), (2, 3))]


def roi_features(channels=8):
    return np.random.default_rng(1).normal(size=(2, 5, 7, 7, channels)).astype("float32")


def test_anchors_of_the_rpn_are_in_the_order_of_the_pyramid():
    head = RPNHead(2, channels=1, num_convs=0)
    cells = [np.arange(6, dtype="float32").reshape(1, 2, 3, 1), np.full((1, 1, 1, 1), 9, "float32")]
    head(cells)
    # Logit k of a cell: 10 times the cell's value + k. Delta d of anchor k: 100 k + d.
    head.objectness.set_weights([np.full((1, 1, 1, 2), 10.0), np.arange(2.0)])
    head.deltas.set_weights([np.zeros((1, 1, 1, 8)), np.float32([0, 1, 2, 3, 100, 101, 102, 103])])
    out = head(cells)
    expected = [10 * cell + k for cell in (0, 1, 2, 3, 4, 5, 9) for k in range(2)]
    np.testing.assert_array_equal(out["objectness_logits"], [expected])
    np.testing.assert_array_equal(out["anchor_deltas"][0, :2], [[0, 1, 2, 3], [100, 101, 102, 103]])
    assert out["anchor_deltas"].shape == (1, 14, 4)


def test_rpn_starts_undecided():
    head = RPNHead(3, num_convs=2)
    head.build([(None, None, None, 256)])
    # Two convolutions of 9 * 256 * 256 + 256, outputs of 3 + 12 channels.
    assert head.count_params() == 2 * (9 * 256 * 256 + 256) + 15 * 257
    for layer in (*head.convs, head.objectness, head.deltas):
        assert abs(np.std(layer.kernel) - 0.01) < 0.002 and not np.any(layer.bias)


def test_deltas_of_the_box_head_are_class_by_class():
    head = BoxHead(2, num_fcs=0)
    head(roi_features())
    width = 7 * 7 * 8
    head.box_deltas.set_weights([np.zeros((width, 8)), np.arange(8.0)])
    out = head(roi_features())
    np.testing.assert_array_equal(out["box_deltas"][1, 4], [[0, 1, 2, 3], [4, 5, 6, 7]])
    agnostic = BoxHead(2, num_fcs=0, box_refinement="agnostic")(roi_features())
    assert agnostic["box_deltas"].shape == (2, 5, 1, 4)
    assert agnostic["class_logits"].shape == (2, 5, 3)


def test_rows_that_pad_are_not_in_the_statistics_of_a_batch():
    features = roi_features()  # 2 images, 5 rows each
    valid = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 0]], bool)
    head, alone = (BoxHead(2, num_convs=2, channels=8, num_fcs=0, norm="batch") for _ in range(2))
    padded = np.where(valid[..., None, None, None], features, 50.0)
    head(padded)
    alone(padded)
    alone.set_weights(head.get_weights())
    found = head(padded, training=True, valid=valid)["class_logits"]
    expected = alone(padded[valid][None], training=True)["class_logits"]
    np.testing.assert_allclose(np.asarray(found)[valid], expected[0], rtol=1e-4, atol=1e-5)
    for got, right in zip(head.norms, alone.norms, strict=True):
        np.testing.assert_allclose(got.moving_variance, right.moving_variance, rtol=1e-4)


def test_parameters_of_the_published_heads():
    def count(options, channels=256):
        head = BoxHead(90, **options)
        head.build((None, None, 7, 7, channels))
        return sum(np.prod(v.shape) for v in head.trainable_weights)

    # Hidden layers of 7 * 7 * 256 and 1024; torchvision has 91 * 4 deltas, those of background
    # among them.
    outputs = 1025 * (91 + 90 * 4)
    assert count(V1) == (12544 + 1) * 1024 + 1025 * 1024 + outputs
    assert count(V2) == 4 * (9 * 256 * 256 + 2 * 256) + (12544 + 1) * 1024 + outputs
    # 2 convolutions of 64, one linear layer, no deltas.
    assert count(COURSE, 64) == 2 * (9 * 64 * 64 + 64) + (7 * 7 * 64 + 1) * 91


@pytest.mark.parametrize(
    ("init", "hidden", "logits", "deltas"),
    [
        # Uniform with bound b: standard deviation b / sqrt(3); b is sqrt(1 / fan_in) in PyTorch,
        # sqrt(3 / fan_in) in detectron2. fan_in: 3136, then 500.
        ("torchvision", (3 * 3136) ** -0.5, 1500**-0.5, 1500**-0.5),
        ("detectron2", 3136**-0.5, 0.01, 0.001),
        ("normal", 0.01, 0.01, 0.01),
    ],
)
def test_initial_weights(init, hidden, logits, deltas):
    head = BoxHead(20, num_fcs=1, fc_channels=500, init=init)
    head.build((None, None, 7, 7, 64))
    for layer, std in (
        (head.fcs[0], hidden),
        (head.class_logits, logits),
        (head.box_deltas, deltas),
    ):
        assert abs(np.std(layer.kernel) / std - 1) < 0.05 and not np.any(layer.bias)


def test_proposals_do_not_see_each_other():
    # Under batch normalisation in training they do.
    head = BoxHead(2, num_convs=1, num_fcs=1, channels=4, fc_channels=8, norm="batch")
    x = roi_features()
    all_of_them, one = head(x), head(x[1:, 3:4])
    for name, value in one.items():
        np.testing.assert_allclose(value[0, 0], all_of_them[name][1, 3], rtol=1e-4, atol=1e-5)
    assert np.abs(head(x, training=True)["class_logits"] - all_of_them["class_logits"]).max() > 1e-2


@pytest.mark.parametrize("layer", [RPNHead(3, num_convs=2), BoxHead(3, **V2), BoxHead(3, **COURSE)])
def test_config_round_trip(layer):
    config = keras.saving.serialize_keras_object(layer)
    assert keras.saving.deserialize_keras_object(config).get_config() == layer.get_config()


def test_save_and_load(tmp_path):
    pyramid = [keras.Input((None, None, 8)), keras.Input((None, None, 8))]
    rois = keras.Input((None, 7, 7, 8))
    heads = RPNHead(3, channels=8), BoxHead(3, num_convs=1, channels=8, norm="batch", fc_channels=8)
    outputs = heads[0](pyramid) | heads[1](rois)
    model = keras.Model([*pyramid, rois], outputs)
    model.save(tmp_path / "heads.keras")
    again = keras.models.load_model(tmp_path / "heads.keras")
    inputs = [*maps(), roi_features()]
    for name, value in model(inputs).items():
        np.testing.assert_array_equal(again(inputs)[name], value, err_msg=name)


def test_mixed_precision_gives_float32():
    heads = [
        (RPNHead(3, channels=8, dtype="mixed_bfloat16"), maps()),
        (BoxHead(3, **{**V2, "num_convs": 1}, dtype="mixed_bfloat16"), roi_features()),
    ]
    for head, x in heads:
        assert {keras.backend.standardize_dtype(y.dtype) for y in head(x).values()} == {"float32"}
        assert {keras.backend.standardize_dtype(v.dtype) for v in head.weights} == {"float32"}
        hidden = head.convs[0](x[0])
        assert keras.backend.standardize_dtype(hidden.dtype) == "bfloat16"
    assert heads[1][0].norms[0].compute_dtype == "bfloat16"


@pytest.mark.parametrize(
    ("name", "value"), [("norm", "group"), ("init", "zeros"), ("box_refinement", "some")]
)
def test_head_names_its_choices(name, value):
    with pytest.raises(ValueError, match=f"{name} must be one of .*got '{value}'"):
        BoxHead(3, **{name: value})


def channels_last(tensor):
    """A kernel of PyTorch's: [out, in, h, w] to [h, w, in, out], [out, in] to [in, out]."""
    return tensor.detach().numpy().transpose((2, 3, 1, 0) if tensor.ndim == 4 else (1, 0))


def copy(theirs, ours):
    ours.set_weights([channels_last(theirs.weight), theirs.bias.detach().numpy()])


@pytest.fixture(scope="module")
def detection():
    torch = pytest.importorskip("torch")
    from benchmarks.torchvision_peer import import_torchvision

    torch.manual_seed(0)
    return import_torchvision()[1].models.detection


def test_rpn_equals_torchvision(detection):
    import torch

    theirs, ours = detection.rpn.RPNHead(8, 3, conv_depth=2), RPNHead(3, channels=8, num_convs=2)
    ours.build([(None, None, None, 8)])
    for conv, layer in zip(theirs.conv, ours.convs, strict=True):
        copy(conv[0], layer)
    for source, target in ((theirs.cls_logits, ours.objectness), (theirs.bbox_pred, ours.deltas)):
        torch.nn.init.normal_(source.bias)
        copy(source, target)
    levels = theirs([torch.tensor(x.transpose(0, 3, 1, 2)) for x in maps()])
    logits, deltas = detection.rpn.concat_box_prediction_layers(*levels)
    out = ours(maps())
    for found, expected in ((out["objectness_logits"], logits), (out["anchor_deltas"], deltas)):
        expected = expected.detach().numpy().reshape(found.shape)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("version", [1, 2])
def test_box_head_equals_torchvision(detection, version):
    import torch

    module = detection.faster_rcnn
    if version == 1:
        theirs, ours = module.TwoMLPHead(8 * 49, 16), BoxHead(3, fc_channels=16)
        convs, hidden = [], [theirs.fc6, theirs.fc7]
    else:
        theirs = module.FastRCNNConvFCHead((8, 7, 7), [8, 8], [16], torch.nn.BatchNorm2d)
        ours = BoxHead(3, num_convs=2, num_fcs=1, channels=8, fc_channels=16, norm="batch")
        convs, hidden = list(theirs)[:2], [theirs[3]]
    predictor = module.FastRCNNPredictor(16, 4)
    x = roi_features()
    ours(x)
    for (conv, norm, _), layer, own_norm in zip(convs, ours.convs, ours.norms, strict=True):
        layer.set_weights([channels_last(conv.weight)])
        torch.nn.init.uniform_(norm.weight)
        values = (norm.weight, norm.bias, norm.running_mean, norm.running_var)
        own_norm.set_weights([value.detach().numpy() for value in values])
    for source, target in zip(hidden[1:], ours.fcs[1:], strict=True):
        copy(source, target)
    # The first hidden layer sees C, H, W there and H, W, C here.
    first = channels_last(hidden[0].weight.reshape(16, 8, 7, 7)).reshape(-1, 16)
    ours.fcs[0].set_weights([first, hidden[0].bias.detach().numpy()])
    copy(predictor.cls_score, ours.class_logits)
    deltas = [channels_last(predictor.bbox_pred.weight), predictor.bbox_pred.bias.detach().numpy()]
    ours.box_deltas.set_weights([value[..., 4:] for value in deltas])  # without background
    flat = torch.tensor(x.reshape(10, 7, 7, 8).transpose(0, 3, 1, 2))
    logits, boxes = (y.detach().numpy() for y in predictor(theirs.eval()(flat)))
    out = ours(x)
    np.testing.assert_allclose(out["class_logits"], logits.reshape(2, 5, 4), rtol=1e-4, atol=1e-5)
    boxes = boxes.reshape(2, 5, 4, 4)[:, :, 1:]
    np.testing.assert_allclose(out["box_deltas"], boxes, rtol=1e-4, atol=1e-5)
