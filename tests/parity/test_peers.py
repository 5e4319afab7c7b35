"""The peers of benchmarks start as ours do, train, and detect in our form."""

import numpy as np
import pytest

from benchmarks.torchvision_peer import Peer, import_torchvision
from fcos_tf.config import Config
from fcos_tf.layers.backbones import build_backbone

torch = pytest.importorskip("torch")
import_torchvision()


def peer_of(**options):
    sizes = {"fpn_channels": 32, "head_convs": 1, "score_threshold": 1e-6}
    return Peer(Config(**sizes, **options), 3, canvas=(64, 96))


def trainable(module):
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def test_the_peers_backbone_has_the_same_weights_and_frozen_parts():
    ours = build_backbone("mobilenet_v2", weights="imagenet", norm="frozen", frozen_stages=2)
    body = peer_of(backbone="mobilenet_v2", backbone_weights="imagenet").model.backbone[0]
    images = np.random.default_rng(0).normal(size=(2, 64, 96, 3)).astype("float32")
    with torch.no_grad():
        maps = body.eval()(torch.from_numpy(images.transpose(0, 3, 1, 2)))
    found = ours(images)
    for name, x in zip(("c3", "c4", "c5"), maps.values(), strict=True):
        expected = x.numpy().transpose(0, 2, 3, 1)
        np.testing.assert_allclose(found[name], expected, atol=1e-5 * np.abs(expected).max())
    counts = sum(np.prod(v.shape) for v in ours.trainable_variables)
    # Ours ends at P5; torchvision's convolution before the classifier is not in the extractor.
    assert trainable(body) == counts


@pytest.mark.parametrize("model", ["fcos", "faster_rcnn"])
@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16"])
def test_the_peers_learn_a_batch(model, precision):
    peer = peer_of(model=model, backbone="resnet18", precision=precision, learning_rate=0.01)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, 64, 96, 3), dtype=np.uint8)
    targets = {
        "boxes": np.float32([[[4, 4, 40, 50], [0, 0, 0, 0]], [[30, 10, 70, 40], [2, 2, 20, 20]]]),
        "labels": np.int32([[1, -1], [2, 0]]),
        "image_sizes": np.float32([[64, 96], [60, 80]]),
    }
    losses = [peer.train_step(images, targets, 0.01) for _ in range(6)]
    assert np.isfinite(losses).all() and losses[-1] < losses[0]
    found = peer.detect(images, targets["image_sizes"])
    rows = found["scores"].shape
    assert rows[1] > 5 and found["boxes"].shape == (*rows, 4) and found["labels"].max() <= 2
    assert ((found["labels"] == -1) == (found["scores"] == 0)).all()
    assert (found["boxes"][1] <= [80, 60, 80, 60]).all()
