"""Summarises a data set, or writes it in another format.

    python tools/dataset.py --what=summary --dataset=coco --data_dir=COCO --train_split=train2017
        --val_split=val2017 --check_images
    python tools/dataset.py --what=write --format=tfds --name=my_coco --dataset=coco
        --data_dir=COCO --split=train2017 --output_dir=TFDS

    python tools/dataset.py --what=split --data_dir=PHOTOS --val_fraction=0.2

The summary counts images, boxes and classes of both splits, or of --split, and lists all faulty
annotations; with --check_images it reads every image as training does. Output formats are coco, voc
and tfds (TFRecord shards, for --dataset=tfds:NAME --data_dir=OUTPUT_DIR). Up to --max_bad_images
unreadable images are skipped. With --what=split the splits of data that has none are written as
lists, DATA_DIR/splits/train.txt and val.txt, which are read from then on and may be edited.
"""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path

from fcos_tf.cli import command_line
from fcos_tf.config import OUTPUT_WORDS, Config, DataOptions
from fcos_tf.options import Options, option
from fcos_tf.tensorflow_words import escaped, load_tensorflow


# fmt: off
@dataclasses.dataclass(frozen=True)
class DatasetOptions(Options):
    """What to do with the data set."""

    what: str = option("summary", "What to do.", choices=("summary", "write", "split"))
    split: str | None = option(
        None, "Split to summarise or to write; default: --train_split and --val_split.")
    check_images: bool = option(
        False, "Also read every image and list the unreadable ones in the summary.")
    format: str | None = option(
        None, "With --what=write: output format.", choices=("coco", "voc", "tfds"))
    name: str = option("detection", "With --format=tfds: name of the data set.")
    output_dir: str | None = option(
        None, "With --what=write: output folder.", also=OUTPUT_WORDS)
# fmt: on
_WRITING = ("format", "name", "output_dir", "max_faults", "max_bad_images")
_READING = ("check_images", "image_size")
_UNUSED = {"summary": _WRITING, "write": _READING, "split": (*_WRITING, *_READING)}


def main(argv: list[str] | None = None) -> None:
    """Runs the tool; ends the process with its exit status."""
    uses = (DataOptions, "val_split", "include_difficult", "image_size")
    command_line.run(_dataset, __doc__, argv, uses=uses, options=DatasetOptions)


def _dataset(config: Config, options: DatasetOptions, given: command_line.Given) -> None:
    refuse = functools.partial(command_line.refuse_unused, given)
    refuse(f"--what={options.what}", _UNUSED[options.what])
    if not options.check_images:
        refuse("--check_images=false", ["image_size"])
    if options.format in ("coco", "voc"):
        refuse(f"--format={options.format}", ["name"])
    if options.split:
        refuse(f"--split={options.split}", ["train_split", "val_split"])
    both = dict.fromkeys([config.train_split, config.val_split])
    splits = [options.split] if options.split else list(both)
    for name in ("format", "output_dir") if options.what == "write" else ():
        if not getattr(options, name):
            raise ValueError(f"--{name}: expected with --what=write, got none")
    load_tensorflow()
    if options.what == "write":
        print(write(config, splits, options.format, options.output_dir, name=options.name))
        return
    if options.what == "split":
        print(*write_lists(config, splits), sep="\n")
        return
    from fcos_tf import build
    from fcos_tf.data import summary

    for split in splits:
        found = build.read_annotations(config, split)
        first, *lines = summary.summary(found)
        lines = [f"{config.dataset} {split}: {first}", *lines]
        print(*map(escaped, lines), sep="\n", flush=True)
        if options.check_images and config.dataset != "digits":
            for line in summary.check_images(found.annotations, config.image_size):
                print(escaped(line), flush=True)


def write_lists(config: Config, splits: Sequence[str]) -> list[Path]:
    """Writes lists of the splits that a hash makes; see `splits.write_lists`."""
    from fcos_tf import build
    from fcos_tf.data.formats import splits as lists

    found = {name: build.read_annotations(config, name).annotations for name in splits}
    return lists.write_lists(found)


def write(
    config: Config, splits: Sequence[str], data_format: str, output_dir: str, *, name: str
) -> Path:
    """Writes splits in another format; see `fcos_tf.data.formats.writing.write_dataset`."""
    from fcos_tf import build
    from fcos_tf.data import images
    from fcos_tf.data.annotations import ImageFaults, report_faults
    from fcos_tf.data.formats import digits
    from fcos_tf.data.formats.writing import drop_unreadable, write_dataset

    read = digits.read_scene_bytes if config.dataset == "digits" else images.read_bytes
    bad_images = ImageFaults(config.max_bad_images)
    annotations = {}
    for split in splits:
        found = build.read_annotations(config, split)
        where = f"{config.dataset} {split}"
        report_faults(where, found.faults, found.other_classes, config.max_faults)
        annotations[split] = found.annotations
        if config.dataset != "digits":
            annotations[split] = drop_unreadable(found.annotations, bad_images)
    return write_dataset(data_format, annotations, output_dir, name=name, read_bytes=read)
