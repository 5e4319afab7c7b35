"""The summary of a split of a data set, in lines of text."""

from collections.abc import Iterator

import numpy as np

from fcos_tf.data.annotations import Annotations, ReadResult
from fcos_tf.data.images import ImageError
from fcos_tf.data.input.examples import make_source
from fcos_tf.image_size import parse_image_size


def summary(found: ReadResult) -> Iterator[str]:
    """The lines about the annotations of a split, with each fault."""
    annotations, faults = found.annotations, found.faults
    learned = ~annotations.ignored
    per_image = np.bincount(annotations.owners[learned], minlength=annotations.num_images)
    yield f"{annotations.num_images} images, {learned.sum()} boxes"
    yield from (f"  {note}" for note in annotations.notes)
    yield (
        f"  boxes per image: mean {per_image.mean():.1f}, most {per_image.max()}; "
        f"{(per_image == 0).sum()} images without; {(~learned).sum()} ignored (crowd, difficult)"
    )
    yield from _sizes(annotations)
    yield f"  {len(annotations.class_names)} classes:"
    width = max(map(len, annotations.class_names))
    labels, count = annotations.labels[learned].astype(np.int64), len(annotations.class_names)
    # An image once for each of its classes.
    pairs = np.unique(labels * annotations.num_images + annotations.owners[learned])
    of_class = np.bincount(labels, minlength=count)
    images = np.bincount(pairs // annotations.num_images, minlength=count)
    for label, name in enumerate(annotations.class_names):
        yield f"    {name:<{width}} {of_class[label]:8d} boxes in {images[label]:7d} images"
    for name, count in sorted(found.other_classes.items()):
        yield f"    left out: {name} {count}"
    dropped = sum(not fault.kept for fault in faults)
    yield f"  {len(faults)} faults in the annotations, {dropped} of them dropped"
    for fault in faults:
        yield f"    {fault} ({'kept' if fault.kept else 'dropped'})"


def check_images(annotations: Annotations, image_size: str) -> Iterator[str]:
    """Reads every image as training does; the lines give the numbers and the unreadable images."""
    messages: list[str] = []
    source = make_source(annotations, messages.extend)
    size_for, bad = parse_image_size(image_size).fixed().resized, 0
    for index in range(source.num_images):
        try:
            source.read(index, size_for)
        except ImageError as error:
            bad += 1
            messages.append(str(error))
    yield f"  {source.num_images} images read, {bad} of them cannot be"
    yield from (f"    {message}" for message in messages)


def _sizes(annotations: Annotations) -> Iterator[str]:
    known = (annotations.sizes > 0).all(axis=1)
    if known.any():
        heights, widths = annotations.sizes[known].T
        portrait = (heights > widths).mean()
        yield (
            f"  image sizes: width {widths.min()} to {widths.max()} (median "
            f"{np.median(widths):.0f}), height {heights.min()} to {heights.max()} (median "
            f"{np.median(heights):.0f}), {portrait:.0%} portrait; {(~known).sum()} unknown"
        )
    sides = np.sqrt(np.prod(annotations.boxes[:, 2:] - annotations.boxes[:, :2], axis=1))
    if len(sides):
        small, large = (sides < 32).mean(), (sides >= 96).mean()
        yield (
            f"  box sides (root of the area): {sides.min():.1f} to {sides.max():.1f} (median "
            f"{np.median(sides):.1f}) pixels; small (< 32) {small:.0%}, "
            f"medium {1 - small - large:.0%}, large (>= 96) {large:.0%}"
        )
