"""What the graph makes of image files, against what the package makes of them."""

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from fcos_tf.data.images import decode_image, resize_image
from fcos_tf.export import decoding, resizing
from fcos_tf.image_size import parse_image_size
from tests.export.encoded import HEIGHT, READABLE, UNREADABLE, WIDTH, picture, save


def whole(height, width):
    return height, width


@pytest.fixture(scope="module")
def decode_batch():
    """(image_bytes) -> pixels of each, and sizes; in a graph, as it is exported."""
    limits = decoding.Limits(images=len(READABLE))

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)], autograph=False)
    def graph(files):
        def one(element):
            return tf.io.serialize_tensor(decoding.decode_image(*element))

        sizes = decoding.read_sizes(files, limits)
        return tf.map_fn(one, (files, sizes), fn_output_signature=tf.string), sizes

    def decode(files):
        pixels, sizes = graph(tf.constant(files))
        return [tf.io.parse_tensor(each, tf.uint8).numpy() for each in pixels], sizes.numpy()

    return decode


def test_every_kind_of_file_gives_the_packages_pixels(decode_batch):
    found, sizes = decode_batch(list(READABLE.values()))
    np.testing.assert_array_equal(sizes, [[HEIGHT, WIDTH]] * len(READABLE))
    for (kind, data), pixels in zip(READABLE.items(), found, strict=True):
        expected, _ = decode_image(data, kind, whole)
        np.testing.assert_array_equal(pixels, expected, err_msg=kind)


def test_the_first_picture_of_an_animation_counts(decode_batch):
    (found,), _ = decode_batch([READABLE["webp animated"]])
    np.testing.assert_array_equal(found, picture())


def test_an_animated_webp_that_is_no_text(decode_batch):
    # TensorFlow's string ops see UTF-8 where they can; a length from 0x80 on is none.
    for height in range(8, 64):
        frames = {"save_all": True, "append_images": [Image.fromarray(picture(height, seed=1))]}
        data = save(picture(height), "WEBP", lossless=True, **frames)
        if data[4] >= 0x80:
            break
    (found,), _ = decode_batch([data])
    np.testing.assert_array_equal(found, picture(height))


@pytest.mark.parametrize("kind", UNREADABLE)
def test_what_cannot_be_decoded_is_an_error(decode_batch, kind):
    data, message = UNREADABLE[kind]
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        decode_batch([READABLE["png"], data])


def test_an_empty_batch_is_an_error(decode_batch):
    with pytest.raises(tf.errors.InvalidArgumentError, match="expected 1 to 25 images, got 0"):
        decode_batch(np.array([], object))


def test_limits_hold_for_all_images_together():
    limits = decoding.Limits(images=3, pixels=3 * 21 * 34)
    files = [READABLE[kind] for kind in ("jpeg", "webp", "png", "bmp")]
    sizes = decoding.read_sizes(tf.constant(files[:3]), limits)
    np.testing.assert_array_equal(sizes, [[21, 34]] * 3)
    with pytest.raises(tf.errors.InvalidArgumentError, match="expected 1 to 3 images, got 4"):
        decoding.read_sizes(tf.constant(files), limits)
    message = "expected 1 to 2141 pixels in all images together, got 34 x 21, 34 x 21, 34 x 21"
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        decoding.read_sizes(tf.constant(files[:3]), limits._replace(pixels=3 * 21 * 34 - 1))


@pytest.mark.parametrize("image_size", ["800,1333", "512x640", "224x224", "1,1", "640-800,1333"])
def test_sizes_are_the_packages(image_size):
    rule = parse_image_size(image_size).fixed()
    # 322 is the side that rounding makes 799, see `ImageSize.resized`.
    sides = [1, 2, 3, 32, 33, 322, 333, 375, 427, 480, 500, 640, 1333, 4000]
    sizes = [(h, w) for h in sides for w in sides]
    found = resizing.resized_sizes(tf.constant(sizes), rule).numpy()
    np.testing.assert_array_equal(found, [rule.resized(h, w) for h, w in sizes])


def test_resizing_by_hand():
    # Columns 0 and 1 at twice the width: centres at -0.25, 0.25, 0.75 and 1.25 of the old ones, so
    # 0, 0.25, 0.75 and 1. Below and to the right zeros up to 3 x 5.
    image = tf.constant([[[0] * 3, [1] * 3]] * 2, tf.uint8)
    found = resizing.resize_and_pad(image, tf.constant([2, 4]), (3, 5)).numpy()
    expected = np.zeros((3, 5))
    expected[:2, :4] = [0, 0.25, 0.75, 1]
    np.testing.assert_array_equal(found, np.repeat(expected[..., None], 3, axis=-1))


@pytest.mark.parametrize("size", [(97, 151), (48, 64), (13, 200), (500, 3), (1, 1)])
def test_resizing_is_the_packages(size):
    image = picture(48, 64)
    expected = resize_image(image.astype(np.float32), *size)
    graph = tf.function(resizing.resize_and_pad, autograph=False)
    found = graph(tf.constant(image), tf.constant(size), size).numpy()
    # Equal where OpenCV has a fused multiply-add. `tf.image.resize` differs by 0.001 and more.
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
    assert np.isfinite(found).all()


def test_a_batch_of_one_size_is_resized_at_once():
    images = np.stack([picture(20, 30), picture(20, 30, seed=1)])
    size, canvas = tf.constant([40, 33]), (64, 64)
    found = resizing.resize_and_pad(tf.constant(images), size, canvas).numpy()
    for one, image in zip(found, images, strict=True):
        np.testing.assert_array_equal(one, resizing.resize_and_pad(image, size, canvas).numpy())


def test_the_canvas_is_the_least_multiple_of_32():
    rule = parse_image_size("800,1333")
    sizes = tf.constant([[800, 1066], [1201, 800]])
    assert [int(side) for side in resizing.canvas_of(sizes, rule)] == [1216, 1088]
    assert [int(side) for side in resizing.canvas_of(sizes[:1], rule)] == [800, 1088]
    assert resizing.canvas_of(sizes, parse_image_size("512x640")) == (512, 640)
