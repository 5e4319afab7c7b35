"""The analysis of a detector as one HTML file that needs no network, and as JSON."""

import base64
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from fcos_tf.atomic_files import write_text
from fcos_tf.detecting.batches import complete_targets, original_scale
from fcos_tf.evaluation.analysis import EXPLANATIONS, analyse_records, confused_pairs
from fcos_tf.evaluation.charts import bars, lines
from fcos_tf.evaluation.curves import SCORES
from fcos_tf.evaluation.records import Records
from fcos_tf.evaluation.tide import RECALLS
from fcos_tf.tensorflow_words import escaped

ANALYSIS_FILE, REPORT_FILE = "analysis.json", "report.html"
NUM_WORST = 12
_MEAN = "mean of all classes"
_MOST_CLASSES = 25  # of a confusion matrix that is legible
_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;color:#1e1e1e;max-width:1080px;margin:2em auto}
h2{margin-top:2em;border-bottom:1px solid #ddd}
table{border-collapse:collapse;margin:1em 0}
th,td{padding:.2em .7em;text-align:right;border-bottom:1px solid #e4e4e8}
th:first-child,td:first-child,td.text{text-align:left}
.charts{display:flex;flex-wrap:wrap;gap:1.5em} .matrix th{font-weight:normal;max-width:9em}
figure{margin:0 0 1.5em} figure img{max-width:100%} figcaption,.note{color:#666;font-size:.9em}
li{margin:.3em 0}
"""


def analyse(
    records: Records, output_dir: str | Path, dataset: Iterable | None = None
) -> dict[str, Any]:
    """Finds what a detector gets wrong; writes `analysis.json` and `report.html`.

    Args:
        records: Of `run_detector`, or of COCO files.
        output_dir: Their folder, which is made.
        dataset: The batches that `run_detector` had, for the pictures of the worst images, which
            are read again; None: no pictures.

    Returns:
        The result of `analyse_records`, which is the content of `analysis.json`; its `images` have
        a `file` if the ground truth or the data set names them.

    Raises:
        ValueError: See `coco_evaluation`.
        OSError: A file cannot be written.

    Example:
        records = fcos_tf.evaluation.run_detector(model, val)
        print(fcos_tf.evaluation.analyse(records, "analysis", val)["advice"])
    """
    result = analyse_records(records.ground_truth, records.detections)
    files = {image["id"]: image.get("file_name") for image in records.ground_truth["images"]}
    annotations = getattr(dataset, "annotations", None)
    if annotations is not None and annotations.ranges is None:  # no shards of many images
        files |= dict(zip(annotations.image_ids.tolist(), annotations.files, strict=True))
    for row in result["images"]:
        if files.get(row["image_id"]):
            row["file"] = str(files[row["image_id"]])
    folder = Path(output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / ANALYSIS_FILE, json.dumps(result))
    pictures = {} if dataset is None else _pictures(result, records, dataset)
    write_text(folder / REPORT_FILE, render(result, pictures))
    return result


def render(result: Mapping[str, Any], pictures: Mapping[int, bytes]) -> str:
    """Returns the report as HTML.

    Args:
        result: Of `analyse_records`.
        pictures: Image id -> a JPEG of the image with its objects and detections.
    """
    threshold = result["mean_f1"]["score_threshold"]
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en"><head><meta charset="utf-8"><title>Analysis of detections</title>',
            f"<style>{_STYLE}</style></head><body><h1>Analysis of detections</h1>",
            "<h2>What to do</h2><ul>",
            *(f"<li>{_text(sentence)}</li>" for sentence in result["advice"]),
            "</ul>",
            "<h2>Errors</h2>",
            *_errors(result["tide"]),
            "<h2>Classes</h2>",
            *_classes(result),
            "<h2>Sizes and aspects</h2>",
            *_ranges(result),
            f"<h2>Confusions at score ≥ {threshold:g}</h2>",
            *_confusions(result["confusion"]),
            f"<h2>Images with most errors at score ≥ {threshold:g}</h2>",
            *_images(result["images"], pictures),
            "</body></html>\n",
        ]
    )


def _text(text: Any) -> str:
    return escape(escaped(str(text)))


def _number(value: float | None) -> str:
    return "-" if value is None or value < 0 else f"{value:.3f}"


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> Iterator[str]:
    """Cells of text are escaped, floats rounded."""
    yield "<table><tr>" + "".join(f"<th>{_text(cell)}</th>" for cell in head) + "</tr>"
    for row in rows:
        cells = (
            f'<td class="text">{_text(cell)}</td>'
            if isinstance(cell, str)
            else f"<td>{cell if isinstance(cell, int) else _number(cell)}</td>"
            for cell in row
        )
        yield "<tr>" + "".join(cells) + "</tr>"
    yield "</table>"


def _errors(numbers: Mapping[str, Any]) -> Iterator[str]:
    costs, counts = numbers["costs"], numbers["counts"]
    yield f"<p>AP50 {_number(numbers['AP50'])}. What mending one type of error alone would add:</p>"
    yield bars({kind: costs[kind] for kind in EXPLANATIONS}, "AP50 lost")
    rows = [(kind, costs[kind], counts[kind], *EXPLANATIONS[kind]) for kind in EXPLANATIONS]
    yield from _table(("type", "AP50 lost", "number", "what it is", "what to do"), rows)
    yield (
        f"<p>All false positives together cost {_number(costs['FalsePos'])}, all objects not found "
        f"{_number(costs['FalseNeg'])}.</p>"
        '<p class="note">Types of TIDE (arXiv:2008.08115) at IoU 0.5; costs do not add up.</p>'
    )


def _classes(result: Mapping[str, Any]) -> Iterator[str]:
    columns = ("AP50", "threshold", "f1", "precision", "recall")
    per_class = result["per_class"]
    head = ("class", "objects", "AP50", "threshold of the best F1", "F1", "precision", "recall")
    rows = [
        (name, row["num_ground_truths"], *(row.get(column) for column in columns))
        for name, row in per_class.items()
    ]
    yield from _table(head, rows)
    best = result["mean_f1"]
    yield (
        f"<p>One threshold for all classes: {best['score_threshold']:g}, with a mean F1 of "
        f"{_number(best['f1'])}.</p>"
    )
    measured = {name: row for name, row in per_class.items() if row["num_ground_truths"]}
    precisions, f1_curves = (
        [(name, row[key]) for name, row in measured.items()] for key in ("precisions", "f1_curve")
    )
    mean = np.mean([y for _, y in precisions], axis=0) if measured else np.zeros(len(RECALLS))
    # Pairs, as a class may have any name, also that of the mean.
    yield '<div class="charts">'
    yield lines(RECALLS, [*precisions, (_MEAN, mean)], "recall", "precision")
    yield lines(SCORES, [*f1_curves, (_MEAN, best["f1_curve"])], "score", "F1")
    yield "</div>"


def _ranges(result: Mapping[str, Any]) -> Iterator[str]:
    limits = {
        "small": "area ≤ 32²", "medium": "≤ 96²", "large": "more",
        "tall": "width / height ≤ 0.75", "square": "≤ 1.33", "wide": "more",
    }  # fmt: skip
    for what in ("by_size", "by_aspect"):
        rows = [
            (name, limits[name], row["num_ground_truths"], row["AP50"])
            for name, row in result[what].items()
        ]
        yield from _table((what.removeprefix("by_"), "", "objects", "AP50"), rows)


def _confusions(confusion: Mapping[str, Any]) -> Iterator[str]:
    names, matrix = confusion["class_names"], np.array(confusion["matrix"])
    if len(names) <= _MOST_CLASSES:
        yield '<p class="note">Rows: true class. Columns: predicted class. Colour: by row.</p>'
        yield '<table class="matrix"><tr><th></th>'
        yield "".join(f"<th>{_text(name)}</th>" for name in names) + "</tr>"
        shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
        for name, row, share in zip(names, matrix, shares, strict=True):
            cells = (
                f'<td style="background:rgba(29,145,255,{s:.2f})">{n}</td>'
                for n, s in zip(row.tolist(), share.tolist(), strict=True)
            )
            yield f"<tr><th>{_text(name)}</th>" + "".join(cells) + "</tr>"
        yield "</table>"
    elif pairs := confused_pairs(confusion)[:20]:
        yield from _table(("true", "predicted", "number"), [(t, p, n) for n, t, p in pairs])
    yield (
        f"<p>{int(matrix[-1].sum())} false positives, {int(matrix[:, -1].sum())} "
        "missed objects.</p>"
    )


def _images(images: Sequence[Mapping[str, Any]], pictures: Mapping[int, bytes]) -> Iterator[str]:
    worst = images[:NUM_WORST]
    rows = [
        (str(row.get("file", row["image_id"])), row["missed"], row["false_positives"])
        for row in worst
    ]
    yield from _table(("image", "missed", "false positives"), rows)
    for row, cells in zip(worst, rows, strict=True):
        if row["image_id"] in pictures:
            data = base64.b64encode(pictures[row["image_id"]]).decode()
            name, missed, false = cells
            yield (
                f'<figure><img alt="" src="data:image/jpeg;base64,{data}"><figcaption>'
                f"{_text(name)}: {missed} missed, {false} false positives</figcaption></figure>"
            )


def _pictures(result: Mapping[str, Any], records: Records, dataset: Iterable) -> dict[int, bytes]:
    """JPEGs of the worst images, objects beside detections, by image id."""
    from fcos_tf.visualization import draw_gallery  # imports matplotlib

    wanted = {row["image_id"] for row in result["images"][:NUM_WORST]}
    categories = sorted(records.ground_truth["categories"], key=lambda each: each["id"])
    label_of = {category["id"]: label for label, category in enumerate(categories)}
    objects = [each for each in records.ground_truth["annotations"] if not each.get("iscrowd")]
    pictures = {}
    seen = 0
    for images, targets in dataset:
        targets = complete_targets(targets, seen, images)
        ids = targets["image_ids"].tolist()
        seen += len(ids)
        scales = original_scale(targets["image_sizes"], targets["original_sizes"])
        for row in np.flatnonzero(np.isin(ids, list(wanted - set(pictures)))):
            truth, found = (
                _drawable([r for r in each if r["image_id"] == ids[row]], label_of, scales[row])
                for each in (objects, records.detections)
            )
            truth["image_sizes"] = targets["image_sizes"][row]
            picture = draw_gallery(
                [np.asarray(images[row])],
                [truth],
                [found],
                [category["name"] for category in categories],
                columns=1,
                score_threshold=result["mean_f1"]["score_threshold"],
                panel_size=512,
            )
            buffer = io.BytesIO()
            picture.save(buffer, format="JPEG", quality=85)
            pictures[ids[row]] = buffer.getvalue()
        if len(pictures) == len(wanted):
            break
    return pictures


def _drawable(
    rows: Sequence[Mapping[str, Any]], label_of: Mapping[int, int], scale: np.ndarray
) -> dict[str, np.ndarray]:
    """Records of one image as boxes in pixels of the resized image, labels and scores."""
    xywh = np.array([row["bbox"] for row in rows], np.float64).reshape(-1, 4)
    return {
        "boxes": np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1) / scale,
        "labels": np.array([label_of[row["category_id"]] for row in rows], np.int64),
        "scores": np.array([row.get("score", 1.0) for row in rows]),
    }
