"""Operations of a step: 2 a multiply-add of convolutions and matrix products."""

import keras
import pytest
import tensorflow as tf

from benchmarks.flops import count_flops

# Multiply-adds of a batch of 2 images of 8x8: a convolution 3x3 of 3 to 4 channels, "same"; a
# depthwise one 3x3 with stride 2, "valid", to 3x3; 36 values to 5.
CONVOLUTION, DEPTHWISE, DENSE = 2 * 64 * 27 * 4, 2 * 9 * 9 * 4, 2 * 36 * 5


@pytest.fixture(scope="module")
def network():
    layers = keras.layers
    return keras.Sequential(
        [
            layers.Input((8, 8, 3)),
            layers.Conv2D(4, 3, padding="same"),
            layers.DepthwiseConv2D(3, strides=2),
            layers.BatchNormalization(),
            layers.Flatten(),
            layers.Dense(5, activation="relu"),
        ]
    )


def count(function, *shapes):
    specs = [tf.TensorSpec(shape) for shape in shapes]
    return count_flops(tf.function(function).get_concrete_function(*specs).graph)


def test_operations_of_a_small_network(network):
    expected = 2 * (CONVOLUTION + DEPTHWISE + DENSE)
    assert count(network, (2, 8, 8, 3)) == expected
    assert count(tf.function(network), (2, 8, 8, 3)) == expected  # in a function that it calls
    assert count(network, (None, 8, 8, 3)) is None


def test_a_training_step_has_two_more_products_but_for_the_gradient_of_the_images(network):
    def train(images):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(network(images, training=True) ** 2)
        return loss, tape.gradient(loss, network.trainable_variables)

    expected = 2 * (2 * CONVOLUTION + 3 * DEPTHWISE + 3 * DENSE)
    assert count(train, (2, 8, 8, 3)) == expected


def test_the_inner_size_of_a_product_is_that_of_its_first_matrix():
    assert count(lambda a, b: tf.matmul(a, b, transpose_a=True), (7, 3), (7, 5)) == 2 * 7 * 3 * 5
    assert count(tf.matmul, (4, 3, 7), (4, 7, 5)) == 2 * 4 * 3 * 7 * 5


def test_groups_and_dilations_count_what_is_multiplied():
    grouped = keras.layers.Conv2D(6, 3, groups=2, padding="same", use_bias=False)
    grouped.build((1, 5, 5, 4))
    # Each of 25 points and 6 filters: 9 values of 2 channels.
    assert count(grouped, (1, 5, 5, 4)) == 2 * 25 * 6 * 18
    dilated = keras.layers.Conv2D(6, 3, dilation_rate=2, use_bias=False)
    dilated.build((1, 6, 6, 4))
    assert count(dilated, (1, 6, 6, 4)) == 2 * 4 * 6 * 36  # 2x2 points
