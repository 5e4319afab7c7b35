"""Our model as a contestant: by TensorFlow, or exported to OpenVINO or ONNX Runtime."""

import multiprocessing
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from benchmarks.batches import NUM_CLASSES, random_batch
from benchmarks.processes import Side, timed
from fcos_tf.config import Config


def tensorflow_side(config: Config, what: str) -> Side:
    """A training step of our model, or its way from uint8 images to detections."""
    import tensorflow as tf

    from benchmarks import step_profile
    from benchmarks.flops import count_flops
    from fcos_tf.models.folding import fold_norms

    images, targets = random_batch(config)
    model = _make_model(config)
    step_profile.name_parts(model)
    if what == "inference":
        fold_norms(model)  # as tools/detect.py
        detect = tf.function(model.detect)

        def step():
            return detect(images)["boxes"].numpy()

        def flops():
            return count_flops(detect.get_concrete_function(images).graph)
    else:
        train = model.make_train_function() or model.train_function
        batches = iter(tf.data.Dataset.from_tensors((images, targets)).repeat())

        def step():
            return [float(value) for value in train(batches).values()]

        def flops():
            model.accumulation_steps = 1  # the same products, without a loop, which counts once
            traced = tf.function(lambda: model.train_step((images, targets)))
            return count_flops(traced.get_concrete_function().graph)

    return Side(timed(step), flops, lambda steps: step_profile.profile(step, model, steps))


def _make_model(config: Config):
    from fcos_tf import build

    model = build.make_model(config, [f"class {k}" for k in range(NUM_CLASSES)])
    build.compile_model(config, model, total_steps=10**6)
    return model


def import_reader(peer: str) -> None:
    """Imports the package that reads our exported model, openvino or onnxruntime.

    Raises:
        ValueError: it is not installed; names the flag.
    """
    from fcos_tf.detecting.packages import import_package

    try:
        import_package(peer)
    except ValueError as error:
        raise ValueError(f"--peer={peer}: {error}") from error


def openvino_side(config: Config, what: str) -> Side:
    """Our model exported to OpenVINO, in the precision of the config."""
    from fcos_tf.detecting.resized import OpenVinoModel

    return _exported(config, "model.xml", OpenVinoModel)


def onnxruntime_side(config: Config, what: str) -> Side:
    """Our model exported to ONNX, in float32."""
    from fcos_tf.detecting.resized import OnnxModel

    return _exported(config, "model.onnx", OnnxModel)


def _exported(config: Config, name: str, reader) -> Side:
    """Exports in a process of its own, whose memory does not count, and reads the file."""
    from fcos_tf.detecting.models import Picture

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / name
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
            flops = process.submit(_export, config, file).result()
        opened = reader(file)
    pictures = [Picture("", image) for image in random_batch(config)[0]]
    return Side(timed(lambda: opened.find(pictures, None)), lambda: flops)


def _export(config: Config, file: Path) -> int:
    """Writes the file; the operations of a step."""
    from fcos_tf.tensorflow_words import load_tensorflow

    load_tensorflow()
    import tensorflow as tf

    from benchmarks.flops import count_flops
    from fcos_tf.export import export_onnx, export_openvino

    model = _make_model(config)
    if file.suffix == ".onnx":
        export_onnx(model, file, image_size=config.image_size)
    else:
        precision = config.precision.removeprefix("mixed_")
        export_openvino(model, file, image_size=config.image_size, precision=precision)
    detect = tf.function(model.detect).get_concrete_function(random_batch(config)[0])
    return count_flops(detect.graph)
