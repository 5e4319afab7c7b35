"""Detectors for ONNX Runtime and others: one .onnx file, suppression inside.

Inputs and outputs are those of `export.openvino`, the network and the steps after it one graph,
written operation by operation (`onnx_graph`), with ONNX's own operator for the suppression.
"""

import json
from collections.abc import Callable
from pathlib import Path

from fcos_tf.atomic_files import replacing
from fcos_tf.detecting.exported import OUTPUTS
from fcos_tf.detecting.packages import import_package
from fcos_tf.detecting.resized import DESCRIPTION_KEY, open_session, run_session
from fcos_tf.export import checks, signatures
from fcos_tf.export.onnx_graph import OPSET, GraphWriter
from fcos_tf.export.saved_model import check_options, describe, new_file
from fcos_tf.image_size import ImageSize
from fcos_tf.keras_files import first_lines
from fcos_tf.models.detector import Detector
from fcos_tf.models.folding import inference_copy


def export_onnx(
    model: Detector,
    file: str | Path,
    *,
    image_size: str | tuple[int, int] | None = None,
    accept: Callable[[Path, dict], None] | None = None,
    **thresholds: float,
) -> Path:
    """Writes an .onnx file, and checks its outputs; needs the packages onnx and onnxruntime.

    The batch is free, as are height and width where `image_size` is "SHORT,LONG". Numbers are
    float32, and the operators those of opset 18.

    Args:
        model: a detector, left unchanged.
        file: path of a new .onnx file.
        image_size: the size that images are resized to; None: `model.image_size`.
        accept: called with the written file and its description before it is renamed; an error
            of it removes the file.
        **thresholds: replace those of the model, see `Detector.thresholds`.

    Returns:
        The file.

    Raises:
        ValueError: a wrong argument, a missing package, a model with an operation that ONNX lacks,
            or a file that disagrees with `model`.
        FileExistsError: the file exists.
    """
    file = new_file(model, file, ".onnx")
    size, rule = check_options(model, image_size, thresholds, ".onnx")
    onnx = import_package("onnx")
    import_package("onnxruntime")

    copy = inference_copy(model, **thresholds)
    written = _write(copy, rule)
    _check(written, model, copy, rule)
    graph = written([])
    description = describe(model, copy, "float32", image_size=size, traced={})
    description |= {"opset": OPSET, "onnx_version": onnx.__version__}
    onnx.helper.set_model_props(graph, {DESCRIPTION_KEY: json.dumps(description)})
    onnx.checker.check_model(graph)
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as temporary:
        temporary.write_bytes(graph.SerializeToString())
        if accept:
            accept(temporary, description)
    return file


def _write(model: Detector, rule: ImageSize):
    """A function from names of raw outputs to the ONNX model that also gives those."""
    function = signatures.trace_detector(model, rule.canvas)
    labels = max(model.num_classes, len(getattr(model, "strides", ())))  # or levels, of proposals
    writer = GraphWriter(num_labels=labels)
    values = writer.write(function)
    inputs = signatures.input_shapes("batch", *(rule.canvas or ("height", "width")))
    outputs = {
        name: (x.dtype, ["batch", *x.shape[1:]])
        for name, x in zip(sorted(values), function.outputs, strict=True)
    }

    def written(raw):
        chosen = {name: values[name] for name in (*OUTPUTS, *raw)}
        return writer.model(inputs, chosen, {name: outputs[name] for name in chosen})

    return written


@checks.whole_float32()
def _check(written, model: Detector, copy: Detector, rule: ImageSize) -> None:
    """Compares the file with the source model, on a photo and for detections of any score."""
    batch = checks.sample_batch(rule)
    try:
        session = open_session(written(model.raw_outputs).SerializeToString())
        found = run_session(session, batch)
    except Exception as error:  # those of ONNX Runtime have no common class but this one
        raise ValueError(f".onnx: ONNX Runtime fails: {first_lines(error)}") from error
    raw = checks.check_raw(found, model, batch)
    checks.compare_file(".onnx", found, checks.expected_detections(copy, raw, batch))
