"""Evaluates a trained detector, or scores COCO result files.

    python tools/evaluate.py --flagfile=digits.cfg --model_dir=runs/digits
    python tools/evaluate.py --flagfile=digits.cfg --weights=model.keras --output_dir=results
    python tools/evaluate.py --ground_truth=truth.json --detections=results.json

The flags say on which data; the model is taken from its file as it was trained, except for the
thresholds under "Detections" that are given on the command line. Prints COCO's table and writes
metrics.json, detections.json (COCO results, with the data set's own ids) and detections.png.
"""

import json
import sys
from pathlib import Path
from typing import Any

from fcos_tf.config import Config
from fcos_tf.tools import command_line, run_files

# Flags that change how a trained model detects; they count only when given.
_MODEL_ATTRIBUTES = ("score_threshold", "nms_threshold", "topk_per_level", "max_detections")
_OPTIONS = {
    "weights": "A .keras file; default: the newest checkpoint in --model_dir, or model.keras there",
    "output_dir": "Where to write; default: --model_dir, or the folder of --weights",
    "ground_truth": "COCO ground truth JSON, to score --detections against without a model",
    "detections": "COCO results JSON, to be scored against --ground_truth",
}


def main(argv: list[str] | None = None) -> None:
    """Runs the tool; ends the process with its exit status."""
    command_line.run(_evaluate, __doc__, argv, options=_OPTIONS)


def _evaluate(config: Config, flags) -> None:
    from fcos_tf.evaluation import format_per_class, format_table

    if flags["ground_truth"].value or flags["detections"].value:
        result = score_files(flags["ground_truth"].value, flags["detections"].value)
        output_dir = flags["output_dir"].value
        if output_dir:
            _write_metrics(Path(output_dir), result.metrics)
    else:
        command_line.load_tensorflow()
        overrides = {n: getattr(config, n) for n in _MODEL_ATTRIBUTES if flags[n].present}
        result = evaluate(
            config,
            weights=flags["weights"].value,
            output_dir=flags["output_dir"].value,
            overrides=overrides,
        )
    print(format_per_class(result.per_class))
    print(format_table(result.metrics))


def evaluate(
    config: Config,
    *,
    weights: str | Path | None = None,
    output_dir: str | Path | None = None,
    overrides: dict[str, Any] | None = None,
):
    """Evaluates a trained model on the validation data of a config, and writes the results.

    Args:
        config: Which data, and `model_dir`.
        weights: A `.keras` file; by default the newest checkpoint in `config.model_dir`, or the
            final model there.
        output_dir: Where to write; by default `config.model_dir`, or the folder of `weights`.
        overrides: Attributes of the model to change, such as {"score_threshold": 0.3}.

    Returns:
        A `fcos_tf.evaluation.CocoResult`.

    Raises:
        ValueError: If the file is damaged or the model does not fit the data.
        FileNotFoundError: If there is no such file, or no data.
    """
    from fcos_tf import build, evaluation
    from fcos_tf.training import checkpoints

    path = run_files.find_weights(config.model_dir, weights)
    model = checkpoints.load_model(path)
    for name, value in (overrides or {}).items():
        setattr(model, name, value)
    dataset = build.load_val_data(config, model.class_names)
    if len(dataset.class_names) != model.num_classes:
        raise ValueError(
            f"{path}: a model of {model.num_classes} classes; expected "
            f"{len(dataset.class_names)}, as many as --dataset={config.dataset} has"
        )
    if model.class_names and tuple(dataset.class_names) != tuple(model.class_names):
        raise ValueError(
            f"{path}: a model of the classes {', '.join(model.class_names)}, in this order; "
            f"--class_names gives {', '.join(dataset.class_names)}"
        )
    print(f"evaluating {path} on {dataset.num_images} images", flush=True)
    detect = evaluation.compile_detect(model)
    records = evaluation.run_detector(
        model, dataset, detect=detect, progress=_progress(dataset.num_images)
    )
    result = evaluation.coco_evaluation(records.ground_truth, records.detections)

    folder = Path(output_dir or config.model_dir or path.parent)
    metrics = dict(result.metrics)
    if path.parent.name == checkpoints.FOLDER:
        metrics = {"step": checkpoints.step_of(path), **metrics}
    _write_metrics(folder, metrics)
    run_files.write_text(folder / run_files.DETECTIONS_FILE, json.dumps(records.detections))
    run_files.save_pictures(folder / run_files.PICTURE_FILE, model, dataset, detect=detect)
    return result


def score_files(ground_truth: str, detections: str):
    """Scores a COCO results file against a COCO ground truth file.

    Returns:
        A `fcos_tf.evaluation.CocoResult`.

    Raises:
        ValueError: If a name is missing, or a file is not of that form.
        FileNotFoundError: If there is no such file.
    """
    from fcos_tf.evaluation import coco_evaluation

    loaded = []
    for flag, name in (("ground_truth", ground_truth), ("detections", detections)):
        if not name:
            raise ValueError(f"--{flag}: expected a JSON file, as --ground_truth and --detections "
                             "belong together, got none")  # fmt: skip
        if not Path(name).is_file():
            raise FileNotFoundError(f"--{flag}: no file {name}")
        try:
            loaded.append(json.loads(Path(name).read_text(encoding="utf-8")))
        except ValueError as error:
            raise ValueError(f"--{flag}: {name} is not JSON: {error}") from error
    try:
        return coco_evaluation(*loaded)
    except ValueError as error:
        raise ValueError(f"{ground_truth} and {detections}: {error}") from error


def _progress(total: int):
    """A counter of images on a terminal; nothing elsewhere."""
    if not sys.stderr.isatty():
        return None

    def show(done: int) -> None:
        end = "\n" if done >= total else ""
        print(f"\r{done}/{total} images", end=end, file=sys.stderr, flush=True)

    return show


def _write_metrics(folder: Path, metrics: dict[str, float]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    run_files.write_metrics(folder / run_files.METRICS_FILE, metrics)


if __name__ == "__main__":
    main()
