"""torchvision's detector as a contestant: as it is, or with its networks compiled."""

from benchmarks.batches import NUM_CLASSES, random_batch
from benchmarks.processes import Side, timed
from benchmarks.torchvision_peer import Peer, import_torchvision
from fcos_tf.config import Config
from fcos_tf.tensorflow_words import load_tensorflow, one_line

# A compiled network is compiled again for the second step, whose weights were trained.
_FIRST_STEPS = 3


def import_libraries():
    """Imports PyTorch, and TensorFlow for the options of our models."""
    import_torchvision()  # its CUDA build crashes when it is imported after TensorFlow
    load_tensorflow()


def side(config: Config, what: str) -> Side:
    """A step in channels_last, in the precision of the config."""
    _, step = _make(config, what)
    return Side(timed(step), lambda: _flops(config, what))


def compiled_side(config: Config, what: str) -> Side:
    """The same with backbone, pyramid and head by torch.compile; where that fails, as it is.

    Anchors, targets, losses and suppression stay as they are: their sizes change with each batch.
    """
    import torch

    peer, step = _make(config, what)
    try:
        compile_networks(peer.model)
        for _ in range(_FIRST_STEPS):
            step()
        note = ""
    except Exception as error:  # no compiler, a system that PyTorch compiles nothing for
        torch._dynamo.reset()
        _, step = _make(config, what)
        note = f"not compiled, as torch.compile fails: {one_line(error)[:300]}"
    return Side(timed(step), lambda: _flops(config, what), note=note)


def compile_networks(model) -> None:
    """Replaces the networks of a detector by compiled ones."""
    import torch

    owner = getattr(model, "rpn", model)
    for module in (model, "backbone"), (owner, "head"):
        setattr(*module, torch.compile(getattr(*module), dynamic=False))


def _make(config: Config, what: str):
    images, targets = random_batch(config)
    peer = Peer(config, NUM_CLASSES, canvas=images.shape[1:3])
    if what == "inference":
        return peer, lambda: peer.detect(images)
    return peer, lambda: peer.train_step(images, targets)


def _flops(config: Config, what: str) -> int:
    """Operations of a step by PyTorch's counter: those of convolutions and matrix products."""
    from torch.utils.flop_counter import FlopCounterMode

    _, step = _make(config, what)
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()
