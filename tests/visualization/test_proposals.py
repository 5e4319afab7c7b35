"""Proposals beside the ground truth."""

import numpy as np
import pytest

from fcos_tf import FCOS, visualization
from fcos_tf.visualization.proposals import draw_proposals


class Proposing:
    """Proposes a box on the object, one beside it, and padding, in every image."""

    raw_outputs = {"proposals": "", "proposal_scores": ""}  # noqa: RUF012

    def predict_raw(self, inputs):
        assert inputs["images"].shape == (1, 64, 64, 3)
        boxes = np.float32([[[8, 8, 40, 36], [40, 44, 60, 60], [0, 0, 0, 0]]])
        return {"proposals": boxes, "proposal_scores": np.float32([[0.75, 0.5, 0]])}


def target():
    # The IoU with the first proposal is 28 / 32.
    boxes = np.float32([[8, 8, 40, 40], [0, 0, 0, 0]])
    return {"boxes": boxes, "labels": np.int32([1, -1]), "image_sizes": np.float32([64, 64])}


@pytest.mark.parametrize("num_boxes", [1, 3])
def test_proposals_in_the_colours_of_what_they_cover(num_boxes):
    images = [np.zeros((64, 64, 3), np.uint8)]
    drawn = draw_proposals(Proposing(), images, [target()], ("a", "b"), num_boxes=num_boxes)
    # A panel has 512 pixels, 8 for each of the image; it is the right one of two.
    panel = np.asarray(drawn)[512 // 9 :, 512 + 3 * 16 :][:512, :512]
    covering, other = visualization.class_colour(2), visualization.class_colour(3)
    # Below, at the lower edge of each box, where no text is: y 36 * 8 - 1, and 60 * 8 - 1.
    assert tuple(panel[36 * 8 - 2, 30 * 8]) == covering
    assert (tuple(panel[60 * 8 - 2, 55 * 8]) == other) == (num_boxes == 3)
    assert tuple(panel[50 * 8, 50 * 8]) == (0, 0, 0)


def test_a_model_without_proposals_is_named():
    model = FCOS(3, backbone="simple_cnn", fpn_channels=32)
    with pytest.raises(ValueError, match="a FCOS has no proposals to draw; expected a model with"):
        draw_proposals(model, [], [], ())
