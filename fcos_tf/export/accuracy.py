"""The accuracy gate: exports measured beside their source model on a validation set.

    gate = AccuracyGate(model, dataset) -> export_openvino(..., accept=gate) -> a row, or a refusal

All models get the same images, one at a time, as pixels of the original size, and answer in these.

D detections, C classes.
"""

import dataclasses
import json
import os
import platform
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from fcos_tf.atomic_files import naming, write_text
from fcos_tf.data.images import ImageError
from fcos_tf.detecting.batches import COLUMNS, label_table
from fcos_tf.detecting.exported import newest_version
from fcos_tf.detecting.models import OpenedModel, open_model
from fcos_tf.detecting.pictures import Picture
from fcos_tf.evaluation import Records, detections_to_records, ground_truth_to_coco, score_records
from fcos_tf.models.detector import Detector
from fcos_tf.models.input_checks import check_labels

_FORMATS = {".xml": "OpenVINO", ".onnx": "ONNX", ".tflite": "LiteRT"}  # run on the CPU
_SAME_AP = 1e-3  # of one model on two devices


@dataclasses.dataclass(frozen=True)
class Figures:
    """What `measure` finds.

    Attributes:
        AP: COCO's, over ten IoUs.
        latency_ms: the median milliseconds from the pixels of an image to its detections.
        size_bytes: of the files of an export; of a model in memory, of its weights.
        device: the processor that it ran on.
    """

    AP: float
    latency_ms: float
    size_bytes: int
    device: str


def measure(model: Detector | str | Path, dataset: Any, num_images: int | None = None) -> Figures:
    """Measures a detector, or an export, on images in their own pixels, one at a time.

    Args:
        model: a detector; the folder of `export_saved_model`; the .xml file of `export_openvino`;
            the .onnx file of `export_onnx`; the .tflite file of `export_litert`.
        dataset: of `fcos_tf.data.load`. Its batches are not used, only its images and objects.
        num_images: so many, evenly spread over the data set; None: all.

    Returns:
        The figures. One more image before the first is not timed.

    Raises:
        ValueError: a classifier, an export without description, data without boxes or of other
            classes, fewer images than `num_images`, none with an object, or one that cannot be read
            or that the model refuses.

    Example:
        val = fcos_tf.data.load("voc", data_dir=folder, split="val", batch_size=1)
        print(fcos_tf.export.measure("voc.xml", val, num_images=300).AP)
    """
    opened, total = open_model(model), dataset.num_images
    count = total if num_images is None else num_images
    to_label = _check(opened, dataset, count)
    seconds: list[float] = []
    examples, found = [], []
    for index in (i * total // count for i in range(count)):
        try:
            example = dataset.source.read(index, lambda height, width: (height, width))
            picture = Picture(f"image id {example.image_id}", example.image)
            if not seconds:
                opened.find([picture], None)  # traces
            start = time.perf_counter()
            answer = opened.find([picture], None)
            seconds.append(time.perf_counter() - start)
        except ImageError as error:
            raise ValueError(f"dataset: {error}") from error
        examples.append(example._replace(image=None))  # else all would stay in memory
        boxes, scores, labels = (np.asarray(answer[name])[0] for name in COLUMNS)
        found.append((boxes, scores, to_label[labels + 1]))
    ap = score_records(_records(examples, found, dataset)).metrics["AP"]
    if ap < 0:
        raise ValueError(f"dataset: expected images with objects, got none in {count} images")
    device = _device(isinstance(model, str | Path) and Path(model).suffix in _FORMATS)
    return Figures(ap, 1000 * statistics.median(seconds), _size_of(model), device)


class AccuracyGate:
    """Refuses exports that lose AP; the argument `accept` of the functions that export.

    The model is measured before its first export, by its own settings: what an export loses by
    another image size or other thresholds counts like what it loses by its precision.

    Args:
        model: the source model, a detector.
        dataset: see `measure`.
        num_images: see `measure`.
        max_ap_loss: the largest loss that is accepted.
        report: table to write after each export, as Markdown and JSON: a path without an ending,
            or with .md. Rows of other formats, precisions and devices that it has are kept.
        title: of the report: the names of model and data.

    Attributes:
        rows: a dictionary for the model and each measured export, as in the report.

    Raises:
        ValueError: see `measure`; or a report that exists, of another title.
        OSError: the folder of the report cannot be made.

    Example:
        gate = fcos_tf.export.AccuracyGate(model, val, num_images=300, report="int8")
        fcos_tf.export.export_openvino(model, "a.xml", calibration=["photos"], accept=gate)
    """

    def __init__(
        self,
        model: Detector,
        dataset: Any,
        num_images: int | None = None,
        *,
        max_ap_loss: float = 0.005,
        report: str | Path | None = None,
        title: str = "",
    ):
        self._model, self._dataset, self._max_ap_loss = model, dataset, max_ap_loss
        self._num_images = dataset.num_images if num_images is None else num_images
        _check(open_model(model), dataset, self._num_images)
        self._title, self._report, self.rows = title, None, []
        if report:
            self._report = Path(f"{str(report).removesuffix('.md')}.md")
            self.rows = _read_rows(self._report.with_suffix(".json"), title, self._num_images)
            with naming(self._report):
                self._report.parent.mkdir(parents=True, exist_ok=True)
        self._ap: float | None = None

    def __call__(self, path: Path, description: Mapping[str, Any]) -> None:
        """Measures an export.

        Args:
            path: its folder, or its .xml, .onnx or .tflite file.
            description: what it tells of itself, with `precision` and, of 8 bits, `int8`.

        Raises:
            ValueError: it loses too much; or see `measure`; or a report of another model.
        """
        if self._ap is None:
            self._measure_source()
        format_name = _FORMATS.get(path.suffix, "SavedModel")
        precision = "int8" if description.get("int8") else description["precision"]
        found = measure(path, self._dataset, self._num_images)
        loss = self._add(format_name, precision, found)
        if loss > self._max_ap_loss:
            raise ValueError(
                f"{format_name} {precision} is refused: expected an AP of at least "
                f"{self._ap - self._max_ap_loss:.4f}, that of the model ({self._ap:.4f}) less "
                f"max_ap_loss={self._max_ap_loss:g}; got {found.AP:.4f}, a loss of {loss:.4f}, on "
                f"{self._num_images} images"
            )

    def _measure_source(self) -> None:
        source = measure(self._model, self._dataset, self._num_images)
        for row in self.rows:
            before = row["AP"] + row["AP_loss"]
            if abs(before - source.AP) > _SAME_AP:
                raise ValueError(
                    f"report: expected rows of a model of AP {source.AP:.4f}, got one of AP "
                    f"{before:.4f} in {self._report.with_suffix('.json')}; give another file"
                )
        self._ap = source.AP
        self._add("Keras", self._model.compute_dtype, source)

    def _add(self, format_name: str, precision: str, figures: Figures) -> float:
        """Adds a row in place of an older one; returns the loss."""
        loss = self._ap - figures.AP
        row = {"format": format_name, "precision": precision, **dataclasses.asdict(figures)}
        row |= {"AP_loss": loss, "accepted": loss <= self._max_ap_loss}
        self.rows = [*({_key(each): each for each in [*self.rows, row]}).values()]
        if self._report:
            heading = f"{self._title or 'Exports'}: {self._num_images} images"
            content = {"title": self._title, "num_images": self._num_images, "rows": self.rows}
            write_text(self._report, f"{heading}\n\n{format_rows(self.rows)}\n")
            write_text(self._report.with_suffix(".json"), json.dumps(content, indent=2) + "\n")
        return loss


def format_rows(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows of an `AccuracyGate` as a table in Markdown."""
    lines = [
        "| format | precision | AP | AP loss | ms per image | size (MB) | device | accepted |",
        "|---|---|---:|---:|---:|---:|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {row['format']} | {row['precision']} | {row['AP']:.4f} | {row['AP_loss']:.4f} | "
            f"{row['latency_ms']:.1f} | {row['size_bytes'] / 1e6:.2f} | {row['device']} | "
            f"{'yes' if row['accepted'] else 'no'} |"
        )
    return "\n".join(lines)


def _check(opened: OpenedModel, dataset: Any, num_images: int) -> np.ndarray:
    """Checks the arguments of `measure`; returns the data set's label for each of the model's.

    [C + 1], from that of padding, -1, on.
    """
    total = dataset.num_images
    if not 1 <= num_images <= total:
        raise ValueError(
            f"num_images: expected 1 to {total}, the images of the data; got {num_images}"
        )
    if opened.classifies:
        raise ValueError("model: expected a detector, whose AP is measured; got a classifier")
    check_labels(opened, dataset)
    if opened.category_ids is None:
        raise ValueError("model: expected an export with its description.json, got one without")
    count = len(opened.category_ids)
    table = label_table(opened.class_names, dataset.class_names, count)
    return np.arange(-1, count) if table is None else table


def _records(examples: Sequence, found: Sequence[tuple], dataset: Any) -> Records:
    def column(name):
        return [getattr(example, name) for example in examples]

    ids = column("image_id")
    truth = ground_truth_to_coco(
        ids, column("original_size"), column("boxes"), column("labels"), dataset.class_names,
        dataset.category_ids, areas=column("areas"), ignored_boxes=column("ignored_boxes"),
        ignored_labels=column("ignored_labels"),
    )  # fmt: skip
    columns = zip(*found, strict=True)  # boxes, scores, labels
    return Records(truth, detections_to_records(ids, *columns, dataset.category_ids))


def _size_of(model: Any) -> int:
    if hasattr(model, "weights"):
        return sum(np.asarray(weight).nbytes for weight in model.weights)
    file = Path(model)
    if file.suffix == ".xml":
        return sum(each.stat().st_size for each in (file, file.with_suffix(".bin")))
    files = [file] if file.is_file() else newest_version(file).rglob("*")
    return sum(each.stat().st_size for each in files if each.is_file())


def _device(on_cpu: bool) -> str:
    """The name of the first GPU, else of the processor, and how many cores this process may use."""
    gpus = [] if on_cpu else tf.config.list_physical_devices("GPU")
    if gpus:
        return tf.config.experimental.get_device_details(gpus[0]).get("device_name", "GPU")
    name = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):  # Linux
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((x.partition(": ")[2] for x in lines if x.startswith("model name")), name)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{name}, {cores} cores"


def _key(row: Mapping[str, Any]) -> tuple:
    return row["format"], row["precision"], row["device"]


def _read_rows(file: Path, title: str, num_images: int) -> list[dict]:
    """The rows of a report; none if there is no such file."""
    if not file.is_file():
        return []
    try:
        read = json.loads(file.read_text(encoding="utf-8"))
        format_rows(read["rows"])
        about = read["title"], read["num_images"]
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"report: expected a report in {file}, got {error!r}") from error
    if about != (title, num_images):
        raise ValueError(
            f"report: expected a report of {title!r} on {num_images} images, got one of "
            f"{about[0]!r} on {about[1]} in {file}; give another file"
        )
    return read["rows"]
