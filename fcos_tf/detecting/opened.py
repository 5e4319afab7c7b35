"""Base of detectors in Keras, exported and served. B images, D detections of each."""

from collections.abc import Mapping, Sequence

import numpy as np

from fcos_tf.data.images import ImageError
from fcos_tf.detecting.detections import Detections
from fcos_tf.detecting.images import Picture


class OpenedModel:
    """Base of `KerasModel`, `ExportedModel` and `ServedModel`, which implement `find`.

    Args:
        class_names: of each label; None: unknown.
        category_ids: the data set's own id of each label; None: unknown, labels are those ids.
    """

    def __init__(
        self,
        class_names: Sequence[str] | None = None,
        category_ids: Sequence[int] | None = None,
    ):
        self.class_names = None if class_names is None else tuple(class_names)
        self.category_ids = None if category_ids is None else tuple(category_ids)

    def find(
        self, pictures: Sequence[Picture], score_threshold: float | None
    ) -> Mapping[str, np.ndarray]:
        """`boxes` [B, D, 4] in pixels of each image, `scores` [B, D], `labels` [B, D], padding -1.

        Raises:
            ImageError: the model refuses an image; names it if it is the only one.
        """
        raise NotImplementedError

    def detect(
        self, pictures: Sequence[Picture], score_threshold: float | None = None
    ) -> list[Detections]:
        """The detections in each image of a batch, in its own pixels.

        Args:
            pictures: B images.
            score_threshold: in place of the model's, and also the least score of a result.

        Raises:
            ImageError: the model refuses an image; names it if it is the only one.
        """
        found = self.find(pictures, score_threshold)
        results = []
        for picture, boxes, scores, labels in zip(
            pictures, found["boxes"], found["scores"], found["labels"], strict=True
        ):
            kept = labels >= 0
            if score_threshold is not None:
                kept &= scores >= score_threshold
            results.append(
                Detections(
                    boxes[kept],
                    scores[kept],
                    labels[kept],
                    self.class_names,
                    self.category_ids,
                    picture.pixels.shape[:2],
                    picture.file,
                    picture.pixels if picture.source is None else picture.source,
                )
            )
        return results

    def detect_each(
        self, pictures: Sequence[Picture], score_threshold: float | None = None
    ) -> list[Detections | ImageError]:
        """As `detect`, with the `ImageError` of an image that the model refuses in its place."""
        try:
            return self.detect(pictures, score_threshold)
        except ImageError as error:
            if len(pictures) == 1:
                return [error]
        # One image of the batch is the cause.
        return [self.detect_each([picture], score_threshold)[0] for picture in pictures]

    def select(self, classes: Sequence[str]) -> np.ndarray:
        """Labels of classes by their names, or by their ids if there are no names.

        Raises:
            ValueError: a class the model does not have.
        """
        known = self.class_names
        if known is None:
            if self.category_ids is None and all(name.isdecimal() for name in classes):
                return np.array([int(name) for name in classes])
            known = tuple(map(str, self.category_ids or ()))
        unknown = [name for name in classes if name not in known]
        if unknown:
            what = f"of {', '.join(known)}" if known else "category ids"
            raise ValueError(f"classes: expected {what}; got {', '.join(unknown)}")
        return np.flatnonzero([name in classes for name in known])
