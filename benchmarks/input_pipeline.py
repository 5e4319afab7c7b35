"""Batches of images from disk: ours, a bare tf.data map, and Pillow with a DataLoader."""

import functools
import os
from collections.abc import Callable, Iterable, Sequence

from benchmarks.batches import fixed_size
from benchmarks.processes import Entrant, Side, timed
from benchmarks.torchvision_side import import_libraries
from fcos_tf.config import Config
from fcos_tf.tensorflow_words import load_tensorflow

# Untimed batches: the start of threads and processes, and batches prefetched before the clock.
_WARM_UP = 20


def entrants(config: Config, peers: Sequence[str]) -> tuple[str, int, dict[str, Entrant]]:
    """Title, images in a step, and the entrants by their names, ours first."""
    load_tensorflow()
    from fcos_tf import build

    size = fixed_size(config)
    if config.dataset not in ("coco", "voc"):
        raise ValueError(f"--dataset: expected coco or voc, image files, got {config.dataset!r}")
    found = build.read_annotations(config, config.train_split).annotations
    common = {"files": list(found.files), "size": size, "batch_size": config.batch_size}
    made = {
        "fcos_tf": Entrant(functools.partial(_side, _ours, config=config)),
        "bare tf.data": Entrant(functools.partial(_side, _bare, **common)),
    }
    if peers:
        make = functools.partial(_side, _torchvision, **common)
        made["torchvision DataLoader"] = Entrant(make, import_libraries)
    title = f"input, {len(found.files)} files, {config.image_size}, batch {config.batch_size}"
    return title, config.batch_size, made


def _side(function: Callable[..., Callable[[], Iterable]], **options) -> Side:
    """Times batches of a fresh iterator, so that nothing runs on between turns."""
    make = function(**options)

    def run(steps: int) -> float:
        iterator = iter(make())
        for _ in range(_WARM_UP):
            next(iterator)
        return timed(lambda: next(iterator))(steps)

    return Side(run)


def _ours(config: Config):
    """Training batches as `tools/train.py` has them."""
    from fcos_tf import build

    data = build.load_train_data(config)
    return lambda: data


def _bare(files, size, batch_size: int):
    """Only decodes and resizes, with TensorFlow's own operations."""
    import tensorflow as tf

    def load(file):
        image = tf.io.decode_jpeg(tf.io.read_file(file), channels=3)
        # uint8, so that all sides move the same number of bytes.
        return tf.cast(tf.image.resize(image, size.canvas), tf.uint8)

    dataset = tf.data.Dataset.from_tensor_slices(list(files)).repeat()
    dataset = dataset.map(load, num_parallel_calls=tf.data.AUTOTUNE)
    return lambda: dataset.batch(batch_size).prefetch(tf.data.AUTOTUNE)


def _torchvision(files, size, batch_size: int):
    """Decodes, resizes, flips, pads and batches with Pillow and torchvision."""
    from benchmarks.torchvision_peer import import_torchvision

    torch, _ = import_torchvision()
    if len(files) < batch_size:
        raise ValueError(f"--batch_size: expected at most {len(files)} images, got {batch_size}")
    loader = torch.utils.data.DataLoader(
        _Photos(list(files), size),
        batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=os.cpu_count() or 1,
        persistent_workers=True,
    )

    def endless():
        while True:
            yield from loader

    return endless


class _Photos:
    """A map-style data set for torch's DataLoader."""

    def __init__(self, files: list[str], size):
        self.files, self.size = files, size

    def __len__(self):
        return len(self.files)

    def __getitem__(self, index: int):
        import torch
        from PIL import Image
        from torchvision.transforms import functional

        with Image.open(self.files[index]) as file:
            image = file.convert("RGB")
        image = functional.resize(image, list(self.size.resized(image.height, image.width)))
        if torch.rand(()) < 0.5:
            image = functional.hflip(image)
        height, width = self.size.canvas
        image = functional.pad(image, [0, 0, width - image.width, height - image.height])
        return functional.pil_to_tensor(image)
