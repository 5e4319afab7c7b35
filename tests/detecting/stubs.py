"""Small models for the tests of detecting, and of `tools/detect.py`."""

import base64
import http.server
import io
import json
import threading
from contextlib import contextmanager

import cv2
import numpy as np
import tensorflow as tf
from PIL import Image

from fcos_tf.cli import detect
from fcos_tf.data.images import ImageError
from fcos_tf.detecting.files import find_inputs
from fcos_tf.detecting.folder import FolderRun
from fcos_tf.detecting.models import OpenedModel
from fcos_tf.detecting.pictures import Picture
from tests import tools

NAMES, IDS = ("帽子", "dog", "cat"), (7, 3, 90)
WEAK = 1 / 64  # the score of the cat


def run(capsys, *arguments):
    return tools.run(capsys, detect, *arguments)


def detect_with(model, text, out, **options):
    """A run over what the text names, and what it says at the end."""
    folder_run = FolderRun(model, out, **options)
    return folder_run, folder_run.run(find_inputs(str(text)))


def read_records(folder):
    """What detections.json holds, as tuples."""
    keys = ("image_id", "file_name", "category_id", "bbox", "score")
    return [
        tuple(r[key] for key in keys) for r in json.loads((folder / "detections.json").read_text())
    ]


def flat(path, value, height=40, width=60):
    """A picture file of one grey level."""
    path.parent.mkdir(exist_ok=True, parents=True)
    Image.fromarray(np.full([height, width, 3], value, np.uint8)).save(path)
    return path


def make_video(path, values, rate=12.5, size=(320, 240)):
    """Frames of one grey level, or one colour in BGR, each."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), rate, size)
    for value in values:
        writer.write(np.full([size[1], size[0], 3], value, np.uint8))
    writer.release()
    return path


class Stub(OpenedModel):
    """Finds two boxes in every picture: a dog in the left half, a weak cat that is the rest.

    The dog's score is the mean grey level by 255. Pictures with a pixel of 13 are refused.
    """

    def __init__(self):
        super().__init__(NAMES, IDS)
        self.batches = []

    def find(self, pictures, score_threshold):
        self.batches.append([picture.name for picture in pictures])
        for picture in pictures:
            if (picture.pixels == 13).all():
                raise ImageError(f"{pictures[0].name if len(pictures) == 1 else '?'}: refused")
        found = [self._one(picture.pixels) for picture in pictures]
        return {name: np.array([one[name] for one in found]) for name in found[0]}

    def _one(self, pixels):
        height, width = pixels.shape[:2]
        boxes = [[0, 0, width / 2, height], [width / 2, 0, width, height], [0] * 4]
        return {"boxes": boxes, "scores": [pixels.mean() / 255, WEAK, 0], "labels": [1, 2, -1]}


class StubModel(tf.Module):
    """The same as `Stub`, with the signatures of an export."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "image_bytes")])
    def serving_default(self, image_bytes):
        return self._detect(
            lambda data: tf.io.decode_image(data, channels=3, expand_animations=False), image_bytes
        )

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8, "images")])
    def detect_images(self, images):
        return self._detect(lambda pixels: pixels, images)

    @tf.function(
        input_signature=[
            tf.TensorSpec([None], tf.string, "image_bytes"),
            tf.TensorSpec([None], tf.float32, "score_threshold"),
            tf.TensorSpec([None], tf.int32, "max_detections"),
        ]
    )
    def serving_with_options(self, image_bytes, score_threshold, max_detections):
        found = self.serving_default(image_bytes)
        kept = tf.cast(found["scores"] >= score_threshold[:, None], tf.int32)
        count = tf.minimum(tf.reduce_sum(kept, axis=1), max_detections)
        return {**found, "num_detections": tf.minimum(count, found["num_detections"])}

    def _detect(self, pixels_of, elements):
        def one(element):
            pixels = tf.cast(pixels_of(element), tf.float32)
            tf.debugging.assert_none_equal(tf.reduce_mean(pixels), 13.0, message="refused")
            height, width = tf.unstack(tf.cast(tf.shape(pixels)[:2], tf.float32))
            zero = tf.constant(0.0)
            boxes = [[zero, zero, width / 2, height], [width / 2, zero, width, height], [zero] * 4]
            return {
                "boxes": tf.convert_to_tensor(boxes),
                "scores": tf.stack([tf.reduce_mean(pixels) / 255, WEAK, 0.0]),
                "labels": tf.constant([3, 90, -1]),  # category ids; the last row is padding
                "num_detections": tf.constant(2),
            }

        spec = {
            "boxes": tf.TensorSpec([3, 4], tf.float32),
            "scores": tf.TensorSpec([3], tf.float32),
            "labels": tf.TensorSpec([3], tf.int32),
            "num_detections": tf.TensorSpec([], tf.int32),
        }
        return tf.map_fn(one, elements, fn_output_signature=spec)


def answer_like(model):
    """What TensorFlow Serving would answer with this model behind it."""

    def answer(path, body):
        if path != "/v1/models/stub:predict":
            return 404, {"error": "Servable not found"}
        has_options = body["signature_name"] == "serving_with_options"
        assert has_options or body["signature_name"] == "serving_default"
        pictures = []
        for instance in body["instances"]:
            if has_options:
                assert set(instance) == {"image_bytes", "score_threshold", "max_detections"}
            data = base64.b64decode((instance["image_bytes"] if has_options else instance)["b64"])
            pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
            pictures.append(Picture("an image", pixels, data))
        try:
            threshold = body["instances"][0]["score_threshold"] if has_options else None
            found = model.detect(pictures, threshold)
        except ImageError as error:
            return 400, {"error": str(error)}
        rows = [
            {
                # Padded, as the signature does.
                "boxes": [*one.boxes.tolist(), *[[0.0] * 4] * (3 - len(one))],
                "scores": [*one.scores.tolist(), *[0.0] * (3 - len(one))],
                "labels": [*(IDS[label] for label in one.labels), *[-1] * (3 - len(one))],
                "num_detections": len(one),
            }
            for one in found
        ]
        return 200, {"predictions": rows}

    return answer


def save_stub(folder):
    """Exports a `StubModel` as version 1, and a file that is no version beside it."""
    model = StubModel()
    names = ("serving_default", "serving_with_options", "detect_images")
    signatures = {name: getattr(model, name) for name in names}
    tf.saved_model.save(model, str(folder / "1"), signatures)
    description = {"class_names": NAMES, "category_ids": IDS}
    (folder / "1" / "assets" / "description.json").write_text(json.dumps(description))
    (folder / "README").write_text("")
    return folder


@contextmanager
def serve(answer, headers=()):
    """A server on loopback; `answer` makes (status, object or bytes) of a path and an object.

    Yields:
        The address, and the list of all (path, object) that were sent.
    """
    requests = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            requests.append((self.path, body))
            status, found = answer(self.path, body)
            found = found if isinstance(found, bytes) else json.dumps(found).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(found)))
            for header in dict(headers).items():
                self.send_header(*header)
            self.end_headers()
            self.wfile.write(found)

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", requests
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
