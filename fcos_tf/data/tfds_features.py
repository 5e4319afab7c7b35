"""Which features of a TFDS data set hold the image, the boxes and the labels."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

_IMAGE_IDS = ("image/id", "image_id")
_FILE_NAMES = ("image/filename", "image/file_name", "filename")
_IGNORED = ("is_crowd", "is_difficult", "is_group_of")


@dataclass(frozen=True)
class DetectionFeatures:
    """Names of features as they are in the stored examples; None: the data set has none.

    Args:
        image: The encoded image.
        bbox: Normalised (ymin, xmin, ymax, xmax) of each object.
        label: Number of each object's class; None: all are of one class.
        class_names: Name of each label.
        ignored: Flags of each object, any of which takes it out of learning.
        area: Of each object, in pixels.
        object_id: Of each object.
        image_id: Integer of the image.
        file_name: Text of the image.
    """

    image: str
    bbox: str
    label: str | None
    class_names: tuple[str, ...]
    ignored: tuple[str, ...]
    area: str | None
    object_id: str | None
    image_id: str | None
    file_name: str | None

    @property
    def names(self) -> tuple[str, ...]:
        """All features that there are."""
        optional = (self.label, self.area, self.object_id, self.image_id, self.file_name)
        return (self.image, self.bbox, *self.ignored, *(name for name in optional if name))


def find_detection_features(features: Mapping, where: str) -> DetectionFeatures:
    """Finds the features of object detection, whatever the data set calls them.

    Boxes are those of the one `Sequence` that holds a `BBoxFeature` (`objects` in most data sets,
    `faces` in wider_face, `bobjects` in open_images_v4). Labels are its `ClassLabel`; of several
    (VOC has poses besides) the one called `label`, else the only one whose classes have names.
    Where there is none, all objects are of one class, named as the `Sequence`.

    Args:
        features: `info.features` of a TFDS builder.
        where: The data set, for messages.

    Returns:
        A `DetectionFeatures`.

    Raises:
        ValueError: No image or boxes, or several and nothing says which; lists the features.
    """
    from tensorflow_datasets import features as kinds

    leaves = dict(_leaves(features))

    def pick(found: Mapping, usual: str, what: str) -> str:
        if usual in found:
            return usual
        if len(found) != 1:
            raise ValueError(
                f"{where}: expected one {what}, got {', '.join(found) or 'none'}; "
                f"its features are: {', '.join(_describe(leaves))}"
            )
        return next(iter(found))

    images = _of_kind(leaves, kinds.Image, but_not=kinds.LabeledImage)
    sequences = {
        name: _members(sequence)
        for name, sequence in _of_kind(leaves, kinds.Sequence, but_not=kinds.Dataset).items()
    }
    with_boxes = {n: m for n, m in sequences.items() if _of_kind(m, kinds.BBoxFeature)}
    image = pick(images, "image", "Image feature")
    objects = pick(with_boxes, "objects", "Sequence of a BBoxFeature")
    members = with_boxes[objects]
    bbox = pick(_of_kind(members, kinds.BBoxFeature), "bbox", f"BBoxFeature in {objects}")
    stored_as = members[bbox].bbox_format  # None in data sets older than the option
    if stored_as is not None and stored_as.value != "REL_YXYX":
        raise ValueError(
            f"{where}: expected boxes of format REL_YXYX (the default of BBoxFeature) in "
            f"{objects}, got {stored_as.value}"
        )
    labels = _of_kind(members, kinds.ClassLabel)
    named = {n: f for n, f in labels.items() if f.names != [str(i) for i in range(f.num_classes)]}
    label = pick(named or labels, "label", f"ClassLabel in {objects}") if labels else None

    def path(member: str) -> str:
        return f"{objects}/{member}" if member else objects

    image_ids = (name for name in _IMAGE_IDS if _is_integer(leaves.get(name)))
    file_names = (name for name in _FILE_NAMES if isinstance(leaves.get(name), kinds.Text))
    return DetectionFeatures(
        image=image,
        bbox=path(bbox),
        label=None if label is None else path(label),
        class_names=(objects,) if label is None else tuple(labels[label].names),
        ignored=tuple(path(name) for name in _IGNORED if name in members),
        area=path("area") if "area" in members else None,
        object_id=path("id") if _is_integer(members.get("id")) else None,
        image_id=next(image_ids, None),
        file_name=next(file_names, None),
    )


def _of_kind(features: Mapping, kind: type, but_not: tuple[type, ...] | type = ()) -> dict:
    return {
        name: feature
        for name, feature in features.items()
        if isinstance(feature, kind) and not isinstance(feature, but_not)
    }


def _leaves(features: Mapping, prefix: str = "") -> Iterator[tuple[str, object]]:
    """(name, feature) of all features in nested dictionaries, named as in stored examples."""
    from tensorflow_datasets.core.features import FeaturesDict

    for name, feature in features.items():
        if isinstance(feature, FeaturesDict):
            yield from _leaves(feature, f"{prefix}{name}/")
        else:
            yield prefix + name, feature


def _members(sequence) -> dict[str, object]:
    """What a `Sequence` holds; a single feature has the name ''."""
    from tensorflow_datasets.core.features import FeaturesDict

    inside = sequence.feature
    return dict(_leaves(inside)) if isinstance(inside, FeaturesDict) else {"": inside}


def _is_integer(feature) -> bool:
    return (
        feature is not None and feature.shape == () and np.issubdtype(feature.np_dtype, np.integer)
    )


def _describe(features: Mapping) -> Iterator[str]:
    from tensorflow_datasets.core.features import Sequence

    for name, feature in features.items():
        inside = ""
        if isinstance(feature, Sequence):
            inside = f" of {', '.join(_describe(_members(feature)))}"
        yield f"{name} ({type(feature).__name__}{inside})".lstrip()
