"""`tools/visualize.py` with a model."""

import csv

import numpy as np
import pytest
from PIL import Image

import fcos_tf
from fcos_tf.cli import visualize
from fcos_tf.visualization.levels import draw_targets
from tests.digit_files import write_digits
from tests.tools import run


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A model of the digits and, as published ones have it, a background."""
    path = tmp_path_factory.mktemp("model") / "model.keras"
    fcos_tf.FCOS(
        class_names=("__background__", *"0123456789"), image_size="64x64",
        backbone="simple_cnn", fpn_levels=3,
        fpn_channels=32, head_convs=0,
    ).save(path)  # fmt: skip
    return path


@pytest.mark.parametrize("what", ["points", "targets", "predictions"])
def test_a_picture_of_each_image_at_the_size_of_the_model(weights, capsys, tmp_path, what):
    code, out, _ = run(
        capsys, visualize, f"--what={what}", "--dataset=digits", f"--weights={weights}",
        f"--output_dir={tmp_path}", "--num_images=2",
    )  # fmt: skip
    paths = [tmp_path / f"{what}_{number}.png" for number in (1, 2)]
    assert (code, out.splitlines()) == (0, [str(path) for path in paths])
    if what == "targets":
        data = fcos_tf.data.load("digits", split="val", batch_size=1, image_size=(64, 64))
        ((image, targets),) = data.take(1).as_numpy_iterator()
        targets = {name: values[0] for name, values in targets.items()}
        labels = targets["labels"]
        targets["labels"] = np.where(labels < 0, -1, labels + 1)  # after the background
        model = fcos_tf.load_model(weights)
        expected = draw_targets(model, image[0], targets, model.class_names)
        np.testing.assert_array_equal(Image.open(paths[0]), expected)


def test_images_that_cannot_be_read_have_no_picture(weights, capsys, tmp_path):
    folder = write_digits("voc", tmp_path / "voc", {"val": 4})
    (folder / "JPEGImages" / "val_00001.png").write_bytes(b"")
    code, out, _ = run(
        capsys, visualize, "--what=points", "--dataset=voc", f"--data_dir={folder}",
        f"--weights={weights}", f"--output_dir={tmp_path / 'out'}", "--num_images=2",
    )  # fmt: skip
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert code == 0 and len(out.splitlines()) == len(names) == 2 and "points_-1.png" not in names


def test_tsne_of_a_detector(weights, capsys, tmp_path):
    code, out, _ = run(
        capsys, visualize, "--what=tsne", "--dataset=digits", f"--weights={weights}",
        f"--output_dir={tmp_path}", "--num_samples=12", "--perplexity=3",
    )  # fmt: skip
    assert code == 0 and out == f"{tmp_path}/tsne.png\n{tmp_path}/tsne.csv\n"
    with (tmp_path / "tsne.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["features"] == "at stride 16"]
    assert len(rows) == 12 and {row["class"] for row in rows} <= set("0123456789")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--what=points"], "--weights or --model_dir: expected one of them, got neither"),
        (
            ["--what=targets", "--weights=a", "--model_dir=b"],
            "--model_dir: not used with --weights",
        ),
        (["--what=points", "--perplexity=3"], "--perplexity: not used with --what=points"),
        (["--what=tsne", "--num_images=3"], "--num_images: not used with --what=tsne"),
        (["--what=curves", "--weights=a"], "--weights: not used with --what=curves"),
        (["--what=tsne", "--perplexity=900", "--weights={}", "--num_samples=9"], "--perplexity: "),
    ],
)
def test_options_that_do_not_fit_are_refused(weights, capsys, tmp_path, arguments, message):
    arguments = [argument.format(weights) for argument in arguments]
    code, _, error = run(capsys, visualize, f"--output_dir={tmp_path}", *arguments)
    assert code == 1 and message in error and error.count("\n") == 1
