"""Detectors for OpenVINO: an .xml file and its weights, the .bin beside it, suppression inside.

    images           float32 [B, H, W, 3], RGB 0-255, resized to fit and padded with zeros
    image_sizes      float32 [B, 2], (height, width) of the resized images
    original_sizes   float32 [B, 2], (height, width) of the original images
    score_threshold  float32 [B], see `Detector.detect`
    boxes            float32 [B, D, 4], xyxy in pixels of the original images; padding 0
    scores           float32 [B, D], descending; padding 0
    labels           int32 [B, D], category ids; padding -1
    num_detections   int32 [B]

`data.prepare.prepare_batch` gives the first three. B is free; H and W are so with "SHORT,LONG".
The network and the steps after it are converted apart and joined, so that each can be checked on
equal inputs and only the network is quantised.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from fcos_tf.atomic_files import replacing
from fcos_tf.data.prepare import ImageSource
from fcos_tf.detecting.packages import import_package
from fcos_tf.detecting.resized import DESCRIPTION_KEY, HINTS
from fcos_tf.export import checks, signatures
from fcos_tf.export.calibration import CalibrationImages
from fcos_tf.export.saved_model import check_options, describe, new_file
from fcos_tf.image_size import ImageSize
from fcos_tf.models.detector import Detector
from fcos_tf.models.folding import inference_copy
from fcos_tf.models.image_model import spatial_size

_BITS_SHARE = 0.5  # in 8 bits, where the whole may be rounded in other places than its parts


def export_openvino(
    model: Detector,
    file: str | Path,
    *,
    image_size: str | tuple[int, int] | None = None,
    precision: str = "float32",
    calibration: Sequence[ImageSource] = (),
    accept: Callable[[Path, dict], None] | None = None,
    **thresholds: float,
) -> Path:
    """Writes an .xml file and its .bin, and checks the outputs; needs the package openvino.

    Args:
        model: a detector, left unchanged.
        file: path of a new .xml file.
        image_size: the size that images are resized to; None: `model.image_size`.
        precision: of the network where the device has it, "float32", "bfloat16" or "float16". The
            last two store weights in 16 bits. The steps after the network are always float32.
        calibration: images to quantise the network on, to 8 bits; needs the package nncf.
        accept: called with the written .xml file and its description before it is renamed; an
            error refuses it. See `AccuracyGate`.
        **thresholds: replace those of the model, see `Detector.thresholds`.

    Returns:
        The file.

    Raises:
        ValueError: a wrong argument, a missing package, a classifier, or a file that disagrees
            with `model`.
        FileExistsError: one of the files exists.
    """
    if precision not in HINTS:
        raise ValueError(f"precision: expected one of {', '.join(HINTS)}; got {precision!r}")
    file = new_file(model, file, ".xml")
    weights = file.with_suffix(".bin")
    if weights.exists():
        raise FileExistsError(f"file: expected a new one; got {weights}, which exists")
    size, rule = check_options(model, image_size, thresholds, ".xml")
    openvino = import_package("openvino")
    photos = None
    if len(calibration):
        import_package("nncf")
        photos = CalibrationImages(calibration, rule, model.apply_exif)

    copy = inference_copy(model, **thresholds)
    network_function, rest_function = _functions(copy, rule)
    network, rest = _converted(network_function), _converted(rest_function)
    run_network, run_rest = _runner(network), _runner(rest)
    batch = checks.sample_batch(rule)
    _check(run_network, run_rest, model, copy, batch)
    if photos:
        network = _quantised(network, photos)
    elif precision != "float32":
        from openvino._offline_transformations import compress_model_transformation

        compress_model_transformation(network)
    description = describe(model, copy, precision, image_size=size, traced={})
    description |= {"int8": bool(photos), "openvino_version": openvino.__version__}
    run_network = _runner(network)  # as it was changed
    graph = _join(network, rest)
    share = _BITS_SHARE if photos else checks.FILE_SHARE
    _check_joined(_runner(graph), run_network, run_rest, batch, share)
    graph.set_rt_info(json.dumps(description), DESCRIPTION_KEY)
    file.parent.mkdir(parents=True, exist_ok=True)
    # Its .bin is the other one, and in place before it.
    with replacing(file) as temporary, replacing(weights):
        openvino.save_model(graph, temporary, compress_to_fp16=False)
        if accept:
            accept(temporary, description)
    return file


def _functions(model, rule: ImageSize):
    """The network and the steps after it, as concrete functions; see the module docstring."""
    canvas = rule.canvas
    shapes = signatures.input_shapes(None, *(canvas or (None, None)))
    images, *others = (tf.TensorSpec(x, tf.float32, name=name) for name, x in shapes.items())

    def predict(images, image_sizes):
        inputs = {"images": images, "image_sizes": image_sizes}
        return model.predict_raw(inputs, jit_compile=True)  # operations that OpenVINO has

    network = _trace(predict, [images, others[0]])
    outputs = network.structured_outputs
    specs = [tf.TensorSpec(x.shape, x.dtype, name=name) for name, x in outputs.items()]
    if not canvas:  # for their size only
        others.append(images)

    def detect(*inputs):
        given = {spec.name: x for spec, x in zip(specs + others, inputs, strict=True)}
        raw = {name: given[name] for name in outputs}
        image_size = canvas or spatial_size(given["images"])
        found = model.decode(
            raw,
            image_size,
            given["image_sizes"],
            score_threshold=given["score_threshold"],
            jit_compile=True,
        )
        return signatures.in_originals(model, found, given["image_sizes"], given["original_sizes"])

    return network, _trace(detect, specs + others)


def _trace(function: Callable, specs: list[tf.TensorSpec]):
    return tf.function(function, input_signature=specs, autograph=False).get_concrete_function()


def _converted(function):
    """An OpenVINO graph whose top k may order equal values in any way.

    The stable one sorts by a slow algorithm: 1.3 s instead of 1 ms for 64 x 64 points and 80
    classes on a CPU.
    """
    import openvino

    graph = openvino.convert_model(function)
    for node in graph.get_ops():
        if node.get_type_name() == "TopK":
            options = node.get_attributes() | {"stable": False}
            names = ("axis", "mode", "sort", "index_element_type", "stable")
            other = openvino.opset13.topk(*node.input_values(), *(options[name] for name in names))
            for old, new in zip(node.outputs(), other.outputs(), strict=True):
                old.replace(new)
    return graph


def _join(network, rest):
    """One graph. Inputs of `rest` named as inputs or outputs of `network` are taken from it."""
    import openvino

    sources = {name: port for port in network.inputs for name in port.get_names()}
    for port in network.outputs:
        sources |= dict.fromkeys(port.get_names(), port.get_node().input_value(0))
    parameters = network.get_parameters()
    for parameter in rest.get_parameters():
        (port,) = parameter.outputs()
        names = sources.keys() & port.get_names()
        if names:
            port.replace(sources[names.pop()])
        else:
            parameters.append(parameter)
    return openvino.Model(rest.get_results(), parameters, "fcos_tf")


def _quantised(network, photos: CalibrationImages):
    """The network in 8 bits."""
    import nncf

    def prepare(batch):
        return {name: batch[name] for name in ("images", "image_sizes")}

    dataset = nncf.Dataset(photos, prepare)
    preset = nncf.QuantizationPreset.MIXED
    return nncf.quantize(network, dataset, preset=preset, subset_size=len(photos))


def _runner(graph) -> Callable:
    """A function from arrays to a dict of arrays, in float32."""
    import openvino

    run = openvino.compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    names = [port.get_names() for port in run.inputs]

    def call(arrays):
        arrays = [arrays[(each & arrays.keys()).pop()] for each in names]
        found = run(arrays).to_dict()
        return {name: x for port, x in found.items() for name in port.get_names()}

    return call


def _check_joined(run: Callable, run_network: Callable, run_rest: Callable, batch, share):
    """Compares the graph that is written with its parts.

    In 8 bits the parts are optimised in other ways than the whole.
    """
    found, expected = run(batch), run_rest(batch | run_network(batch))
    if not all(np.isfinite(x).all() for x in found.values()) or not found["num_detections"][0]:
        raise ValueError(".xml: expected finite detections of a photo, got none or others")
    checks.compare_file(".xml", found, expected, share)


@checks.whole_float32()
def _check(run_network: Callable, run_rest: Callable, model, copy, batch: dict) -> None:
    """Compares both parts with the source model."""
    raw = checks.check_raw(run_network(batch), model, batch)
    found = run_rest(batch | raw)
    checks.compare_file(".xml", found, checks.expected_detections(copy, raw, batch))
