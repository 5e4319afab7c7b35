"""Pictures of detections in TensorBoard."""

import io

import keras
import numpy as np
import tensorflow as tf
from PIL import Image
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator

from fcos_tf.training import run
from fcos_tf.training.metric_writers import TensorBoardWriter
from fcos_tf.visualization import class_colour

BOX = [16.0, 16.0, 48.0, 48.0]


class Evaluation(keras.callbacks.Callback):
    """At the end of every other epoch."""

    def on_epoch_end(self, epoch, logs=None):
        if epoch % 2:
            logs["val_AP"] = 0.5


class Scenes:
    """Batches of two grey images with a cup; the second row is a filler. Counts its passes."""

    class_names = ("cup", "fork")

    def __init__(self):
        self.passes = 0

    def __iter__(self):
        self.passes += 1
        for ids in ([7, -1], [3, 9], [11, 12]):
            targets = {
                "boxes": np.float32([[BOX], [BOX]]), "labels": np.int32([[0], [0]]),
                "image_sizes": np.float32([[64, 64], [64, 64]]), "image_ids": np.int64(ids),
            }  # fmt: skip
            yield np.full((2, 64, 64, 3), 128, "uint8"), targets


def test_the_same_images_after_each_evaluation(tmp_path, monkeypatch):
    # The model finds a fork in every image, surer than the threshold after the second evaluation.
    scores = iter([0.25, 0.25, 0.75, 0.75])

    def detect(images, image_sizes):
        return {
            "boxes": np.float32([[BOX], [BOX]]), "labels": np.int32([[1], [1]]),
            "scores": np.full((2, 1), next(scores), "float32"),
        }  # fmt: skip

    monkeypatch.setattr(run, "compile_detect", lambda model, names: detect)
    writer = TensorBoardWriter(tmp_path)
    data = Scenes()
    drawn = run.DetectionPictures(data, writer, count=2, first_step=10)
    model = keras.Sequential([keras.layers.Input((1,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    batch = tf.data.Dataset.from_tensors((tf.ones((1, 1)), tf.ones((1, 1))))
    model.fit(batch, epochs=4, callbacks=[Evaluation(), drawn], verbose=0, shuffle=False)
    writer.close()

    assert data.passes == 1
    events = EventAccumulator(str(tmp_path)).Reload()
    assert sorted(events.Tags()["tensors"]) == ["val/image_3", "val/image_7"]
    # The cup that is there on the left half, the fork that is found on the right one.
    cup, fork = (np.array(class_colour(label)) for label in (0, 1))
    for tag in ("val/image_3", "val/image_7"):
        records = events.Tensors(tag)
        assert [record.step for record in records] == [12, 14]
        for record, found in zip(records, (False, True), strict=True):
            width, height, png = tf.make_ndarray(record.tensor_proto)
            picture = np.asarray(Image.open(io.BytesIO(png)))
            assert picture.shape == (int(height), int(width), 3)
            left, right = np.array_split(picture, 2, axis=1)
            assert (left == cup).all(axis=-1).any()
            assert (right == fork).all(axis=-1).any() == found
