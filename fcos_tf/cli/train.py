"""Trains a detector or classifier, or resumes its training, and evaluates it.

    python tools/train.py --flagfile=digits.cfg --model_dir=runs/digits

Writes under --model_dir: checkpoints/, tensorboard/, config.cfg (all flags of the run, for
--flagfile), metrics.jsonl (a line per log step and per evaluation), best.keras (the model with the
highest --best_metric) and, at the end, model.keras, metrics.json (the last evaluation) and
detections.png. The same command resumes from the newest checkpoint. SIGINT (Ctrl-C) or SIGTERM
stops the run after the current step, with a checkpoint; a second signal ends it at once.

With --model=classifier --probe the class logits alone are fitted, after one pass over
the images; the folder gets config.cfg, model.keras, metrics.json and per_class.json.
"""

from typing import Any

from fcos_tf.cli import command_line
from fcos_tf.config import AugmentationOptions, Config, EvaluationOptions, TrainingOptions
from fcos_tf.jobs.train import tell, train
from fcos_tf.options import fields_of, options_for, sections_of
from fcos_tf.tensorflow_words import is_out_of_memory, load_tensorflow

_OF_STEPS = (
    "epochs", "steps", "eval_every", "best_metric", "checkpoint_every", "keep_checkpoints",
    "log_every", "deterministic",
)  # fmt: skip


def main(argv: list[str] | None = None) -> None:
    """Runs the tool; ends the process with its exit status."""
    uses = [section for section in sections_of(Config) if section is not EvaluationOptions]
    command_line.run(_train, __doc__, argv, uses=[*uses, "val_split", "metrics"])


def _train(config: Config, options: Any, given: command_line.Given) -> None:
    if config.probe:
        unused = {*fields_of(AugmentationOptions), *fields_of(TrainingOptions), *_OF_STEPS}
        command_line.refuse_unused(given, "--probe", unused - {"probe", "precision"})
    load_tensorflow()
    from fcos_tf.evaluation import format_table
    from fcos_tf.training.interruption import TrainingStopped
    from fcos_tf.training.strategy import make_strategy, share_of

    # First of all TensorFlow calls, as several hosts need it.
    strategy = make_strategy(**options_for(config, make_strategy, report=tell))
    is_chief = share_of(strategy).is_chief
    try:
        metrics = train(config, strategy=strategy)
    except TrainingStopped as stopped:
        if is_chief:
            print(f"{stopped}; the same command resumes from there")
        return
    except Exception as error:
        if is_out_of_memory(error):
            raise MemoryError(out_of_memory(config)) from error
        raise
    if is_chief:
        print(format_table(metrics))
        print(f"step {metrics['step']}; pictures, metrics and the model are in {config.model_dir}")


def out_of_memory(config: Config) -> str:
    """The message for exhausted memory: the options that reduce its use."""
    return (
        f"out of memory; lower --batch_size (now {config.batch_size}) or --image_size "
        f"({config.image_size}), use --precision=mixed_bfloat16 ({config.precision}), raise "
        f"--accumulation_steps ({config.accumulation_steps}) or --frozen_stages "
        f"({config.frozen_stages}), or choose a smaller --backbone ({config.backbone})"
    )
