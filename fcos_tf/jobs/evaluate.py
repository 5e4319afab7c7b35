"""Evaluation of a config: from the options to the files of an evaluation."""

import dataclasses
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from fcos_tf.config import Config
from fcos_tf.options import options_for
from fcos_tf.tensorflow_words import escaped


def evaluate(
    config: Config,
    *,
    weights: str | Path | None = None,
    output_dir: str | Path | None = None,
    analyse: bool = False,
    keep_thresholds: bool = False,
    given: Collection[str] = (),
):
    """Evaluates a trained model on the validation data of a config, and writes the results.

    Args:
        config: The data, `metrics`, `tta` and `model_dir`.
        weights: A `.keras` file; None: the newest checkpoint in `config.model_dir`, or the final
            model there.
        output_dir: Output folder; None: `evaluation` in the folder of `weights`, or in
            `config.model_dir`, whose own metrics stay.
        analyse: Whether to write `evaluation.analyse`'s files as well.
        keep_thresholds: The same, and whether to write `evaluation.best_f1_of` into the model file.
        given: Names of the options of `config` that replace those of the model: thresholds,
            `image_size`, `apply_exif`.

    Returns:
        `fcos_tf.evaluation.Scores`; the metrics of a checkpoint include its `step`.

    Raises:
        ValueError: A corrupt file, a model that does not fit the data, or a wrong `tta`.
        FileNotFoundError: No such file, or no data.
    """
    from fcos_tf import build, detecting, evaluation
    from fcos_tf.atomic_files import make_folder, write_text
    from fcos_tf.detecting.files import DETECTIONS_FILE
    from fcos_tf.evaluation.tta import parse_tta
    from fcos_tf.keras_files import replace_settings
    from fcos_tf.models.input_checks import check_class_names
    from fcos_tf.models.weights import load_detector
    from fcos_tf.training import checkpoints, run
    from fcos_tf.training.strategy import make_strategy

    flip, sizes = parse_tta(**options_for(config, parse_tta))
    path = run.find_weights(config.model_dir, weights)
    folder = Path(output_dir or Path(path.parent if weights else config.model_dir, "evaluation"))
    make_folder(folder, "output_dir")
    # The devices of this host share the batches of an evaluation; other hosts do not take part.
    with make_strategy(**options_for(config, make_strategy, one_host=True)).scope():
        model = load_detector(path, or_classifier=True)
    classifies, analyse = hasattr(model, "classify"), analyse or keep_thresholds
    if classifies and analyse:
        raise ValueError(f"--analyse: expected a detector, got the classifier {path}")
    if classifies and (unused := sorted({"metrics", "tta"} & getattr(given, "typed", set()))):
        names = ", ".join(f"--{name}" for name in unused)
        raise ValueError(f"{names}: not used with the classifier {path}; leave it out")
    thresholds = build.given_thresholds(config, given, model, path)
    if keep_thresholds:
        _check_kept(path, model, thresholds, config, given)
    for name, value in thresholds.items():
        setattr(model, name, value)  # before anything is traced
    config = build.with_input_of(model, config, given)
    dataset = build.load_val_data(config)
    for note in dataset.notes:
        print(note)
    try:
        check_class_names(model, dataset.class_names if classifies else None)
        detect = None if classifies else detecting.compile_detect(model, dataset.class_names)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    views = [build.load_val_data(_view(config, size)) for size in sizes]
    print(f"evaluating {path} on {dataset.num_images} images at {config.image_size}", flush=True)
    num_images = dataset.num_images * (1 + len(views))
    with tqdm(total=num_images, unit="image", disable=None) as bar:
        progress = lambda done: bar.update(done - bar.n)  # noqa: E731
        if classifies:
            found = evaluation.run_classifier(model, dataset, progress=progress)
            scores = found.scores()
        else:
            options = {"detect": detect, "progress": progress}
            records = evaluation.run_detector(model, dataset, flip=flip, views=views, **options)
            scores = evaluation.score_records(records, config.metrics)
    step = checkpoints.find_step(path)
    if step is not None:
        scores = dataclasses.replace(scores, metrics={"step": step, **scores.metrics})

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


def _check_kept(path: Path, model, thresholds, config: Config, given) -> None:
    """Thresholds of the best F1 hold with the model's own settings, but for the least score."""
    if not path.is_file():
        raise ValueError(f"--keep_thresholds: expected a .keras file, got {path}")
    least = thresholds.get("score_threshold", model.score_threshold)
    others = {n: v for n, v in thresholds.items() if n != "score_threshold"}
    if model.image_size and "image_size" in given:
        others["image_size"] = config.image_size
    changed = [name for name, value in others.items() if value != getattr(model, name)]
    changed += ["score_threshold"] * isinstance(least, str) + ["tta"] * bool(config.tta)
    if changed:
        names = " and ".join(f"--{name}" for name in changed)
        raise ValueError(f"--keep_thresholds: expected the settings of the model, got {names}")


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
        analysis = analyse(Records(*loaded), report_dir) if report_dir else None
        scores = score_records(Records(*loaded), metrics)
    except ValueError as error:
        raise ValueError(f"{ground_truth} and {detections}: {error}") from error
    if analysis:
        _print_advice(analysis)
    return scores


def _print_advice(analysis: Mapping[str, Any]) -> None:
    print(*(f"- {escaped(sentence)}" for sentence in analysis["advice"]), sep="\n")


def _view(config: Config, image_size: str) -> Config:
    """The config of a further view of TTA; a fixed canvas needs no orientation buckets."""
    buckets = config.orientation_buckets and "," in image_size
    return dataclasses.replace(config, image_size=image_size, orientation_buckets=buckets)
