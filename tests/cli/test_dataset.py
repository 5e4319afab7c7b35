"""The tool that looks at data sets and writes them, and the pictures of training examples."""

import re

import numpy as np
import pytest
from PIL import Image

import fcos_tf.data
from fcos_tf import FCOS, FasterRCNN
from fcos_tf.cli import dataset, visualize
from fcos_tf.data.formats.writing import write_dataset
from tests.digit_files import write_digits
from tests.tools import run


@pytest.fixture
def tree(tmp_path):
    """Scenes as a VOC tree; one image is empty, one box is inverted, another image has no boxes."""
    folder = write_digits("voc", tmp_path / "voc", {"train": 6, "val": 4})
    (folder / "JPEGImages" / "val_00002.png").write_bytes(b"")
    xml = folder / "Annotations" / "val_00003.xml"
    xml.write_text(xml.read_text().replace("<xmax>", "<xmax>-", 1))
    xml = folder / "Annotations" / "val_00004.xml"
    xml.write_text("<annotation/>")
    return folder


def test_summary(tree, capsys):
    code, out, _ = run(capsys, dataset, "--dataset=voc", f"--data_dir={tree}", "--check_images")
    assert code == 0
    train, val = out.split("voc val: ")
    scenes = [fcos_tf.data.formats.digits.make_scene(i, "train") for i in range(6)]
    labels = np.concatenate([scene.labels for scene in scenes])
    assert train.startswith(f"voc train: 6 images, {len(labels)} boxes\n")
    assert "image sizes: width 128 to 128" in train
    for label in set(labels):
        images = sum(label in scene.labels for scene in scenes)
        line = f"    {label} {(labels == label).sum():8d} boxes in {images:7d} images\n"
        assert line in train
    assert "  0 faults in the annotations, 0 of them dropped\n" in train
    assert "  6 images read, 0 of them cannot be\n" in train
    assert val.startswith("4 images, ")
    assert "; 1 images without; 0 ignored" in val
    assert "  1 faults in the annotations, 1 of them dropped\n" in val
    assert "val_00003.xml: object 1 box (" in val and "has no area (dropped)" in val
    assert "  4 images read, 1 of them cannot be\n" in val
    assert "val_00002.png: the file is empty" in val


def test_a_data_set_is_written_in_every_form(tree, capsys, tmp_path):
    (tree / "JPEGImages" / "val_00002.png").unlink()
    # A VOC tree only knows the classes that occur in it.
    names = tuple("0123456789")
    options = {"split": "val", "batch_size": 9, "image_size": (64, 64), "classes": names}
    expected = list(fcos_tf.data.load("voc", data_dir=tree, **options))
    for data_format, name in (("coco", "coco"), ("voc", "voc"), ("tfds", "tfds:detection")):
        folder = tmp_path / f"new {data_format}"
        code, out, error = run(
            capsys, dataset, "--what=write", f"--format={data_format}", f"--output_dir={folder}",
            "--dataset=voc", f"--data_dir={tree}", "--split=val",
        )  # fmt: skip
        assert (code, out) == (0, f"{folder}\n"), error
        found = list(fcos_tf.data.load(name, data_dir=folder, **options))
        for (images_a, targets_a), (images_b, targets_b) in zip(expected, found, strict=True):
            np.testing.assert_array_equal(images_a, images_b)
            for key, value in targets_a.items():
                np.testing.assert_array_equal(value, targets_b[key], err_msg=key)


def write(capsys, tree, data_format, folder, *arguments):
    return run(
        capsys, dataset, "--what=write", f"--format={data_format}", f"--output_dir={folder}",
        "--dataset=voc", f"--data_dir={tree}", *arguments,
    )  # fmt: skip


def test_images_that_cannot_be_read_are_left_out_or_stop(tree, capsys, tmp_path, caplog):
    code, _, error = write(capsys, tree, "coco", tmp_path / "a", "--max_bad_images=0")
    assert code == 1 and "val_00002.png" in error and not (tmp_path / "a").exists()
    code, *_ = write(capsys, tree, "coco", tmp_path / "a")
    assert code == 0 and "skipped bad image 1 of at most 10" in caplog.text
    kept = fcos_tf.data.read_annotations("coco", "val", data_dir=tmp_path / "a").annotations
    assert kept.image_ids.tolist() == [1, 3, 4]


@pytest.mark.parametrize(
    ("data_format", "name"), [("coco", "coco"), ("voc", "voc"), ("tfds", "tfds:detection")]
)
def test_images_that_exif_turns_are_written_upright(capsys, tmp_path, data_format, name):
    photos = tmp_path / "photos" / "train"
    photos.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    for orientation in (1, 3, 6):
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(pixels).save(photos / f"{orientation}.jpg", exif=exif)
        width, height = (30, 40) if orientation == 6 else (40, 30)  # as viewers show it
        (photos / f"{orientation}.xml").write_text(
            f"<annotation><size><width>{width}</width><height>{height}</height></size><object>"
            "<name>cat</name><bndbox><xmin>3</xmin><ymin>5</ymin><xmax>20</xmax><ymax>28</ymax>"
            "</bndbox></object></annotation>"
        )
    options = {"split": "train", "batch_size": 3, "image_size": (40, 40)}
    expected = next(
        iter(fcos_tf.data.load("xml", data_dir=photos.parent, apply_exif=True, **options))
    )
    code, _, error = run(
        capsys, dataset, "--what=write", f"--format={data_format}", f"--output_dir={tmp_path}/new",
        "--dataset=xml", f"--data_dir={photos.parent}", "--split=train", "--apply_exif",
    )  # fmt: skip
    assert code == 0, error
    for apply_exif in (False, True):
        written = fcos_tf.data.load(
            name, data_dir=tmp_path / "new", apply_exif=apply_exif, **options
        )
        (found,) = written
        assert written.faults == [] and written.num_images == 3
        np.testing.assert_array_equal(found[0], expected[0])
        for key, value in expected[1].items():
            np.testing.assert_array_equal(found[1][key], value, err_msg=key)
    if data_format != "tfds":  # the one that is not turned keeps its bytes
        (same,) = (tmp_path / "new").rglob("1.jpg")
        assert same.read_bytes() == (photos / "1.jpg").read_bytes()


@pytest.mark.parametrize("data_format", ["coco", "voc", "tfds"])
def test_nothing_is_overwritten(tree, capsys, tmp_path, data_format):
    folder = tree if data_format == "voc" else tmp_path / "new"
    before = {file: file.read_bytes() for file in tree.rglob("*.*")}
    if data_format != "voc":
        assert write(capsys, tree, data_format, folder)[0] == 0
    code, _, error = write(capsys, tree, data_format, folder)
    assert code == 1 and "Traceback" not in error and str(folder) in error.splitlines()[-1]
    assert before == {file: file.read_bytes() for file in tree.rglob("*.*")}


@pytest.mark.parametrize("split", ["../../x", "/tmp/x", "..", "a/b"])
@pytest.mark.parametrize("data_format", ["coco", "voc", "tfds"])
def test_nothing_is_written_outside_of_the_folder(tmp_path, data_format, split):
    folder = write_digits("voc", tmp_path / "voc", {"train": 1})
    found = fcos_tf.data.read_annotations("voc", "train", data_dir=folder).annotations
    with pytest.raises(ValueError, match="split"):
        write_dataset(data_format, {split: found}, tmp_path / "a" / "b" / "c")
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize(
    ("data_format", "split"), [("tfds", "all"), ("tfds", "a+b"), ("voc", "a+b")]
)
def test_names_that_would_be_read_as_other_splits_are_refused(tmp_path, data_format, split):
    folder = write_digits("voc", tmp_path / "voc", {"train": 1})
    found = fcos_tf.data.read_annotations("voc", "train", data_dir=folder).annotations
    with pytest.raises(ValueError, match=rf"split.*'{re.escape(split)}'"):
        write_dataset(data_format, {split: found}, tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("is_folder", [False, True])
def test_images_are_not_written_through_links(tmp_path, is_folder):
    folder = write_digits("voc", tmp_path / "voc", {"train": 1})
    found = fcos_tf.data.read_annotations("voc", "train", data_dir=folder).annotations
    images, victim = tmp_path / "new" / "JPEGImages", tmp_path / "victim"
    victim.mkdir()
    (tmp_path / "new").mkdir()
    if is_folder:
        images.symlink_to(victim)
    else:
        images.mkdir()
        (images / "train_00001.png").symlink_to(victim / "a")
    with pytest.raises(FileExistsError):
        write_dataset("voc", {"train": found}, tmp_path / "new")
    assert list(victim.iterdir()) == []


def test_a_voc_tree_has_one_folder_for_all_splits(capsys, tmp_path):
    folder = write_digits("coco", tmp_path / "coco", {"train": 3, "val": 3})
    for split in ("train", "val"):  # the same names in both folders
        for file in (folder / split).iterdir():
            file.rename(file.with_name(file.name.replace(split, "scene")))
        json_file = folder / "annotations" / f"instances_{split}.json"
        json_file.write_text(json_file.read_text().replace(f'"{split}_', '"scene_'))
    code, _, error = run(
        capsys, dataset, "--what=write", "--format=voc", f"--output_dir={tmp_path / 'voc'}",
        "--dataset=coco", f"--data_dir={folder}",
    )  # fmt: skip
    assert code == 1 and "image scene_00001 is in train and in val" in error
    assert not list((tmp_path / "voc").rglob("*.png"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--what=write", "--format=coco"], "--output_dir: expected with --what=write, got none"),
        (["--what=write", "--output_dir=x"], "--format: expected with --what=write, got none"),
        (["--split=test"], "no split 'test' in digits; there are: train, val"),
        (["--dataset=voc"], "dataset voc needs data_dir"),
        (
            ["--format=coco", "--name=a", "--output_dir=x"],
            "--format, --name, --output_dir: not used with --what=summary; leave it out",
        ),
        (["--what=split", "--check_images"], "--check_images: not used with --what=split"),
        (["--what=write", "--check_images"], "--check_images: not used with --what=write"),
        (["--image_size=64x64"], "--image_size: not used with --check_images=false"),
        (
            ["--what=write", "--format=coco", "--output_dir=x", "--name=a"],
            "used with --format=coco",
        ),
        (["--split=val", "--val_split=val"], "--val_split: not used with --split=val"),
    ],
)
def test_wrong_flags_are_told(capsys, arguments, message, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    code, _, error = run(capsys, dataset, "--overfit=2", *arguments)
    assert code == 1 and message in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--what=write", "--output_dir=x", "--format=csv"], "expected one of coco, voc, tfds"),
        (["--check_images=yes"], "--check_images: expected true or false, got 'yes'"),
        (["--what=draw"], "--what: expected one of summary, write, split, got 'draw'"),
        (["--val_splits=test"], "unknown flag --val_splits; did you mean --val_split?"),
        (["--batch_size=3"], "--batch_size is not used by dataset.py; --help lists its flags"),
    ],
)
def test_wrong_flags_are_refused_before_anything_is_read(capsys, arguments, message):
    code, out, error = run(capsys, dataset, *arguments)
    assert (code, out) == (2, "") and message in error


def test_pictures_of_training_examples(tree, capsys, tmp_path):
    code, out, _ = run(
        capsys, visualize, "--what=augmentations", "--dataset=voc", f"--data_dir={tree}",
        "--image_size=64x64", "--batch_size=4", "--augment=mosaic,color_jitter",
        f"--output_dir={tmp_path}", "--num_images=5",
    )  # fmt: skip
    assert (code, out) == (0, f"{tmp_path}/augmentations.png\n")
    picture = np.asarray(Image.open(tmp_path / "augmentations.png"))
    # Panels of 384 pixels, four beside each other and two below each other.
    assert picture.shape[1] > 4 * 384 and picture.shape[0] > 2 * 384
    assert picture.std() > 30


@pytest.mark.parametrize("flag", ["--runs={0}/a, {0}/b", "--model_dir={0}/a"])
def test_curves_of_runs(capsys, tmp_path, flag):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        line = '{"step": 20, "kind": "train", "loss": 2.0}\n'
        (tmp_path / name / "metrics.jsonl").write_text(line)
    code, out, _ = run(
        capsys, visualize, "--what=curves", flag.format(tmp_path), f"--output_dir={tmp_path}"
    )
    assert (code, out) == (0, f"{tmp_path}/curves.png\n")
    assert Image.open(tmp_path / "curves.png").size[0] > 300


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--what=boxes"], "--what: expected one of augmentations, curves, points, targets,"),
        (["--what=augmentations"], "--output_dir: expected a value, got none"),
        (["--what=augmentations", "--output_dir=x", "--num_images=0"], "at least 1, got 0"),
        (["--what=curves", "--nms_threshold=.3"], "--nms_threshold is not used by visualize.py"),
    ],
)
def test_wrong_flags_of_pictures_are_refused(capsys, arguments, message):
    code, _, error = run(capsys, visualize, *arguments)
    assert code == 2 and message in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--runs or --model_dir: expected folders of runs"),
        (["--runs=gone"], "metrics.jsonl, got gone"),
        (["--runs=a", "--model_dir=b"], "--model_dir: not used with --runs; leave it out"),
        (
            ["--runs=a", "--augment=mosaic", "--data_dir=x"],
            "--augment, --data_dir: not used with --what=curves; leave it out",
        ),
        (["--what=augmentations", "--runs=a"], "--runs: not used with --what=augmentations"),
        (["--what=augmentations", "--weights=a"], "--weights: not used with --what=augmentations"),
    ],
)
def test_runs_that_are_not_there_are_told(capsys, arguments, message):
    code, _, error = run(capsys, visualize, "--what=curves", "--output_dir=x", *arguments)
    assert code == 1 and message in error


def test_proposals_of_a_model(tmp_path, capsys):
    data = ("--dataset=digits", "--overfit=3", f"--output_dir={tmp_path}", "--what=proposals")
    small = {"backbone": "simple_cnn", "fpn_channels": 32, "image_size": "64x96"}
    FCOS(10, **small).save(tmp_path / "fcos.keras")
    code, _, error = run(capsys, visualize, f"--weights={tmp_path / 'fcos.keras'}", *data)
    assert code == 1 and "a FCOS has no proposals to draw; expected a model with them" in error
    model = FasterRCNN(10, fpn_first_level=3, fpn_levels=3, fc_channels=8, **small)
    model.save(tmp_path / "rcnn.keras")
    code, out, _ = run(
        capsys, visualize, f"--weights={tmp_path / 'rcnn.keras'}", "--num_images=3", *data
    )
    assert (code, out) == (0, f"{tmp_path}/proposals.png\n")
    # Scenes are square: panels of 512 pixels, four beside each other and two below each other.
    width, height = Image.open(tmp_path / "proposals.png").size
    assert 4 * 512 < width < 4 * 512 + 200 and 2 * 512 < height < 2 * 512 + 200
