"""Requests to a server, and what to expect of it."""

import base64
import functools
import json
import urllib.error
import urllib.request

import cv2
import numpy as np

import fcos_tf
from fcos_tf.detecting import Detections, open_model
from fcos_tf.detecting.pictures import Picture
from tests.export.encoded import READABLE, with_texts
from tests.limits import HANG

_opened = functools.cache(open_model)  # compiled once


def picture(data):
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    return Picture("photo.jpg", np.zeros([1, 1, 3], np.uint8) if pixels is None else pixels, data)


def predicted(model, sources):
    """What the Keras model finds in images of one batch, with category ids as labels."""
    found = fcos_tf.detect(_opened(model), sources, batch_size=len(sources))
    return [with_ids(one) for one in found]


def with_ids(found):
    """`Detections` as of a server without a description: labels are category ids."""
    ids = np.array(found.category_ids, int)[found.labels]
    return Detections(found.boxes, found.scores, ids)


def difference(found, expected):
    """None where lists of `Detections` are the same, or how they differ."""
    for one, other in zip(found, expected, strict=True):
        if len(one.scores) != len(other.scores):
            return f"{len(one.scores)} detections, expected {len(other.scores)}"
        boxes, scores = np.abs(one.boxes - other.boxes), np.abs(one.scores - other.scores)
        if (boxes > 0.01).any() or (scores > 1e-5).any() or (one.labels != other.labels).any():
            return f"boxes differ by {boxes.max()}, scores by {scores.max()}"
    return None


def found_in(rows):
    """`Detections` of the rows that a server answers."""
    return [
        Detections(
            *(
                np.array(row[name])[: row["num_detections"]]
                for name in ("boxes", "scores", "labels")
            )
        )
        for row in rows
    ]


def rows_of(columns):
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def ask(url, body=None):
    """The status and the object that come back; `body`: bytes, an object, or None to GET."""
    data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data), timeout=HANG) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def b64(data):
    return {"b64": base64.b64encode(data).decode()}


def claiming(width, height):
    """A WebP of 34 bytes with sides up to 16384, which a decoder allocates before it reads on."""
    sides = ((width - 1) | (height - 1) << 14).to_bytes(4, "little")
    chunk = b"VP8L" + (14).to_bytes(4, "little") + b"\x2f" + sides + bytes(9)
    return b"RIFF" + (4 + len(chunk)).to_bytes(4, "little") + b"WEBP" + chunk


def _options(images, scores, counts):
    inputs = {
        "image_bytes": [b64(b"")] * images,
        "score_threshold": [0.5] * scores,
        "max_detections": [9] * counts,
    }
    return {"signature_name": "serving_with_options", "inputs": inputs}


_WIDE = {"images": np.zeros([1, 161, 160, 3]).tolist(), "image_sizes": [[1, 1]]}
PNG = READABLE["png"]

# What stands after the address, what is sent, and what comes back.
REFUSED = [
    ("/versions/4", None, 404, "Could not find version 4 of model tiny"),
    ("/versions/4:predict", {}, 404, r"Servable not found for request: Specific\(tiny, 4\)"),
    ("y", None, 404, "Could not find any versions of model tinyy"),
    ("y:predict", {}, 404, r"Servable not found for request: Latest\(tinyy\)"),
    ("y/metadata", None, 404, r"Servable not found for request: Latest\(tinyy\)"),
    (":classify", {}, 400, "Malformed request: POST /v1/models/tiny:classify"),
    (":predict", None, 400, "Malformed request: GET /v1/models/tiny:predict"),
    (":predict", b"", 400, "JSON Parse error"),
    (":predict", b"[" * 100_000, 400, "JSON Parse error"),
    (":predict", [], 400, "Is not object"),
    (":predict", {"instances": [], "inputs": []}, 400, "only one of 'inputs' or 'instances'"),
    (":predict", {}, 400, "Missing 'inputs' or 'instances' key"),
    (":predict", {"instances": []}, 400, "'instances' to be an list/array"),
    (":predict", {"signature_name": "x", "inputs": 1}, 400, '"x" not found in signature def'),
    (":predict", {"instances": [{"image": "x"}]}, 400, "keys must be equal to: image_bytes"),
    (":predict", {"instances": [{"b64": "%"}]}, 400, "image_bytes: Unable to base64 decode"),
    (":predict", {"instances": [1.5]}, 400, "JSON Value: 1.5 is not of expected type: string"),
    (":predict", {"instances": [["x"], ["y", "z"]]}, 400, "list at unexpected size: 2 expected"),
    (":predict", {"instances": [["x"], ["y"]]}, 400, r"expected shape \(None,\), got \[2, 1\]"),
    (":predict", {"inputs": {"images": []}}, 400, "Missing named input: image_bytes"),
    (":predict", {"signature_name": "detect_images", "inputs": [[[[256, 0, 0]]]]}, 400, "256"),
    (":predict", {"instances": [b64(b"no image")]}, 400, r"image_bytes\[0\]: expected JPEG, PNG"),
    (":predict", {"instances": [b64(claiming(16383, 10922))]}, 400, "got 16383 x 10922"),
    (":predict", {"instances": [b64(claiming(2048, 2048))] * 5}, 400, "expected 1 to 16777216 pix"),
    (":predict", {"instances": [b64(claiming(9, 9))] * 9}, 400, "expected 1 to 8 images, got 9"),
    (":predict", {"instances": [b64(with_texts(PNG, 5))]}, 400, "at most four compressed texts"),
    (":predict", {"instances": [b64(b"GIF89a" + bytes(99))]}, 400, "got 105 bytes of something"),
    (":predict", _options(2, 1, 2), 400, "score_threshold: expected one value for each image"),
    (":predict", _options(2, 2, 1), 400, "max_detections: expected one value for each image"),
    (":predict", {"signature_name": "raw_outputs", "inputs": _WIDE}, 400, "expected at most 25600"),
]
