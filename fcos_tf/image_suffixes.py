"""Which files are images, by their names: one rule for readers and detection."""

import os

# `.jpg` first: the order in which images of one name are preferred.
IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".pbm",
    ".pgm", ".ppm",
)  # fmt: skip


def is_image_name(name: str) -> bool:
    """Whether a file of this name counts as an image; upper and lower case are the same."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def stem_of(name: str) -> str:
    """The name without the suffix of an image, if it has one."""
    return os.path.splitext(name)[0] if is_image_name(name) else name
