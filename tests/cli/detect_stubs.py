"""Small models for the tests of `tools/detect.py`."""

import http.server
import json
import threading
from contextlib import contextmanager

import cv2
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from fcos_tf.cli import detect
from fcos_tf.cli.detect_backends import Classes, Found
from fcos_tf.cli.detect_inputs import find_inputs
from fcos_tf.cli.detect_run import Detection
from fcos_tf.data.images import ImageError

CLASSES = Classes(("帽子", "dog", "cat"), (7, 3, 90))


def run(capsys, *arguments):
    """The tool's exit status, output and error output."""
    with pytest.raises(SystemExit) as end:
        detect.main(["detect.py", *map(str, arguments)])
    out = capsys.readouterr()
    return end.value.code, out.out, out.err


def detect_with(backend, text, out, **options):
    """A run on --input=text, and what it says at the end."""
    detection = Detection(backend, out, **options)
    return detection, detection.run(find_inputs(str(text)))


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


class Stub:
    """Finds two boxes in every picture: a dog in the left half, a weak cat that is the rest.

    The dog's score is the mean grey level by 255. Pictures with a pixel of 13 are refused.
    """

    def __init__(self):
        self.classes = CLASSES
        self.batches = []

    def detect(self, pictures):
        self.batches.append([picture.name for picture in pictures])
        for picture in pictures:
            if (picture.pixels == 13).all():
                raise ImageError(f"{pictures[0].name if len(pictures) == 1 else '?'}: refused")
        return [self._one(picture.pixels) for picture in pictures]

    def _one(self, pixels):
        height, width = pixels.shape[:2]
        boxes = np.array([[0, 0, width / 2, height], [width / 2, 0, width, height]])
        return Found(boxes, np.array([pixels.mean() / 255, 0.01]), np.array([1, 2]))


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

    def _detect(self, pixels_of, elements):
        def one(element):
            pixels = tf.cast(pixels_of(element), tf.float32)
            tf.debugging.assert_none_equal(tf.reduce_mean(pixels), 13.0, message="refused")
            height, width = tf.unstack(tf.cast(tf.shape(pixels)[:2], tf.float32))
            zero = tf.constant(0.0)
            boxes = [[zero, zero, width / 2, height], [width / 2, zero, width, height], [zero] * 4]
            return {
                "boxes": tf.convert_to_tensor(boxes),
                "scores": tf.stack([tf.reduce_mean(pixels) / 255, 0.01, 0.0]),
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


def save_stub(folder):
    """Exports a `StubModel` as version 1, and a file that is no version beside it."""
    model = StubModel()
    signatures = {"serving_default": model.serving_default, "detect_images": model.detect_images}
    tf.saved_model.save(model, str(folder / "1"), signatures)
    description = {"class_names": CLASSES.names, "category_ids": CLASSES.category_ids}
    (folder / "1" / "assets" / "description.json").write_text(json.dumps(description))
    (folder / "README").write_text("")
    return folder


@contextmanager
def serve(answer):
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
