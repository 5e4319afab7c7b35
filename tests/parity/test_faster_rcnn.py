"""Faster R-CNN ResNet-50, both versions, against torchvision itself; needs the extra `parity`."""

import numpy as np
import pytest

from fcos_tf.convert import from_torch
from fcos_tf.layers.blocks import FrozenBatchNormalization
from fcos_tf.ops.roi_align import multilevel_roi_align
from tests.parity import torchvision_rcnn as reference
from tests.parity.torchvision_fcos import canvas_image

torch = pytest.importorskip("torch")


def converted(peer, folder, **overrides):
    path = folder / "rcnn.pth"
    torch.save(peer.state_dict(), path)
    return from_torch(path, flavour="torchvision", **overrides)


@pytest.fixture(scope="module", params=[1, 2], ids=["v1", "v2"])
def pair(request, tmp_path_factory):
    peer = reference.Peer(request.param)
    return peer, converted(peer, tmp_path_factory.mktemp("weights"))


def relative(ours, theirs):
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape
    return np.abs(ours - theirs).max() / np.abs(theirs).max()


def test_parameter_count(pair):
    peer, model = pair
    frozen = sum(
        layer.count_params()
        for layer in model.backbone.layers
        if isinstance(layer, FrozenBatchNormalization)
    )
    statistics = sum(
        2 * norm.gamma.shape[0]
        for norm in model._flatten_layers()
        if type(norm).__name__ == "BatchNormalization"
    )
    unused = 4 * 1024 + 4  # box deltas of the background: never used, and not kept
    # Version 1 has buffers in frozen norms; version 2 has factors and offsets, beside statistics.
    version = 2 if statistics else 1
    expected = {1: 41_755_286, 2: 43_712_278}[version]
    assert model.count_params() - frozen // version - statistics + unused == expected
    assert peer.num_parameters() == expected


@pytest.mark.parametrize("canvas", [(160, 224), (800, 416)])
def test_stages(pair, canvas, monkeypatch):
    peer, model = pair
    image = canvas_image(*canvas)
    monkeypatch.setattr(model, "preprocess", lambda images, sizes=None: images)
    theirs = peer.first_stage(image, canvas)
    sizes = np.float32([canvas])
    ours = model({"images": image, "image_sizes": sizes})
    for name in ("objectness_logits", "anchor_deltas"):
        assert relative(ours[name], theirs[name]) < 1e-4, name
    count = theirs["proposals"].shape[1]
    assert count > 100
    proposals = np.asarray(ours["proposals"])
    assert not proposals[:, count:].any()
    # Best first; two of nearly one score may change places.
    distance = np.abs(proposals[0, :count, None] - theirs["proposals"][0][None]).max(-1)
    assert (distance.min(axis=1) > 0.01).sum() <= max(1, 0.002 * count)
    # The second stage on the same boxes.
    boxes = theirs["proposals"]
    features = model.features({"images": image}, training=False)
    pooled = multilevel_roi_align(
        features[:4], boxes, [1 / s for s in model.strides[:4]], sampling_ratio=2, aligned=False
    )
    # A thinner box measures a cell. At the far border this one passes the map, where the compiled
    # operator counts 0, as ours does, and torchvision's Python form takes the last cell.
    inside = (boxes[0, :, :2] + 4 <= canvas[::-1]).all(axis=1)
    assert inside.mean() > 0.9
    assert relative(np.asarray(pooled)[:, inside], theirs["roi_features"][:, inside]) < 1e-4
    second = model.box_head(pooled)
    for name in ("class_logits", "box_deltas"):
        ours = np.asarray(second[name])[:, inside]
        assert relative(ours, theirs[name][:, inside]) < 1e-4, name
