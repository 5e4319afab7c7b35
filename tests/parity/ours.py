"""Our side: drawn weights through the converter, photos through data set, model and back."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
from PIL import Image

import fcos_tf
from fcos_tf.convert import from_torch
from fcos_tf.models.fcos import FCOS
from tests.parity import torchvision_fcos
from tests.parity.agreement import differences


def converted(folder: Path, outputs: dict, **overrides) -> FCOS:
    """torchvision's FCOS with the drawn weights, by way of a checkpoint file in `folder`."""
    with np.load(torchvision_fcos.GOLDEN) as golden:
        shapes = json.loads(str(golden["shapes"]))
    path = folder / "fcos.safetensors"
    write_safetensors(path, torchvision_fcos.draw_state(shapes, outputs))
    return from_torch(path, flavour="torchvision", **overrides)


def write_safetensors(path: Path, tensors: dict[str, np.ndarray]) -> None:
    """Writes float32 tensors as a `.safetensors` file: length, JSON header, numbers."""
    header, at = {}, 0
    for name, values in tensors.items():
        place = [at, at + values.nbytes]
        header[name] = {"dtype": "F32", "shape": list(values.shape), "data_offsets": place}
        at = place[1]
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for values in tensors.values():
            file.write(values.tobytes())


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
        "coco", split="val", annotations=annotations, images=folder, batch_size=1,
        image_size=model.image_size,
    )  # fmt: skip
    for image, targets in dataset:
        yield files[int(targets["image_ids"][0])], image, targets


def in_photo(found: dict, original_size, image_size) -> dict[str, np.ndarray]:
    """Detections of a batch of one, without padding, in pixels of the photo."""
    count = int(found["num_detections"][0])
    found = {name: np.asarray(found[name])[0, :count] for name in ("boxes", "scores", "labels")}
    scale = (np.asarray(original_size) / np.asarray(image_size)).astype(np.float32)
    return {**found, "boxes": found["boxes"] * np.tile(scale[::-1], 2)}


def check_detections(model: FCOS, pairs: Sequence[tuple[str, dict, dict]]) -> None:
    """Compares (file, ours, theirs): at most 2 in 1000 differ, each on a threshold and shown."""
    total, lines = 0, []
    for file, ours, theirs in pairs:
        # Else there would be little to compare.
        assert len(theirs["scores"]) >= 40 and len(set(theirs["labels"])) >= 4, file
        total += len(theirs["scores"])
        lines += [f"{file}: {line}" for line in differences(ours, theirs, model)]
    print(*lines, sep="\n")
    assert total and len(lines) <= 0.002 * total, lines
