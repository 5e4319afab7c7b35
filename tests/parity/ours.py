"""Our side: drawn weights through the converter, photos through data set, model and back."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
from PIL import Image
from safetensors.numpy import save_file

import fcos_tf
from fcos_tf.convert import from_torch
from fcos_tf.models.fcos import FCOS
from fcos_tf.models.fcos_detections import fcos_detections
from tests.parity import torchvision_fcos
from tests.parity.agreement import MARGIN, differences


def converted(folder: Path, outputs: dict, **overrides) -> FCOS:
    """torchvision's FCOS with the drawn weights, by way of a checkpoint file in `folder`."""
    with np.load(torchvision_fcos.GOLDEN) as golden:
        shapes = json.loads(str(golden["shapes"]))
    path = folder / "fcos.safetensors"
    save_file(torchvision_fcos.draw_state(shapes, outputs), path)
    return from_torch(path, flavour="torchvision", **overrides)


def predict(model: FCOS, image: np.ndarray) -> dict:
    """Raw predictions of images [B, H, W, 3] that are normalised already."""
    return model.head(list(model.fpn(model.backbone(image)).values()))


def photos(
    model: FCOS, folder: Path, files: Sequence[str], annotations: Path
) -> Iterator[tuple[str, tf.Tensor, dict]]:
    """File, image [1, H, W, 3] and targets of each photo, preprocessed for evaluation.

    Args:
        model: for its `image_size`.
        folder: of the photos.
        files: their names in it.
        annotations: where to write the COCO JSON that names them, without objects.
    """
    images = []
    for image_id, file in enumerate(files):
        with Image.open(folder / file) as image:
            width, height = image.size
        images.append({"id": image_id, "file_name": file, "width": width, "height": height})
    categories = [{"id": 1, "name": "thing"}]
    listed = {"images": images, "annotations": [], "categories": categories}
    annotations.write_text(json.dumps(listed))
    dataset = fcos_tf.data.load(
        "coco", split="all", annotations=annotations, images=folder, batch_size=1,
        image_size=model.image_size,
    )  # fmt: skip
    for image, targets in dataset:
        yield files[int(targets["image_ids"][0])], image, targets


def detections(model: FCOS, predictions: dict, image, image_size, original_size) -> tuple:
    """What one image's raw predictions come to, in pixels of the photo.

    Args:
        model: what made them.
        predictions: of a batch of one.
        image: [1, H, W, 3], for its size.
        image_size: (height, width) of the part that is not padding.
        original_size: (height, width) of the photo.

    Returns:
        Two dicts of `boxes`, `scores` and `labels`: the detections, and all candidates, with those
        that are just below a threshold.
    """
    image_sizes = np.float32([image_size])
    found = model.decode(predictions, image.shape[1:3], image_sizes)
    candidates = fcos_detections(
        predictions,
        image.shape[1:3],
        image_sizes,
        strides=model.strides,
        score_threshold=model.score_threshold - MARGIN,
        nms_threshold=1.0,
        topk_per_level=2 * model.topk_per_level,
        max_detections=10_000,
        rules=model.rules,
    )
    scale = np.float32(np.asarray(original_size) / np.asarray(image_size))
    return tuple(in_photo(each, scale) for each in (found, candidates))


def in_photo(found: dict, scale: np.ndarray) -> dict[str, np.ndarray]:
    """A batch of one, without padding, scaled by (height, width)."""
    count = int(found["num_detections"][0])
    found = {name: np.asarray(found[name])[0, :count] for name in ("boxes", "scores", "labels")}
    return {**found, "boxes": found["boxes"] * np.tile(scale[::-1], 2)}


def check_detections(
    model: FCOS, cases: Sequence[tuple[str, tuple, dict]], *, least_classes: int = 4
) -> None:
    """Compares (file, what `detections` gives, theirs).

    At most 2 in 1000, or one, differ, each for a reason that rounding gives, and shown.
    """
    total, only_ours, only_theirs = 0, [], []
    for file, (ours, candidates), theirs in cases:
        # Else there would be little to compare.
        counts = len(theirs["scores"]), len(set(theirs["labels"]))
        assert counts[0] >= 40 and counts[1] >= least_classes, (file, counts)
        total += len(theirs["scores"])
        lines = differences(ours, theirs, model, candidates)
        only_ours += [f"{file}: {line}" for line in lines[0]]
        only_theirs += [f"{file}: {line}" for line in lines[1]]
    print(*only_ours, *only_theirs, sep="\n")
    assert total and max(len(only_ours), len(only_theirs)) <= max(1, 0.002 * total)
