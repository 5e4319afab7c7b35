"""Who takes part in training and inference, by name, and the matrix products beside them."""

import dataclasses
import functools
from collections.abc import Callable, Sequence

from benchmarks import keras_hub_peer, our_model, torchvision_side
from benchmarks.batches import fixed_size
from benchmarks.processes import Entrant, Side, timed
from fcos_tf.config import Config
from fcos_tf.tensorflow_words import load_tensorflow


@dataclasses.dataclass(frozen=True)
class Peer:
    """A contestant for any config.

    Attributes:
        label: in the table, before the precision.
        make: the side of a config and a task.
        libraries: see `Entrant`.
        tasks: that it can.
        precision: in which it always runs; None: that of the config.
    """

    label: str
    make: Callable[[Config, str], Side]
    libraries: Callable[[], object] = load_tensorflow
    tasks: Sequence[str] = ("training", "inference")
    precision: str | None = None


_SIZE = 2048  # of the matrices of a product
_OURS = Peer("fcos_tf", our_model.tensorflow_side)
PEERS = {
    "torchvision": Peer("torchvision", torchvision_side.side, torchvision_side.import_libraries),
    "torchvision_compiled": Peer(
        "torchvision compiled", torchvision_side.compiled_side, torchvision_side.import_libraries
    ),
    "keras_hub": Peer("KerasHub RetinaNet", keras_hub_peer.side, keras_hub_peer.import_keras_hub),
    "float32": Peer("fcos_tf", our_model.tensorflow_side, precision="float32"),
    "openvino": Peer(
        "OpenVINO", our_model.openvino_side, functools.partial(our_model.import_reader, "openvino"),
        tasks=["inference"],
    ),
    "onnxruntime": Peer(
        "ONNX Runtime", our_model.onnxruntime_side,
        functools.partial(our_model.import_reader, "onnxruntime"),
        tasks=["inference"], precision="float32",
    ),
}  # fmt: skip


def entrants(config: Config, what: str, peers: Sequence[str]) -> tuple[str, int, dict]:
    """Title, images in a step, and the entrants by their names, ours first."""
    fixed_size(config)
    found = {}
    for peer in (_OURS, *(PEERS[name] for name in peers)):
        precision = peer.precision or config.precision
        make = functools.partial(peer.make, dataclasses.replace(config, precision=precision), what)
        entrant = Entrant(make, peer.libraries, precision.removeprefix("mixed_"))
        found[f"{peer.label} {precision}"] = entrant
    title = f"{what}, {config.backbone}, {config.image_size}, batch {config.batch_size}"
    return title, config.batch_size, found


def products(precisions: Sequence[str]) -> dict[str, Entrant]:
    """Large matrix products by their precision, a reference for the speed of convolutions."""
    return {
        precision: Entrant(functools.partial(_product_side, precision), precision=precision)
        for precision in sorted(set(precisions))
    }


def _product_side(precision: str) -> Side:
    """A product of two square matrices by TensorFlow."""
    import tensorflow as tf

    matrix = tf.cast(tf.random.stateless_normal((_SIZE, _SIZE), seed=(0, 0)), precision)
    product = tf.function(lambda left, right: tf.matmul(left, right))
    # One value is read, so that the product is complete.
    return Side(timed(lambda: product(matrix, matrix)[0, 0].numpy()), lambda: 2 * _SIZE**3)
