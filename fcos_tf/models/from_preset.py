"""Detectors by the name of a published one: its settings, and its weights where they are known."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from fcos_tf.layers.blocks import check_choices
from fcos_tf.models.image_model import ImageModel
from fcos_tf.models.weights import load_detector
from fcos_tf.options import parameters_of
from fcos_tf.published import DETECTORS


class FromPreset:
    """Mixed into `Detector`.

    Attributes:
        presets: name -> constructor arguments of a published detector.
        published_prefix: before the name of a preset among `published.DETECTORS`.
        weight_arguments: names of constructor arguments that weights are trained for.
    """

    presets: Mapping[str, Mapping[str, Any]] = {}
    published_prefix = ""
    weight_arguments: Sequence[str] = ()

    @classmethod
    def from_preset(
        cls,
        name: str,
        weights: str | None = None,
        *,
        load_weights: bool | None = None,
        **overrides,
    ) -> ImageModel:
        """A detector with the settings of a published one, and its weights where they are known.

        Published weights are those of `published.DETECTORS`: "torchvision_coco". They are
        downloaded once, see `fetch_weights`. The other presets are settings only. With other
        classes, the layers of the classes stay random.

        Args:
            name: a key of `presets`, such as "torchvision_coco".
            weights: a `.keras` file of such a detector, converted by `tools/convert.py`; None: as
                `load_weights` says.
            load_weights: True: the published weights; False: random ones; None: the published
                weights, or random ones, with a warning, where there are none for this preset and
                these overrides.
            **overrides: see `preset_arguments`.

        Raises:
            ValueError: for an unknown name, weights of another architecture, or none to load.
            FileNotFoundError: if the weights file is missing.
            OSError: if the weights cannot be downloaded.

        Example:
            >>> classes = {"class_names": ("cat", "dog")}
            >>> model = FCOS.from_preset("torchvision_coco", load_weights=False, **classes)
            >>> model.num_classes, model.image_size
            (2, '800,1333')
        """
        arguments = cls.preset_arguments(name, overrides)
        if weights is None and load_weights is not False:
            weights = cls._published_weights(name, overrides, required=bool(load_weights))
        model = cls(**arguments)
        if weights is not None:
            model._take_weights(load_detector(weights), file=weights)
        return model

    @classmethod
    def _published_weights(cls, name, overrides, *, required: bool) -> str | None:
        """The name of a preset's published weights, if they fit the overrides."""
        defaults = parameters_of(cls) | cls.presets[name]
        known = [name for name in cls.weight_arguments if name in defaults]
        changed = [n for n in known if overrides.get(n, defaults[n]) != defaults[n]]
        published = cls.published_prefix + name
        if published in DETECTORS and not changed:
            return published
        other = f" with another {', '.join(changed)}" if published in DETECTORS else ""
        missing = (
            f"no published weights of {name}{other}; give weights=FILE of a converted detector, or "
            "load_weights=False for random weights"
        )
        if required:
            raise ValueError(f"load_weights: {missing}")
        warnings.warn(f"the weights are random: {missing}", stacklevel=3)
        return None

    @classmethod
    def preset_arguments(cls, name: str, overrides: Mapping[str, Any]) -> dict[str, Any]:
        """The constructor's arguments of a preset.

        Args:
            name: a key of `presets`.
            overrides: arguments that differ. One of `num_classes` and `class_names` is enough;
                other classes drop the published ids.

        Raises:
            ValueError: for an unknown name.
        """
        check_choices(preset=(name, cls.presets))
        settings = {**cls.presets[name], **overrides}
        published = cls.presets[name]["class_names"]
        other_number = settings.get("num_classes", len(published)) != len(published)
        if "class_names" not in overrides and other_number:
            settings["class_names"] = None
        if "category_ids" not in overrides and settings["class_names"] != published:
            settings["category_ids"] = None
        settings.setdefault("num_classes", len(settings["class_names"] or ()))
        return settings
