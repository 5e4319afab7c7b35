"""Warm-up requests, read with the messages that TensorFlow Serving has."""

import numpy as np
import tensorflow as tf
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from tensorflow.core.framework import tensor_pb2

from fcos_tf.export import warmup

MESSAGE = descriptor_pb2.FieldDescriptorProto.TYPE_MESSAGE
STRING = descriptor_pb2.FieldDescriptorProto.TYPE_STRING
# Numbers as in tensorflow_serving/apis/{prediction_log,predict,model}.proto; of each message what
# is needed here.
MESSAGES = {
    "ModelSpec": [("name", 1, STRING, ""), ("signature_name", 3, STRING, "")],
    "InputsEntry": [("key", 1, STRING, ""), ("value", 2, MESSAGE, "tensorflow.TensorProto")],
    "PredictRequest": [
        ("model_spec", 1, MESSAGE, "warmup_test.ModelSpec"),
        ("inputs", 2, MESSAGE, "warmup_test.InputsEntry"),
    ],
    "PredictLog": [("request", 1, MESSAGE, "warmup_test.PredictRequest")],
    "PredictionLog": [("predict_log", 6, MESSAGE, "warmup_test.PredictLog")],
}


def prediction_log_class():
    file = descriptor_pb2.FileDescriptorProto(
        name="warmup_test.proto", package="warmup_test", syntax="proto3",
        dependency=[tensor_pb2.DESCRIPTOR.name],
    )  # fmt: skip
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, number, kind, type_name in fields:
            # On the wire a map is a repeated message of key and value.
            label = 3 if field == "inputs" else 1
            added = message.field.add(name=field, number=number, type=kind, label=label)
            if type_name:
                added.type_name = type_name
    pool = descriptor_pool.Default()
    pool.AddSerializedFile(file.SerializeToString())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("warmup_test.PredictionLog"))


def test_requests_can_be_read_and_replayed(tmp_path):
    warmup.write_warmup_requests(tmp_path, model_name="fcos")
    path = tmp_path / "assets.extra" / "tf_serving_warmup_requests"
    message_class = prediction_log_class()
    logs = [
        message_class.FromString(record.numpy()) for record in tf.data.TFRecordDataset(str(path))
    ]
    seen = []
    for log in logs:
        request = log.predict_log.request
        assert request.model_spec.name == "fcos"
        (entry,) = request.inputs
        value = tf.make_ndarray(entry.value)
        if entry.key == "image_bytes":
            shape = (len(value), *tf.io.decode_jpeg(value[0]).shape)
        else:
            assert value.dtype == np.uint8
            shape = value.shape
        seen.append((request.model_spec.signature_name, entry.key, shape))
    assert seen == [
        ("serving_default", "image_bytes", (1, 48, 64, 3)),
        ("detect_images", "images", (1, 48, 64, 3)),
        ("serving_default", "image_bytes", (1, 64, 48, 3)),
        ("detect_images", "images", (1, 64, 48, 3)),
    ]


def test_lengths_over_127_take_more_bytes():
    # 300 = 2 * 128 + 44: the low seven bits with the eighth set, then 2.
    assert warmup._varint(300) == bytes([44 | 128, 2])
    assert warmup._varint(127) == bytes([127])
    assert warmup._field(2, b"ab") == bytes([2 << 3 | 2, 2]) + b"ab"
