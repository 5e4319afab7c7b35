"""t-SNE of the features of objects and images."""

import csv
import sys

import keras
import numpy as np
import pytest
from PIL import Image

import fcos_tf
from fcos_tf.models.image_model import ImageModel
from fcos_tf.visualization import class_colour, tsne
from fcos_tf.visualization.tsne import Samples, collect_samples, embed, plot_tsne, save_tsne

OWN = "on the level that learns the object"


class Brightness(ImageModel):
    """Its feature is the mean of an image's channels."""

    def image_features(self, inputs):
        return keras.ops.mean(inputs["images"], axis=(1, 2))


def batch(images, boxes, labels, image_ids):
    images = np.float32(images)
    targets = {
        "boxes": np.float32(boxes), "labels": np.int32(labels), "image_ids": np.array(image_ids),
        "image_sizes": np.float32([images.shape[1:3]] * len(images)),
    }  # fmt: skip
    return images, targets


@pytest.fixture(scope="module")
def model():
    return fcos_tf.FCOS(3, backbone="simple_cnn", fpn_levels=3, fpn_channels=32, head_convs=0)


@pytest.fixture
def objects():
    """Three objects, one of them between the points, and padding; a third image is padding."""
    images = np.random.default_rng(0).uniform(0, 255, [3, 64, 96, 3])
    boxes = [
        [[12, 20, 28, 36], [57, 57, 59, 59]],
        [[16, 0, 96, 64], [0, 0, 0, 0]],
        [[0, 0, 60, 60], [0, 0, 0, 0]],
    ]
    return batch(images, boxes, [[2, 1], [0, -1], [0, -1]], [7, 8, -1])


def test_images_without_ids_are_counted(model, objects):
    images, targets = objects
    rest = {name: value for name, value in targets.items() if name != "image_ids"}
    samples = collect_samples(model, [(images, rest)] * 2, 10)
    assert samples.image_ids.tolist() == [1, 1, 2, 3, 4, 4, 5, 6]


def test_an_object_has_the_features_at_its_centre(model, objects):
    images, _ = objects
    samples = collect_samples(model, [objects], 10)
    np.testing.assert_array_equal(samples.labels, [2, 1, 0])
    np.testing.assert_array_equal(samples.image_ids, [7, 7, 8])
    # (57, 57, 59, 59) is between 52 and 60. The largest distance of (16, 0, 96, 64) from points
    # near its centre (56, 32) is 44 px: the first level.
    np.testing.assert_array_equal(samples.strides, [8, 0, 8])
    assert list(samples.features) == [OWN, "at stride 8", "at stride 16", "at stride 32"]
    maps = [np.asarray(x) for x in model.features({"images": images}, training=False)]
    # Centres (20, 28), (58, 58), (56, 32), as rows and columns of strides 8, 16 and 32.
    cells = {
        8: [(3, 2), (7, 7), (4, 7)],
        16: [(1, 1), (3, 3), (2, 3)],
        32: [(0, 0), (1, 1), (1, 1)],
    }
    for level, (stride, places) in zip(maps, cells.items(), strict=True):
        index, vectors = samples.features[f"at stride {stride}"]
        np.testing.assert_array_equal(index, [0, 1, 2])
        expected = [level[i, y, x] for i, (y, x) in zip((0, 0, 1), places, strict=True)]
        np.testing.assert_allclose(vectors, expected, rtol=1e-4, atol=1e-6)
    index, vectors = samples.features[OWN]
    np.testing.assert_array_equal(index, [0, 2])
    np.testing.assert_array_equal(vectors, samples.features["at stride 8"][1][[0, 2]])
    np.testing.assert_array_equal(samples.thumbnails[0], images[0, 20:36, 12:28].round())
    assert len(collect_samples(model, [objects, objects], 4).labels) == 4


def test_an_image_has_one_class_or_several():
    images = np.full([3, 8, 8, 3], 10) * np.arange(1, 4)[:, None, None, None]
    boxes = np.zeros([3, 2, 4])
    samples = collect_samples(
        Brightness(2), [batch(images, boxes, [[1, 1], [0, -1], [0, 1]], [1, 2, 3])], 10
    )
    np.testing.assert_array_equal(samples.labels, [1, 0, -1])
    index, vectors = samples.features["images"]
    np.testing.assert_array_equal(index, [0, 1, 2])
    np.testing.assert_allclose(vectors, [[10] * 3, [20] * 3, [30] * 3])
    np.testing.assert_array_equal(samples.boxes[0], [0, 0, 8, 8])


def test_what_cannot_be_drawn_is_refused(objects, monkeypatch):
    with pytest.raises(ValueError, match=r"^ImageModel has no features to draw; expected"):
        collect_samples(ImageModel(2), [objects], 10)
    with pytest.raises(ValueError, match="expected images with objects, got none"):
        collect_samples(Brightness(2), [], 10)
    with pytest.raises(ValueError, match="less than 30, the number of samples, got 30; give"):
        embed(np.zeros([30, 4]), perplexity=30)
    monkeypatch.setitem(sys.modules, "sklearn.manifold", None)
    with pytest.raises(ValueError, match="needs scikit-learn: pip install scikit-learn"):
        embed(np.zeros([30, 4]))


@pytest.fixture(scope="module")
def two_kinds():
    """Samples of 60 features, at 0 or at 9 with noise of 1: classes 0 and 2."""
    random = np.random.default_rng(1)
    labels = np.repeat([0, 2], 20)
    features = np.float32(random.normal(size=[40, 60]) + 4.5 * labels[:, None])
    crops = [
        np.full([9, 6, 3], (0, 255, 255) if label else (10, 20, 30), np.uint8) for label in labels
    ]
    return Samples(
        {OWN: (np.arange(40), features)}, labels, np.arange(100, 140),
        np.tile([1.5, 2, 3, 4], (40, 1)), np.repeat([8, 16], 20), crops,
    )  # fmt: skip


def test_kinds_are_apart_and_the_files_agree(two_kinds, tmp_path, monkeypatch):
    placed = []
    monkeypatch.setattr(tsne, "embed", lambda *a, **k: placed.append(embed(*a, **k)) or placed[-1])
    paths = save_tsne(
        tmp_path / "new", two_kinds, ["a", "b", "c"], perplexity=8, seed=3, thumbnails=True
    )
    assert [path.name for path in paths] == ["tsne.png", "tsne.csv", "tsne_thumbnails.png"]
    with paths[1].open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == ["a"] * 20 + ["c"] * 20
    assert [row["image_id"] for row in rows] == [str(number) for number in range(100, 140)]
    assert rows[0].items() >= {"features": OWN, "stride": "8", "x1": "1.5", "y2": "4"}.items()
    xy = np.array([[float(row["x"]), float(row["y"])] for row in rows])
    np.testing.assert_allclose(xy, placed[0], rtol=1e-6)
    # A kind is nearer to its own middle than to the other's.
    middles = xy.reshape(2, 20, 2).mean(axis=1)
    distances = np.linalg.norm(xy[:, None] - middles, axis=-1)
    np.testing.assert_array_equal(distances.argmin(axis=1), np.repeat([0, 1], 20))
    for path, colours in ((paths[0], ()), (paths[2], [(0, 255, 255), (10, 20, 30)])):
        pixels = np.asarray(Image.open(path).convert("RGB")).reshape(-1, 3)
        for colour in (class_colour(0), class_colour(2), *colours):
            assert (np.abs(pixels - np.int32(colour)).max(axis=1) <= 1).any(), (path, colour)
        assert not (pixels == class_colour(1)).all(axis=1).any()


def test_a_panel_with_too_few_samples_leaves_the_others(two_kinds, tmp_path):
    # Eight of the samples for a perplexity of eight: no place. In front, as the first panel is that
    # of the thumbnails.
    index, vectors = two_kinds.features[OWN]
    features = {"few": (index[:8], vectors[:8]), OWN: (index, vectors)}
    samples = two_kinds._replace(features=features)
    paths = save_tsne(tmp_path, samples, perplexity=8, thumbnails=True)
    with paths[1].open(encoding="utf-8") as file:
        assert [row["features"] for row in csv.DictReader(file)] == [OWN] * 40
    assert paths[2].is_file()
    places = {"few": (index[:8], None), OWN: (index, np.zeros([40, 2]))}
    few, own = plot_tsne(samples, places, ["a"] * 40, "").axes
    assert [text.get_text() for text in few.texts] == ["too few samples\nfor this perplexity"]
    assert (few.get_title(), len(few.collections)) == ("few: 8", 0) and not own.texts
    with pytest.raises(ValueError, match="less than 8, the number of samples, got 8"):
        save_tsne(tmp_path, samples._replace(features={"few": features["few"]}), perplexity=8)


def test_the_picture_names_parameters_classes_and_levels(two_kinds):
    places = {OWN: (np.arange(40), np.random.default_rng(0).normal(size=[40, 2]))}
    figure = plot_tsne(two_kinds, places, ["a"] * 20 + ["c"] * 20, "perplexity 8, seed 3")
    assert figure.get_suptitle() == "perplexity 8, seed 3\ndistances between clusters mean nothing"
    entries = figure.legends[0]
    assert [text.get_text() for text in entries.get_texts()] == [
        "a (20)", "c (20)", "learnt at stride 8", "learnt at stride 16"
    ]  # fmt: skip
    colours = [np.multiply(line.get_color(), 255).round() for line in entries.get_lines()[:2]]
    np.testing.assert_array_equal(colours, [class_colour(0), class_colour(2)])
    assert figure.axes[0].get_title() == f"{OWN}: 40"
    first, second = (points.get_offsets() for points in figure.axes[0].collections)
    np.testing.assert_allclose(np.concatenate([first, second]), places[OWN][1])
