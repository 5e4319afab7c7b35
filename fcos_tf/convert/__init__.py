"""Published PyTorch checkpoints as Keras weights."""

from fcos_tf.convert.checkpoints import convert_checkpoint, from_torch
from fcos_tf.convert.report import ConversionReport
from fcos_tf.convert.torch_files import read_tensors

__all__ = ["ConversionReport", "convert_checkpoint", "from_torch", "read_tensors"]
