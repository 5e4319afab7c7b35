"""Which files are images, by their names: one rule for readers and detection."""

# `.jpg` first: the order in which images of one name are preferred.
IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".pbm",
    ".pgm", ".ppm",
)  # fmt: skip
