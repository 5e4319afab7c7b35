"""To what size images are brought: the option `image_size`, and the rule that it stands for.

h, w: the size of an image. H, W: the size of a canvas that images are padded to.
"""

import math
import re
from dataclasses import dataclass, replace

MULTIPLE = 32  # canvases of "SHORT,LONG" are padded to a multiple of it


@dataclass(frozen=True)
class ImageSize:
    """A rule for the size of images; the aspect ratio is always kept.

    Exactly one of `canvas` and `sides` is set.

    Args:
        canvas: (H, W) that every image is resized to fit and padded to.
        sides: (least, most, long): resize until the short side has between `least` and `most`
            pixels, or less where the long side would pass `long`.
        scale_jitter: (low, high): with `canvas`, a factor on the scale, to be drawn for every
            image; above 1 the image becomes larger than the canvas and is cropped to it.
    """

    canvas: tuple[int, int] | None = None
    sides: tuple[int, int, int] | None = None
    scale_jitter: tuple[float, float] | None = None

    @property
    def is_random(self) -> bool:
        """Whether the size depends on `chance`."""
        return self.scale_jitter is not None or bool(self.sides and self.sides[0] < self.sides[1])

    def fixed(self) -> "ImageSize":
        """The same without randomness, for evaluation: the largest short side, no jitter."""
        sides = self.sides and (self.sides[1], *self.sides[1:])
        return replace(self, sides=sides, scale_jitter=None)

    def canvases(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """(H, W) that hold every landscape and every portrait image: 800x1344 and 1344x800."""
        if self.canvas is not None:
            return self.canvas, self.canvas
        short, long = (-(-side // MULTIPLE) * MULTIPLE for side in self.sides[1:])
        return (short, long), (long, short)

    def resized(
        self, height: int, width: int, chance: float = 0.0, fit: tuple[int, int] | None = None
    ) -> tuple[int, int]:
        """The size an image gets: both sides by one scale, floored.

        scale = min(short / min(h, w), long / max(h, w)), or min(H / h, W / w) for a canvas, in
        this order of operations, rounding included: at "800,1333" a short side of 322 becomes
        799, because 800 / 322 * 322 is a bit less than 800.

        `chance`, in [0, 1), draws the random part of the rule; `fit` is an (H, W) that the result
        must not pass, whatever else the rule says.

        Returns:
            (height, width), each at least 1.
        """
        if self.canvas is not None:
            scale = min(self.canvas[0] / height, self.canvas[1] / width)
            if self.scale_jitter is not None:
                low, high = self.scale_jitter
                scale *= low + (high - low) * chance
        else:
            least, most, long = self.sides
            short = least + int(chance * (most - least + 1))
            scale = min(short / min(height, width), long / max(height, width))
        if fit is not None:
            scale = min(scale, fit[0] / height, fit[1] / width)
        return max(math.floor(height * scale), 1), max(math.floor(width * scale), 1)


def parse_image_size(image_size: str | tuple[int, int] | ImageSize) -> ImageSize:
    """Reads an image size option.

    Args:
        image_size: "512x640" (height x width), (512, 640), "800,1333" (short, long side) or
            "640-800,1333".

    Raises:
        ValueError: Anything else, a size under 1, or a short side over the long one.

    Example:
        >>> parse_image_size("640-800,1333").sides
        (640, 800, 1333)
    """
    if isinstance(image_size, ImageSize):
        return image_size
    parsed = None
    if isinstance(image_size, str):
        text = image_size.replace(" ", "")
        if match := re.fullmatch(r"(\d+)[xX](\d+)", text):
            parsed = ImageSize(canvas=(int(match[1]), int(match[2])))
        elif match := re.fullmatch(r"(\d+)(?:-(\d+))?,(\d+)", text):
            parsed = ImageSize(sides=(int(match[1]), int(match[2] or match[1]), int(match[3])))
    elif isinstance(image_size, tuple | list) and [type(n) for n in image_size] == [int, int]:
        parsed = ImageSize(canvas=tuple(image_size))
    valid = parsed is not None and min(parsed.canvas or parsed.sides) >= 1
    if not valid or (parsed.sides and list(parsed.sides) != sorted(parsed.sides)):
        raise ValueError(
            "image_size: expected a canvas like 512x512 (height x width, also as a tuple), or "
            f"sides like 800,1333 or 640-800,1333 (short, at most the long one), got {image_size!r}"
        )
    return parsed


def check_image_size(
    size: ImageSize,
    image_size: str | tuple[int, int],
    *,
    cache: bool,
    orientation_buckets: bool,
    num_hosts: int,
) -> None:
    """Checks the rule, augmentations included, against other arguments of `fcos_tf.data.load`.

    Raises:
        ValueError: What cannot go together; says which, and the `image_size` that was given.
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
