"""The embedded data set: scenes of handwritten digits on photo crops, drawn on the fly.

The glyphs are scikit-learn's `load_digits` (1797 handwritten digits of 8x8 cells), the backgrounds
crops of its two sample photos. A scene is a function of (split, index), see `digit_scenes`.
No glyph of val occurs in train.
"""

from collections.abc import Sequence
from functools import cache

import cv2
import numpy as np

from fcos_tf.data.annotations import Annotations, ReadResult
from fcos_tf.data.formats import digit_scenes
from fcos_tf.data.formats.digit_scenes import MOST_GLYPHS, SCENE_SIZE, Scene
from fcos_tf.data.images import resize_image
from fcos_tf.data.input.examples import Example, Source

CLASS_NAMES = tuple("0123456789")
SPLIT_SIZES = {"train": 8192, "val": 256}


def make_scene(index: int, split: str) -> Scene:
    """Draws a scene of "train" or "val", 0 <= index < SPLIT_SIZES[split] for its own."""
    return digit_scenes.draw_scene(split_glyphs(split), [0, list(SPLIT_SIZES).index(split), index])


def digits_source(
    split: str, *, class_names: Sequence[str] | None = None, limit: int | None = None
) -> Source:
    """A split of the digits for `pipeline.batches`; the image id is the scene's index + 1.

    The seed of `load` shuffles and flips, but does not change the scenes. With a `limit` they are
    the first ones.

    Raises:
        ValueError: A split other than "train" and "val", or classes other than the ten in order.
    """
    if class_names is not None and tuple(class_names) != CLASS_NAMES:
        raise ValueError(f"classes: digits has {CLASS_NAMES}, got {tuple(class_names)}")
    split_glyphs(split), digit_scenes.photos()  # here rather than in the first training step

    def read(index, size_for):
        scene = make_scene(index, split)
        boxes = scene.boxes.astype(np.float64)
        return Example(
            image=resize_image(scene.image, *size_for(SCENE_SIZE, SCENE_SIZE)),
            original_size=np.array([SCENE_SIZE, SCENE_SIZE], np.int32),
            image_id=index + 1,
            boxes=boxes,
            labels=scene.labels,
            areas=np.prod(boxes[:, 2:] - boxes[:, :2], axis=1),
        )

    num_images = len(range(SPLIT_SIZES[split])[:limit])
    return Source(
        read=read,
        num_images=num_images,
        most_boxes=MOST_GLYPHS,
        most_ignored=1,
        class_names=CLASS_NAMES,
        category_ids=tuple(range(1, len(CLASS_NAMES) + 1)),
        portrait=np.zeros(num_images, bool),
        can_flip=False,  # a mirrored 2 is not a 2
    )


@cache
def split_glyphs(split: str) -> np.ndarray:
    """The glyphs of a split, ascending indices into `load_digits`.

    Every fifth of each class is val's, the others are train's.

    Raises:
        ValueError: An unknown split.
    """
    if split not in SPLIT_SIZES:
        raise ValueError(f"no split {split!r} in digits; there are: {', '.join(SPLIT_SIZES)}")
    labels = digit_scenes.glyph_masks()[1]
    rank = np.zeros(len(labels), np.int64)  # the number of its class before it
    for label in range(len(CLASS_NAMES)):
        rank[labels == label] = np.arange((labels == label).sum())
    return np.flatnonzero((rank % 5 == 0) == (split == "val"))


def read_digits(
    split: str, *, class_names: Sequence[str] | None = None, limit: int | None = None
) -> ReadResult:
    """The annotations of a split, as of other formats; draws every scene.

    Args, Raises: see `digits_source`. `files` are the names for `read_scene_bytes`.
    """
    source = digits_source(split, class_names=class_names, limit=limit)
    scenes = [make_scene(index, split) for index in range(source.num_images)]
    counts = [len(scene.labels) for scene in scenes]
    image_ids, total = np.arange(1, len(scenes) + 1), sum(counts)
    annotations = Annotations(
        files=[f"{split}_{image_id:05d}.png" for image_id in image_ids],
        image_ids=image_ids,
        sizes=np.full([len(scenes), 2], SCENE_SIZE, np.int32),
        owners=np.repeat(image_ids - 1, counts),
        boxes=np.concatenate([scene.boxes for scene in scenes]).astype(np.float64),
        labels=np.concatenate([scene.labels for scene in scenes]),
        areas=np.full(total, np.nan),
        ignored=np.zeros(total, bool),
        numbers=np.concatenate([np.arange(1, count + 1) for count in counts]),
        class_names=source.class_names,
        category_ids=source.category_ids,
    )
    return ReadResult(annotations, [], {})


def read_scene_bytes(file: str, offset: int = 0, num_bytes: int | None = None) -> bytes:
    """The PNG of a scene, by its name in `read_digits`; in place of `images.read_bytes`."""
    split, number = file.removesuffix(".png").rsplit("_", 1)
    image = make_scene(int(number) - 1, split).image
    data = cv2.imencode(".png", image[..., ::-1])[1].tobytes()  # OpenCV writes BGR
    return data[offset:][:num_bytes]
