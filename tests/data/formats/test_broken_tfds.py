"""Broken TFDS data sets: what cannot be read stops with the name of the file, faults are listed."""

import io
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from PIL import Image

from fcos_tf.data.annotations import Annotations
from fcos_tf.data.formats.tfds import read_tfds
from fcos_tf.data.formats.tfds_features import find_detection_features
from fcos_tf.data.formats.tfds_shards import read_shards
from fcos_tf.data.formats.tfds_writer import write_tfds

F = tfds.features


def png(height=10, width=20):
    buffer = io.BytesIO()
    Image.new("RGB", (width, height)).save(buffer, format="PNG")
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path):
    """A good data set `pets` of four images of 20x10 pixels, in two shards, with a box each."""
    file = tmp_path / "image.png"
    file.write_bytes(png())
    annotations = Annotations(
        files=[str(file)] * 4,
        image_ids=np.arange(1, 5),
        sizes=np.full((4, 2), [10, 20]),
        owners=np.arange(4),
        boxes=np.full((4, 4), [2.0, 1.0, 12.0, 6.0]),
        labels=np.array([0, 1, 0, 1]),
        areas=np.full(4, 50.0),
        ignored=np.zeros(4, bool),
        numbers=np.arange(11, 15),
        class_names=("cat", "dog"),
        category_ids=(1, 2),
    )
    written = write_tfds({"train": annotations}, tmp_path / "data", name="pets", images_per_shard=2)
    assert read_tfds("pets", "train", data_dir=tmp_path / "data").faults == []
    return tmp_path / "data" / written.split("/data/")[1]


def shard(folder, index=0):
    return folder / f"pets-train.tfrecord-0000{index}-of-00002"


def records_of(file):
    return [record.numpy() for record in tf.data.TFRecordDataset(str(file))]


def rewrite(folder, **features):
    """Changes features of the first image; bytes, lists of floats or integers, None to remove."""
    records = records_of(shard(folder))
    example = tf.train.Example.FromString(records[0])
    for name, value in features.items():
        feature = example.features.feature[name.replace("__", "/")]
        if value is None:
            del example.features.feature[name.replace("__", "/")]
        elif isinstance(value, bytes):
            feature.bytes_list.value[:] = [value]
        elif name.endswith(("bbox", "area")):
            feature.float_list.value[:] = value
        else:
            feature.int64_list.value[:] = value
    with tf.io.TFRecordWriter(str(shard(folder))) as writer:
        for record in (example.SerializeToString(), *records[1:]):
            writer.write(record)


def read(folder, split="train", **options):
    return read_tfds("pets", split, data_dir=folder.parents[1], **options)


# No data set ------------------------------------------------------------------------------------


def test_no_such_folder(tmp_path):
    nowhere = tmp_path / "nowhere"
    message = rf"'voc/2007' in {nowhere}; there are: none.*tfds\.load\('voc/2007', data_dir="
    with pytest.raises(FileNotFoundError, match=message):
        read_tfds("voc/2007", "train", data_dir=nowhere)


@pytest.mark.parametrize("name", ["cats", "pets:2.0.0", "pets/small", ""])
def test_no_such_data_set_or_version(folder, name):
    with pytest.raises(FileNotFoundError, match=rf"'{name}' in .*; there are: pets:1\.0\.0\."):
        read_tfds(name, "train", data_dir=folder.parents[1])


def test_the_newest_version_and_the_only_config_are_taken(folder):
    for copy in ("pets/1.10.0", "pets/1.9.0", "birds/red/1.0.0"):
        shutil.copytree(folder, folder.parents[1] / copy)
    files = read_tfds("pets", "train", data_dir=folder.parents[1]).annotations.files
    assert "/pets/1.10.0/" in files[0]
    files = read_tfds("pets:1.0.*", "train", data_dir=folder.parents[1]).annotations.files
    assert "/pets/1.0.0/" in files[0]
    files = read_tfds("birds", "train", data_dir=folder.parents[1]).annotations.files
    assert "/birds/red/1.0.0/" in files[0]


def test_several_configs(folder):
    for config in ("red", "blue"):
        shutil.copytree(folder, folder.parents[1] / "birds" / config / "1.0.0")
    with pytest.raises(ValueError, match=r"one of: birds/blue:1\.0\.0, birds/red:1\.0\.0"):
        read_tfds("birds", "train", data_dir=folder.parents[1])


@pytest.mark.parametrize("file", ["dataset_info.json", "features.json", "metadata.json"])
@pytest.mark.parametrize("content", ["", "{", "[1]"])
def test_broken_json(folder, file, content):
    (folder / file).write_text(content)
    with pytest.raises(ValueError, match=r"pets/1\.0\.0"):
        read(folder)


def test_metadata_of_other_classes(folder):
    (folder / "metadata.json").write_text(json.dumps({"category_ids": [1, 2, 3]}))
    with pytest.raises(ValueError, match="expected 2 category_ids, got 3"):
        read(folder)


def test_another_file_format(folder):
    file = folder / "dataset_info.json"
    file.write_text(file.read_text().replace('"tfrecord"', '"array_record"'))
    with pytest.raises(ValueError, match="expected TFRecord files, got array_record"):
        read(folder)


# Splits and classes -----------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["test", "train[:x]", "train+test", "", "train[5:2]["])
def test_no_such_split(folder, split):
    with pytest.raises(ValueError, match=r"pets/1\.0\.0: no split .*there are: train"):
        read(folder, split)


def test_an_empty_split(folder):
    file = folder / "dataset_info.json"
    file.write_text(file.read_text().replace('"2"', '"0"'))
    with pytest.raises(ValueError, match="split 'train' has no images"):
        read(folder)
    with pytest.raises(ValueError, match=r"split 'train\[:0\]' has no images"):
        read(folder, "train[:0]")


def test_an_unknown_class_name(folder):
    with pytest.raises(
        ValueError, match=r"pets/1\.0\.0: classes: no class 'cow'; there are: cat, dog"
    ):
        read(folder, class_names=["cat", "cow"])


# Features ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ({"image": F.Image()}, "one Sequence of a BBoxFeature, got none; .* image .Image."),
        ({"boxes": F.Sequence(F.BBoxFeature())}, "expected one Image feature, got none"),
        (
            {
                "image": F.Image(),
                "a": F.Sequence(F.BBoxFeature()),
                "b": F.Sequence(F.BBoxFeature()),
            },
            r"got a, b; .* a \(Sequence of BBoxFeature\)",
        ),
        (
            {"left": F.Image(), "right": F.Image(), "a": F.Sequence(F.BBoxFeature())},
            "expected one Image feature, got left, right",
        ),
        ({"image": F.Image(), "bbox": F.BBoxFeature()}, "one Sequence of a BBoxFeature, got none"),
        (
            {"image": F.Image(), "objects": F.Sequence(F.BBoxFeature(bbox_format="XYWH"))},
            "expected boxes of format REL_YXYX .* got XYWH",
        ),
        (
            {
                "image": F.Image(),
                "objects": F.Sequence(
                    {
                        "bbox": F.BBoxFeature(),
                        "kind": F.ClassLabel(names=["a", "b"]),
                        "pose": F.ClassLabel(names=["c", "d"]),
                    }
                ),
            },
            "expected one ClassLabel in objects, got kind, pose",
        ),
        (
            {
                "image": F.Image(),
                "objects": F.Sequence({"bbox": F.BBoxFeature(), "category": F.Scalar(np.int64)}),
            },
            "expected a ClassLabel .* of objects, got objects/category; .*y .Sequence of Scalar",
        ),
        (
            {
                "image": F.Image(),
                "objects": F.Sequence({"bbox": F.BBoxFeature(), "label": F.Text()}),
            },
            "expected a ClassLabel .* got objects/label",
        ),
        (
            {
                "image": F.Image(),
                "bbox": F.Sequence(F.BBoxFeature()),
                "class_id": F.Sequence(F.Scalar(np.int64)),
            },
            "expected a ClassLabel .* of bbox, got class_id",
        ),
        (
            {
                "image": F.Image(),
                "category_id": F.Tensor(shape=(None,), dtype=np.int32),
                "objects": F.Sequence({"bbox": F.BBoxFeature(), "id": np.int64, "area": np.int64}),
                "kinds": F.Sequence(F.ClassLabel(names=["a", "b"])),
            },
            "expected a ClassLabel .* of objects, got category_id, kinds",
        ),
        (
            {
                "image": F.Image(shape=(4, 4, 1), dtype=np.float32, encoding_format="png"),
                "objects": F.Sequence(F.BBoxFeature()),
            },
            "expected image of dtype uint8 or uint16, got float32",
        ),
    ],
)
def test_features_without_one_sequence_of_boxes(features, message):
    with pytest.raises(ValueError, match=f"^some set: .*{message}"):
        find_detection_features(F.FeaturesDict(features), "some set")


# Shards -----------------------------------------------------------------------------------------


def test_a_missing_shard(folder):
    shard(folder, 1).unlink()
    with pytest.raises(FileNotFoundError, match=r"no shard .*tfrecord-00001-of-00002"):
        read(folder)
    assert read(folder, limit=2).annotations.num_images == 2


@pytest.mark.parametrize("cut", [1, 30, 5])
def test_a_truncated_shard(folder, cut):
    data = shard(folder, 1).read_bytes()
    shard(folder, 1).write_bytes(data[:-cut])
    with pytest.raises(ValueError, match="tfrecord-00001-of-00002: data loss: the record at byte"):
        read(folder)


def test_a_shard_cut_between_records(folder):
    first, _ = records_of(shard(folder))
    shard(folder).write_bytes(shard(folder).read_bytes()[: 12 + len(first) + 4])
    with pytest.raises(ValueError, match="tfrecord-00000-of-00002: data loss: expected 2 records"):
        read(folder)
    shard(folder).write_bytes(b"")
    with pytest.raises(ValueError, match="tfrecord-00000-of-00002: data loss: expected 2 records"):
        read(folder)


def test_a_shard_with_too_many_records(folder):
    shard(folder).write_bytes(2 * shard(folder).read_bytes())
    with pytest.raises(ValueError, match=r"expected 2 records, .* got more"):
        read(folder)


@pytest.mark.parametrize("how", ["GZIP", "ZLIB"])
def test_a_compressed_shard(folder, how):
    with tf.io.TFRecordWriter(str(shard(folder)), how) as writer:
        writer.write(b"something")
    with pytest.raises(ValueError, match="truncated, compressed or no TFRecord file"):
        read(folder)


@pytest.mark.parametrize("record", [b"something else", b"\x0a\xff\xff\x01", b"\x08\x01", b""])
def test_records_of_something_else(folder, record):
    with tf.io.TFRecordWriter(str(shard(folder))) as writer:
        writer.write(record)
    with pytest.raises(
        ValueError, match=r"tfrecord-00000-of-00002: record 0: (Error pars|expected one image)"
    ):
        read(folder)


def test_no_image_in_a_record(folder):
    rewrite(folder, image=None)
    with pytest.raises(ValueError, match="record 0: expected one image in image, got 0"):
        read(folder)


def test_labels_and_boxes_of_different_number(folder):
    rewrite(folder, objects__label=[0, 1])
    with pytest.raises(ValueError, match="record 0: has 1 boxes, but 2, 1, 1, 1 values"):
        read(folder)
    rewrite(folder, objects__bbox=[0.1, 0.2, 0.3])
    with pytest.raises(ValueError, match="record 0: cannot reshape array of size 3"):
        read(folder)


# Faults in annotations --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("features", "what"),
    [
        ({"objects__bbox": [0.1, np.nan, 0.6, 0.6]}, "is not finite"),
        ({"objects__bbox": [0.1, -np.inf, 0.6, 0.6]}, "is not finite"),
        ({"objects__bbox": [0.6, 0.6, 0.1, 0.1]}, "box (12, 6, 2, 1) has no area"),
        ({"objects__bbox": [0.1, 0.6, 0.6, 0.6]}, "box (12, 1, 12, 6) has no area"),
        ({"objects__bbox": [1.5, 0.1, 2.0, 0.6]}, "lies outside the image of 20x10 pixels"),
        ({"objects__label": [-1]}, "expected a label from 0 to 1, got -1"),
        ({"objects__label": [2]}, "expected a label from 0 to 1, got 2"),
        ({"objects__label": None}, "expected a label from 0 to 1, got -1"),
    ],
)
def test_a_faulty_object_is_dropped_and_named(folder, features, what):
    rewrite(folder, **features)
    result = read(folder)
    (fault,) = result.faults
    assert fault.file == f"{shard(folder)} image 1"
    assert fault.item == "object 11"
    assert what in fault.what
    assert not fault.kept
    assert result.annotations.num_images == 4
    assert result.annotations.owners.tolist() == [1, 2, 3]


def test_a_box_beyond_the_image_is_cut_and_named(folder):
    rewrite(folder, objects__bbox=[-0.5, 0.5, 0.5, 1.5])
    result = read(folder)
    (fault,) = result.faults
    assert fault.kept and "box (10, -5, 30, 5) reaches over the image of 20x10" in fault.what
    assert result.annotations.boxes[0].tolist() == [10, 0, 20, 5]


def test_ids_that_are_not_unique(folder):
    rewrite(folder, image__id=[4])
    result = read(folder)
    assert result.annotations.image_ids.tolist() == [1, 2, 3, 4]
    (fault,) = result.faults
    assert fault.kept
    assert "numbered from 1" in fault.what


@pytest.mark.parametrize("data", [b"", b"\x00", b"no image at all", png()[:20]])
def test_an_image_that_cannot_be_decoded(folder, data):
    """No fault here: images are opened when they are needed. Its bytes are found all the same."""
    rewrite(folder, image=data)
    result = read(folder)
    assert result.faults == []
    assert result.annotations.sizes.tolist() == [[0, 0], [10, 20], [10, 20], [10, 20]]
    offset, length = result.annotations.ranges[0]
    assert shard(folder).read_bytes()[offset : offset + length] == data


# The records themselves -------------------------------------------------------------------------


def test_an_image_is_found_among_other_values_of_its_record(folder):
    record = tf.train.Example.FromString(records_of(shard(folder))[0])
    image = record.features.feature["image"].bytes_list.value[0]
    for name, data in {"a": image[:-1], "before": image[:50], "z": b"x" + image[1:]}.items():
        record.features.feature[name].bytes_list.value[:] = [data]
    rewrite(folder, image=image, **{
        name: record.features.feature[name].bytes_list.value[0] for name in ("a", "before", "z")
    })  # fmt: skip
    offset, length = read(folder).annotations.ranges[0]
    assert shard(folder).read_bytes()[offset : offset + length] == image


def test_two_images_in_one_feature(folder):
    first, *others = records_of(shard(folder))
    example = tf.train.Example.FromString(first)
    example.features.feature["image"].bytes_list.value.append(b"another")
    with tf.io.TFRecordWriter(str(shard(folder))) as writer:
        for record in (example.SerializeToString(), *others):
            writer.write(record)
    with pytest.raises(ValueError, match="record 0: expected one image in image, got 2"):
        read(folder)


def test_shards_through_a_url_are_those_of_the_folder(folder):
    """The way of buckets, which TFDS itself does not offer for file://."""
    info = tfds.builder_from_directory(folder).info
    features = find_detection_features(info.features, "pets")
    local = info.splits["train"].file_instructions
    remote = [replace(shard, filename=f"file://{shard.filename}") for shard in local]
    found = [read_shards(shards, features) for shards in (local, remote)]
    assert len(found[0]["ranges"]) == 4
    for name, column in found[0].items():
        np.testing.assert_array_equal(found[1][name], column)
    with pytest.raises(FileNotFoundError, match="file:///no/file"):
        read_shards([replace(local[0], filename="file:///no/file")], features)


def test_brackets_in_the_name_of_the_folder(folder):
    moved = folder.parents[1].rename(folder.parents[2] / "a[b]*")
    assert read_tfds("pets", "train", data_dir=moved).annotations.num_images == 4
    with pytest.raises(FileNotFoundError, match=r"there are: pets:1\.0\.0\."):
        read_tfds("cats", "train", data_dir=moved)


@pytest.mark.parametrize(
    "features",
    [
        {"pythonClassName": "evil.Feature"},
        {"python_class_name": "evil.Feature"},
        {"type": "evil.Feature", "content": {}},
        {
            "pythonClassName": "tensorflow_datasets.core.features.features_dict.FeaturesDict",
            "featuresDict": {"features": {"image": {"pythonClassName": "evil.Feature"}}},
        },
    ],
)
def test_features_of_other_modules_are_not_imported(folder, tmp_path, monkeypatch, features):
    marker = tmp_path / "ran"
    (tmp_path / "evil.py").write_text(f"open({str(marker)!r}, 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    (folder / "features.json").write_text(json.dumps(features))
    with pytest.raises(ValueError, match=r"got evil\.Feature: not imported"):
        read_tfds("pets", "train", data_dir=tmp_path / "data")
    assert not marker.exists()
