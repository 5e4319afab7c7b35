"""Published PyTorch checkpoints as Keras weights."""

from fcos_tf.convert.checkpoints import convert_checkpoint, from_torch
from fcos_tf.convert.torch_files import read_tensors

__all__ = ["convert_checkpoint", "from_torch", "read_tensors"]
