"""Warm-up requests, which TensorFlow Serving replays when it loads a model.

It reads `assets.extra/tf_serving_warmup_requests`, a TFRecord file of `PredictionLog` messages.
Instead of the package tensorflow-serving-api, the few fields are encoded here, with the numbers of
tensorflow_serving/apis/{prediction_log,predict,model}.proto.
"""

from pathlib import Path

import numpy as np
import tensorflow as tf

from fcos_tf.detecting.exported import FILES_SIGNATURE, FRAMES_SIGNATURE

FILE = Path("assets.extra") / "tf_serving_warmup_requests"
_PREDICT_LOG = 6  # of PredictionLog
_REQUEST = 1  # of PredictLog
_MODEL_SPEC, _INPUTS = 1, 2  # of PredictRequest
_NAME, _SIGNATURE_NAME = 1, 3  # of ModelSpec
_KEY, _VALUE = 1, 2  # of an entry of a map
_LENGTH_DELIMITED = 2  # the wire type of messages, strings and bytes


def write_warmup_requests(export_dir: Path, *, model_name: str, pixels_too: bool = True) -> None:
    """Writes requests with files and with pixels, landscape and portrait.

    Args:
        export_dir: the folder of the SavedModel.
        model_name: the name that it is served under.
        pixels_too: whether there is a signature of pixels, `FRAMES_SIGNATURE`.
    """
    path = export_dir / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for height, width in ((48, 64), (64, 48)):  # resizing brings them to full size
            row = np.linspace(0, 255, width, dtype=np.uint8)
            pixels = np.tile(row[:, None], (height, 1, 3))  # grey, [height, width, 3]
            data = tf.io.encode_jpeg(pixels).numpy()
            writer.write(_predict_log(model_name, FILES_SIGNATURE, image_bytes=[data]))
            if pixels_too:
                writer.write(_predict_log(model_name, FRAMES_SIGNATURE, images=pixels[None]))


def _predict_log(model_name: str, signature_name: str, **inputs) -> bytes:
    """A serialised `PredictionLog` with one `PredictRequest` of some tensors."""
    spec = _field(_NAME, model_name.encode()) + _field(_SIGNATURE_NAME, signature_name.encode())
    request = _field(_MODEL_SPEC, spec)
    for name, value in inputs.items():
        tensor = tf.make_tensor_proto(value).SerializeToString()
        request += _field(_INPUTS, _field(_KEY, name.encode()) + _field(_VALUE, tensor))
    return _field(_PREDICT_LOG, _field(_REQUEST, request))


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | _LENGTH_DELIMITED) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    """Seven bits a byte, lowest first; the eighth bit is set in all but the last byte."""
    digits = bytearray()
    while value > 127:
        digits.append(value & 127 | 128)
        value >>= 7
    return bytes([*digits, value])
