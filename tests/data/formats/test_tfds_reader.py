"""TFDS data sets, written by TFDS itself and by `write_tfds`, are read as they were meant."""

import io
import json
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from PIL import Image

from fcos_tf.data.annotations import Annotations
from fcos_tf.data.formats.tfds import read_tfds
from fcos_tf.data.formats.tfds_features import find_detection_features
from fcos_tf.data.formats.tfds_writer import write_tfds
from fcos_tf.data.images import ImageError, decode_image, read_bytes

F = tfds.features


def image_bytes(height, width, fmt="PNG", mode="RGB", seed=0):
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, format=fmt)
    return buffer.getvalue()


def make_annotations(files, sizes, objects, class_names=("cat", "dog"), category_ids=(3, 9)):
    """`objects` are (image, box, label, area, ignored, number)."""
    columns = [np.array(column) for column in zip(*objects, strict=True)]
    owners, boxes, labels, areas, ignored, numbers = columns
    return Annotations(
        files=[str(file) for file in files],
        image_ids=np.arange(len(files)) * 10 + 5,
        sizes=np.array(sizes, np.int32),
        owners=owners,
        boxes=boxes.astype(np.float64),
        labels=labels.astype(np.int32),
        areas=areas.astype(np.float64),
        ignored=ignored,
        numbers=numbers,
        class_names=class_names,
        category_ids=category_ids,
    )


@pytest.fixture
def three_images(tmp_path):
    """PNG, JPEG, PNG; the second without boxes."""
    files = [tmp_path / name for name in ("a.png", "b.jpg", "c.png")]
    sizes = [(40, 60), (33, 21), (100, 80)]
    for file, (height, width) in zip(files, sizes, strict=True):
        file.write_bytes(image_bytes(height, width, "JPEG" if file.suffix == ".jpg" else "PNG"))
    objects = [
        (0, (1.5, 2.25, 59.125, 40), 0, 123.5, False, 71),
        (0, (0, 0, 60, 40), 1, 2000.0, True, 70),
        (2, (10, 20, 30, 50.001), 1, 7.0, False, 12),
    ]
    return make_annotations(files, sizes, objects)


def assert_same(got, expected):
    names = ("image_ids", "sizes", "owners", "boxes", "labels", "areas", "ignored", "numbers")
    for name in names:
        np.testing.assert_array_equal(getattr(got, name), getattr(expected, name), err_msg=name)
    assert got.class_names == expected.class_names
    assert got.category_ids == expected.category_ids


def image_of(annotations, index):
    offset, length = map(int, annotations.ranges[index])
    return read_bytes(annotations.files[index], offset, length)


def store(tmp_path, features, examples, name="other", split="train", **options):
    """Has TFDS itself write a data set."""
    return tfds.dataset_builders.store_as_tfds_dataset(
        name=name,
        version="1.0.0",
        features=F.FeaturesDict(features),
        split_datasets={split: list(enumerate(examples))},
        data_dir=tmp_path,
        disable_shuffling=True,
        **options,
    )


# What we write ----------------------------------------------------------------------------------


def test_written_annotations_and_images_come_back(tmp_path, three_images):
    write_tfds({"train": three_images}, tmp_path, name="pets", images_per_shard=2)
    annotations, faults, other_classes = read_tfds("pets", "train", data_dir=tmp_path)
    assert_same(annotations, three_images)
    assert (faults, other_classes) == ([], {})
    shards = ["pets-train.tfrecord-00000-of-00002"] * 2 + ["pets-train.tfrecord-00001-of-00002"]
    assert [file.rsplit("/", 1)[1] for file in annotations.files] == shards
    for index, file in enumerate(three_images.files):
        assert image_of(annotations, index) == read_bytes(file)


def test_tfds_reads_what_we_write(tmp_path, three_images):
    write_tfds({"train": three_images, "val": three_images}, tmp_path, name="pets")
    first, *_ = tfds.load("pets", split="val", data_dir=tmp_path)
    with Image.open(three_images.files[0]) as image:
        np.testing.assert_array_equal(first["image"], np.asarray(image))
    assert first["image/filename"] == b"a.png"
    # 2.25 / 40, 1.5 / 60, 40 / 40, 59.125 / 60
    expected = np.array([0.05625, 0.025, 1, 0.98541665], np.float32)
    np.testing.assert_array_equal(first["objects"]["bbox"][0], expected)
    np.testing.assert_array_equal(first["objects"]["is_crowd"], [False, True])
    assert first["objects"]["label"].numpy().tolist() == [0, 1]


def test_ranges_are_the_bytes_that_tfds_reads(tmp_path, three_images):
    """The encoded images of TFDS' own read path, in its order of one file after the other."""
    folder = write_tfds({"train": three_images}, tmp_path, name="pets", images_per_shard=1)
    annotations = read_tfds("pets", "train", data_dir=tmp_path).annotations
    dataset = tfds.builder_from_directory(folder).as_dataset(
        split="train", decoders={"image": tfds.decode.SkipDecoding()}
    )
    encoded = {int(e["image/id"]): e["image"].numpy() for e in dataset}
    assert len(encoded) == 3
    for index, image_id in enumerate(annotations.image_ids):
        assert image_of(annotations, index) == encoded[image_id]


def test_writing_twice_gives_the_same_files(tmp_path, three_images):
    for folder in ("one", "two"):
        write_tfds({"train": three_images}, tmp_path / folder, name="pets", images_per_shard=2)
    files = sorted((tmp_path / "one/pets/1.0.0").iterdir())
    assert len(files) == 6  # two shards, three JSON files, the names of the labels
    for file in files:
        assert file.read_bytes() == (tmp_path / "two/pets/1.0.0" / file.name).read_bytes()


@pytest.mark.parametrize(("fmt", "mode"), [("BMP", "RGB"), ("GIF", "P"), ("WEBP", "RGB")])
def test_other_formats_become_png_of_the_same_pixels(tmp_path, fmt, mode):
    file = tmp_path / f"image.{fmt.lower()}"
    file.write_bytes(image_bytes(8, 9, fmt, mode))
    objects = [(0, (0, 0, 9, 8), 0, np.nan, False, 1)]
    write_tfds({"train": make_annotations([file], [(8, 9)], objects)}, tmp_path, name="one")
    annotations = read_tfds("one", "train", data_dir=tmp_path).annotations
    stored = image_of(annotations, 0)
    assert stored.startswith(b"\x89PNG")

    def pixels(data):
        return decode_image(data, "", lambda height, width: (height, width))[0]

    np.testing.assert_array_equal(pixels(stored), pixels(file.read_bytes()))
    assert annotations.areas.tolist() == [72]  # 9 * 8, of the box, as there was none


def test_a_read_data_set_can_be_written_again(tmp_path, three_images):
    write_tfds({"train": three_images}, tmp_path, name="pets")
    first = read_tfds("pets", "train", data_dir=tmp_path).annotations
    write_tfds({"train": first}, tmp_path, name="pets", version="2.0.0")
    second = read_tfds("pets:2.0.0", "train", data_dir=tmp_path).annotations
    assert_same(second, three_images)
    assert image_of(second, 1) == read_bytes(three_images.files[1])


def test_thousandths_of_a_pixel_survive_up_to_4000_pixels(tmp_path):
    file = tmp_path / "wide.png"
    Image.new("L", (4000, 3001)).save(file)
    rng = np.random.default_rng(0)
    corners = rng.integers(0, [3_999_999, 3_000_999], (2000, 2)) / 1000
    ends = np.minimum(corners + rng.integers(1, 4_000_000, (2000, 2)) / 1000, [4000, 3001])
    boxes = np.concatenate([corners, ends], axis=1).round(3)
    objects = [(0, box, 0, 1.0, False, number) for number, box in enumerate(boxes)]
    write_tfds({"train": make_annotations([file], [(3001, 4000)], objects)}, tmp_path, name="wide")
    result = read_tfds("wide", "train", data_dir=tmp_path)
    np.testing.assert_array_equal(result.annotations.boxes, boxes)
    assert result.faults == []


def test_an_image_of_another_size_than_annotated_is_not_written(tmp_path):
    file = tmp_path / "image.png"
    file.write_bytes(image_bytes(40, 60))
    objects = [(0, (10, 5, 50, 35), 0, 1.0, False, 1)]
    annotations = make_annotations([file], [(100, 100)], objects)
    with pytest.raises(ImageError, match=r"image\.png: .* 100x100 pixels, as annotated, got 60x40"):
        write_tfds({"train": annotations}, tmp_path, name="one")


def test_writing_refuses(tmp_path, three_images):
    with pytest.raises(ValueError, match="split 'val' has no images"):
        empty = three_images.images(np.zeros(3, bool))
        write_tfds({"train": three_images, "val": empty}, tmp_path, name="pets")
    with pytest.raises(ValueError, match="name: expected small letters"):
        write_tfds({"train": three_images}, tmp_path, name="My pets")
    with pytest.raises(ValueError, match="class_names of split 'val'"):
        others = make_annotations(["x"], [(1, 1)], [(0, (0, 0, 1, 1), 0, 1, False, 1)], ("a", "b"))
        write_tfds({"train": three_images, "val": others}, tmp_path, name="pets")
    write_tfds({"train": three_images}, tmp_path, name="pets")
    with pytest.raises(FileExistsError, match=r"pets/1\.0\.0 holds .* or choose another name"):
        write_tfds({"train": three_images}, tmp_path, name="pets")


def test_writing_that_failed_leaves_no_data_set(tmp_path, three_images):
    (tmp_path / "c.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    with pytest.raises(ImageError, match=r"c\.png"):
        write_tfds({"train": three_images}, tmp_path, name="pets")
    with pytest.raises(FileNotFoundError, match="there are: none"):
        read_tfds("pets", "train", data_dir=tmp_path)


# Splits, classes, ids ---------------------------------------------------------------------------


def test_slices_sums_and_limits(tmp_path, three_images):
    splits = {"train": three_images, "val": three_images.images(np.array([True, False, False]))}
    write_tfds(splits, tmp_path, name="pets", images_per_shard=2)

    def ids(split, **options):
        return read_tfds("pets", split, data_dir=tmp_path, **options).annotations.image_ids.tolist()

    assert ids("train[1:]") == [15, 25]
    assert ids("train[:67%]") == [5, 15]  # 3 * .67 = 2.01
    assert ids("train[2:]") == [25]
    assert ids("train", limit=1) == [5]
    assert ids("train[1:]", limit=1) == [15]
    assert ids("val") == [5]
    result = read_tfds("pets", "val+train[1:]", data_dir=tmp_path)
    assert result.annotations.image_ids.tolist() == [5, 15, 25]
    assert result.annotations.owners.tolist() == [0, 0, 2]
    assert result.faults == []


def test_ids_that_two_splits_share_are_replaced(tmp_path, three_images):
    write_tfds({"train": three_images, "val": three_images}, tmp_path, name="pets")
    result = read_tfds("pets", "train+val", data_dir=tmp_path)
    assert result.annotations.image_ids.tolist() == [1, 2, 3, 4, 5, 6]
    assert [(fault.kept, "not all different" in fault.what) for fault in result.faults] == [
        (True, True)
    ]


def test_chosen_classes_give_the_labels(tmp_path, three_images):
    write_tfds({"train": three_images}, tmp_path, name="pets")
    result = read_tfds("pets", "train", data_dir=tmp_path, class_names=["dog"])
    assert result.annotations.labels.tolist() == [0, 0]
    assert result.annotations.class_names == ("dog",)
    assert result.annotations.category_ids == (9,)
    assert result.annotations.numbers.tolist() == [70, 12]
    assert result.other_classes == {"cat": 1}
    turned = read_tfds("pets", "train", data_dir=tmp_path, class_names=["dog", "cat"])
    assert turned.annotations.labels.tolist() == [1, 0, 0]
    assert turned.annotations.category_ids == (9, 3)


@pytest.mark.parametrize(
    ("names", "ids"),
    [
        (["000012.jpg", "000005.jpg"], [12, 5]),
        (["2008_000012.jpg", "000005.jpg"], [1, 2]),
        (["000012.jpg", "12.png"], [1, 2]),
    ],
)
def test_image_ids_from_file_names(tmp_path, names, ids):
    features = {
        "image": F.Image(),
        "image/filename": F.Text(),
        "objects": F.Sequence({"bbox": F.BBoxFeature(), "label": F.ClassLabel(names=["a"])}),
    }
    examples = [
        {"image": image_bytes(4, 4), "image/filename": name, "objects": []} for name in names
    ]
    store(tmp_path, features, examples)
    result = read_tfds("other", "train", data_dir=tmp_path)
    assert result.annotations.image_ids.tolist() == ids
    assert result.annotations.category_ids == (0,)
    assert len(result.annotations.boxes) == 0


# What others write ------------------------------------------------------------------------------


def test_a_tf_data_set_stored_by_tfds(tmp_path):
    """A data set as a third party stores it: arrays that TFDS encodes, its shuffle, no ids."""
    pixels = np.random.default_rng(0).integers(0, 255, (20, 50, 80, 3), np.uint8)

    def example(index):
        box = tf.constant([[0.1, 0.25, 0.5, 0.75]])
        objects = {"bbox": tf.tile(box, [index % 3, 1]), "label": tf.fill([index % 3], index % 2)}
        return {"image": tf.constant(pixels)[index], "objects": objects}

    tfds.dataset_builders.store_as_tfds_dataset(
        name="third",
        config="party",
        version="1.2.3",
        features=F.FeaturesDict(
            {
                "image": F.Image(shape=(50, 80, 3)),
                "objects": F.Sequence(
                    {"bbox": F.BBoxFeature(), "label": F.ClassLabel(names=["a", "b"])}
                ),
            }
        ),
        split_datasets={"train": tf.data.Dataset.range(20).map(example)},
        data_dir=tmp_path,
    )
    annotations, faults, _ = read_tfds("third/party", "train", data_dir=tmp_path)
    assert faults == []
    assert annotations.class_names == ("a", "b")
    assert annotations.image_ids.tolist() == list(range(1, 21))
    # [.1 * 50, .25 * 80, .5 * 50, .75 * 80]
    assert np.unique(annotations.boxes, axis=0).tolist() == [[20, 5, 60, 25]]
    origins = []
    for index in range(20):
        image, _ = decode_image(image_of(annotations, index), "", lambda h, w: (h, w))
        (origin,) = np.flatnonzero((pixels == image).all(axis=(1, 2, 3)))
        labels = annotations.labels[annotations.owners == index]
        assert labels.tolist() == [origin % 2] * (origin % 3)
        origins.append(origin)
    assert sorted(origins) == list(range(20))
    assert origins != list(range(20))  # TFDS has shuffled them


VOC_FEATURES = {
    "image": F.Image(),
    "image/filename": F.Text(),
    "objects": F.Sequence(
        {
            "label": F.ClassLabel(names=["cat", "dog"]),
            "bbox": F.BBoxFeature(),
            "pose": F.ClassLabel(names=["frontal", "rear"]),
            "is_truncated": np.bool_,
            "is_difficult": np.bool_,
        }
    ),
    "labels": F.Sequence(F.ClassLabel(names=["cat", "dog"])),
}


def store_voc(tmp_path, name="voc"):
    """One image of 200x100 (width x height), boxes as TFDS' builder makes them from the XML."""
    corners = {"dog": (1, 1, 200, 100), "cat": (11, 21, 50, 60), "none": (7, 8, 7, 8)}
    objects = [
        {
            "label": "cat" if label == "none" else label,
            "bbox": F.BBox(y1 / 100, x1 / 200, y2 / 100, x2 / 200),
            "pose": "rear",
            "is_truncated": False,
            "is_difficult": label == "cat",
        }
        for label, (x1, y1, x2, y2) in corners.items()
    ]
    image = image_bytes(100, 200, "JPEG")
    example = {"image": image, "image/filename": "000007.jpg", "objects": objects, "labels": []}
    return store(tmp_path, VOC_FEATURES, [example], name)


def set_info(builder, **values):
    file = builder.data_path / "dataset_info.json"
    info = {**json.loads(file.read_text()), **values}
    file.write_text(json.dumps({k: v for k, v in info.items() if v is not None}))


@pytest.mark.parametrize(
    "info",
    [
        {"moduleName": "tensorflow_datasets.object_detection.voc"},
        {"moduleName": None, "citation": "@misc{pascal-voc-2007}"},
    ],
)
def test_one_based_corners_of_tfds_own_voc_are_put_right(tmp_path, info):
    set_info(store_voc(tmp_path), **info)
    result = read_tfds("voc", "train", data_dir=tmp_path)
    annotations = result.annotations
    assert annotations.boxes.tolist() == [[0, 0, 200, 100], [10, 20, 50, 60]]
    assert annotations.labels.tolist() == [1, 0]
    assert annotations.ignored.tolist() == [False, True]
    assert annotations.image_ids.tolist() == [7]
    assert [str(fault).split(": ")[1] for fault in result.faults] == [
        "object 3 box (7, 8, 7, 8) has no area"
    ]
    learned = read_tfds("voc", "train", data_dir=tmp_path, include_difficult=True)
    assert learned.annotations.ignored.tolist() == [False, False]


def test_another_data_set_called_voc_stays_as_it_is(tmp_path):
    store_voc(tmp_path)
    boxes = read_tfds("voc", "train", data_dir=tmp_path).annotations.boxes
    assert boxes.tolist() == [[1, 1, 200, 100], [11, 21, 50, 60]]


def test_the_module_name_is_that_of_tfds_own_builder():
    from tensorflow_datasets.object_detection.voc import Voc

    assert Voc.__module__ == "tensorflow_datasets.object_detection.voc"


def test_y_axis_of_kitti_is_put_right(tmp_path):
    """TFDS' builder stores (height - bottom) / height as ymin, (height - top) / height as ymax."""
    features = {
        "image": F.Image(),
        "image/file_name": F.Text(),
        "objects": F.Sequence(
            {
                "type": F.ClassLabel(names=["Car", "Van"]),
                "occluded": F.ClassLabel(num_classes=4),
                "bbox": F.BBoxFeature(),
            }
        ),
    }
    top, left, bottom, right = 10, 20, 40, 100
    bbox = F.BBox((50 - bottom) / 50, left / 200, (50 - top) / 50, right / 200)
    example = {
        "image": image_bytes(50, 200),
        "image/file_name": "000003.png",
        "objects": [{"type": "Van", "occluded": 0, "bbox": bbox}],
    }
    builder = store(tmp_path, features, [example], "kitti")
    stored = read_tfds("kitti", "train", data_dir=tmp_path).annotations
    assert stored.boxes.tolist() == [[20, 10, 100, 40]]  # 50 - 40, 50 - 10: not touched
    set_info(builder, moduleName="tensorflow_datasets.datasets.kitti.kitti_dataset_builder")
    annotations = read_tfds("kitti", "train", data_dir=tmp_path).annotations
    assert annotations.boxes.tolist() == [[left, top, right, bottom]]
    assert annotations.class_names == ("Car", "Van")
    assert annotations.labels.tolist() == [1]
    assert annotations.image_ids.tolist() == [3]


def find(features):
    return find_detection_features(F.FeaturesDict(features), "set")


def test_features_of_published_data_sets():
    """wider_face, open_images_v4, coco and a data set of bare boxes."""
    face = {"bbox": F.BBoxFeature(), "blur": np.uint8, "invalid": np.bool_}
    found = find({"image": F.Image(), "image/filename": F.Text(), "faces": F.Sequence(face)})
    assert (found.bbox, found.label, found.class_names) == ("faces/bbox", None, ("faces",))

    image_label = {"label": F.ClassLabel(names=["Cat", "Dog"]), "confidence": np.int32}
    source = F.ClassLabel(names=["verification", "crowdsource"])
    box = {"label": image_label["label"], "source": source, "bbox": F.BBoxFeature()}
    box["is_group_of"] = np.int8
    found = find(
        {
            "image": F.Image(),
            "image/filename": F.Text(),
            "objects": F.Sequence(image_label),
            "bobjects": F.Sequence(box),
        }
    )
    assert (found.bbox, found.label) == ("bobjects/bbox", "bobjects/label")
    assert found.class_names == ("Cat", "Dog")
    assert found.ignored == ("bobjects/is_group_of",)

    thing = {"id": np.int64, "area": np.int64, "bbox": F.BBoxFeature(), "is_crowd": np.bool_}
    thing["label"] = image_label["label"]
    found = find(
        {
            "image": F.Image(encoding_format="jpeg"),
            "image/id": np.int64,
            "panoptic_image": F.Image(encoding_format="png"),
            "objects": F.Sequence(thing),
            "panoptic_objects": F.Sequence(thing),
        }
    )
    assert (found.image, found.image_id, found.file_name) == ("image", "image/id", None)
    assert (found.bbox, found.label) == ("objects/bbox", "objects/label")
    assert (found.area, found.object_id) == ("objects/area", "objects/id")
    assert found.ignored == ("objects/is_crowd",)
    found = find({"photo": F.Image(dtype=np.uint16), "boxes": F.Sequence(F.BBoxFeature())})
    assert (found.image, found.bbox, found.class_names) == ("photo", "boxes", ("boxes",))

    # stanford_dogs: the breed is of the whole image
    breed, boxes = F.ClassLabel(names=["a", "b"]), F.Sequence({"bbox": F.BBoxFeature()})
    found = find({"image": F.Image(), "label": breed, "objects": boxes})
    assert (found.label, found.class_names) == (None, ("objects",))


@pytest.mark.parametrize("folder", [None, "objects"])
def test_lists_side_by_side_are_read_as_one(tmp_path, folder):
    features = {
        "bbox": F.Sequence(F.BBoxFeature()),
        "label": F.Sequence(F.ClassLabel(names=["cat", "dog"])),
        "is_crowd": F.Sequence(np.bool_),
    }
    lists = {
        "bbox": [F.BBox(0.0, 0.0, 0.5, 1.0), F.BBox(0.5, 0.0, 1.0, 0.5)],
        "label": ["dog", "cat"],
        "is_crowd": [False, True],
    }
    if folder:
        features, lists = {folder: features}, {folder: lists}
    example = {"image": image_bytes(10, 8), **lists}
    store(tmp_path, {"image": F.Image(), **features}, [example])
    annotations = read_tfds("other", "train", data_dir=tmp_path).annotations
    assert annotations.class_names == ("cat", "dog")
    assert annotations.labels.tolist() == [1, 0]
    assert annotations.ignored.tolist() == [False, True]
    assert annotations.boxes.tolist() == [[0, 0, 8, 5], [0, 5, 4, 10]]  # [.5 * 10, 1 * 8], ...


def test_lists_side_by_side_of_different_length(tmp_path):
    """Here the labels are of the whole image."""
    features = {
        "image": F.Image(),
        "bbox": F.Sequence(F.BBoxFeature()),
        "labels": F.Sequence(F.ClassLabel(names=["cat", "dog"])),
    }
    example = {"image": image_bytes(10, 8), "bbox": [F.BBox(0.0, 0.0, 1.0, 1.0)], "labels": [0, 1]}
    store(tmp_path, features, [example])
    with pytest.raises(ValueError, match="record 0: has 1 boxes, but 2, 1, 1 values"):
        read_tfds("other", "train", data_dir=tmp_path)


def test_flags_of_other_names_count_too(tmp_path):
    flags = ("iscrowd", "crowd", "difficult")
    thing = {"bbox": F.BBoxFeature(), **dict.fromkeys(flags, np.bool_)}
    box = F.BBox(0.0, 0.0, 0.5, 1.0)
    objects = [{"bbox": box, **{name: name == true for name in flags}} for true in ("", *flags)]
    example = {"image": image_bytes(10, 8), "things": objects}
    store(tmp_path, {"image": F.Image(), "things": F.Sequence(thing)}, [example])

    def ignored(**options):
        result = read_tfds("other", "train", data_dir=tmp_path, **options)
        return result.annotations.ignored.tolist()

    assert ignored() == [False, True, True, True]
    assert ignored(include_difficult=True) == [False, True, True, False]


def test_crowds_group_boxes_and_areas_are_read(tmp_path):
    thing = {
        "bbox": F.BBoxFeature(),
        "area": np.int64,
        "is_crowd": np.bool_,
        "is_group_of": np.int8,
    }
    objects = [
        {"bbox": F.BBox(0.0, 0.0, 0.5, 1.0), "area": 3, "is_crowd": crowd, "is_group_of": group}
        for crowd, group in ((False, -1), (True, 0), (False, 1))
    ]
    example = {"image": image_bytes(10, 8), "things": objects}
    store(tmp_path, {"image": F.Image(), "things": F.Sequence(thing)}, [example])
    annotations = read_tfds("other", "train", data_dir=tmp_path).annotations
    assert annotations.ignored.tolist() == [False, True, True]
    assert annotations.areas.tolist() == [3, 3, 3]
    assert annotations.numbers.tolist() == [1, 2, 3]
    assert annotations.boxes.tolist() == [[0, 0, 8, 5]] * 3


# Real photos ------------------------------------------------------------------------------------


def test_real_coco_comes_back(tmp_path, shared_data):
    content = json.loads((shared_data / "coco/annotations/instances_val2017.json").read_text())
    images = {image["id"]: image for image in content["images"][:12]}
    categories = [category["id"] for category in content["categories"]]
    place = {image_id: index for index, image_id in enumerate(images)}
    found = [record for record in content["annotations"] if record["image_id"] in images]
    found.sort(key=lambda record: place[record["image_id"]])
    assert any(record["iscrowd"] for record in content["annotations"])
    objects = [
        (
            place[record["image_id"]],
            np.add(record["bbox"], [0, 0, *record["bbox"][:2]]).round(3),
            categories.index(record["category_id"]),
            np.float32(record["area"]),
            bool(record["iscrowd"]),
            record["id"],
        )
        for record in found
    ]
    original = make_annotations(
        [shared_data / "coco/val2017" / image["file_name"] for image in images.values()],
        [(image["height"], image["width"]) for image in images.values()],
        objects,
        tuple(category["name"] for category in content["categories"]),
        tuple(categories),
    )
    write_tfds({"val": original}, tmp_path, name="coco_sample", images_per_shard=5)
    result = read_tfds("coco_sample", "val", data_dir=tmp_path)
    assert result.faults == []
    assert len(original.boxes) > 50
    assert_same(result.annotations, original)
    for index, file in enumerate(original.files):
        assert image_of(result.annotations, index) == read_bytes(file)


def test_real_voc_comes_back(tmp_path, shared_data):
    root = shared_data / "voc2007"
    stems = (root / "ImageSets/Main/val.txt").read_text().split()[:12]
    files, sizes, objects = [], [], []
    for index, stem in enumerate(stems):
        tree = ElementTree.parse(root / "Annotations" / f"{stem}.xml").getroot()
        files.append(root / "JPEGImages" / f"{stem}.jpg")
        sizes.append([int(tree.findtext(f"size/{side}")) for side in ("height", "width")])
        for number, element in enumerate(tree.iterfind("object"), start=1):
            corners = [
                float(element.findtext(f"bndbox/{s}")) for s in ("xmin", "ymin", "xmax", "ymax")
            ]
            box = np.subtract(corners, [1, 1, 0, 0])
            area = np.prod(box[2:] - box[:2])
            objects.append((index, box, 0, area, element.findtext("difficult") == "1", number))
    original = make_annotations(files, sizes, objects, ("thing",), (1,))
    write_tfds({"val": original}, tmp_path, name="voc")  # a name that must not matter
    result = read_tfds("voc", "val", data_dir=tmp_path)
    assert result.faults == []
    assert_same(result.annotations, original)
