"""Checks of the arguments of `fcos_tf.data.load`, before anything is read."""

import numpy as np

from fcos_tf.image_size import ImageSize


def check_counts(**numbers: tuple[int | None, int]) -> None:
    """Raises ValueError for what is no whole number, or under the least: name=(value, least)."""
    for name, (value, least) in numbers.items():
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | np.integer):
            raise ValueError(f"{name}: expected a whole number, got {value!r}")
        if value < least:
            raise ValueError(f"{name}: expected at least {least}, got {value}")


def check_hosts(batch_size: int, num_hosts: int, host: int) -> None:
    """Raises ValueError for a host that is none of them, or a batch that they cannot share."""
    if num_hosts < 1 or not 0 <= host < num_hosts or batch_size % num_hosts:
        raise ValueError(
            f"expected 0 <= host < num_hosts and a batch_size that num_hosts divides, got "
            f"host={host}, num_hosts={num_hosts}, batch_size={batch_size}"
        )


def check_image_size(
    size: ImageSize,
    image_size: str | tuple[int, int],
    *,
    cache: bool,
    orientation_buckets: bool,
    num_hosts: int,
) -> None:
    """Checks the rule for image sizes against all that depends on it.

    Args:
        size: The rule, augmentations included.
        image_size: What it was made of, for messages.
        cache: As of `fcos_tf.data.load`.
        orientation_buckets: Likewise.
        num_hosts: Likewise.

    Raises:
        ValueError: What cannot go together; says which.
    """
    if cache and size.is_random:
        raise ValueError("cache: expected images of one size, not with scale_jitter or a range")
    if orientation_buckets and size.canvas is not None:
        raise ValueError(
            f"orientation_buckets: expected an image_size like 800,1333, got {image_size!r}"
        )
    if num_hosts > 1 and size.canvas is None and not orientation_buckets:
        raise ValueError(
            "num_hosts: expected a fixed canvas or orientation_buckets, so that all hosts have "
            f"the same sizes, got image_size={image_size!r}"
        )
