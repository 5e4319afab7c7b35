"""Pictures of detections during training."""

from collections.abc import Iterable

import numpy as np

from fcos_tf import visualization
from fcos_tf.detecting.batches import compile_detect, detect_samples
from fcos_tf.training.loop import EvaluationCallback
from fcos_tf.training.optimizers import averaged_weights


class DetectionPictures(EvaluationCallback):
    """Draws ground truth and detections of the same few images after each evaluation.

    Place it after the callback that evaluates.

    Args:
        dataset: Batches of `(images, targets)`, as `fcos_tf.data.load` gives them.
        writer: Has `write_pictures(step, kind, pictures)`, as `metric_writers.TensorBoardWriter`.
        count: Number of images, the first of the data set.
        score_threshold: Least score of drawn detections.
        first_step: Updates done before the first `fit`.
    """

    def __init__(
        self,
        dataset: Iterable,
        writer,
        *,
        count: int = 8,
        score_threshold: float = 0.5,
        first_step: int = 0,
    ):
        super().__init__(first_step)
        self.dataset = dataset
        self._class_names = getattr(dataset, "class_names", None)
        self.writer = writer
        self.count = count
        self.score_threshold = score_threshold
        self._batches: list = []
        self._detect = None

    def set_model(self, model):
        """Sets the model and its detection function, traced once for all epochs."""
        if self._detect is None or model is not self.model:
            self._detect = compile_detect(model, self._class_names)
        super().set_model(model)

    def on_evaluation(self, step, metrics):
        """Draws, with averaged weights if the optimizer keeps them."""
        self._batches = self._batches or self._first_batches()
        with averaged_weights(self.model):
            samples = detect_samples(self._batches, self._detect, self.count)
        names, threshold = self._class_names, self.score_threshold
        pictures = {
            f"image_{int(truth['image_ids'])}": visualization.draw_gallery(
                [image], [truth], [found], names, score_threshold=threshold
            )
            for image, truth, found in zip(*samples, strict=True)
        }
        self.writer.write_pictures(step, "val", pictures)

    def _first_batches(self) -> list:
        """The batches with the images to draw, read once."""
        batches, found = [], 0
        for batch in self.dataset:
            batches.append(batch)
            found += np.count_nonzero(np.asarray(batch[1]["image_ids"]) >= 0)
            if found >= self.count:
                break
        return batches
