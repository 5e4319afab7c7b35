"""Draws training images, the curves of runs, and what a model learns, predicts and tells apart.

    python tools/visualize.py --what=augmentations --flagfile=coco.cfg --data_dir=COCO
        --augment=color_jitter,mosaic --output_dir=pictures
    python tools/visualize.py --what=curves --runs=runs/a,runs/b --output_dir=pictures
    python tools/visualize.py --what=predictions --flagfile=voc.cfg --data_dir=VOC2007
        --model_dir=runs/voc --output_dir=pictures

--what=augmentations writes augmentations.png: training images after augmentation, with their boxes.
--what=curves writes curves.png: losses, learning rate, gradient norm, AP and the time spent waiting
for input over the steps of one or several runs.
The others need a model, and draw the validation images at its size.
--what=points, targets and predictions write a picture of each of --num_images images, named by its
image id: the points of each level; the box that each point learns, and its centerness; class score,
quality and boxes of each level before NMS, under the truth and the detections of
--score_threshold and more (default 0.3).
--what=tsne writes tsne.png and tsne.csv: t-SNE of the features before the last layers, of objects
on the level that learns them and on each level, or of images.
--what=proposals writes proposals.png: the best proposals of a Faster R-CNN, with their objectness,
on validation images at the size of the model.
"""

import dataclasses
import functools
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fcos_tf.atomic_files import make_folder
from fcos_tf.cli import command_line
from fcos_tf.config import (
    OUTPUT_WORDS,
    WEIGHTS_WORDS,
    AugmentationOptions,
    Config,
    DataOptions,
    InputOptions,
)
from fcos_tf.options import Options, fields_of, option
from fcos_tf.tensorflow_words import load_tensorflow


def _augmentations(config, options, given):
    del given
    from fcos_tf import build, visualization

    dataset = build.load_train_data(config)
    rows = dataset.unbatch().take(options.num_images).as_numpy_iterator()
    images, truths = zip(*rows, strict=True)
    path, names = Path(options.output_dir) / "augmentations.png", dataset.class_names
    yield visualization.save_gallery(path, images, truths, class_names=names, columns=4)


def _curves(config, options, given):
    if options.runs:
        command_line.refuse_unused(given, "--runs", ["model_dir"])
    from fcos_tf.visualization.curves import save_curves

    folders = [run for run in options.runs or (config.model_dir,) if run]
    if not folders:
        raise ValueError("--runs or --model_dir: expected folders of runs, got none")
    yield save_curves(Path(options.output_dir) / "curves.png", folders)


def _points(config, options, given):
    from fcos_tf.visualization.levels import draw_points, draw_predictions, draw_targets

    # One image a batch, so that none is padded to the size of others.
    config = dataclasses.replace(config, batch_size=1)
    model, dataset = _open(config, options, given)
    names, more = (model.class_names or dataset.class_names,), {}
    draw = {"points": draw_points, "targets": draw_targets, "predictions": draw_predictions}
    if options.what == "points":
        names = ()
    elif options.what == "predictions" and "score_threshold" in given.typed:
        if isinstance(config.score_threshold, str):
            raise ValueError("--score_threshold: expected a number for predictions, got best_f1")
        more = {"score_threshold": config.score_threshold}
    for image, targets in _examples(dataset, options.num_images):
        targets["labels"] = _labels_of(model, dataset, targets["labels"])
        path = Path(options.output_dir) / f"{options.what}_{targets['image_ids']}.png"
        draw[options.what](model, image, targets, *names, **more).save(path)
        yield path


def _tsne(config, options, given):
    from fcos_tf.visualization.tsne import collect_samples, save_tsne

    model, dataset = _open(config, options, given)
    labels_of = functools.partial(_labels_of, model, dataset)
    batches = (
        (images, {**targets, "labels": labels_of(targets["labels"])})
        for images, targets in dataset.as_numpy_iterator()
    )
    samples = collect_samples(model, batches, options.num_samples)
    with command_line.arguments_as_flags({"perplexity": "perplexity"}):
        yield from save_tsne(
            options.output_dir,
            samples,
            model.class_names or dataset.class_names,
            perplexity=options.perplexity,
            seed=config.seed,
            thumbnails=options.thumbnails,
        )


def _proposals(config, options, given):
    from fcos_tf.visualization.proposals import draw_proposals

    # One image a batch, so that none is padded to the size of others.
    model, dataset = _open(dataclasses.replace(config, batch_size=1), options, given)
    images, targets = zip(*_examples(dataset, options.num_images), strict=True)
    picture = draw_proposals(
        model, images, targets, dataset.class_names, num_boxes=options.num_boxes
    )
    path = Path(options.output_dir) / "proposals.png"
    picture.save(path)
    yield path


_DATA = (*fields_of(DataOptions), *fields_of(InputOptions))
_OF_A_MODEL = (*_DATA, "val_split", "model_dir", "weights")
# Choice of --what -> the function that draws it, and the options that it uses.
_PICTURES = {
    "augmentations": (
        _augmentations,
        (*_DATA, *fields_of(AugmentationOptions), "seed", "num_images"),
    ),
    "curves": (_curves, ("model_dir", "runs")),
    "points": (_points, (*_OF_A_MODEL, "num_images")),
    "targets": (_points, (*_OF_A_MODEL, "num_images")),
    "predictions": (_points, (*_OF_A_MODEL, "num_images", "score_threshold")),
    "tsne": (_tsne, (*_OF_A_MODEL, "seed", "num_samples", "perplexity", "thumbnails")),
    "proposals": (_proposals, (*_OF_A_MODEL, "num_images", "num_boxes")),
}


# fmt: off
@dataclasses.dataclass(frozen=True)
class VisualizeOptions(Options):
    """The picture to draw."""

    what: str = option("", "Picture to draw.", choices=tuple(_PICTURES), required=True)
    output_dir: str = option("", "Output folder.", required=True, also=OUTPUT_WORDS)
    num_images: int = option(8, "Number of images; not with --what=curves or tsne.", least=1)
    runs: tuple[str, ...] = option(
        (), "With --what=curves: folders of runs; empty = --model_dir.")
    weights: str | None = option(
        None, "Of pictures of a model: a .keras file (or --model_dir: the newest of a run).",
        also=WEIGHTS_WORDS)
    num_samples: int = option(1000, "With --what=tsne: most objects or images.", least=2)
    perplexity: float = option(
        30.0, "With --what=tsne: about the number of neighbours that count.", above=0)
    thumbnails: bool = option(
        False, "With --what=tsne: also tsne_thumbnails.png, the objects in their places.")
    num_boxes: int = option(20, "With --what=proposals: most proposals of an image.", least=1)
# fmt: on


def main(argv: list[str] | None = None) -> None:
    """Runs the tool; ends the process with its exit status."""
    uses = {name for _, names in _PICTURES.values() for name in names}
    uses &= fields_of(Config).keys()
    command_line.run(_visualize, __doc__, argv, uses=uses, options=VisualizeOptions)


def _visualize(config: Config, options: VisualizeOptions, given: command_line.Given) -> None:
    draw, uses = _PICTURES[options.what]
    unused = {*fields_of(Config), *fields_of(VisualizeOptions)} - {"what", "output_dir"}
    command_line.refuse_unused(given, f"--what={options.what}", unused - {*uses})
    make_folder(options.output_dir, "output_dir")
    if options.what != "curves":
        load_tensorflow()
    for path in draw(config, options, given):
        print(path, flush=True)


def _open(config: Config, options: VisualizeOptions, given: command_line.Given) -> tuple[Any, Any]:
    """A model, and the validation data of its classes at its size."""
    from fcos_tf import build
    from fcos_tf.models.weights import load_model
    from fcos_tf.training.run import find_weights

    if options.weights:
        command_line.refuse_unused(given, "--weights", ["model_dir"])
    model = load_model(find_weights(config.model_dir, options.weights))
    config = build.with_input_of(model, config, command_line.replacing(config, given))
    return model, build.load_val_data(config)


def _examples(dataset: Any, count: int) -> Iterator[tuple[Any, dict[str, Any]]]:
    """The first images that can be read, and their targets, of batches of one image."""
    batches = dataset.as_numpy_iterator()
    single = ((images[0], {k: v[0] for k, v in batch.items()}) for images, batch in batches)
    readable = (example for example in single if example[1]["image_ids"] >= 0)
    if (first := next(readable, None)) is None:
        raise ValueError("expected images, got none that can be read")
    yield from itertools.islice(itertools.chain([first], readable), count)


def _labels_of(model: Any, dataset: Any, labels: Any) -> Any:
    """The model's labels, by name, for those of the data; -1 stays."""
    import numpy as np

    if not model.class_names:
        return labels
    if unknown := [name for name in dataset.class_names if name not in model.class_names]:
        raise ValueError(
            f"--classes: expected classes of the model ({', '.join(model.class_names)}), "
            f"got {unknown[0]}"
        )
    table = np.array([model.class_names.index(name) for name in dataset.class_names] + [-1])
    return table[labels]
