"""Order, resumption, padding and reading of `pipeline.batches`, on a split made of numbers."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import tensorflow as tf

from fcos_tf.data import pipeline
from fcos_tf.data.example import Example, Source
from fcos_tf.data.transforms import parse_image_size


def numbered(num_images, height=4, width=6):
    """Image i is filled with i, but for its first column, 255, and has i % 3 boxes."""

    def read(index):
        image = tf.cast(tf.fill([height, width, 3], index), tf.uint8)
        image = tf.concat([tf.fill([height, 1, 3], tf.constant(255, tf.uint8)), image[:, 1:]], 1)
        count = tf.cast(index % 3, tf.int32)
        box = tf.constant([[0.0, 1.0, 1.0, 3.0]])  # around a part of the first column
        return {
            "image": image,
            "boxes": tf.tile(box, [count, 1]),
            "labels": tf.fill([count], 5),
            "image_id": index,
        }

    return Source(read, num_images, 2, tuple("abcdef"), tuple(range(1, 7)))


def batches(source, **kwargs):
    options = {
        "batch_size": 4, "image_size": parse_image_size("4x6"), "training": True, "seed": 3,
        "repeat": True, "start_step": 0, "horizontal_flip": True, "max_boxes": None,
    }  # fmt: skip
    return pipeline.batches(source, **(options | kwargs))


def ids(dataset):
    return [targets["image_ids"].numpy().tolist() for _, targets in dataset]


def flat(dataset):
    return [i for batch in ids(dataset) for i in batch]


def assert_equal(first, second):
    for a, b in zip(first, second, strict=True):
        tf.nest.map_structure(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("num_images", [1, 3, 10, 16])
def test_every_pass_of_a_stream_is_a_permutation(num_images):
    passes = np.reshape(flat(batches(numbered(num_images)).take(num_images)), [4, num_images])
    assert np.sort(passes, axis=1).tolist() == [list(range(num_images))] * 4
    if num_images >= 10:
        assert len({tuple(p) for p in passes}) == 4  # and each has an order of its own


@pytest.mark.parametrize("num_images", [3, 10])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("start", [1, 2, 5, 11])
def test_a_stream_resumes_where_it_was_stopped(num_images, training, start):
    source = numbered(num_images)
    whole = list(batches(source, training=training).take(start + 6))
    assert_equal(whole[start:], batches(source, training=training, start_step=start).take(6))


def test_a_single_pass_resumes_in_evaluation():
    options = {"training": False, "repeat": False, "horizontal_flip": False}
    dataset = batches(numbered(10), start_step=1, **options)
    assert ids(dataset) == [[4, 5, 6, 7], [8, 9]] and dataset.cardinality() == 2
    with pytest.raises(ValueError, match="start_step=3, but a pass has 3 steps"):
        batches(numbered(10), start_step=3, **options)


def test_the_seed_decides():
    source = numbered(10)
    assert_equal(batches(source).take(5), batches(source).take(5))
    assert ids(batches(source, seed=4).take(5)) != ids(batches(source).take(5))
    assert len(list(batches(source, seed=-(2**40)).take(1))) == 1


def test_evaluation_keeps_the_order_and_every_image():
    dataset = batches(numbered(10), training=False, repeat=False, horizontal_flip=False)
    assert ids(dataset) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert dataset.cardinality() == 3 and dataset.element_spec[0].shape == [None, 4, 6, 3]


def test_each_pass_of_finite_training_has_a_new_order_and_new_flips():
    dataset = batches(numbered(40), repeat=False)
    assert dataset.cardinality() == 10 and dataset.element_spec[0].shape == [4, 4, 6, 3]
    passes = [list(dataset) for _ in range(3)]
    orders = [[int(i) for _, t in p for i in t["image_ids"]] for p in passes]
    assert [sorted(order) for order in orders] == [list(range(40))] * 3
    assert len({tuple(order) for order in orders}) == 3
    flips = [
        {int(i): bool(image[0, -1, 0] == 255) for x, t in p for i, image in zip(
            t["image_ids"], x, strict=True)}
        for p in passes
    ]  # fmt: skip
    assert flips[0] != flips[1]  # by image, so not only the order is new
    assert_equal(passes[0], batches(numbered(40), repeat=False))  # the same seed, from the start


def test_finite_training_drops_the_remainder():
    dataset = batches(numbered(10), repeat=False)
    assert [len(batch) for batch in ids(dataset)] == [4, 4] and dataset.cardinality() == 2
    with pytest.raises(ValueError, match="batch_size=4 is more than the 3 images"):
        batches(numbered(3), repeat=False)


def test_flips_take_image_and_boxes_half_of_the_time():
    flipped = 0
    for images, targets in batches(numbered(9)).take(100):
        for image, boxes, labels in zip(
            images.numpy(), targets["boxes"].numpy(), targets["labels"].numpy(), strict=True
        ):
            mirrored = image[0, -1, 0] == 255
            assert (image[0, 0, 0] == 255) != mirrored
            # Width 6: the box (0, 1) becomes (5, 6).
            expected = [5, 1, 6, 3] if mirrored else [0, 1, 1, 3]
            assert all(box.tolist() == expected for box in boxes[labels >= 0])
            flipped += mirrored
    assert 140 < flipped < 260  # 400 draws at 1/2: 200 +- 10, six standard deviations
    images, _ = next(iter(batches(numbered(9), horizontal_flip=False)))
    assert (images.numpy()[:, 0, 0, 0] == 255).all()


def test_padding_of_a_fixed_canvas():
    dataset = batches(
        numbered(3), training=False, repeat=False, horizontal_flip=False, max_boxes=4,
        image_size=parse_image_size("16x12"),
    )  # fmt: skip
    ((images, targets),) = dataset
    # 4x6 to 16x12: scale 2, so 8x12 and 8 rows of padding.
    assert images.shape == (3, 16, 12, 3) and images.dtype == tf.uint8
    assert not images.numpy()[:, 8:].any() and images.numpy()[1, :8].all()
    assert targets["image_sizes"].numpy().tolist() == [[8, 12]] * 3
    assert targets["original_sizes"].numpy().tolist() == [[4, 6]] * 3
    # Images 0, 1 and 2 have 0, 1 and 2 boxes; (0, 1, 1, 3) * 2 = (0, 2, 2, 6).
    assert targets["labels"].numpy().tolist() == [[-1] * 4, [5, -1, -1, -1], [5, 5, -1, -1]]
    box, nothing = [0, 2, 2, 6], [0] * 4
    assert targets["boxes"].numpy().tolist() == [
        [nothing] * 4, [box, nothing, nothing, nothing], [box, box, nothing, nothing]
    ]  # fmt: skip
    dtypes = {name: value.dtype for name, value in targets.items()}
    assert dtypes == {
        "boxes": tf.float32, "labels": tf.int32, "image_sizes": tf.float32,
        "original_sizes": tf.float32, "image_ids": tf.int64,
    }  # fmt: skip


def test_too_many_boxes():
    with pytest.raises(ValueError, match="max_boxes=1, but an image of this split has 2 boxes"):
        batches(numbered(3), max_boxes=1)


@pytest.fixture
def files(tmp_path):
    """Three photos of different sizes, as JPEG, PNG and grey PNG; 0, 1 and 2 boxes."""
    random = np.random.default_rng(0)
    examples = []
    for i, (name, shape) in enumerate(
        [("a.jpg", (40, 60, 3)), ("b.png", (50, 30, 3)), ("c.png", (90, 30))]
    ):
        small = random.integers(0, 256, [5, 5, *shape[2:]], dtype=np.uint8)
        cv2.imwrite(str(tmp_path / name), cv2.resize(small, shape[1::-1]))
        boxes = np.array([[1, 2, 3, 4], [5, 6, 7, 8]][:i], np.float32).reshape(-1, 4)
        labels = np.arange(i, dtype=np.int32)
        examples.append(Example(str(tmp_path / name), 10 + i, boxes, labels, *shape[:2]))
    return examples


def source_of(examples):
    return pipeline.file_source(examples, class_names="ab", category_ids=[1, 2])


def test_files_are_read_with_their_boxes(files):
    source = source_of(files)
    assert (source.num_images, source.most_boxes) == (3, 2)
    for i, example in enumerate(files):
        record = source.read(tf.constant(i, tf.int64))
        # OpenCV decodes JPEG with the accurate transform: equal, bit for bit.
        expected = cv2.imread(example.file, cv2.IMREAD_COLOR)[..., ::-1]
        np.testing.assert_array_equal(record["image"], expected)
        np.testing.assert_array_equal(record["boxes"], example.boxes)
        np.testing.assert_array_equal(record["labels"], example.labels)
        assert record["image_id"] == 10 + i


def test_sides_pad_each_batch_to_a_multiple_of_32(files):
    dataset = batches(
        source_of(files), training=False, repeat=False, horizontal_flip=False, batch_size=2,
        image_size=parse_image_size("60,96"),
    )  # fmt: skip
    (images, targets), (last, last_targets) = dataset
    # 40x60: 60/40 = 1.5, 96/60 = 1.6 -> 60x90. 50x30: 60/30 = 2, 96/50 = 1.92 -> 96x57.
    assert targets["image_sizes"].numpy().tolist() == [[60, 90], [96, 57]]
    assert images.shape == (2, 96, 96, 3)  # 96 is 3 * 32; 90 -> 96
    assert not images.numpy()[0, 60:].any() and not images.numpy()[0, :, 90:].any()
    # 90x30: 60/30 = 2, 96/90 = 1.067 -> 96x32 exactly: no padding.
    assert last.shape == (1, 96, 32, 3)
    assert last_targets["image_sizes"].numpy().tolist() == [[96, 32]]
    np.testing.assert_allclose(
        last_targets["boxes"][0, 1], np.array([5, 6, 7, 8]) * 96 / 90, rtol=1e-6
    )
    assert dataset.element_spec[0].shape == [None, None, None, 3]


@pytest.mark.parametrize(
    "content",
    [b"", b"no image", b"\xff\xd8\xff\xe0 no JPEG", "half"],
    ids=["empty", "text", "header", "half"],
)
def test_an_unreadable_image_is_named(files, content):
    if content == "half":
        whole = Path(files[0].file).read_bytes()
        content = whole[: len(whole) // 2]
    Path(files[0].file).write_bytes(content)
    with pytest.raises(
        tf.errors.InvalidArgumentError, match=f"cannot decode image {files[0].file}"
    ):
        list(batches(source_of(files)).take(2))


def test_an_image_that_vanished_is_named(files, tmp_path):
    (tmp_path / "b.png").unlink()
    with pytest.raises(tf.errors.InvalidArgumentError, match=f"no image file {files[1].file}"):
        list(batches(source_of(files)).take(2))


def test_real_photos_are_decoded_as_opencv_does(shared_data):
    for file in sorted((shared_data / "voc2007" / "JPEGImages").glob("*.jpg"))[:20]:
        expected = cv2.imread(str(file), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
        np.testing.assert_array_equal(pipeline.read_image(str(file)), expected[..., ::-1])
