"""The two tools, run as a user runs them, on a model small enough for it."""

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

from fcos_tf import FCOS, load_model
from fcos_tf.cli import evaluate as evaluate_tool
from fcos_tf.cli import train as train_tool
from fcos_tf.config import Config
from fcos_tf.jobs.evaluate import _view, evaluate
from fcos_tf.jobs.train import train
from fcos_tf.models.fcos_rules import RULES
from tests import tools
from tests.cli.parsing import parse_config
from tests.limits import HANG

ROOT = Path(__file__).resolve().parents[2]
TOOLS = {"train.py": train_tool, "evaluate.py": evaluate_tool}
SMALL = (
    "--dataset=digits", "--image_size=64x64", "--backbone=simple_cnn", "--fpn_levels=3",
    "--fpn_channels=32", "--head_convs=1", "--batch_size=4", "--overfit=8", "--warmup_steps=2",
    "--schedule=constant", "--log_every=1", "--checkpoint_every=3", "--eval_every=4",
    "--score_threshold=0.001",
)  # fmt: skip


def run_tool(name, *arguments):
    command = [sys.executable, f"tools/{name}", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=HANG, cwd=ROOT)


@pytest.fixture
def run_here(capsys):
    """Runs a tool in this process, which has TensorFlow already."""

    def run(name, *arguments):
        return subprocess.CompletedProcess(name, *tools.run(capsys, TOOLS[name], *arguments))

    return run


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """A run of 4 steps."""
    folder = tmp_path_factory.mktemp("run")
    result = run_tool("train.py", *SMALL, "--steps=4", f"--model_dir={folder}")
    assert result.returncode == 0, result.stderr
    assert "starting at step 0 of 4: 8 images, 10 classes" in result.stdout
    assert "Average Precision" in result.stdout
    assert result.stderr == ""
    return folder


def test_the_run_leaves_its_files(run_dir):
    names = {path.name for path in run_dir.iterdir()}
    assert names == {
        "checkpoints", "tensorboard", "config.cfg", "metrics.jsonl", "metrics.json",
        "model.keras", "detections.png", "best.keras", "best.json", ".lock",
    }  # fmt: skip
    checkpoints = sorted(path.name for path in (run_dir / "checkpoints").iterdir())
    assert checkpoints == ["step_00000003.keras", "step_00000004.keras"]
    assert Image.open(run_dir / "detections.png").size[0] > 100
    config = parse_config([f"--flagfile={run_dir / 'config.cfg'}"])
    assert (config.steps, config.overfit, config.model_dir) == (4, 8, str(run_dir))


def test_training_on_from_a_detector_of_other_classes(run_dir, tmp_path):
    start = FCOS(
        2, class_names=("cup", "fork"), rules="torchvision", backbone="simple_cnn", fpn_levels=3,
        fpn_channels=32, head_convs=1, score_threshold=0.001,
    )  # fmt: skip
    start.save(tmp_path / "start.keras")
    data = [flag for flag in SMALL if not flag.startswith(("--back", "--fpn", "--head", "--score"))]
    command = [*data, f"--initial_weights={tmp_path / 'start.keras'}", "--steps=2"]
    config = parse_config([*command, f"--model_dir={tmp_path / 'run'}"])
    train(config, report=lambda line: None)
    (tmp_path / "start.keras").unlink()
    (tmp_path / "run" / "metrics.json").unlink()  # as after a kill
    train(config, report=lambda line: None)
    model = keras.models.load_model(tmp_path / "run" / "model.keras", compile=False)
    assert (start.image_size, model.image_size) == (None, "64x64")
    assert model.class_names == tuple("0123456789") and model.rules == RULES["torchvision"]
    assert model.score_threshold == 0.001
    # Frozen or not, the stem has hardly moved in two steps of warm-up; drawn anew it would have.
    kernels = [m.backbone.get_layer("stem_conv").kernel for m in (start, model)]
    assert np.abs(np.asarray(kernels[0]) - np.asarray(kernels[1])).max() < 0.01
    assert np.std(kernels[0]) > 0.02


def test_a_changed_flag_that_matters_is_refused_unless_allowed(run_dir, run_here, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(run_dir, folder)
    files = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    del files[folder / ".lock"]  # says who had it last
    command = [*SMALL, "--steps=4", "--momentum=0.5", "--log_every=2", f"--model_dir={folder}"]
    result = run_here("train.py", *command)
    assert result.returncode == 1 and result.stdout == ""
    assert result.stderr == (
        f"train.py: error: {folder}/config.cfg says that the run to resume has other flags: "
        "--momentum=0.5 (was 0.9); give the original ones, another --model_dir, or "
        "--allow_config_change\n"
    )
    assert {path: path.read_bytes() for path in files} == files
    (folder / "metrics.json").unlink()  # or there would be nothing to do
    config = parse_config([*command, "--allow_config_change"])
    with pytest.warns(UserWarning, match=r"other flags: --momentum=0\.5 \(was 0\.9\)$"):
        train(config, report=lambda line: None)
    # Allowed once: the run now has these flags, and no others without asking again.
    assert "--allow_config_change=false\n" in (folder / "config.cfg").read_text()
    train(parse_config(command), report=lambda line: None)


def test_evaluate_takes_a_checkpoint_or_a_file_and_thresholds(run_dir, run_here, tmp_path):
    config = f"--flagfile={run_dir / 'config.cfg'}"
    found = []
    weights = shutil.copy(run_dir / "model.keras", tmp_path)
    given = [f"--weights={weights}", "--max_detections=3", "--analyse"]
    for i, options in enumerate(([], given)):
        folder = tmp_path / str(i)
        run = run_here if options else run_tool
        result = run("evaluate.py", config, *options, f"--output_dir={folder}")
        assert result.returncode == 0, result.stderr
        assert result.stderr == ""
        assert ("step_00000004.keras", "model.keras")[i] + " on 8 images" in result.stdout
        assert "Average Precision" in result.stdout
        assert {path.name for path in folder.iterdir()} == {
            "metrics.json", "per_class.json", "detections.json", "detections.png",
            *(("analysis.json", "report.html") if options else ()),
        }  # fmt: skip
        found.append(json.loads((folder / "detections.json").read_text()))
    analysis = json.loads((tmp_path / "1" / "analysis.json").read_text())
    worst = analysis["images"][0]
    assert worst["false_positives"] + worst["missed"] > 0
    assert f"- {analysis['advice'][0]}\n" in result.stdout
    assert (tmp_path / "1" / "report.html").read_text().count("data:image/jpeg") == min(
        8, len(analysis["images"])
    )
    # The file keeps the thresholds, also of classes of which nothing is found.
    keeping = [f"--weights={weights}", "--keep_thresholds", f"--output_dir={tmp_path / '2'}"]
    result = run_here("evaluate.py", config, *keeping)
    assert result.returncode == 0, result.stderr
    analysis = json.loads((tmp_path / "2" / "analysis.json").read_text())
    kept = load_model(weights).best_f1
    usual = analysis["mean_f1"]["score_threshold"]
    own = [analysis["per_class"][name].get("threshold") for name in "0123456789"]
    assert kept["by_class"] == tuple(usual if each is None else each for each in own)
    assert kept["score_threshold"] == 0.001
    result = run_here("evaluate.py", config, *given, "--keep_thresholds", "--tta=flip")
    assert result.returncode == 1
    wrong = "expected the settings of the model, got --max_detections and --tta"
    assert f"--keep_thresholds: {wrong}\n" in result.stderr
    everything, best = found
    assert set(everything[0]) == {"image_id", "category_id", "bbox", "score"}
    assert {d["category_id"] for d in everything} <= set(range(1, 11))
    # A hardly trained model finds more than 3 things in each image at a threshold of 0.001; both
    # files hold the same weights, so the best 3 are the first 3 of all.
    for image_id in {d["image_id"] for d in everything}:
        first = [d for d in everything if d["image_id"] == image_id][:3]
        assert [d for d in best if d["image_id"] == image_id] == first
    assert len(best) == 3 * 8
    metrics = json.loads((tmp_path / "0" / "metrics.json").read_text())
    assert metrics == pytest.approx(json.loads((run_dir / "metrics.json").read_text()), abs=1e-6)


def test_evaluate_knows_the_size_that_a_model_was_made_for(run_dir, tmp_path, capsys):
    data = [flag for flag in SMALL if not flag.startswith("--image_size")]
    config = parse_config(data)
    assert config.image_size == "512x512"
    (tmp_path / "checkpoints").mkdir()  # such a folder of another program
    weights = shutil.copy(run_dir / "model.keras", tmp_path / "checkpoints" / "a.keras")
    scores = evaluate(config, weights=weights)
    assert "on 8 images at 64x64" in capsys.readouterr().out
    assert (tmp_path / "checkpoints" / "evaluation" / "metrics.json").is_file()
    expected = json.loads((run_dir / "metrics.json").read_text())
    assert scores.metrics["AP"] == pytest.approx(expected["AP"], abs=1e-6)


def write_voc(folder, *, cut):
    """A VOC tree of an image in each split, with one object; its last `cut` bytes are missing."""
    for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (folder / name).mkdir(parents=True)
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for split in ("train", "val"):
        image = folder / "JPEGImages" / f"{split}_a.jpg"
        Image.fromarray(noise).save(image)
        content = image.read_bytes()
        image.write_bytes(content[: len(content) - cut])
        (folder / "Annotations" / f"{split}_a.xml").write_text(
            f"<annotation><filename>{image.name}</filename>"
            "<size><width>64</width><height>64</height><depth>3</depth></size>"
            "<object><name>cell</name><bndbox><xmin>5</xmin><ymin>5</ymin><xmax>40</xmax>"
            "<ymax>40</ymax></bndbox></object></annotation>"
        )
        (folder / "ImageSets" / "Main" / f"{split}.txt").write_text(f"{split}_a\n")


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--data_dir=gone"], "no folder gone"),
        (["--train_split=nights"], "no split 'nights'"),
        (["--num_classes=4"], "--num_classes: expected 0 or 1"),
        ([], "cannot decode image"),
    ],
)
def test_wrong_data_is_one_line_and_no_traceback(tmp_path, run_here, arguments, message):
    write_voc(tmp_path / "voc", cut=0 if arguments else 1000)
    options = [*SMALL, "--dataset=voc", f"--data_dir={tmp_path / 'voc'}", "--overfit=0"]
    result = run_here(
        "train.py", *options, "--steps=1", f"--model_dir={tmp_path / 'run'}", *arguments
    )
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    last_line = result.stderr.splitlines()[-1]
    assert last_line.startswith("train.py: error: ")
    assert message in last_line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--ground_truth=a", "--score_threshold=.3", "--tta=flip"],
         "--score_threshold, --tta: not used with --ground_truth and --detections; leave it out"),
        (["--weights=a.keras", "--model_dir=b"],
         "--model_dir: not used with --weights; leave it out"),
        (["--weights=torchvision_coco"],
         "--output_dir: expected a folder for the results, got none"),
    ],
)  # fmt: skip
def test_options_of_another_mode_are_refused(run_here, arguments, message):
    result = run_here("evaluate.py", *arguments)
    assert (result.returncode, result.stderr) == (1, f"evaluate.py: error: {message}\n")


def test_wrong_runs_and_weights_are_one_line(tmp_path, run_here):
    (tmp_path / "cut.keras").write_bytes(b"PK")
    for argument, message in (
        (f"--model_dir={tmp_path / 'gone'}", "--model_dir: no folder"),
        (f"--weights={tmp_path / 'cut.keras'}", "cut.keras is corrupt"),
    ):
        result = run_here("evaluate.py", argument)
        assert result.returncode == 1
        assert len(result.stderr.splitlines()) == 1
        assert result.stderr.startswith("evaluate.py: error: ")
        assert message in result.stderr


def test_bare_result_files_are_scored(tmp_path, run_here):
    # One object, found exactly: every precision that can be measured is 1.
    box = [10, 10, 50, 50]
    truth = {
        "images": [{"id": 7}],
        "categories": [{"id": 3, "name": "cell"}],
        "annotations": [{"image_id": 7, "category_id": 3, "bbox": box}],
    }
    found = [{"image_id": 7, "category_id": 3, "bbox": box, "score": 0.5}]
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    (tmp_path / "found.json").write_text(json.dumps(found))
    files = (f"--ground_truth={tmp_path / 'truth.json'}", f"--detections={tmp_path / 'found.json'}")
    result = run_here("evaluate.py", *files, f"--output_dir={tmp_path / 'out'}")
    assert result.returncode == 0, result.stderr
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert (metrics["AP"], metrics["APm"], metrics["APs"]) == (pytest.approx(1), 1, -1)
    result = run_here("evaluate.py", *files, f"--output_dir={tmp_path / 'out'}", "--analyse")
    assert (result.returncode, "- AP50 is 1.000" in result.stdout) == (0, True)
    assert "<h2>What to do</h2>" in (tmp_path / "out" / "report.html").read_text()
    result = run_here("evaluate.py", *files, "--analyse")
    assert (result.returncode, "--output_dir: expected a folder" in result.stderr) == (1, True)
    taken = run_here("evaluate.py", *files, f"--output_dir={tmp_path / 'truth.json'}")
    message = f"--output_dir: expected a folder that can be written to, got {tmp_path}/truth.json"
    assert (taken.returncode, message in taken.stderr) == (1, True)
    missing = run_here("evaluate.py", files[0])
    assert missing.returncode == 1
    assert "--detections: expected a JSON file" in missing.stderr


def test_the_public_golden_set(shared_data, tmp_path, run_here):
    folder = shared_data / "coco_eval_golden"
    if not folder.is_dir():
        pytest.skip(f"no golden set at {folder}")
    files = [f"--{name}={folder / name}.json" for name in ("ground_truth", "detections")]
    result = run_here(
        "evaluate.py", *files, "--metrics=coco,voc07,voc12", f"--output_dir={tmp_path / 'out'}"
    )
    assert result.returncode == 0, result.stderr
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    # The file spells the twelve names otherwise, in the same order; made by pycocotools.
    expected = list(json.loads((folder / "expected.json").read_text()).values())
    assert list(metrics.values())[:12] == pytest.approx(expected, abs=1e-6)
    # The same curves, once read at 101 recall points and once whole.
    assert metrics["mAP_voc12"] == pytest.approx(metrics["AP50"], abs=0.01)
    assert f"11 points, VOC 2007       ] = {metrics['mAP_voc07']:.3f}" in result.stdout
    rows = json.loads((tmp_path / "out" / "per_class.json").read_text())
    assert set(rows["person"]) == {"AP", "AP50", "AP_voc07", "AP_voc12", "num_ground_truths"}
    measured = [row["AP"] for row in rows.values() if row["num_ground_truths"]]
    assert sum(measured) / len(measured) == pytest.approx(metrics["AP"], abs=1e-9)
    line = next(line for line in result.stdout.splitlines() if line.startswith("person"))
    assert line.split()[1:] == [
        f"{rows['person'][name]:.3f}" for name in ("AP", "AP50", "AP_voc07", "AP_voc12")
    ] + [str(rows["person"]["num_ground_truths"])]


def test_evaluate_with_further_views_and_metrics(run_dir, tmp_path):
    found = {}
    for name, options in (("plain", []), ("tta", ["--tta=flip,96x96"])):
        config = parse_config([*SMALL, f"--model_dir={run_dir}", "--metrics=coco,voc12", *options])
        scores = evaluate(config, weights=run_dir / "model.keras", output_dir=tmp_path / name)
        assert {"AP", "mAP_voc12"} < set(scores.metrics)
        detections = json.loads((tmp_path / name / "detections.json").read_text())
        found[name] = {
            image: sorted((d["score"] for d in detections if d["image_id"] == image), reverse=True)
            for image in {d["image_id"] for d in detections}
        }
    assert len(found["plain"]) == len(found["tta"]) == 8
    for image, scores in found["plain"].items():
        # What one view has found best, no further view makes worse.
        assert found["tta"][image][0] >= scores[0] - 1e-6
    assert found["tta"] != found["plain"]
    with pytest.raises(ValueError, match="--output_dir: expected a folder that can be written to"):
        evaluate(config, weights=run_dir / "model.keras", output_dir=run_dir / "model.keras")
    wrong = dataclasses.replace(config, tta=("mirror",))
    with pytest.raises(ValueError, match="--tta: expected flip and image sizes"):
        evaluate(wrong, weights=run_dir / "model.keras")


def test_a_run_needs_a_folder_and_a_length(tmp_path):
    with pytest.raises(ValueError, match=r"--model_dir: expected a folder"):
        train(Config(steps=1))
    with pytest.raises(ValueError, match=r"--steps or --epochs: expected one"):
        train(Config(model_dir=str(tmp_path)))


def test_further_views_need_no_batches_of_one_orientation():
    config = Config(image_size="80,120", orientation_buckets=True)
    for size, buckets in (("64x64", False), ("100,150", True)):
        view = _view(config, size)
        assert (view.image_size, view.orientation_buckets) == (size, buckets)
