"""A large product of two matrices: a reference for the speed of convolutions."""

from benchmarks.turns import Side, timed

SIZE = 2048


def side(precision: str) -> Side:
    """A product of two square matrices by TensorFlow."""
    import tensorflow as tf

    matrix = tf.cast(tf.random.stateless_normal((SIZE, SIZE), seed=(0, 0)), precision)

    @tf.function
    def product(left, right):
        return tf.matmul(left, right)

    # One value is read, so that the product is complete.
    return Side(timed(lambda: product(matrix, matrix)[0, 0].numpy()), lambda: 2 * SIZE**3)
