"""Faster R-CNN ResNet-50, both versions, against torchvision itself; needs the extra `parity`."""

import numpy as np
import pytest
import tensorflow as tf

from fcos_tf.convert import from_torch
from fcos_tf.convert.rcnn_names import FLAVOURS
from fcos_tf.layers.blocks import FrozenBatchNormalization
from fcos_tf.ops.roi_align import multilevel_roi_align
from fcos_tf.training.optimizers import SGD
from tests.parity import torchvision_rcnn as reference
from tests.parity.agreement import differences
from tests.parity.torchvision_fcos import PHOTOS, canvas_image, read_photo, training_batch

torch = pytest.importorskip("torch")

# Of all anchors, and of 200 proposals, which is all of them: no random numbers on either side.
ALL = {
    "anchors_per_image": 10**6,
    "rois_per_image": 10**6,
    "proposals_per_level": (300, 1000),
    "num_proposals": (200, 1000),
}


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


@pytest.mark.parametrize(
    "files",
    [
        pytest.param(PHOTOS[:2], id="two"),
        pytest.param(PHOTOS[2:], id="eight", marks=pytest.mark.slow),
    ],
)
def test_detections_of_real_photos(pair, shared_data, files, monkeypatch):
    peer, model = pair
    monkeypatch.setattr(model, "preprocess", lambda images, sizes=None: images)
    total, only_ours, only_theirs = 0, [], []
    for file in files:
        photo = read_photo(shared_data / file)
        theirs = peer.detect(photo)
        tensor, size = peer.transform(photo)
        inputs = {"images": tensor, "image_sizes": np.float32([size])}
        found = model.detect(**inputs)
        count = int(found["num_detections"][0])
        ours = {k: np.asarray(found[k])[0, :count] for k in ("boxes", "scores", "labels")}
        scale = np.float32(np.asarray(photo.shape[:2]) / np.asarray(size))
        ours["boxes"] = ours["boxes"] * np.tile(scale[::-1], 2)
        assert len(theirs["scores"]) >= 20 and len(set(theirs["labels"])) >= 3, file
        total += len(theirs["scores"])
        lines = differences(ours, theirs, model, ours | theirs)
        only_ours += [f"{file}: {line}" for line in lines[0]]
        only_theirs += [f"{file}: {line}" for line in lines[1]]
    print(*only_ours, *only_theirs, sep="\n")
    assert total and max(len(only_ours), len(only_theirs)) <= max(1, 0.002 * total)


def test_losses_gradients_and_five_steps(tmp_path):
    peer = reference.Peer(1, training=True)
    images, targets = training_batch()
    # Gradients in float64: in float32 rounding switches one unit in a million off.
    peer.model.double()
    theirs = peer.losses(images, targets, torch.float64)
    sum(theirs.values()).backward()
    parameters = dict(peer.model.named_parameters())
    model = converted(peer, tmp_path, dtype="float64", **ALL)
    variables = FLAVOURS["torchvision"].variables(model)

    @tf.function(autograph=False)
    def differentiate():
        with tf.GradientTape() as tape:
            inputs = {"images": images, "image_sizes": targets["image_sizes"]}
            losses = model.forward_losses(inputs, targets, training=True)
            loss = sum(losses[name] for name in model.loss_names)
        return losses, tape.gradient(loss, [variables[n].value for n in reference.TENSORS])

    ours, gradients = differentiate()
    for name, value in theirs.items():
        assert abs(float(ours[name]) / value.item() - 1) < 1e-4, name
    for name, gradient in zip(reference.TENSORS, gradients, strict=True):
        expected = parameters[name].grad.numpy()
        error = np.linalg.norm(as_in_torch(name, gradient) - expected) / np.linalg.norm(expected)
        assert error < 1e-4, (name, error)

    peer = reference.Peer(1, training=True)
    model = converted(peer, tmp_path, **ALL)
    model.compile(
        SGD(
            reference.LEARNING_RATE,
            momentum=reference.MOMENTUM,
            weight_decay=reference.WEIGHT_DECAY,
            decay_vectors=True,
        )
    )
    optimizer = torch.optim.SGD(
        [p for p in peer.model.parameters() if p.requires_grad],
        lr=reference.LEARNING_RATE,
        momentum=reference.MOMENTUM,
        weight_decay=reference.WEIGHT_DECAY,
    )
    for step in range(reference.STEPS + 1):
        optimizer.zero_grad()
        theirs = peer.losses(images, targets)
        sum(theirs.values()).backward()
        optimizer.step()
        model.reset_metrics()
        ours = model.train_on_batch(images, targets, return_dict=True)
        limit = 1e-4 if step == 0 else 1e-3
        for name, value in theirs.items():
            assert abs(float(ours[name]) / value.item() - 1) < limit, (step, name)


def as_in_torch(name, gradient):
    """A gradient of ours in PyTorch's layout, the background first."""
    gradient = np.asarray(gradient)
    gradient = gradient.transpose(3, 2, 0, 1) if gradient.ndim == 4 else gradient.T
    if "cls_score" in name:
        return np.roll(gradient, 1, axis=0)
    if "box_predictor.bbox_pred" in name:
        return np.concatenate([np.zeros((4, gradient.shape[1])), gradient])
    return gradient
