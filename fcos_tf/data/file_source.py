"""Image files and their annotations, one example at a time."""

from collections.abc import Callable

import numpy as np

from fcos_tf.data.annotations import Annotations, Example, SizeRule, Source
from fcos_tf.data.images import decode_image, read_bytes


def file_source(annotations: Annotations, note: Callable[[list[str]], None]) -> Source:
    """Makes a split of image files readable for `pipeline.batches`.

    Args:
        annotations: In the order of evaluation.
        note: Takes messages about images that are not as their annotations say.

    Returns:
        A `Source`.
    """
    boxes = annotations.boxes.astype(np.float32)
    areas = annotations.known_areas().astype(np.float32)
    # Image i owns the rows starts[i] to starts[i + 1].
    starts = np.searchsorted(annotations.owners, np.arange(annotations.num_images + 1))

    def read(index: int, size_for: SizeRule) -> Example:
        file, offset, num_bytes = annotations.place_of(index)
        name = file if num_bytes is None else f"{file}, {num_bytes} bytes from {offset} on"
        image, stored = decode_image(read_bytes(file, offset, num_bytes), name, size_for)
        rows = slice(starts[index], starts[index + 1])
        found = boxes[rows]
        if stored != tuple(annotations.sizes[index].tolist()):
            inside = _inside(annotations, index, rows, stored, name, note)
            rows = np.arange(rows.start, rows.stop)[inside]
            found = np.clip(found[inside], 0, np.array([stored[1], stored[0]] * 2, np.float32))
        labels, ignored = annotations.labels[rows], annotations.ignored[rows]
        learned = ~ignored
        return Example(
            image=image,
            original_size=np.array(stored, np.int32),
            image_id=int(annotations.image_ids[index]),
            boxes=found[learned],
            labels=labels[learned],
            areas=areas[rows][learned],
            ignored_boxes=found[ignored],
            ignored_labels=labels[ignored],
        )

    known = (annotations.sizes > 0).all()
    return Source(
        read=read,
        num_images=annotations.num_images,
        most_boxes=_most_rows(annotations, ~annotations.ignored),
        most_ignored=_most_rows(annotations, annotations.ignored),
        class_names=annotations.class_names,
        category_ids=annotations.category_ids,
        portrait=annotations.sizes[:, 0] > annotations.sizes[:, 1] if known else None,
    )


def _most_rows(annotations: Annotations, keep: np.ndarray) -> int:
    counts = np.bincount(annotations.owners[keep], minlength=1)
    return int(counts.max())


def _inside(annotations, index, rows, stored, name, note) -> np.ndarray:
    """Which boxes reach into an image of another size than annotated; notes what is wrong."""
    height, width = stored
    messages = []
    if (annotations.sizes[index] > 0).all():
        annotated = "{1}x{0}".format(*annotations.sizes[index])
        messages.append(
            f"{name}: expected an image of {annotated} pixels, as annotated, got {width}x{height}; "
            "the image is believed"
        )
    corners, numbers = annotations.boxes[rows], annotations.numbers[rows]
    inside = (corners[:, 0] < width) & (corners[:, 1] < height)
    for box, number in zip(corners[~inside], numbers[~inside], strict=True):
        text = ", ".join(f"{value:g}" for value in box)
        messages.append(
            f"{name}: left out box {number} ({text}), outside the image of {width}x{height} pixels"
        )
    note(messages)
    return inside
