"""What the tests of OpenVINO and ONNX files share: detectors, photos, comparisons."""

import numpy as np
import pytest

import fcos_tf
from tests.export.encoded import picture
from tests.models.test_faster_rcnn import SMALL
from tests.models.test_folding import randomize

NAMES, IDS = ("hat", "dog", "cat"), (7, 3, 90)
PHOTOS = [picture(height, width, seed=width) for height, width in ((75, 51), (40, 121), (96, 97))]


def small_detector(**options):
    given = {"backbone": "simple_cnn", "score_threshold": 0.01, **options}
    made = fcos_tf.FCOS(
        fpn_levels=3, fpn_channels=32, head_convs=1, image_size="64x96",
        class_names=NAMES, category_ids=IDS, **given,
    )  # fmt: skip
    kernel = made.head.class_logits.kernel
    kernel.assign(kernel * 20)  # scores far from each other
    return randomize(made)


def two_stage():
    return randomize(
        fcos_tf.FasterRCNN(
            image_size="64x96", class_names=NAMES, category_ids=IDS, score_threshold=0.01, **SMALL
        )
    )


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


def run(capsys, tool, *arguments):
    with pytest.raises(SystemExit) as end:
        tool.main(["tool", *map(str, arguments)])
    out = capsys.readouterr()
    return end.value.code, out.out, out.err


def refuses_other_numbers(exporting, export, model, file, monkeypatch):
    """Exports a model whose copy has another bias: the file is refused, and not written."""
    right = exporting.inference_copy

    def wrong(*args, **options):
        copy = right(*args, **options)
        copy.head.centerness.bias.assign(copy.head.centerness.bias + 0.1)
        return copy

    monkeypatch.setattr(exporting, "inference_copy", wrong)
    with pytest.raises(ValueError, match="disagrees with the source model: centerness_logits: "):
        export(model, file)
    assert list(file.parent.iterdir()) == []
