"""What the tests of OpenVINO, ONNX and LiteRT files share: detectors, photos, comparisons."""

import json
from functools import partial

import keras
import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

import fcos_tf
from fcos_tf.cli import detect
from fcos_tf.training import checkpoints
from tests.export.encoded import picture
from tests.models.test_faster_rcnn import SMALL
from tests.models.test_folding import randomize
from tests.tools import run

NAMES, IDS = ("hat", "dog", "cat"), (7, 3, 90)
PHOTOS = [picture(height, width, seed=width) for height, width in ((75, 51), (40, 121), (96, 97))]


def small_detector(**options):
    keras.utils.set_random_seed(0)  # else some photo has too few detections now and then
    given = {"backbone": "simple_cnn", "score_threshold": 0.01, **options}
    made = fcos_tf.FCOS(
        fpn_levels=3, fpn_channels=32, head_convs=1, image_size="64x96",
        class_names=NAMES, category_ids=IDS, **given,
    )  # fmt: skip
    kernel = made.head.class_logits.kernel
    kernel.assign(kernel * 20)  # scores far from each other
    return randomize(made)


def two_stage():
    keras.utils.set_random_seed(0)
    return randomize(
        fcos_tf.FasterRCNN(
            image_size="64x96", class_names=NAMES, category_ids=IDS, score_threshold=0.01, **SMALL
        )
    )


def trained_detector():
    """A detector that has overfitted eight scenes of digits, and these."""
    keras.utils.set_random_seed(0)
    options = {"split": "train", "batch_size": 8, "image_size": "128x128"}
    loaded = fcos_tf.data.load("digits", **options)
    data = loaded.take(1).cache()
    made = fcos_tf.FCOS(
        class_names=loaded.class_names, backbone="simple_cnn",
        fpn_levels=3, fpn_channels=32, head_convs=1, image_size="128x128",
    )  # fmt: skip
    made.compile(keras.optimizers.Adam(2e-3))
    made.fit(data.repeat(), epochs=1, steps_per_epoch=60, verbose=0)
    ((images, _),) = data
    return made, np.asarray(images).astype(np.uint8)


def write_run(model, images, weights):
    """Writes a model, and images beside it: 0.png, 1.png ..."""
    checkpoints.write_model(model, weights)
    for i, image in enumerate(images):
        Image.fromarray(image).save(weights.parent / f"{i}.png")


def assert_eight_bits_are_close(capsys, folder, weights, flag, file):
    """`detect.py` on the images of `write_run`, by a file in 8 bits and by the model."""
    found = {}
    for source, there in ((flag, file), ("weights", weights)):
        output = folder / source
        code, _, _ = run(
            capsys, detect, f"{folder}/*.png", f"--{source}={there}", f"--output_dir={output}"
        )
        assert code == 0
        found[source] = json.loads((output / "detections.json").read_text())
    for one, other in ((flag, "weights"), ("weights", flag)):
        sure = [record for record in found[one] if record["score"] > 0.5]
        assert len(sure) > 8
        kept = [any(map(partial(close, record), found[other])) for record in sure]
        assert np.mean(kept) > 0.9


def close(record, other):
    """Whether a detection in 8 bits is one of the model: an IoU of .75, .1 in the score."""
    same = all(record[name] == other[name] for name in ("image_id", "category_id"))
    if not same or abs(record["score"] - other["score"]) >= 0.1:
        return False
    (iou,) = coco_mask.iou([record["bbox"]], [other["bbox"]], [0])[0]
    return iou >= 0.75


def assert_same(found, expected):
    """Equal detections; those of equal scores in any order."""
    for one, other in zip(found, expected, strict=True):
        assert len(one) == len(other) > 5
        np.testing.assert_allclose(one.scores, other.scores, rtol=0, atol=1e-4)
        far = np.abs(one.boxes[:, None] - other.boxes).max(-1) > 0.01
        far |= one.labels[:, None] != other.labels
        far |= np.abs(one.scores[:, None] - other.scores) > 1e-4
        assert not far.all(0).any() and not far.all(1).any()
        assert (one.class_names, one.category_ids) == (NAMES, IDS)
