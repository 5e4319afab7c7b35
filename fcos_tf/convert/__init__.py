"""Published PyTorch checkpoints as Keras weights."""

from fcos_tf.convert.checkpoints import convert_checkpoint, from_torch
from fcos_tf.convert.report import ConversionReport, Misshaped, assign, depthwise_to_keras, to_keras
from fcos_tf.convert.torch_files import read_tensors

__all__ = [
    "ConversionReport",
    "Misshaped",
    "assign",
    "convert_checkpoint",
    "depthwise_to_keras",
    "from_torch",
    "read_tensors",
    "to_keras",
]
