"""A detector in a file that takes resized pixels, as an `OpenedModel`."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from fcos_tf.data.prepare import prepare_batch
from fcos_tf.detecting.exported import parse_description, to_labels
from fcos_tf.detecting.models import MOST_PIXELS, OpenedModel
from fcos_tf.image_size import parse_image_size


class ResizedModel(OpenedModel):
    """Base of `OpenVinoModel`, `OnnxModel` and `LiteRtModel`, which give `run` and `runtime`.

    Args:
        text: the description in the file.
        file: for messages.

    Raises:
        ValueError, TypeError, KeyError or OverflowError: the description is not of such an export.
    """

    runtime: str  # its name, for messages

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
        """The outputs of the file, see `export.openvino`."""
        raise NotImplementedError

    def find(self, pictures, score_threshold):
        """See `OpenedModel`."""
        inputs = prepare_batch([picture.pixels for picture in pictures], self._size)
        threshold = self._score_threshold if score_threshold is None else score_threshold
        inputs["score_threshold"] = np.full(len(pictures), threshold, np.float32)
        try:
            found = self.run(inputs)
        except Exception as error:  # those of the runtimes have no common class but this one
            raise ValueError(f"model: {self.runtime} fails: {one_line(error)}") from error
        return to_labels(found, self.category_ids, len(pictures))


@contextlib.contextmanager
def opening(flag: str, *files: Path) -> Iterator[None]:
    """Refuses missing files, and any error while the first is opened: it is of another origin.

    `flag` is that of tools/export.py for such files.
    """
    for file in files:
        if not file.is_file():
            raise FileNotFoundError(f"model: no file {file}")
    try:
        yield
    except Exception as error:
        raise ValueError(
            f"model: expected a file of tools/export.py {flag}, got {files[0]}: {one_line(error)}"
        ) from error


def one_line(error: Exception) -> str:
    """The beginning of a runtime's message."""
    return " ".join(str(error).split())[:300]
