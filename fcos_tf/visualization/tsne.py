"""t-SNE (van der Maaten and Hinton, 2008) of the features before the last layers of a model.

Of a detector with a pyramid, the features of an object are the cell of its box's centre, the input
of the head: on the level that learns it, and on every level. Of other models, those of an image.

Shape shorthand: S samples (objects or images), F features.
"""

import csv
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from keras import ops
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.offsetbox import AnnotationBbox, OffsetImage
from PIL import Image

from fcos_tf.detecting.batches import complete_targets
from fcos_tf.visualization.detections import as_rgb, class_colour, class_name

PCA_SIZE = 50
_MIXED, _EMPTY = -1, -2  # labels of an image with objects of several classes, of one without any
_MORE = {_MIXED: "several classes", _EMPTY: "no object"}
_MARKERS = "osD^vP*"  # of the levels
_THUMBNAIL, _PLACES = 36, 24  # pixels of the long side; most of them in a row


class Samples(NamedTuple):
    """Objects or images, and their features.

    Attributes:
        features: title -> ([K], the samples that have them; [K, F] float32).
        labels: [S]; of an image with objects of several classes -1, of one without any -2.
        image_ids: [S].
        boxes: [S, 4] xyxy in pixels of the resized image.
        strides: [S], of the level that learns the object; 0: none does, or it is an image.
        thumbnails: S images, uint8 RGB.
    """

    features: dict[str, tuple[np.ndarray, np.ndarray]]
    labels: np.ndarray
    image_ids: np.ndarray
    boxes: np.ndarray
    strides: np.ndarray
    thumbnails: list[np.ndarray]


def collect_samples(model: Any, batches: Iterable, limit: int) -> Samples:
    """Reads the features of the first objects of a detector's data, or images of a classifier's.

    Args:
        model: a model with `image_features`, or a detector with a pyramid.
        batches: `(images, targets)`, as `fcos_tf.data.load` gives them.
        limit: most samples.

    Raises:
        ValueError: the model has neither kind of features, or there is no sample.
    """
    rows, features = [], defaultdict(list)  # title -> (sample, [F])
    seen = 0
    for images, targets in batches:
        images = np.asarray(images)
        arrays = complete_targets(targets, seen, images)
        seen += len(images)
        inputs = {"images": images, "image_sizes": arrays["image_sizes"]}
        whole = model.image_features(inputs)
        read = _objects(model, inputs, arrays) if whole is None else _images(whole, arrays)
        for image, label, box, stride, found in read:
            if arrays["image_ids"][image] < 0:  # padding of a batch
                continue
            for title, vector in found.items():
                features[title].append((len(rows), vector))
            crop = _crop(images[image], box)
            rows.append((label, arrays["image_ids"][image], box, stride, crop))
            if len(rows) == limit:
                return _pack(rows, features)
    if not rows:
        raise ValueError("expected images with objects, got none")
    return _pack(rows, features)


def embed(features: np.ndarray, *, perplexity: float = 30.0, seed: int = 0) -> np.ndarray:
    """Places samples in the plane, near those of similar features.

    Args:
        features: [S, F]; of more than 50 features the first 50 principal components count.
        perplexity: about the number of neighbours that count.
        seed: of both.

    Returns:
        [S, 2] float32.

    Raises:
        ValueError: scikit-learn is missing, or the perplexity is not below S.
    """
    try:
        from sklearn.decomposition import PCA
        from sklearn.manifold import TSNE
        from threadpoolctl import threadpool_limits  # which scikit-learn needs
    except ImportError as error:
        raise ValueError("t-SNE needs scikit-learn: pip install scikit-learn") from error

    count, width = features.shape
    if not 0 < perplexity < count:
        raise ValueError(
            f"perplexity: expected more than 0 and less than {count}, the number of samples, "
            f"got {perplexity:g}; give another, or more images"
        )
    if width > PCA_SIZE:
        pca = PCA(min(PCA_SIZE, count), svd_solver="full", random_state=seed)
        features = pca.fit_transform(features)
    # OpenMP's threads spin while others compute: on a busy machine several take 10 times as long.
    with threadpool_limits(1):
        return TSNE(perplexity=perplexity, random_state=seed).fit_transform(features)


def save_tsne(
    folder: str | Path,
    samples: Samples,
    class_names: Sequence[str] | None = None,
    *,
    perplexity: float = 30.0,
    seed: int = 0,
    thumbnails: bool = False,
) -> list[Path]:
    """Writes tsne.png, the same numbers as tsne.csv, and optionally tsne_thumbnails.png.

    Args:
        folder: the output folder; it is made.
        samples: result of `collect_samples`.
        class_names: name of each label; None writes the label.
        perplexity: see `embed`.
        seed: likewise.
        thumbnails: whether to draw the samples themselves at the places of the first panel.

    Returns:
        The paths written. Kinds of features that no more than `perplexity` samples have get a
        panel that says so, and no rows.

    Raises:
        ValueError: see `embed`, if no kind of features has enough samples.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    enough = {title for title, (index, _) in samples.features.items() if len(index) > perplexity}
    enough = enough or samples.features  # which `embed` then refuses
    options = {"perplexity": perplexity, "seed": seed}
    places = {
        title: (index, embed(vectors, **options) if title in enough else None)
        for title, (index, vectors) in samples.features.items()
    }
    wide = any(vectors.shape[1] > PCA_SIZE for _, vectors in samples.features.values())
    note = f"t-SNE: perplexity {perplexity:g}, seed {seed}, {len(samples.labels)} samples"
    note += f", PCA to {min(PCA_SIZE, len(samples.labels))} first" if wide else ""
    labels = [int(label) for label in samples.labels]
    names = [_MORE.get(label) or class_name(label, class_names) for label in labels]
    paths = [folder / "tsne.png", folder / "tsne.csv"]
    plot_tsne(samples, places, names, note).savefig(paths[0], dpi=100)
    drawn = {title: place for title, place in places.items() if place[1] is not None}
    _write_table(paths[1], samples, drawn, names)
    if thumbnails:
        paths.append(folder / "tsne_thumbnails.png")
        index, xy = next(iter(drawn.values()))
        _plot_thumbnails(samples, index, xy, note).savefig(paths[-1], dpi=100)
    return paths


def plot_tsne(
    samples: Samples,
    places: dict[str, tuple[np.ndarray, np.ndarray | None]],
    names: Sequence[str],
    note: str,
) -> Figure:
    """Draws a panel of each kind of features: classes as colours, the levels that learn as marks.

    Args:
        samples: result of `collect_samples`.
        places: title -> (their samples [K], [K, 2], or None for too few samples).
        names: name of each sample's class.
        note: parameters, for the title.
    """
    columns = min(3, len(places))
    rows = -(-len(places) // columns)
    size = 4.6 if len(places) > 1 else 8
    figure = Figure(figsize=(size * columns, size * rows + 1.4), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    strides = sorted(set(samples.strides))
    marks = dict(zip(strides, _MARKERS, strict=False))
    colours = np.array([_colour(label) for label in samples.labels])
    for axis, (title, (index, xy)) in zip(axes, places.items(), strict=False):
        axis.set_title(f"{title}: {len(index)}", fontsize=11)
        axis.set(xticks=[], yticks=[])
        if xy is None:
            axis.text(0.5, 0.5, "too few samples\nfor this perplexity", ha="center", va="center")
            continue
        for stride in strides:
            kept = samples.strides[index] == stride
            style = {"marker": marks.get(stride, "x"), "s": 18, "linewidths": 0}
            axis.scatter(*xy[kept].T, c=colours[index[kept]], **style)
    for axis in axes[len(places) :]:
        axis.set_axis_off()
    figure.suptitle(f"{note}\ndistances between clusters mean nothing", fontsize=11)
    style = {"linestyle": "", "markersize": 7}
    handles = [
        Line2D([], [], marker="o", color=_colour(label), **style,
               label=f"{names[list(samples.labels).index(label)]} "
                     f"({(samples.labels == label).sum()})")
        for label in np.unique(samples.labels)
    ]  # fmt: skip
    if len(strides) > 1:
        handles += [
            Line2D([], [], marker=marks.get(stride, "x"), color="0.4", **style,
                   label=f"learnt at stride {stride:g}" if stride else "learnt by no point")
            for stride in strides
        ]  # fmt: skip
    columns = max(2, round(size * columns / 2))
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False)
    return figure


def _images(whole: Any, arrays: dict) -> Iterable[tuple]:
    """Image, label, box, stride and features of each image of a batch."""
    for image, vector in enumerate(ops.convert_to_numpy(whole)):
        labels = np.unique(arrays["labels"][image])
        labels = labels[labels >= 0]
        height, width = arrays["image_sizes"][image]
        label = labels[0] if len(labels) == 1 else _MIXED if len(labels) else _EMPTY
        yield image, label, np.float32([0, 0, width, height]), 0, {"images": vector}


def _objects(model: Any, inputs: dict, arrays: dict) -> Iterable[tuple]:
    """Image, label, box, stride and features of each object of a batch."""
    learnt = {name: arrays[name] for name in ("boxes", "labels")}
    size = inputs["images"].shape[1:3]
    assigned = None
    if hasattr(model, "features"):
        assigned = model.assigned_boxes(learnt, size)
        if assigned is None:
            assigned = model.assigned_boxes(learnt, size, model(inputs, training=False))
    if assigned is None:
        raise ValueError(
            f"{type(model).__name__} has no features to draw; expected a detector with a pyramid, "
            "or a model with image_features"
        )
    maps = [ops.convert_to_numpy(x) for x in model.features(inputs, training=False)]
    matched, strides = map(ops.convert_to_numpy, assigned)  # [B, N], [N]
    for image, number in np.argwhere(arrays["labels"] >= 0):
        box = arrays["boxes"][image, number]
        x, y = (box[:2] + box[2:]) / 2
        found = {
            f"at stride {stride:g}": level[
                image, min(int(y // stride), level.shape[1] - 1),
                min(int(x // stride), level.shape[2] - 1),
            ]
            for stride, level in zip(model.strides, maps, strict=True)
        }  # fmt: skip
        kinds, counts = np.unique(strides[matched[image] == number], return_counts=True)
        stride = kinds[counts.argmax()] if len(kinds) else 0
        if stride:
            found = {"on the level that learns the object": found[f"at stride {stride:g}"], **found}
        yield image, arrays["labels"][image, number], box, stride, found


def _pack(rows: list[tuple], features: dict) -> Samples:
    labels, image_ids, boxes, strides, crops = zip(*rows, strict=True)
    titles = sorted(features, key=lambda title: title.startswith("at "))  # stable
    vectors = {title: tuple(map(np.array, zip(*features[title], strict=True))) for title in titles}
    arrays = (np.array(values) for values in (labels, image_ids, boxes, strides))
    return Samples(vectors, *arrays, list(crops))


def _crop(image: np.ndarray, box: np.ndarray) -> np.ndarray:
    x1, y1, x2, y2 = np.clip(np.round(box), 0, np.tile(image.shape[1::-1], 2)).astype(int)
    x1, y1 = min(x1, image.shape[1] - 1), min(y1, image.shape[0] - 1)
    crop = Image.fromarray(as_rgb(image[y1 : max(y2, y1 + 1), x1 : max(x2, x1 + 1)]))
    crop.thumbnail((2 * _THUMBNAIL, 2 * _THUMBNAIL))  # there may be thousands
    return np.asarray(crop)


def _colour(label: int) -> tuple[float, ...]:
    if label < 0:
        return (0.6, 0.6, 0.6) if label == _MIXED else (0.85, 0.85, 0.85)
    return tuple(np.divide(class_colour(label), 255))


def _write_table(path: Path, samples: Samples, places: dict, names: Sequence[str]) -> None:
    """Writes a line for each sample of each panel."""
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(
            ["features", "x", "y", "class", "image_id", "stride", "x1", "y1", "x2", "y2"]
        )
        for title, (index, xy) in places.items():
            for i, place in zip(index, xy, strict=True):
                numbers = [f"{value:g}" for value in (samples.strides[i], *samples.boxes[i])]
                table.writerow([title, *place, names[i], samples.image_ids[i], *numbers])


def _plot_thumbnails(samples: Samples, index: np.ndarray, xy: np.ndarray, note: str) -> Figure:
    """Draws samples in frames of their classes' colours, one at each place of a grid."""
    figure = Figure(figsize=(14, 14), layout="constrained")
    axis = figure.subplots()
    low, high = xy.min(axis=0), xy.max(axis=0)
    cells = np.floor((xy - low) / np.maximum(high - low, 1e-9) * (_PLACES - 1e-6))
    for i in np.unique(cells, axis=0, return_index=True)[1]:
        crop = samples.thumbnails[index[i]]
        image = OffsetImage(crop, zoom=_THUMBNAIL / max(crop.shape[:2]))
        frame = {"edgecolor": _colour(samples.labels[index[i]]), "linewidth": 2.5}
        axis.add_artist(AnnotationBbox(image, xy[i], pad=0.1, bboxprops=frame))
    margin = (high - low) / _PLACES
    axis.set(xticks=[], yticks=[], title=note)
    axis.set_xlim(low[0] - margin[0], high[0] + margin[0])
    axis.set_ylim(low[1] - margin[1], high[1] + margin[1])
    return figure
