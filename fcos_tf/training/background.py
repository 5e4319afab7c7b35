"""Checkpoints that are written while training goes on."""

from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain
from pathlib import Path

import keras

from fcos_tf.models import running_means
from fcos_tf.training import checkpoints


class BackgroundSaver:
    """Writes checkpoints in a thread of its own, from a copy of the model in host memory.

    Training waits only while the variables are copied, and for the checkpoint before this one
    where that is not on disk yet.

    Args:
        model_dir: The run's folder.
        keep: How many of the newest checkpoints stay, >= 1.
    """

    def __init__(self, model_dir: str | Path, *, keep: int = 3):
        self.model_dir = Path(model_dir)
        self.keep = keep
        self._copy = None
        self._writing: Future | None = None
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")

    def save(self, model: keras.Model, step: int) -> None:
        """Starts to write the checkpoint of `step`; the model may change as soon as this returns.

        Args:
            model: A built, compiled model whose class and layers Keras can make from their config;
                always the same one.
            step: Number of updates done, >= 0.

        Raises:
            OSError: The checkpoint before this one could not be written.
        """
        self.wait()
        with keras.device("cpu:0"):
            if self._copy is None:
                self._copy = _copy_of(model)
            for kept, variable in zip(_state(self._copy), _state(model), strict=True):
                kept.assign(variable)
            running_means.write(self._copy, running_means.read(model))
        self._writing = self._executor.submit(
            checkpoints.save, self._copy, self.model_dir, step, keep=self.keep
        )

    def check(self) -> None:
        """Raises what has gone wrong with the last checkpoint, if it is known already."""
        if self._writing is not None and self._writing.done():
            self.wait()

    def wait(self) -> None:
        """Returns when the last checkpoint is on disk; raises what has gone wrong with it."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()


def _copy_of(model: keras.Model) -> keras.Model:
    """A model with an optimizer like another's, variables of the same shapes in the same order."""
    config = keras.saving.serialize_keras_object(model)
    config.pop("compile_config", None)
    copy = keras.saving.deserialize_keras_object(config)
    for kept, variable in zip(copy.variables, model.variables, strict=True):
        # The config does not know what was frozen afterwards; the optimizer depends on it.
        kept.trainable = variable.trainable
    copy.compile_from_config(model.get_compile_config())
    return copy


def _state(model: keras.Model) -> chain:
    return chain(model.variables, model.optimizer.variables)
