"""A run of `train.py --probe`: data and model of a config, and the files of a run."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tqdm import tqdm

from fcos_tf.config import Config
from fcos_tf.options import to_flags


def probe(
    model_dir: Path, config: Config, tell: Callable[[str], None], strategy: Any
) -> dict[str, float]:
    """Fits a linear probe in a folder of its own; see `fcos_tf.training.probe`.

    Returns:
        `step`, the passes of the last fit, the mAP of the validation split, and the numbers of
        `fit_probe`.

    Raises:
        ValueError: No classifier, or a folder with the checkpoints of another run; see also
            `fcos_tf.jobs.train.train`.
    """
    import keras

    from fcos_tf import build
    from fcos_tf.atomic_files import write_text
    from fcos_tf.evaluation import Scores, run_classifier
    from fcos_tf.training import checkpoints, run
    from fcos_tf.training.probe import fit_probe

    if not hasattr(build.model_class(config), "classify"):
        raise ValueError(f"--probe: expected with --model=classifier, got --model={config.model}")
    if checkpoints.latest(model_dir):
        raise ValueError(f"--model_dir: expected a folder without checkpoints, got {model_dir}")
    if (model_dir / "best.keras").exists():
        raise ValueError(f"--model_dir: expected a folder without best.keras, got {model_dir}")
    keras.utils.set_random_seed(config.seed)
    # The images of the training split once, whole, without augmentation.
    of_training = dataclasses.replace(config, val_split=config.train_split)
    train_data = build.load_val_data(of_training)
    val_data = build.load_val_data(config, train_data.class_names)
    for note in dict.fromkeys(train_data.notes + val_data.notes):
        tell(note)
    build.check_disjoint(config, train_data, val_data)
    with strategy.scope():
        classes = train_data.class_names, train_data.category_ids
        model = build.make_model(config, *classes, dataset=train_data)
    tell(f"features of {train_data.num_images} images, {len(train_data.class_names)} classes")
    with tqdm(total=train_data.num_images, unit="image", disable=None) as bar:
        progress = lambda done: bar.update(done - bar.n)  # noqa: E731
        numbers = fit_probe(model, train_data, seed=config.seed, report=tell, progress=progress)
    scores = run_classifier(model, val_data).scores()
    metrics = {"step": int(numbers.pop("steps")), **scores.metrics, **numbers}
    write_text(model_dir / run.CONFIG_FILE, to_flags(config))
    run.write_scores(model_dir, Scores(metrics, scores.per_class))
    checkpoints.write_model(model, model_dir / run.MODEL_FILE)
    return metrics
