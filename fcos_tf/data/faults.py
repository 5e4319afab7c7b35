"""Faults of a data set: listed together before training, counted while images are read."""

import threading
from collections.abc import Mapping, Sequence

from absl import logging

from fcos_tf.data.annotations import Fault

MAX_LISTED = 10


def report_faults(
    where: str, faults: Sequence[Fault], other_classes: Mapping[str, int], max_faults: int
) -> None:
    """Logs what is wrong with the annotations of a split and what that leaves out.

    Args:
        where: The split, for example "voc train".
        faults: What the reader found; all of them are in `dataset.faults`.
        other_classes: Objects left out because their class was not asked for: name -> how many.
        max_faults: How much may be dropped.

    Raises:
        ValueError: More than `max_faults` were dropped.
    """
    if other_classes:
        counts = ", ".join(f"{name} {count}" for name, count in sorted(other_classes.items()))
        logging.warning("%s: left out objects of other classes: %s", where, counts)
    if not faults:
        return
    dropped = [fault for fault in faults if not fault.kept]
    shown = (dropped + [fault for fault in faults if fault.kept])[:MAX_LISTED]
    lines = [f"{fault} ({'kept' if fault.kept else 'dropped'})" for fault in shown]
    if len(faults) > len(shown):
        lines.append(f"... and {len(faults) - len(shown)} more")
    title = f"{where}: {len(faults)} faults in the annotations, {len(dropped)} of them dropped"
    text = "\n  ".join([title, *lines])
    if len(dropped) > max_faults:
        raise ValueError(f"{text}\nexpected at most max_faults={max_faults} dropped")
    logging.warning("%s", text)


class ImageFaults:
    """What was met while images were read; filled from several threads.

    Args:
        max_bad_images: How many different images may be skipped.

    Attributes:
        skipped: Message of each image that could not be read, once for each image.
        notes: Message of each image that was read but is not as its annotation says.
    """

    def __init__(self, max_bad_images: int):
        self.max_bad_images = max_bad_images
        self.skipped: list[str] = []
        self.notes: list[str] = []
        self._lock = threading.Lock()
        self._seen: set[str] = set()

    def skip(self, message: str) -> str:
        """Counts an image that cannot be read.

        Returns:
            Empty while that is tolerated, else what to stop with.
        """
        with self._lock:
            if message not in self._seen:
                self._seen.add(message)
                self.skipped.append(message)
                if len(self.skipped) <= self.max_bad_images:
                    logging.warning(
                        "skipped bad image %d of at most %d: %s",
                        len(self.skipped),
                        self.max_bad_images,
                        message,
                    )
            if len(self.skipped) <= self.max_bad_images:
                return ""
            number = len(self.skipped)
        return (
            message
            if number == 1
            else f"{number} images cannot be read, more than max_bad_images={self.max_bad_images}; "
            f"the last: {message}"
        )

    def note(self, messages: Sequence[str]) -> None:
        """Names things about images that are used all the same."""
        with self._lock:
            for message in messages:
                if message in self._seen:
                    continue
                self._seen.add(message)
                self.notes.append(message)
                if len(self.notes) <= MAX_LISTED:
                    logging.warning("%s", message)
                elif len(self.notes) == MAX_LISTED + 1:
                    logging.warning("further notes on images are in dataset.image_faults.notes")
