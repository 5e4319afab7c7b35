"""The figure for notebooks."""

import io
import subprocess
import sys

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from fcos_tf.visualization import class_colour, plot_gallery
from tests.visualization.test_gallery import batch, has_colour


def pictures(figure):
    """The images of all axes, row by row."""
    return [axis.get_images()[0].get_array() for axis in figure.axes]


def titles(figure):
    return [axis.get_title() for axis in figure.axes]


def test_original_truth_and_detections_side_by_side():
    images, truth, detections = batch(2)
    figure = plot_gallery(images, truth, detections, ["a", "b", "c", "d"], panel_size=256)
    assert isinstance(figure, Figure)
    row = ["original", "ground truth: 1 object", "score ≥ 0.3: 1 detection"]
    assert titles(figure) == row * 2
    for index in range(2):
        original, true_panel, found_panel = pictures(figure)[3 * index : 3 * index + 3]
        # The 64 x 64 part of the image, four times as large; the places are those of the gallery.
        assert original.shape == (256, 256, 3) and (original == 90).all()
        assert tuple(true_panel[128, 64]) == class_colour(1)
        assert tuple(found_panel[96, 127]) == class_colour(2)
        assert not has_colour(true_panel, 2) and not has_colour(found_panel, 1)
    tops = [axis.get_subplotspec().rowspan.start for axis in figure.axes]
    columns = [axis.get_subplotspec().colspan.start for axis in figure.axes]
    assert tops == [0, 0, 0, 1, 1, 1] and columns == [0, 1, 2] * 2


def test_what_is_not_given_has_no_panel():
    images, truth, detections = batch(1)
    assert titles(plot_gallery(images)) == ["original"]
    assert titles(plot_gallery(images, truth)) == ["original", "ground truth: 1 object"]
    figure = plot_gallery(images, detections=detections, score_threshold=0.05, panel_size=128)
    assert titles(figure) == ["original", "score ≥ 0.05: 2 detections"]
    assert pictures(figure)[0].shape == (64, 128, 3)  # nobody says where the padding begins


def test_a_notebook_shows_it_without_pyplot():
    images, truth, _ = batch(1)
    image = Image.open(io.BytesIO(plot_gallery(images, truth)._repr_png_()))
    # Two panels of 4 inches at 100 dots; the row is 4 inches and the title.
    assert image.size == (800, 435)
    assert has_colour(np.asarray(image.convert("RGB")), 1)
    code = (
        "import sys, numpy as np, fcos_tf.visualization as v\n"
        "v.plot_gallery(np.zeros([1, 8, 8, 3], np.uint8))\n"
        "print('matplotlib.pyplot' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_what_does_not_fit_is_named():
    images, truth, _ = batch(2)
    with pytest.raises(ValueError, match="no images"):
        plot_gallery([])
    with pytest.raises(ValueError, match="expected ground truth of 1 images, got"):
        plot_gallery(images[:1], truth)
