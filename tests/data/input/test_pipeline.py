"""Order, resumption, padding and bad images in batches, on a split made of numbers."""

import numpy as np
import pytest
import tensorflow as tf

from fcos_tf.data.annotations import ImageFaults
from fcos_tf.data.images import ImageError, resize_image
from fcos_tf.data.input.examples import Example, ExampleMapper, Source
from fcos_tf.data.input.order import Order
from fcos_tf.data.input.pipeline import batches as make_batches
from fcos_tf.image_size import ImageSize, parse_image_size


def numbered(num_images, height=4, width=6, bad=(), portrait=None):
    """Image i is filled with i, but for its first column, 255, and has i % 3 boxes.

    Those in `bad` cannot be read; those in `portrait` are turned by 90 degrees.
    """

    def read(index, size_for):
        if index in bad:
            raise ImageError(f"image {index} is bad")
        h, w = (height, width) if portrait is None or not portrait[index] else (width, height)
        image = np.full([h, w, 3], index, np.uint8)
        image[:, 0] = 255
        count = index % 3
        return Example(
            image=resize_image(image, *size_for(h, w)),
            original_size=np.array([h, w], np.int32),
            image_id=index,
            # Around a part of the first column.
            boxes=np.tile(np.float64([[0, 1, 1, 3]]), [count, 1]),
            labels=np.full(count, 5, np.int32),
            areas=np.full(count, 1.5),
            ignored_boxes=np.float64([[2, 0, 4, 4]])[: index % 2],
            ignored_labels=np.int32([2])[: index % 2],
        )

    return Source(read, num_images, 2, 1, tuple("abcdef"), tuple(range(1, 7)), portrait)


def pipeline(source, *, max_bad_images=0, max_boxes=2, cache=False, buckets=False, **kwargs):
    options = {
        "batch_size": 4, "image_size": "4x6", "training": True, "seed": 3, "repeat": True,
        "start_step": 0, "num_hosts": 1, "host": 0, "horizontal_flip": True, "augmentations": (),
    } | kwargs  # fmt: skip
    size = parse_image_size(options.pop("image_size"))
    flip, augmentations = options.pop("horizontal_flip"), options.pop("augmentations")
    portrait = source.portrait if buckets else None
    faults = ImageFaults(max_bad_images)
    order = Order(num_images=source.num_images, portrait=portrait, **options)
    mapper = ExampleMapper(
        source, size, order, faults, most_boxes=max_boxes, horizontal_flip=flip, cache=cache
    )
    return make_batches(mapper, augmentations), faults


def batches(source, **kwargs):
    return pipeline(source, **kwargs)[0]


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
    assert len(list(batches(source, seed=2**31 - 1).take(1))) == 1


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


def test_evaluation_resizes_exactly_and_training_to_whole_grey_levels():
    options = {"repeat": False, "horizontal_flip": False, "image_size": "9x13"}
    image = numbered(3).read(1, lambda h, w: (h, w)).image
    # 4x6 fits 9x13 at a scale of 13 / 6: 8.7 rows, so 8.
    expected = tf.image.resize(image, (8, 13)).numpy()
    assert (expected % 1 != 0).any()
    for images, targets in batches(numbered(3), training=False, **options):
        row = targets["image_ids"].numpy().tolist().index(1)
        np.testing.assert_allclose(images.numpy()[row, :8], expected, atol=1e-3)
    for images, targets in batches(numbered(3), training=True, batch_size=3, **options):
        row = targets["image_ids"].numpy().tolist().index(1)
        assert images.dtype == tf.uint8
        np.testing.assert_allclose(images.numpy()[row, :8], expected, atol=1)


def test_padding_of_a_fixed_canvas():
    dataset = batches(
        numbered(3), training=False, repeat=False, horizontal_flip=False, max_boxes=4,
        image_size="16x12",
    )  # fmt: skip
    ((images, targets),) = dataset
    # 4x6 to 16x12: scale 2, so 8x12 and 8 rows of padding.
    assert images.shape == (3, 16, 12, 3) and images.dtype == tf.float32
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
        "original_sizes": tf.float32, "image_ids": tf.int64, "areas": tf.float64,
        "ignored_boxes": tf.float32, "ignored_labels": tf.int32,
        "original_boxes": tf.float64, "original_ignored_boxes": tf.float64,
    }  # fmt: skip
    # What is ignored is scaled likewise; areas and original boxes stay those of the stored image.
    assert targets["ignored_boxes"].numpy().tolist() == [[nothing], [[4, 0, 8, 8]], [nothing]]
    assert targets["original_ignored_boxes"].numpy().tolist() == [
        [nothing], [[2, 0, 4, 4]], [nothing]
    ]  # fmt: skip
    assert targets["original_boxes"].numpy()[2].tolist() == [[0, 1, 1, 3]] * 2 + [nothing] * 2
    assert targets["ignored_labels"].numpy().tolist() == [[-1], [2], [-1]]
    assert targets["areas"].numpy().tolist() == [[0] * 4, [1.5, 0, 0, 0], [1.5, 1.5, 0, 0]]


def test_training_batches_have_what_training_needs():
    assert set(batches(numbered(4)).element_spec[1]) == {
        "boxes", "labels", "image_sizes", "original_sizes", "image_ids", "ignored_labels"
    }  # fmt: skip


@pytest.mark.parametrize("training", [True, False])
def test_hosts_together_have_the_batches_of_one(training):
    source = numbered(10)
    options = {"training": training, "start_step": 3, "batch_size": 6}
    alone = list(batches(source, **options).take(4))
    parts = [list(batches(source, num_hosts=3, host=h, **options).take(4)) for h in range(3)]
    assert parts[0][0][0].shape[0] == 2
    joined = [
        tf.nest.map_structure(lambda *rows: tf.concat(rows, 0), *together)
        for together in zip(*parts, strict=True)
    ]
    assert_equal(alone, joined)


def test_hosts_share_an_evaluation():
    options = {"training": False, "repeat": False, "horizontal_flip": False, "num_hosts": 2}
    found = [ids(batches(numbered(10), host=host, **options)) for host in (0, 1)]
    # Both have equally many batches, or collectives would wait for ever.
    assert found == [[[0, 1], [4, 5], [8, 9]], [[2, 3], [6, 7], [-1, -1]]]
    assert ids(batches(numbered(1), host=1, **options)) == [[-1, -1]]


def test_hosts_share_an_evaluation_by_orientation():
    source = numbered(9, portrait=np.arange(9) == 4)
    options = {"buckets": True, "image_size": "40,70", "training": False, "repeat": False,
               "horizontal_flip": False, "num_hosts": 2}  # fmt: skip
    parts = [list(batches(source, host=host, **options)) for host in (0, 1)]
    assert [[t["image_ids"].numpy().tolist() for _, t in part] for part in parts] == [
        [[0, 1], [5, 6], [4, -1]], [[2, 3], [7, 8], [-1, -1]]
    ]  # fmt: skip
    for (mine, _), (other, _) in zip(*parts, strict=True):
        assert mine.shape == other.shape
    assert parts[1][2][0].shape == (2, 96, 64, 3)


PORTRAIT = np.arange(20) % 5 == 1  # 4 of 20


def test_batches_of_one_orientation():
    source = numbered(20, portrait=PORTRAIT)
    seen = []
    for images, targets in batches(source, buckets=True, image_size="40,70").take(10):
        # 4x6 by min(40 / 4, 70 / 6) = 10 is 40x60; canvases are 64x96 and 96x64.
        portrait = PORTRAIT[targets["image_ids"].numpy()]
        assert portrait.all() or not portrait.any()
        assert images.shape == ((4, 96, 64, 3) if portrait[0] else (4, 64, 96, 3))
        expected = [60, 40] if portrait[0] else [40, 60]
        assert targets["image_sizes"].numpy().tolist() == [expected] * 4
        seen += targets["image_ids"].numpy().tolist()
    # Ten batches are two passes over all 20, and every fifth batch is of portraits.
    assert sorted(seen) == sorted(2 * list(range(20)))


@pytest.mark.parametrize("start", [1, 2, 5, 11])
def test_batches_of_one_orientation_resume(start):
    options = {"buckets": True, "image_size": "40,70"}
    source = numbered(20, portrait=PORTRAIT)
    whole = list(batches(source, **options).take(start + 6))
    assert_equal(whole[start:], batches(source, start_step=start, **options).take(6))


def test_evaluation_by_orientation_has_every_image():
    source = numbered(10, portrait=np.arange(10) % 3 == 0)  # 0, 3, 6, 9
    options = {"buckets": True, "image_size": "40,70", "training": False, "repeat": False,
               "horizontal_flip": False}  # fmt: skip
    dataset = batches(source, **options)
    assert ids(dataset) == [[1, 2, 4, 5], [7, 8], [0, 3, 6, 9]] and dataset.cardinality() == 3
    assert ids(batches(source, start_step=1, **options)) == [[7, 8], [0, 3, 6, 9]]
    assert ids(batches(source, start_step=2, **options)) == [[0, 3, 6, 9]]


def test_finite_training_by_orientation():
    source = numbered(20, portrait=np.arange(20) < 6)  # 6 portraits, 14 landscapes
    dataset = batches(source, buckets=True, image_size="40,70", repeat=False)
    assert dataset.cardinality() == 4  # 6 // 4 + 14 // 4
    first, second = ([i for batch in ids(dataset) for i in batch] for _ in range(2))
    assert len(set(first)) == 16 and first != second
    assert sum(i < 6 for i in first) == 4


def test_a_wrong_orientation_still_fits_the_canvas():
    source = numbered(4, portrait=np.zeros(4, bool))
    wrong = Source(source.read, 4, 2, 1, source.class_names, source.category_ids, ~source.portrait)
    images, targets = next(iter(batches(wrong, buckets=True, image_size="60,96")))
    # 4x6 would be 60x90, which passes the canvas for portraits, 96x64: by 64 / 6 it is 42x64.
    assert images.shape == (4, 96, 64, 3)
    assert targets["image_sizes"].numpy().tolist() == [[42, 64]] * 4


def test_multi_scale_draws_every_short_side():
    source = numbered(5)
    dataset = batches(source, image_size="40-43,999", horizontal_flip=False)
    sizes = [tuple(size) for _, t in dataset.take(60) for size in t["image_sizes"].numpy()]
    # 240 draws of 4 short sides: 60 +- 6.7 each.
    counts = {size: sizes.count(size) for size in set(sizes)}
    assert set(counts) == {(40, 60), (41, 61), (42, 63), (43, 64)}
    assert min(counts.values()) > 25
    again = batches(source, image_size="40-43,999", horizontal_flip=False, start_step=7)
    assert_equal(list(dataset.take(9))[7:], again.take(2))


def test_scale_jitter_crops_and_pads():
    size = ImageSize(canvas=(32, 48), scale_jitter=(0.5, 2.0))
    dataset = batches(numbered(6), image_size=size, horizontal_flip=False)
    cropped = 0
    for images, targets in dataset.take(25):
        assert images.shape == (4, 32, 48, 3)
        for image, valid, i in zip(
            images.numpy(), targets["image_sizes"].numpy().astype(int),
            targets["image_ids"].numpy(), strict=True,
        ):  # fmt: skip
            assert 16 <= valid[0] <= 32 and 24 <= valid[1] <= 48
            cropped += valid.tolist() == [32, 48]
            assert i == 0 or image[: valid[0], : valid[1]].all()
            assert not image[valid[0] :].any() and not image[:, valid[1] :].any()
    assert 40 < cropped < 95  # factors above 1 are two thirds of [0.5, 2]: 67 +- 5 of 100


def test_a_cached_image_is_read_once():
    source, calls = numbered(5), []

    def read(index, size_for):
        calls.append(index)
        return source.read(index, size_for)

    counting = Source(read, 5, 2, 1, source.class_names, source.category_ids)
    cached = list(batches(counting, cache=True).take(10))
    assert sorted(calls) == list(range(5))
    assert_equal(cached, batches(source).take(10))


def test_bad_images_are_replaced_in_training():
    made, faults = pipeline(numbered(6, bad={2, 3}), max_bad_images=2, seed=1)
    seen = [i for batch in ids(made.take(30)) for i in batch]  # 20 passes
    # 4 stands in for 2 and 3.
    assert {i: seen.count(i) for i in set(seen)} == {0: 20, 1: 20, 4: 60, 5: 20}
    assert sorted(faults.skipped) == ["image 2 is bad", "image 3 is bad"]


def test_a_bad_image_is_replaced_by_one_of_its_orientation():
    portrait = np.array([0, 1, 0, 0, 1], bool)
    options = {"buckets": True, "image_size": "40,70", "max_bad_images": 1, "batch_size": 1}
    made, _ = pipeline(numbered(5, bad={1}, portrait=portrait), **options)
    seen = [i for batch in ids(made.take(20)) for i in batch]  # four passes
    assert {i: seen.count(i) for i in set(seen)} == {0: 4, 2: 4, 3: 4, 4: 8}


def test_bad_images_leave_a_filler_in_evaluation():
    made, faults = pipeline(
        numbered(6, bad={2}), max_bad_images=1, training=False, repeat=False, horizontal_flip=False
    )
    dataset = made
    assert ids(dataset) == [[0, 1, -1, 3], [4, 5]] and dataset.cardinality() == 2
    images, targets = next(iter(dataset))
    assert not images[2].numpy().any()
    assert targets["labels"][2].numpy().tolist() == [-1, -1]
    assert faults.skipped == ["image 2 is bad"]


@pytest.mark.parametrize("training", [True, False])
def test_too_many_bad_images_stop(training, caplog):
    made, faults = pipeline(
        numbered(8, bad={1, 2, 5}), max_bad_images=2, training=training, batch_size=1
    )
    with pytest.raises(
        tf.errors.InvalidArgumentError,
        match=r"3 images cannot be read, more than max_bad_images=2; the last: image . is bad",
    ):
        list(made.take(16))
    assert len(faults.skipped) == 3
    assert "skipped bad image 2 of at most 2: image" in caplog.text


def test_a_split_of_bad_images_stops():
    made, _ = pipeline(numbered(3, bad={0, 1, 2}), max_bad_images=99, batch_size=1)
    with pytest.raises(tf.errors.InvalidArgumentError, match="no image of the split can be read"):
        list(made.take(1))


@pytest.mark.parametrize("names", [("color_jitter",), ("rand_augment",), ("mosaic",)])
def test_augmentations_resume_and_differ_over_passes(names):
    options = {"augmentations": names, "image_size": "32x48", "batch_size": 4}
    whole = list(batches(numbered(4), **options).take(6))
    assert_equal(whole[2:], batches(numbered(4), start_step=2, **options).take(4))
    pictures = {images.numpy().tobytes() for images, _ in whole}
    # One image for all batches, so that only the pass makes a difference.
    single = batches(numbered(1), **{**options, "batch_size": 1}, horizontal_flip=False)
    assert names == ("mosaic",) or len({x.numpy().tobytes() for x, _ in single.take(6)}) > 3
    assert len(pictures) == 6 and whole[0][0].shape == (4, 32, 48, 3)
    assert set(whole[0][1]) == {
        "boxes", "labels", "image_sizes", "original_sizes", "image_ids", "ignored_labels"
    }  # fmt: skip
