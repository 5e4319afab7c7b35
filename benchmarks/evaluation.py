"""COCO's twelve numbers from the same random records: ours and pycocotools'."""

import contextlib
import functools
import io
from collections.abc import Callable, Sequence

import numpy as np

from benchmarks.processes import Entrant, Side, timed
from fcos_tf.evaluation.coco import coco_metrics
from fcos_tf.evaluation.records import to_dicts

NUM_IMAGES, NUM_DETECTIONS, NUM_OBJECTS, NUM_CLASSES = 5000, 100, 7, 80


def entrants(seed: int, peers: Sequence[str]) -> tuple[str, int, dict[str, Entrant]]:
    """Title, images in a step, and the entrants by their names, ours first."""
    functions = {"fcos_tf": _ours, **dict.fromkeys(peers, _pycocotools)}
    made = {
        name: Entrant(functools.partial(_side, function, seed, NUM_IMAGES))
        for name, function in functions.items()
    }
    title = f"evaluation, {NUM_IMAGES} images, {NUM_DETECTIONS} detections each"
    return title, NUM_IMAGES, made


def _side(function: Callable, seed: int, num_images: int) -> Side:
    truth, detections = random_records(seed, num_images)
    results: dict[str, list[float]] = {}
    step = lambda: results.update(last=function(truth, detections))  # noqa: E731
    return Side(timed(step), result=lambda: results["last"])


def check(results: dict[str, list[float]]) -> None:
    """Compares the numbers of all with the first.

    Raises:
        RuntimeError: some differ by more than 1e-9.
    """
    first, *others = results
    for name in others:
        distance = np.abs(np.subtract(results[first], results[name])).max()
        if not distance <= 1e-9:
            raise RuntimeError(f"the numbers of {first} and {name} differ by {distance}")


def random_records(seed: int, num_images: int) -> tuple[dict, list[dict]]:
    """COCO ground truth, crowds included, and detections, many of them near an object."""
    rng = np.random.default_rng(seed)
    images = [{"id": i, "height": 480, "width": 640} for i in range(1, num_images + 1)]
    annotations, detections = [], []
    for image in images:
        corner = rng.uniform(0, 400, (NUM_OBJECTS, 2))
        sides = np.exp(rng.uniform(np.log(8), np.log(240), (NUM_OBJECTS, 2)))
        labels = rng.integers(1, NUM_CLASSES + 1, NUM_OBJECTS)
        boxes = np.concatenate([corner, sides], axis=1)
        columns = {
            "id": len(annotations) + np.arange(1, NUM_OBJECTS + 1),
            "image_id": np.full(NUM_OBJECTS, image["id"]),
            "category_id": labels,
            "bbox": boxes,
            "area": sides.prod(axis=1),
            "iscrowd": (rng.random(NUM_OBJECTS) < 0.02).astype(int),
        }
        annotations += to_dicts(columns)
        near = rng.integers(0, NUM_OBJECTS, NUM_DETECTIONS)
        found = boxes[near] * np.exp(rng.normal(0, 0.1, (NUM_DETECTIONS, 4)))
        other = rng.random(NUM_DETECTIONS) < 0.5
        classes = np.where(other, rng.integers(1, NUM_CLASSES + 1, NUM_DETECTIONS), labels[near])
        ids, scores = np.full(NUM_DETECTIONS, image["id"]), rng.random(NUM_DETECTIONS)
        columns = {"image_id": ids, "category_id": classes, "bbox": found, "score": scores}
        detections += to_dicts(columns)
    categories = [{"id": k, "name": str(k)} for k in range(1, NUM_CLASSES + 1)]
    return {"images": images, "annotations": annotations, "categories": categories}, detections


def _ours(truth: dict, detections: list[dict]) -> list[float]:
    return list(coco_metrics(truth, detections).values())


def _pycocotools(truth: dict, detections: list[dict]) -> list[float]:
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError:
        raise ValueError("--peer=pycocotools: expected it; pip install pycocotools") from None
    with contextlib.redirect_stdout(io.StringIO()):
        index = COCO()
        # pycocotools changes its input records.
        index.dataset = {**truth, "annotations": [dict(a) for a in truth["annotations"]]}
        index.createIndex()
        evaluator = COCOeval(index, index.loadRes([dict(d) for d in detections]), "bbox")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return evaluator.stats.tolist()
