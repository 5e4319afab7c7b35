"""The accuracy gate of a config: from the options to `AccuracyGate`."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

from fcos_tf.config import Config


def make_gate(
    config: Config,
    model: Any,
    path: str | Path,
    *,
    val_images: int,
    max_ap_loss: float,
    report: str | Path | None = None,
    given: Collection[str] = (),
):
    """The gate for exports of a model, on the validation data of a config.

    Args:
        config: the data, `val_split`, `image_size` and `apply_exif`.
        model: the detector; one without an image size gets that of the config.
        path: its file, for messages.
        val_images: the number of images.
        max_ap_loss: see `fcos_tf.export.AccuracyGate`.
        report: see there.
        given: names of the options of `config` that replace those of the model.

    Raises:
        ValueError: a classifier, data that do not fit the model, or see `AccuracyGate`.
        FileNotFoundError: no data.
    """
    from fcos_tf import build
    from fcos_tf.export import AccuracyGate
    from fcos_tf.models.detector import detectable

    if not hasattr(model, "detect"):
        raise ValueError(
            f"--val_images: expected a detector, got a {type(model).__name__} in {path}"
        )
    if model.image_size is None and "image_size" in given:
        model.image_size = config.image_size
    config = build.with_input_of(model, config, given)
    dataset = build.load_val_data(config, model.class_names and detectable(model.class_names))
    for note in dataset.notes:
        print(note)
    data = f"{config.dataset} {config.val_split}"
    print(f"measuring {path} and its exports on {val_images} images of {data}", flush=True)
    return AccuracyGate(
        model,
        dataset,
        val_images,
        max_ap_loss=max_ap_loss,
        report=report,
        title=f"{path} on {data}",
    )
