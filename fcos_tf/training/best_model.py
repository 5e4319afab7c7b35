"""The best model of a run, chosen by one metric; a resumed run continues from its record."""

import json
import math
import warnings
from pathlib import Path

from fcos_tf.training import checkpoints
from fcos_tf.training.atomic import write_text
from fcos_tf.training.step_callback import EvaluationCallback

BEST_MODEL_FILE = "best.keras"
BEST_RECORD_FILE = "best.json"


class BestModel(EvaluationCallback):
    """Saves the model of the best evaluation as `best.keras`, its value in `best.json`.

    Place it after the callback that evaluates. A resumed run continues from `best.json`. A run
    from step 0 removes the `best.json` of an older run; its first evaluation replaces
    `best.keras`.

    Args:
        model_dir: The run's folder.
        best_metric: The metric: `AP`, `AP50`, `mAP_voc07`, `loss` ... A record of another metric
            in `best.json` is ignored.
        goal: "max" or "min", see `ImageModel.best_metrics`.
        first_step: Updates done before the first `fit`; above 0 in a resumed run.

    Example:
        >>> model.fit(train, epochs=9, callbacks=[DetectionMetrics(val), BestModel("runs/a")])
    """

    def __init__(
        self,
        model_dir: str | Path,
        *,
        best_metric: str = "AP",
        goal: str = "max",
        first_step: int = 0,
    ):
        super().__init__(first_step)
        self.model_dir = Path(model_dir)
        self.best_metric = best_metric
        self._sign = -1 if goal == "min" else 1
        self.best = self._read() if first_step else -math.inf * self._sign
        self._seen = False

    def on_train_begin(self, logs=None):
        """Removes the record of an older run in the same folder."""
        record = self.model_dir / BEST_RECORD_FILE
        if not self.step and not self._seen and record.is_file():
            warnings.warn(
                f"removed {record} of an older run: this run starts at step 0, and its first "
                f"evaluation replaces {BEST_MODEL_FILE}",
                stacklevel=2,
            )
            record.unlink()

    def on_evaluation(self, step, metrics):
        """Saves the model if the metric has improved."""
        if self.best_metric not in metrics:
            return
        self._seen = True
        value = metrics[self.best_metric]
        if not value * self._sign > self.best * self._sign:  # true for NaN
            return
        self.best = value
        self.model_dir.mkdir(parents=True, exist_ok=True)
        # The model first: a kill in between leaves a model better than its record.
        checkpoints.write_model(self.model, self.model_dir / BEST_MODEL_FILE)
        record = {"monitor": self.best_metric, "value": value, "step": step}
        write_text(self.model_dir / BEST_RECORD_FILE, json.dumps(record) + "\n")

    def on_train_end(self, logs=None):
        """Warns if no evaluation had the metric."""
        if not self._seen:
            warnings.warn(
                f"no evaluation gave {self.best_metric!r}; {BEST_MODEL_FILE} is not written",
                stacklevel=2,
            )

    def _read(self) -> float:
        """The recorded best value; the worst possible one without a record."""
        worst = -math.inf * self._sign
        path = self.model_dir / BEST_RECORD_FILE
        if not path.is_file() or not (self.model_dir / BEST_MODEL_FILE).is_file():
            return worst
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            is_same = record["monitor"] == self.best_metric
            return float(record["value"]) if is_same else worst
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path}: expected monitor, value and step, got {error!r}; remove the file to "
                "start without a record"
            ) from error
