"""Evaluates a trained detector or classifier, or scores COCO result files.

    python tools/evaluate.py --flagfile=digits.cfg --model_dir=runs/digits
    python tools/evaluate.py --flagfile=digits.cfg --weights=model.keras --output_dir=results
    python tools/evaluate.py --flagfile=digits.cfg --model_dir=runs/digits --tta=flip,640x640
    python tools/evaluate.py --ground_truth=truth.json --detections=found.json --metrics=coco,voc07

The flags select the data. The model keeps the settings of its file, except for given options of
"Detections"; images are resized to the model's size unless --image_size is given. Defaults in a
flag file do not count as given. Prints --metrics over all classes and per class, and writes them to
metrics.json and per_class.json, beside detections.json (COCO results with the data set's ids) and
detections.png. --analyse adds report.html, which says which errors cost most and what to do about
them; --keep_thresholds writes the thresholds of the best F1 into the model's file. A classifier is
scored by the mAP of VOC's classification task, or by its accuracy, with probabilities.json instead
of the last three.
"""

import dataclasses

from fcos_tf import config as sections
from fcos_tf.atomic_files import make_folder
from fcos_tf.cli import command_line
from fcos_tf.config import OUTPUT_WORDS, WEIGHTS_WORDS, Config, DetectionOptions
from fcos_tf.jobs.evaluate import evaluate, score_files
from fcos_tf.options import Options, fields_of, option, options_for
from fcos_tf.published import DETECTORS
from fcos_tf.tensorflow_words import load_tensorflow

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
        None, "Output folder; default: evaluation in the folder of a --weights file or in "
        "--model_dir.",
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
        if options.output_dir:
            make_folder(options.output_dir, "output_dir")
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
            if options.weights in DETECTORS and not options.output_dir:
                raise ValueError("--output_dir: expected a folder for the results, got none")
        load_tensorflow()
        given = command_line.replacing(config, given)
        scores = evaluate(config, **options_for(options, evaluate), given=given)
    print(format_per_class(scores.per_class))
    print(format_table(scores.metrics))
