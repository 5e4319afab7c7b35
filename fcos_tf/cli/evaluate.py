"""Evaluates a trained detector or classifier, or scores COCO result files.

    python tools/evaluate.py --flagfile=digits.cfg --model_dir=runs/digits
    python tools/evaluate.py --flagfile=digits.cfg --weights=model.keras --output_dir=results
    python tools/evaluate.py --flagfile=digits.cfg --model_dir=runs/digits --tta=flip,640x640
    python tools/evaluate.py --ground_truth=truth.json --detections=found.json --metrics=coco,voc07

The flags select the data. The model keeps the settings of its file, except for given options of
"Detections"; images are resized to the model's size unless --image_size is given. Prints --metrics
over all classes and per class, and writes them to metrics.json and per_class.json, beside
detections.json (COCO results with the data set's ids) and detections.png. --analyse adds
report.html, which says which errors cost most and what to do about them; --keep_thresholds writes
the thresholds of the best F1 into the model's file. A classifier is scored
by the mAP of VOC's classification task, with probabilities.json instead of the last three.
"""

import dataclasses
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from fcos_tf import config as sections
from fcos_tf.cli import command_line
from fcos_tf.config import OUTPUT_WORDS, WEIGHTS_WORDS, Config, DetectionOptions
from fcos_tf.options import Options, fields_of, option, options_for
from fcos_tf.tensorflow_words import escaped, load_tensorflow

_USES = (
    sections.DataOptions, sections.InputOptions, DetectionOptions, sections.EvaluationOptions,
    sections.DeviceOptions, "model_dir",
)  # fmt: skip


# fmt: off
@dataclasses.dataclass(frozen=True)
class EvaluateOptions(Options):
    """The model or the result files, and the output."""

    weights: str | None = option(
        None, "A .keras file, or torchvision_coco or another name of published weights, downloaded "
        "once; default: the newest checkpoint in --model_dir, or model.keras there.",
        also=WEIGHTS_WORDS)
    output_dir: str | None = option(
        None, "Output folder; default: the folder of --weights, or --model_dir.",
        also=OUTPUT_WORDS)
    ground_truth: str | None = option(
        None, "COCO ground truth JSON, to score --detections without a model.")
    detections: str | None = option(None, "COCO results JSON, scored against --ground_truth.")
    analyse: bool = option(
        False, "Also write analysis.json and report.html: types of errors and their cost, curves, "
        "best thresholds, confusions, worst images.", also=("analyze",))
    keep_thresholds: bool = option(
        False, "--analyse, and write the thresholds of the best F1 into the model's file, for "
        "--score_threshold=best_f1 of detect.py and export.py.")
# fmt: on


def main(argv: list[str] | None = None) -> None:
    """Runs the tool; ends the process with its exit status."""
    command_line.run(_evaluate, __doc__, argv, uses=_USES, options=EvaluateOptions)


def _evaluate(config: Config, options: EvaluateOptions, given: command_line.Given) -> None:
    from fcos_tf.evaluation import format_per_class, format_table

    if options.ground_truth or options.detections:
        unused = {*fields_of(Config), "weights", "keep_thresholds"} - {"metrics"}
        command_line.refuse_unused(given, "--ground_truth and --detections", unused)
        files = (options.ground_truth, options.detections)
        if options.analyse and not options.output_dir:
            raise ValueError(
                "--output_dir: expected a folder for the report of --analyse, got none"
            )
        scores = score_files(
            *files, config.metrics, report_dir=options.analyse and options.output_dir
        )
        if options.output_dir:
            load_tensorflow()
            from fcos_tf.training.run import write_scores

            write_scores(options.output_dir, scores)
    else:
        if options.weights:
            command_line.refuse_unused(given, "--weights", ["model_dir"])
        load_tensorflow()
        scores = evaluate(
            config,
            **options_for(options, evaluate),
            given=given,
            size_of_model="image_size" not in given,
            exif_of_model="apply_exif" not in given,
        )
    print(format_per_class(scores.per_class))
    print(format_table(scores.metrics))


def evaluate(
    config: Config,
    *,
    weights: str | Path | None = None,
    output_dir: str | Path | None = None,
    analyse: bool = False,
    keep_thresholds: bool = False,
    given: Collection[str] = (),
    size_of_model: bool = False,
    exif_of_model: bool = False,
):
    """Evaluates a trained model on the validation data of a config, and writes the results.

    Args:
        config: The data, `metrics`, `tta` and `model_dir`.
        weights: A `.keras` file; None: the newest checkpoint in `config.model_dir`, or the final
            model there.
        output_dir: Output folder; None: the folder of `weights`, or `config.model_dir`.
        analyse: Whether to write `evaluation.analyse`'s files as well.
        keep_thresholds: The same, and whether to write `evaluation.best_f1_of` into the model file.
        given: Names of the options of `config` that replace the thresholds of the model.
        size_of_model: Whether to use the `image_size` of the model, if it has one.
        exif_of_model: Whether to use its `apply_exif`.

    Returns:
        `fcos_tf.evaluation.Scores`; the metrics of a checkpoint include its `step`.

    Raises:
        ValueError: A corrupt file, a model that does not fit the data, or a wrong `tta`.
        FileNotFoundError: No such file, or no data.
    """
    from fcos_tf import build, detecting, evaluation
    from fcos_tf.atomic_files import write_text
    from fcos_tf.detecting.files import DETECTIONS_FILE
    from fcos_tf.evaluation.tta import parse_tta
    from fcos_tf.keras_files import replace_settings
    from fcos_tf.models.detector import detectable
    from fcos_tf.models.input_checks import check_class_names
    from fcos_tf.models.weights import load_detector
    from fcos_tf.training import checkpoints, run
    from fcos_tf.training.strategy import make_strategy

    flip, sizes = parse_tta(**options_for(config, parse_tta))
    path = run.find_weights(config.model_dir, weights)
    # The devices of this host share the batches of an evaluation; other hosts do not take part.
    with make_strategy(**options_for(config, make_strategy, one_host=True)).scope():
        model = load_detector(path, or_classifier=True)
    classifies, analyse = hasattr(model, "classify"), analyse or keep_thresholds
    if classifies and analyse:
        raise ValueError(f"--analyse: expected a detector, got the classifier {path}")
    if classifies and isinstance(given, command_line.Given):
        unused = ["metrics", "tta"]
        command_line.refuse_unused(given, f"the classifier {path}", unused)
    for name, value in build.given_thresholds(config, given, model, path).items():
        setattr(model, name, value)  # before anything is traced
    if keep_thresholds and (
        config.tta or isinstance(model.score_threshold, str) or not path.is_file()
    ):
        raise ValueError(
            "--keep_thresholds: expected a .keras file, and neither --tta nor "
            f"--score_threshold=best_f1; got {path}"
        )
    if size_of_model and model.image_size:
        config = dataclasses.replace(config, image_size=model.image_size)
    if exif_of_model:
        config = dataclasses.replace(config, apply_exif=model.apply_exif)
    class_names = model.class_names and detectable(model.class_names)
    dataset = build.load_val_data(config, class_names)
    for note in dataset.notes:
        print(note)
    if not class_names and len(dataset.class_names) != model.num_classes:
        raise ValueError(
            f"{path}: a model of {model.num_classes} classes; expected "
            f"{len(dataset.class_names)}, as many as --dataset={config.dataset} has"
        )
    try:
        check_class_names(model, dataset.class_names if classifies else None)
        detect = None if classifies else detecting.compile_detect(model, dataset.class_names)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    views = [build.load_val_data(_view(config, size), class_names) for size in sizes]
    print(f"evaluating {path} on {dataset.num_images} images at {config.image_size}", flush=True)
    num_images = dataset.num_images * (1 + len(views))
    with tqdm(total=num_images, unit="image", disable=None) as bar:
        progress = lambda done: bar.update(done - bar.n)  # noqa: E731
        if classifies:
            found = evaluation.run_classifier(model, dataset, progress=progress)
            scores = evaluation.classification_evaluation(*found[1:4])
        else:
            options = {"detect": detect, "progress": progress}
            records = evaluation.run_detector(model, dataset, flip=flip, views=views, **options)
            scores = evaluation.score_records(records, config.metrics)
    if path.parent.name == checkpoints.FOLDER:
        step = checkpoints.step_of(path)
        scores = dataclasses.replace(scores, metrics={"step": step, **scores.metrics})

    folder = Path(output_dir or (path.parent if weights else config.model_dir))
    run.write_scores(folder, scores)
    if classifies:
        columns = {"class_names": found.class_names, "image_ids": found.image_ids.tolist()}
        columns["probabilities"] = found.probabilities.tolist()
        write_text(folder / run.PROBABILITIES_FILE, json.dumps(columns))
        return scores
    write_text(folder / DETECTIONS_FILE, json.dumps(records.detections))
    run.save_pictures(folder / run.PICTURE_FILE, model, dataset, detect=detect)
    if analyse:
        analysis = evaluation.analyse(records, folder, dataset)
        _print_advice(analysis)
        if keep_thresholds:
            replace_settings(path, best_f1=evaluation.best_f1_of(analysis, model))
            print(f"{path} keeps the thresholds of the best F1: --score_threshold=best_f1")
    return scores


def score_files(
    ground_truth: str | None,
    detections: str | None,
    metrics: Sequence[str] = ("coco",),
    *,
    report_dir: str | Path | None = None,
):
    """Scores a COCO results file against a COCO ground truth file: `evaluation.Scores`.

    With a `report_dir`, writes the files of `evaluation.analyse` into it.

    Raises:
        ValueError: A missing name, or a file of another format.
        FileNotFoundError: No such file.
    """
    from fcos_tf.evaluation import Records, analyse, score_records

    loaded = []
    for flag, name in (("ground_truth", ground_truth), ("detections", detections)):
        if not name:
            both = "--ground_truth and --detections need each other"
            raise ValueError(f"--{flag}: expected a JSON file, as {both}, got none")
        if not Path(name).is_file():
            raise FileNotFoundError(f"--{flag}: no file {name}")
        try:
            # utf-8-sig: some tools write a byte order mark.
            loaded.append(json.loads(Path(name).read_text(encoding="utf-8-sig")))
        except (ValueError, RecursionError) as error:
            what = "it is nested too deeply" if isinstance(error, RecursionError) else error
            raise ValueError(f"--{flag}: {name} cannot be read as JSON: {what}") from error
    try:
        scores = score_records(Records(*loaded), metrics)
    except ValueError as error:
        raise ValueError(f"{ground_truth} and {detections}: {error}") from error
    if report_dir:
        _print_advice(analyse(Records(*loaded), report_dir))
    return scores


def _print_advice(analysis: Mapping[str, Any]) -> None:
    print(*(f"- {escaped(sentence)}" for sentence in analysis["advice"]), sep="\n")


def _view(config: Config, image_size: str) -> Config:
    """The config of a further view of TTA; a fixed canvas needs no orientation buckets."""
    buckets = config.orientation_buckets and "," in image_size
    return dataclasses.replace(config, image_size=image_size, orientation_buckets=buckets)
