"""The D detections in one image."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class Upright:
    """A path, the bytes of a file or an image of Pillow, to be read turned upright by its EXIF."""

    source: Any


@dataclass(frozen=True, eq=False)
class Detections:
    """The detections in one image, by descending score, in the pixels of that image.

    Supports `len` and array indexing by a mask, a list, a slice or a number. The result is always
    `Detections`, for a number of one detection, as in iteration.

    Args:
        boxes: float32 [D, 4], (x1, y1, x2, y2).
        scores: float32 [D], descending.
        labels: int [D], indices of `class_names` and `category_ids`; category ids if both are
            unknown.
        class_names: the name of each label.
        category_ids: the data set's own id of each label.
        image_size: (height, width) of the image.
        file: its path, if it came from a file.
        image: source of the pixels for `draw`: a path, bytes, an array, an image of Pillow, or
            `Upright`.

    Raises:
        ValueError: the shapes of boxes, scores and labels do not match.

    Example:
        >>> found = Detections(
        ...     boxes=[[10, 20, 60, 90], [0, 0, 30, 30], [5, 5, 9, 9]],
        ...     scores=[0.75, 0.5, 0.25],
        ...     labels=[1, 0, 1],
        ...     class_names=("cat", "dog"),
        ...     image_size=(480, 640),
        ...     file="photo.jpg",
        ... )
        >>> found
        Detections(photo.jpg, 480x640: 2 dog, 1 cat)
        >>> found[found.scores > 0.4]
        Detections(photo.jpg, 480x640: 1 dog, 1 cat)
        >>> [name for name, one in zip(found.names, found) if one.scores[0] > 0.4]
        ['dog', 'cat']
        >>> found[1].to_coco(image_id=7)
        [{'image_id': 7, 'category_id': 1, 'bbox': [0.0, 0.0, 30.0, 30.0], 'score': 0.5}]
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...] | None = None
    category_ids: tuple[int, ...] | None = None
    image_size: tuple[int, int] | None = None
    file: str | None = None
    image: Any = field(default=None, repr=False)

    def __post_init__(self):
        for name, dtype in (("boxes", np.float32), ("scores", np.float32), ("labels", int)):
            object.__setattr__(self, name, np.asarray(getattr(self, name), dtype))
        if not self.boxes.size:
            object.__setattr__(self, "boxes", self.boxes.reshape(-1, 4))
        boxes, scores, labels = (list(x.shape) for x in (self.boxes, self.scores, self.labels))
        if not boxes[:1] == scores == labels or boxes[1:] != [4]:
            raise ValueError(
                "expected boxes [D, 4], scores [D] and labels [D]; got "
                f"boxes {boxes}, scores {scores}, labels {labels}"
            )

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, index) -> "Detections":
        if np.ndim(index) == 0 and not isinstance(index, slice):
            index = [int(index)]
        columns = {name: getattr(self, name)[index] for name in ("boxes", "scores", "labels")}
        return replace(self, **columns)

    def __iter__(self) -> Iterator["Detections"]:
        return (self[i] for i in range(len(self)))

    def __eq__(self, other) -> bool:
        if not isinstance(other, Detections):
            return NotImplemented
        return all(
            np.array_equal(getattr(self, name), getattr(other, name))
            for name in ("boxes", "scores", "labels", "image_size", "file")
        ) and (self.class_names, self.category_ids) == (other.class_names, other.category_ids)

    def __repr__(self) -> str:
        what = [Path(self.file).name] if self.file is not None else []
        if self.image_size is not None:
            what.append("{}x{}".format(*self.image_size))
        return f"Detections({': '.join(filter(None, [', '.join(what), self.counts]))})"

    @property
    def counts(self) -> str:
        """How many there are of each class, such as "2 dog, 1 cat", or "nothing"."""
        of = "" if self.class_names is not None else "of category "
        counts = [f"{n} {of}{name}" for name, n in Counter(self.names).most_common()]
        return ", ".join(counts) or "nothing"

    @property
    def names(self) -> list[str]:
        """The class of each detection; its category id, as text, if the model has no names."""
        if self.class_names is not None:
            return [self.class_names[label] for label in self.labels]
        ids = self.labels if self.category_ids is None else np.array(self.category_ids)[self.labels]
        return list(map(str, ids.tolist()))

    def to_coco(self, image_id: int = 0) -> list[dict[str, Any]]:
        """COCO result records: `image_id`, `category_id`, `bbox` (x, y, width, height), `score`.

        Category ids are those of the data set; 1..C if only names are known.
        """
        from fcos_tf.evaluation.records import default_category_ids, detections_to_records

        ids, labels = self.category_ids, self.labels
        if ids is None and self.class_names:
            ids = default_category_ids(self.class_names)
        elif ids is None:  # labels are ids
            ids, labels = np.unique(labels, return_inverse=True)
        return detections_to_records([image_id], [self.boxes], [self.scores], [labels], ids)

    def draw(self, score_threshold: float = 0.0) -> "Image.Image":
        """The image with boxes, names and scores, for a notebook.

        A small image is enlarged by a whole factor, to a long side of at least 320 pixels.

        Args:
            score_threshold: least score of drawn detections.

        Raises:
            ImageError: its file cannot be read any more.
            ValueError: the image is not known.
        """
        from PIL import Image

        from fcos_tf.data.prepare import read_pixels
        from fcos_tf.visualization import draw_detections

        if self.image is None:
            raise ValueError("draw: expected detections with an image, got image=None")
        is_turned = isinstance(self.image, Upright)
        source = self.image.source if is_turned else self.image
        pixels = read_pixels(source, apply_exif=is_turned)
        factor = -(-320 // max(pixels.shape[:2]))  # on 32 pixels no label fits
        enlarged = pixels.repeat(factor, axis=0).repeat(factor, axis=1)
        found = {"boxes": self.boxes * factor, "scores": self.scores, "labels": self.labels}
        names = self.class_names or self.category_ids
        drawn = draw_detections(enlarged, found, names, score_threshold=score_threshold)
        return Image.fromarray(drawn)
