"""Which features of a TFDS data set hold the image, the boxes and the labels."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

_IMAGE_IDS = ("image/id", "image_id")
_FILE_NAMES = ("image/filename", "image/file_name", "filename")
_IGNORED = ("is_crowd", "iscrowd", "crowd", "is_difficult", "difficult", "is_group_of")
_LABEL = re.compile(
    r"(?!is_)(.*_)?(label|class|category)(_?(id|idx|index))?|labels|classes|categories"
)


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
    Where boxes are a `Sequence` by themselves, those beside it count as if all were in one.

    Where nothing could be a label of objects, all are of one class, named as the `Sequence`. A
    label of the whole image is none.

    Args:
        features: `info.features` of a TFDS builder.
        where: The data set, for messages.

    Returns:
        A `DetectionFeatures`.

    Raises:
        ValueError: No image or boxes, or several and nothing says which; labels without names, or
            elsewhere than the boxes; lists the features. Images that are not stored as they are.
    """
    from tensorflow_datasets import features as kinds

    leaves = dict(_leaves(features))

    def unexpected(found: Mapping, what: str) -> ValueError:
        return ValueError(
            f"{where}: expected {what}, got {', '.join(found) or 'none'}; "
            f"its features are: {', '.join(_describe(leaves))}"
        )

    def pick(found: Mapping, usual: str, what: str) -> str:
        if usual in found:
            return usual
        if len(found) != 1:
            raise unexpected(found, f"one {what}")
        return next(iter(found))

    images = _of_kind(leaves, kinds.Image, but_not=kinds.LabeledImage)
    sequences = {
        name: _members(sequence)
        for name, sequence in _of_kind(leaves, kinds.Sequence, but_not=kinds.Dataset).items()
    }
    with_boxes = {n: m for n, m in sequences.items() if _of_kind(m, kinds.BBoxFeature)}
    image = pick(images, "image", "Image feature")
    dtype = np.dtype(images[image].np_dtype)
    if dtype not in (np.uint8, np.uint16):  # TFDS hides the bits of float32 in the PNG of an RGBA
        raise ValueError(f"{where}: expected {image} of dtype uint8 or uint16, got {dtype}")
    objects = pick(with_boxes, "objects", "Sequence of a BBoxFeature")
    members, folder = _objects(sequences, objects)
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
    if label is None:
        lists = {n: f for n, f in leaves.items() if n not in with_boxes and f.shape != ()}
        maybe = _possible_labels(lists) | _possible_labels({objects: leaves[objects]})
        if maybe:
            raise unexpected(maybe, f"a ClassLabel as the label of each object of {objects}")

    def path(member: str) -> str:
        return folder + member

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


def _objects(sequences: Mapping[str, Mapping], name: str) -> tuple[dict[str, object], str]:
    """What belongs to each object, and what goes before the names of these features.

    Args:
        sequences: Members of all `Sequence`s.
        name: Of the one with the boxes.
    """
    if "" not in sequences[name]:
        return dict(sequences[name]), f"{name}/"
    from tensorflow_datasets.core.features import BBoxFeature

    folder = name[: name.rfind("/") + 1]
    members = {
        other.removeprefix(folder): inside[""]
        for other, inside in sequences.items()
        if "" in inside and other.startswith(folder)
        if other == name or not isinstance(inside[""], BBoxFeature)
    }
    return members, folder


def _possible_labels(features: Mapping) -> dict[str, object]:
    """Those in (sequences of) features that may say what an object is."""
    from tensorflow_datasets.core.features import ClassLabel, FeaturesDict, Sequence, Text

    found = {}
    for name, feature in features.items():
        if isinstance(feature, Sequence):
            inside = {f"{name}/{n}" if n else name: f for n, f in _members(feature).items()}
            found |= _possible_labels(inside)
        elif isinstance(feature, FeaturesDict):
            found |= _possible_labels({f"{name}/{n}": f for n, f in _leaves(feature)})
        elif isinstance(feature, ClassLabel) or (
            _LABEL.fullmatch(name.rpartition("/")[2])
            and (isinstance(feature, Text) or np.issubdtype(feature.np_dtype, np.integer))
        ):
            found[name] = feature
    return found


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
