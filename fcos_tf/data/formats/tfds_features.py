"""Which features of a TFDS data set hold the image, the boxes and the labels."""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from tensorflow_datasets import features as kinds

_IMAGE_IDS = ("image/id", "image_id")
_FILE_NAMES = ("image/filename", "image/file_name", "filename")
_IGNORED = ("is_crowd", "iscrowd", "crowd", "is_difficult", "difficult", "is_group_of")
_LABEL = re.compile(
    r"(?!is_)(.*_)?(label|class|category)(_?(id|idx|index))?|labels|classes|categories"
)


class DetectionFeatures(NamedTuple):
    """Names of features in the stored examples; None: the data set has none."""

    image: str  # the encoded image
    bbox: str  # normalised (ymin, xmin, ymax, xmax) of each object
    label: str | None  # number of each object's class; None: all are of one class
    class_names: tuple[str, ...]  # name of each label
    ignored: tuple[str, ...]  # flags of each object; with any of them set it is not learned
    area: str | None  # of each object, in pixels
    object_id: str | None  # of each object
    image_id: str | None  # integer of the image
    file_name: str | None  # text of the image


class _Leaf(NamedTuple):
    """A feature that is neither a dictionary nor a `Sequence`."""

    name: str  # in stored examples
    feature: Any  # TFDS' own
    sequence: str | None  # name of the outermost `Sequence` around it
    depth: int  # how many `Sequence`s are around it


def find_detection_features(features: Mapping, where: str) -> DetectionFeatures:
    """Finds the features of object detection, whatever the data set calls them.

    Boxes are those of the one `Sequence` that holds a `BBoxFeature` (`objects` in most data sets,
    `bobjects` in open_images_v4). Labels are its `ClassLabel`; of several (VOC also has poses) the
    one called `label`, else the only one whose classes have names. Where boxes are a `Sequence` by
    themselves, the lists beside it belong to them. Without labels of objects, all are of one class,
    named as the `Sequence` (`faces` in wider_face).

    Args:
        features: `info.features` of a TFDS builder.
        where: The data set, for messages.

    Raises:
        ValueError: No image or boxes, or several candidates; labels without names, or elsewhere
            than the boxes; lists the features. Images that are not stored as they are.
    """
    leaves = list(_leaves(features))

    def unexpected(found: Iterable[str], what: str) -> ValueError:
        there = [f"{n} ({'Sequence of ' * depth}{type(f).__name__})" for n, f, _, depth in leaves]
        return ValueError(
            f"{where}: expected {what}, got {', '.join(found) or 'none'}; "
            f"its features are: {', '.join(there)}"
        )

    def pick(found: Iterable[str], usual: str, what: str) -> str:
        found = list(dict.fromkeys(found))
        if usual not in found and len(found) != 1:
            raise unexpected(found, f"one {what}")
        return usual if usual in found else found[0]

    single = {leaf.name: leaf.feature for leaf in leaves if leaf.depth == 0}
    images = [n for n, f in single.items() if isinstance(f, kinds.Image)]
    images = [n for n in images if not isinstance(single[n], kinds.LabeledImage)]
    image = pick(images, "image", "Image feature")
    dtype = np.dtype(single[image].np_dtype)
    if dtype not in (np.uint8, np.uint16):  # TFDS hides the bits of float32 in the PNG of an RGBA
        raise ValueError(f"{where}: expected {image} of dtype uint8 or uint16, got {dtype}")
    listed = [leaf for leaf in leaves if leaf.depth == 1]
    boxed = [leaf.sequence for leaf in listed if isinstance(leaf.feature, kinds.BBoxFeature)]
    objects = pick(boxed, "objects", "Sequence of a BBoxFeature")
    folder, own = f"{objects}/", [leaf for leaf in listed if leaf.sequence == objects]
    if own[0].name == objects:  # nothing but boxes: the lists beside it belong to them
        folder = objects[: objects.rfind("/") + 1]
        lists = [leaf for leaf in listed if leaf.name == leaf.sequence]
        own += [a for a in lists if a.name.startswith(folder) and a.name not in boxed]
    members = {leaf.name.removeprefix(folder): leaf.feature for leaf in own}
    boxes = [name for name, f in members.items() if isinstance(f, kinds.BBoxFeature)]
    bbox = pick(boxes, "bbox", f"BBoxFeature in {objects}")
    stored_as = members[bbox].bbox_format  # None in data sets older than the option
    if stored_as is not None and stored_as.value != "REL_YXYX":
        raise ValueError(
            f"{where}: expected boxes of format REL_YXYX (the default of BBoxFeature) in "
            f"{objects}, got {stored_as.value}"
        )

    labels = {name: f for name, f in members.items() if isinstance(f, kinds.ClassLabel)}
    named = [n for n, f in labels.items() if f.names != [str(i) for i in range(f.num_classes)]]
    label = pick(named or labels, "label", f"ClassLabel in {objects}") if labels else None
    lists = [leaf for leaf in leaves if leaf.sequence or leaf.feature.shape != ()]
    lists = [leaf for leaf in lists if leaf.sequence == objects or leaf.sequence not in boxed]
    if label is None and (maybe := [leaf.name for leaf in lists if _may_be_label(leaf)]):
        raise unexpected(maybe, f"a ClassLabel as the label of each object of {objects}")
    return DetectionFeatures(
        image=image,
        bbox=folder + bbox,
        label=None if label is None else folder + label,
        class_names=(objects,) if label is None else tuple(labels[label].names),
        ignored=tuple(folder + name for name in _IGNORED if name in members),
        area=f"{folder}area" if "area" in members else None,
        object_id=f"{folder}id" if _is_integer(members.get("id")) else None,
        image_id=next((n for n in _IMAGE_IDS if _is_integer(single.get(n))), None),
        file_name=next((n for n in _FILE_NAMES if isinstance(single.get(n), kinds.Text)), None),
    )


def _leaves(feature: Any, name="", sequence=None, depth=0) -> Iterator[_Leaf]:
    if isinstance(feature, kinds.FeaturesDict):
        for inner, inside in feature.items():
            yield from _leaves(inside, f"{name}/{inner}".lstrip("/"), sequence, depth)
    elif isinstance(feature, kinds.Sequence):
        # What a Dataset holds is serialized: never a member of an object.
        around = 2 if isinstance(feature, kinds.Dataset) else 1
        yield from _leaves(feature.feature, name, sequence or name, depth + around)
    else:
        yield _Leaf(name, feature, sequence, depth)


def _may_be_label(leaf: _Leaf) -> bool:
    if not _LABEL.fullmatch(leaf.name.rpartition("/")[2]):
        return isinstance(leaf.feature, kinds.ClassLabel)
    return isinstance(leaf.feature, kinds.Text) or np.issubdtype(leaf.feature.np_dtype, np.integer)


def _is_integer(feature: Any) -> bool:
    return bool(feature) and feature.shape == () and np.issubdtype(feature.np_dtype, np.integer)
