"""A detector in an OpenVINO file, an .xml and its .bin, as an `OpenedModel`."""

import json
from pathlib import Path

from fcos_tf.detecting.packages import import_package
from fcos_tf.detecting.resized import ResizedModel, opening

DESCRIPTION_KEY = "fcos_tf"  # of the file's run-time information
# Precision of an export -> that of OpenVINO, which by itself would take a lower one.
HINTS = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}


class OpenVinoModel(ResizedModel):
    """An .xml file that `export_openvino` wrote; runs on the CPU.

    Args:
        file: the .xml; its .bin lies beside it.

    Raises:
        FileNotFoundError: one of the files is not there.
        ValueError: the package openvino is missing, or the files are not of such an export.
    """

    runtime = "OpenVINO"

    def __init__(self, file: str | Path):
        openvino, file = import_package("openvino"), Path(file)
        with opening("--openvino", file, file.with_suffix(".bin")):
            graph = openvino.Core().read_model(file)
            text = graph.get_rt_info(DESCRIPTION_KEY).astype(str)
            super().__init__(text, file)
            options = {"INFERENCE_PRECISION_HINT": HINTS[json.loads(text)["precision"]]}
            self._run = openvino.compile_model(graph, "CPU", options)

    def run(self, inputs):
        """See `ResizedModel`."""
        found = self._run(inputs).to_dict()
        return {name: x for port, x in found.items() for name in port.get_names()}
