"""Compares the answers of runtime_server.py, whose URL is given, with runs/check/model.keras."""

import io
import json
import sys
import urllib.error
import urllib.request

import keras
import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

import fcos_tf

THRESHOLD = 0.01  # low, as the model is trained for a few steps only


def ask(path: str, data: bytes | None = None) -> tuple[int, dict]:
    """The status of an answer, and its JSON."""
    try:
        request = urllib.request.Request(sys.argv[1] + path, data)
        with urllib.request.urlopen(request, timeout=60) as got:
            return got.status, json.load(got)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


model = keras.models.load_model("runs/check/model.keras")
for pixels in load_sample_images().images:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    (expected,) = fcos_tf.detect(model, file.getvalue(), score_threshold=THRESHOLD)
    status, got = ask(f"/detect?score_threshold={THRESHOLD}", file.getvalue())
    assert status == 200, got
    boxes = np.array([each["box"] for each in got["detections"]]).reshape(-1, 4)
    scores = np.array([each["score"] for each in got["detections"]])
    assert len(boxes) == len(expected) > 0, (len(boxes), len(expected))
    distances = np.abs(boxes[:, None] - expected.boxes).max(-1).min(1)
    differences = np.abs(scores - expected.scores)
    print(f"{len(boxes)} boxes, pixels {distances.max()} and scores {differences.max()} off")
    # Rounding may let another of two boxes through the suppression.
    assert differences.max() < 1e-3 and np.mean(distances < 0.5) > 0.97
for wrong, code in ((b"no image", 400), (bytes(1 << 25), 413)):
    status, got = ask("/detect", wrong)
    assert status == code and got["error"], (status, got)
