"""Detectors as files that run without this package."""

from fcos_tf.export.accuracy import AccuracyGate, Figures, format_rows, measure
from fcos_tf.export.decoding import Limits
from fcos_tf.export.litert import export_litert
from fcos_tf.export.onnx import export_onnx
from fcos_tf.export.openvino import export_openvino
from fcos_tf.export.saved_model import export_saved_model

__all__ = [
    "AccuracyGate",
    "Figures",
    "Limits",
    "export_litert",
    "export_onnx",
    "export_openvino",
    "export_saved_model",
    "format_rows",
    "measure",
]
