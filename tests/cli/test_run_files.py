"""What the tools check before a long run."""

import pytest

import fcos_tf.data
from fcos_tf.cli import run_files
from tests.digit_files import write_digits


def test_a_folder_of_broken_images_is_told_before_training(tmp_path):
    folder = write_digits("voc", tmp_path, {"val": 5})
    images = sorted((folder / "JPEGImages").iterdir())
    for image in images[:2]:
        image.write_bytes(b"")

    def val_data():
        return fcos_tf.data.load("voc", data_dir=folder, split="val", batch_size=3)

    run_files.check_readable(val_data())  # one of three is enough
    images[2].write_bytes(b"")
    with pytest.raises(ValueError, match=r"none of the first 3 images .*val_0000[123].png: the"):
        run_files.check_readable(val_data())
