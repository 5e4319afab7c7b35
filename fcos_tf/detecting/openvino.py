"""A detector in an OpenVINO file, an .xml and its .bin, as an `OpenedModel`."""

import json
from pathlib import Path

import numpy as np

from fcos_tf.data.prepare import prepare_batch
from fcos_tf.detecting.exported import parse_description, to_labels
from fcos_tf.detecting.models import OpenedModel
from fcos_tf.image_size import parse_image_size

DESCRIPTION_KEY = "fcos_tf"  # of the file's run-time information
# Precision of an export -> that of OpenVINO, which by itself would take a lower one.
HINTS = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}
_MOST_PIXELS = 1 << 26  # of a canvas; the file need not be trusted


class OpenVinoModel(OpenedModel):
    """An .xml file that `export_openvino` wrote; runs on the CPU.

    Args:
        file: the .xml; its .bin lies beside it.

    Raises:
        FileNotFoundError: one of the files is not there.
        ValueError: the package openvino is missing, or the files are not of such an export.
    """

    def __init__(self, file: str | Path):
        openvino, file = import_openvino(), Path(file)
        for each in (file, file.with_suffix(".bin")):
            if not each.is_file():
                raise FileNotFoundError(f"model: no file {each}")
        try:
            graph = openvino.Core().read_model(file)
            text = graph.get_rt_info(DESCRIPTION_KEY).astype(str)
            super().__init__(*parse_description(text, file))
            read = json.loads(text)
            self._size = parse_image_size(read["image_size"]).fixed()
            self._score_threshold = float(read["score_threshold"])
            if not 0 <= self._score_threshold <= 1:
                raise ValueError(f"expected a score_threshold, got {self._score_threshold}")
            hint = HINTS[read["precision"]]
            if max(height * width for height, width in self._size.canvases()) > _MOST_PIXELS:
                raise ValueError(f"expected images of at most {_MOST_PIXELS} pixels")
            options = {"INFERENCE_PRECISION_HINT": hint}
            self._run = openvino.compile_model(graph, "CPU", options)
        except (RuntimeError, ValueError, TypeError, KeyError, OverflowError) as error:
            raise ValueError(
                f"model: expected a file of tools/export.py --openvino, got {file}: {_line(error)}"
            ) from error

    def reads_upright(self, apply_exif):
        """See `OpenedModel`."""
        return self.apply_exif if apply_exif is None else apply_exif

    def find(self, pictures, score_threshold):
        """See `OpenedModel`."""
        inputs = prepare_batch([picture.pixels for picture in pictures], self._size)
        threshold = self._score_threshold if score_threshold is None else score_threshold
        inputs["score_threshold"] = np.full(len(pictures), threshold, np.float32)
        try:
            found = self._run(inputs).to_dict()
        except RuntimeError as error:
            raise ValueError(f"model: OpenVINO fails: {_line(error)}") from error
        named = {name: x for port, x in found.items() for name in port.get_names()}
        return to_labels(named, self.category_ids, len(pictures))


def import_openvino():
    """The package.

    Raises:
        ValueError: it is not installed.
    """
    try:
        import openvino
    except ImportError as error:
        raise ValueError(
            "an OpenVINO file needs the package openvino: pip install 'fcos_tf[openvino]' "
            f"({error})"
        ) from error
    return openvino


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
