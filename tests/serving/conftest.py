"""A small detector, its export, and a server of it in a process of its own."""

import subprocess
import sys
from pathlib import Path

import cv2
import keras
import numpy as np
import pytest
from sklearn.datasets import load_sample_image

from fcos_tf.export import Limits, export_saved_model
from fcos_tf.models.fcos import FCOS

ROOT = Path(__file__).resolve().parents[2]
LIMITS = Limits(images=8, pixels=4096 * 4096)
SIZES = ((120, 200), (200, 120), (333, 500), (96, 96), (427, 640), (150, 101))


@pytest.fixture(scope="session")
def model():
    """A detector with random weights that finds other classes in other photos.

    Its boxes are about two strides wide, so neighbours, one stride apart, overlap by a third:
    nothing is near the threshold of the suppression, which would make a digit a detection.
    """
    keras.utils.set_random_seed(3)
    model = FCOS(
        3,
        backbone="resnet18",
        fpn_channels=32,
        head_convs=1,
        image_size="96,160",
        category_ids=(7, 3, 90),
        max_detections=20,
    )
    head = model.head
    kernel = np.array(head.class_logits.kernel)
    head.class_logits.kernel.assign(30 * (kernel - kernel.mean(axis=(0, 1, 2))))
    head.ltrb.bias.assign(np.ones(4))
    return model


@pytest.fixture(scope="session")
def export(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("serving") / "tiny" / "3"
    return export_saved_model(model, folder, limits=LIMITS).parent


@pytest.fixture(scope="session")
def server(export):
    """A server in a process of its own: its address and its process."""
    command = [sys.executable, "-m", "tests.serving.stand_in", "--model_name=tiny"]
    process = subprocess.Popen(
        [*command, f"--model_base_path={export}"], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    try:
        address = process.stdout.readline().strip()
        assert address, "the server did not start"
        yield address, process
        assert process.poll() is None  # it lived on
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def address(server):
    return server[0]


@pytest.fixture(scope="session")
def photos():
    """JPEG files of different sizes, cut out of two photos."""
    sources = [load_sample_image(name) for name in ("china.jpg", "flower.jpg")]
    files = []
    for i, (height, width) in enumerate(SIZES):
        pixels = sources[i % 2][-height:, -width:]
        files.append(cv2.imencode(".jpg", pixels[..., ::-1])[1].tobytes())
    return files
