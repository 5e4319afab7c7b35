"""The dtype of what half precision must not round."""

import keras


def at_least_float32(dtype) -> str:
    """The dtype to compute outputs, targets and losses in: "float64" for float64, else "float32".

    Args:
        dtype: of an array, or the compute dtype of a layer.

    Example:
        >>> at_least_float32("bfloat16"), at_least_float32("float64")
        ('float32', 'float64')
    """
    return keras.backend.result_type(dtype, "float32")
