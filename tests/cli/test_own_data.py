"""The three commands of docs/own_data.md: from a folder without a split to pictures."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fcos_tf.cli import dataset, detect, train
from tests.digit_files import write_digits

COMMANDS = re.search(
    r"```sh\n(.*?)```",
    (Path(__file__).resolve().parents[2] / "docs" / "own_data.md").read_text(),
    re.DOTALL,
)[1].splitlines()
TOOLS = {"tools/dataset.py": dataset, "tools/train.py": train, "tools/detect.py": detect}
# A model small enough for a test, and no download.
SMALL = (
    "--backbone=simple_cnn", "--backbone_weights=", "--image_size=64x64", "--fpn_levels=3",
    "--fpn_channels=32", "--head_convs=0", "--batch_size=4", "--steps=20",
)  # fmt: skip


def run(capsys, command, *more):
    """What a command of the docs says."""
    python, tool, *arguments = command.split()
    assert python == "python"
    with pytest.raises(SystemExit) as end:
        TOOLS[tool].main([tool, *arguments, *more])
    told = capsys.readouterr()
    assert end.value.code == 0, told.err
    return told.out


def test_from_a_folder_of_photos_to_pictures_of_detections(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    tree = write_digits("voc", tmp_path / "tree", {"train": 30})
    # As labelImg leaves them: photos and XML files side by side, no list of a split.
    Path("PHOTOS").mkdir()
    for file in [*tree.glob("JPEGImages/*"), *tree.glob("Annotations/*")]:
        file.rename(Path("PHOTOS") / file.name)
    shutil.rmtree(tree)
    look, learn, find = COMMANDS

    told = run(capsys, look)
    assert "PHOTOS is read as xml: it has " in told
    assert "val_fraction=0.2 by a hash of the file names" in told
    counts = [int(n) for n in re.findall(r"(\d+) images, \d+ boxes", told)]
    assert len(counts) == 2 and sum(counts) == 30 and counts[1] > 0

    told = run(capsys, learn, *SMALL)
    assert "PHOTOS is read as xml: it has " in told
    assert f"starting at step 0 of 20: {counts[0]} images, 10 classes" in told
    # At most ten evaluations: a tenth of 20 steps is 2, an epoch has 6 or 7.
    assert 0 < len(re.findall(r"step \d+/20  \[val\]", told)) <= 10

    Image.fromarray(np.full((64, 64, 3), 90, np.uint8)).save("photo.jpg")
    told = run(capsys, find)
    assert re.search(r"^photo\.jpg: ", told, re.MULTILINE)
    assert {path.name for path in Path("detections").iterdir()} == {"photo.jpg", "detections.json"}
