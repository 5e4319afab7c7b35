"""A detector in a file that takes resized pixels, as an `OpenedModel`."""

import json
from pathlib import Path

import numpy as np

from fcos_tf.data.prepare import prepare_batch
from fcos_tf.detecting.exported import parse_description, to_labels
from fcos_tf.detecting.models import MOST_PIXELS, OpenedModel
from fcos_tf.image_size import parse_image_size


class ResizedModel(OpenedModel):
    """Base of `OpenVinoModel`, `OnnxModel` and `LiteRtModel`, which give `run`.

    Args:
        text: the description in the file.
        file: for messages.

    Raises:
        ValueError, TypeError, KeyError or OverflowError: the description is not of such an export.
    """

    def __init__(self, text: str, file: Path):
        super().__init__(*parse_description(text, file))
        read = json.loads(text)
        self._size = parse_image_size(read["image_size"]).fixed()
        self._score_threshold = float(read["score_threshold"])
        if not 0 <= self._score_threshold <= 1:
            raise ValueError(f"expected a score_threshold, got {self._score_threshold}")
        if max(height * width for height, width in self._size.canvases()) > MOST_PIXELS:
            raise ValueError(f"expected images of at most {MOST_PIXELS} pixels")

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The outputs of the file, see `export.openvino`.

        Raises:
            ValueError: the runtime fails.
        """
        raise NotImplementedError

    def reads_upright(self, apply_exif):
        """See `OpenedModel`."""
        return self.apply_exif if apply_exif is None else apply_exif

    def find(self, pictures, score_threshold):
        """See `OpenedModel`."""
        inputs = prepare_batch([picture.pixels for picture in pictures], self._size)
        threshold = self._score_threshold if score_threshold is None else score_threshold
        inputs["score_threshold"] = np.full(len(pictures), threshold, np.float32)
        return to_labels(self.run(inputs), self.category_ids, len(pictures))


def one_line(error: Exception) -> str:
    """The beginning of a runtime's message."""
    return " ".join(str(error).split())[:300]
