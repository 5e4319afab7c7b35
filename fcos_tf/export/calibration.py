"""The images that a network is quantised on, resized and padded as the model takes them."""

from collections.abc import Iterator, Sequence

import numpy as np

from fcos_tf.data.prepare import ImageSource, prepare_batch
from fcos_tf.detecting.pictures import list_images, read_picture
from fcos_tf.image_size import ImageSize

_LEAST_CONTRAST = 8  # levels between the darkest and the brightest pixel of a channel


class CalibrationImages:
    """Batches of `prepare_batch` of one image each, read anew at each iteration.

    Args:
        images: see `fcos_tf.detect`.
        rule: the size that images are resized to.
        apply_exif: whether they are turned upright by EXIF.

    Raises:
        ValueError: no image, or, while they are read, no image with any contrast: a network that
            is quantised on black images finds nothing.
        ImageError: an image that cannot be read; names it.
    """

    def __init__(self, images: Sequence[ImageSource], rule: ImageSize, apply_exif: bool):
        self._images, self._rule, self._apply_exif = list_images(images), rule, apply_exif

    def __len__(self) -> int:
        return len(self._images)

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        contrast = 0
        for number, image in enumerate(self._images):
            pixels = read_picture(image, number, apply_exif=self._apply_exif).pixels
            contrast = max(contrast, int(np.ptp(pixels, axis=(0, 1)).max()))
            # Before the last batch, as not every caller asks for more.
            if number == len(self) - 1 and contrast < _LEAST_CONTRAST:
                raise ValueError(
                    f"calibration: expected photos, got {len(self)} images of one colour each"
                )
            yield prepare_batch([pixels], self._rule)
