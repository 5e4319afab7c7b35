"""Looks at a data set, or writes it in another format.

    python tools/dataset.py --what=summary --dataset=coco --data_dir=COCO --train_split=train2017
        --val_split=val2017 --check_images=true
    python tools/dataset.py --what=write --format=tfds --name=my_coco --dataset=coco
        --data_dir=COCO --split=train2017 --output_dir=TFDS

The summary counts images, boxes and classes of both splits, or of --split, and lists every fault of
the annotations; with --check_images it reads every image as training would. Formats to write are
coco, voc and tfds (TFRecord shards; read them with --dataset=tfds:NAME --data_dir=OUTPUT_DIR);
images that cannot be read are left out, up to --max_bad_images.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from fcos_tf.cli import command_line
from fcos_tf.config import Config

_OPTIONS = {
    "what": "summary or write; default summary",
    "split": "The split to look at or to write; default: --train_split and --val_split",
    "check_images": "true: the summary also reads every image and lists those that cannot be read",
    "format": "coco, voc or tfds, for --what=write",
    "name": "Name of a TFDS data set to write; default: detection",
    "output_dir": "Where to write",
}


def main(argv: list[str] | None = None) -> None:
    """Runs the tool; ends the process with its exit status."""
    command_line.run(_dataset, __doc__, argv, options=_OPTIONS)


def _dataset(config: Config, flags) -> None:
    what = flags["what"].value or "summary"
    if what not in ("summary", "write"):
        raise ValueError(f"--what: expected summary or write, got {what!r}")
    check = flags["check_images"].value or "false"
    if check not in ("true", "false"):
        raise ValueError(f"--check_images: expected true or false, got {check!r}")
    splits = [flags["split"].value] if flags["split"].value else None
    splits = splits or list(dict.fromkeys([config.train_split, config.val_split]))
    if what == "write":
        for name in ("format", "output_dir"):
            if not flags[name].value:
                raise ValueError(f"--{name}: expected with --what=write, got none")
    command_line.load_tensorflow()
    if what == "summary":
        for split in splits:
            for line in summary(config, split, check_images=check == "true"):
                print(line, flush=True)
    else:
        name = flags["name"].value or "detection"
        print(write(config, splits, flags["format"].value, flags["output_dir"].value, name=name))


def summary(config: Config, split: str, *, check_images: bool = False) -> Iterator[str]:
    """The lines that describe a split.

    Args:
        config: Which data set.
        split: Which split of it.
        check_images: Read every image.

    Raises:
        ValueError: If the data set cannot be read at all.
        FileNotFoundError: If it is not there.
    """
    found = _read(config, split)
    annotations, faults = found.annotations, found.faults
    learned = ~annotations.ignored
    per_image = np.bincount(annotations.owners[learned], minlength=annotations.num_images)
    yield f"{config.dataset} {split}: {annotations.num_images} images, {learned.sum()} boxes"
    yield (
        f"  boxes per image: mean {per_image.mean():.1f}, most {per_image.max()}; "
        f"{(per_image == 0).sum()} images without; {(~learned).sum()} ignored (crowd, difficult)"
    )
    yield from _sizes(annotations)
    yield f"  {len(annotations.class_names)} classes:"
    width = max(map(len, annotations.class_names))
    for label, name in enumerate(annotations.class_names):
        mine = learned & (annotations.labels == label)
        images = len(np.unique(annotations.owners[mine]))
        yield f"    {name:<{width}} {mine.sum():8d} boxes in {images:7d} images"
    for name, count in sorted(found.other_classes.items()):
        yield f"    left out: {name} {count}"
    dropped = sum(not fault.kept for fault in faults)
    yield f"  {len(faults)} faults in the annotations, {dropped} of them dropped"
    for fault in faults:
        yield f"    {fault} ({'kept' if fault.kept else 'dropped'})"
    if check_images:
        yield from _check_images(annotations, config)


def write(
    config: Config, splits: Sequence[str], data_format: str, output_dir: str, *, name: str
) -> Path:
    """Writes splits in another format; see `fcos_tf.data.formats.writing.write_dataset`."""
    from fcos_tf.data import images
    from fcos_tf.data.annotations import ImageFaults, report_faults
    from fcos_tf.data.formats import digits
    from fcos_tf.data.formats.writing import drop_unreadable, write_dataset

    read = digits.read_scene_bytes if config.dataset == "digits" else images.read_bytes
    bad_images = ImageFaults(config.max_bad_images)
    annotations = {}
    for split in splits:
        found = _read(config, split)
        where = f"{config.dataset} {split}"
        report_faults(where, found.faults, found.other_classes, config.max_faults)
        annotations[split] = found.annotations
        if config.dataset != "digits":
            annotations[split] = drop_unreadable(found.annotations, bad_images)
    return write_dataset(data_format, annotations, output_dir, name=name, read_bytes=read)


def _read(config: Config, split: str):
    from fcos_tf import data

    return data.read_annotations(
        config.dataset,
        split,
        data_dir=config.data_dir or None,
        annotations=config.annotations or None,
        images=config.images or None,
        classes=config.classes or None,
        limit=config.overfit or None,
        include_difficult=config.include_difficult,
    )


def _sizes(annotations) -> Iterator[str]:
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


def _check_images(annotations, config: Config) -> Iterator[str]:
    from fcos_tf.data.images import ImageError, parse_image_size
    from fcos_tf.data.input.examples import make_source

    if config.dataset == "digits":
        return
    messages: list[str] = []
    source = make_source(annotations, messages.extend)
    size_for = parse_image_size(config.image_size).fixed().resized
    bad = 0
    for index in range(source.num_images):
        try:
            source.read(index, size_for)
        except ImageError as error:
            bad += 1
            messages.append(str(error))
    yield f"  {source.num_images} images read, {bad} of them cannot be"
    yield from (f"    {message}" for message in messages)


if __name__ == "__main__":
    main()
