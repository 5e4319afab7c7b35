"""Requests to an exported model, image files in and detections out, and torchvision's detector."""

import functools
import io
import json
from collections.abc import Callable, Sequence
from itertools import cycle, islice
from pathlib import Path

from benchmarks.processes import Entrant, Side, timed
from benchmarks.torchvision_side import import_libraries
from fcos_tf.config import Config

# Takes the contents of image files and returns when their detections are computed.
Ask = Callable[[Sequence[bytes]], object]


def entrants(
    config: Config, saved_model: str, images: str | None, peers: Sequence[str]
) -> tuple[str, int, dict[str, Entrant]]:
    """Title, images in a request, and the entrants by their names, ours first.

    `images` are image files, as --input of `tools/detect.py`; None: scikit-learn's two photos.
    """
    from fcos_tf.cli.command_line import arguments_as_flags
    from fcos_tf.detecting.exported import DESCRIPTION_FILE, newest_version

    with arguments_as_flags({"model": "saved_model", "input": "input"}):
        folder, files = newest_version(saved_model), _image_files(images)
    description = json.loads((folder / "assets" / DESCRIPTION_FILE).read_text(encoding="utf-8"))
    size = description["image_size"]
    contents = [file.read_bytes() for file in files]
    number = config.batch_size
    side = functools.partial(_side, contents=contents, number=number)
    make = functools.partial(side, functools.partial(_saved_model, folder))
    made = {f"SavedModel {description['precision']}": Entrant(make)}
    if peers:
        classes = len(description["category_ids"])
        make = functools.partial(side, functools.partial(_torchvision, config, size, classes))
        made[f"torchvision {config.precision}"] = Entrant(make, import_libraries)
    title = f"inference, {len(contents)} image files, {size}, {number} in a request, {folder}"
    return title, number, made


def _image_files(text: str | None) -> list[Path]:
    from sklearn.datasets import load_sample_images

    from fcos_tf.detecting.files import IMAGE, find_inputs

    names = load_sample_images().filenames if text is None else text
    files = [item.path for item in find_inputs(names) if item.kind == IMAGE]
    if not files:
        raise FileNotFoundError(f"--input: expected image files, got {text}")
    return files


def _side(make: Callable[[], Ask], *, contents: Sequence[bytes], number: int) -> Side:
    """Requests `number` images at a time, in an endless cycle."""
    ask, endless = make(), cycle(contents)
    return Side(timed(lambda: ask(list(islice(endless, number)))))


def _saved_model(folder: Path) -> Ask:
    import tensorflow as tf

    from fcos_tf.detecting.exported import FILES_SIGNATURE

    detect = tf.saved_model.load(folder).signatures[FILES_SIGNATURE]
    return lambda files: {
        name: value.numpy() for name, value in detect(image_bytes=tf.constant(files)).items()
    }


def _torchvision(config: Config, image_size: str, num_classes: int) -> Ask:
    import numpy as np
    from PIL import Image

    from benchmarks.torchvision_peer import Peer
    from fcos_tf.image_size import parse_image_size

    rule = parse_image_size(image_size)
    peer = Peer(config, num_classes, sides=rule.canvas or rule.sides[1:])
    return lambda files: peer.detect(
        [np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) for data in files]
    )
