"""Where the numbers of a run go: `metrics.jsonl`, TensorBoard, lines of text, a progress bar.

Each writer has `write(step, kind, values)` and `close()`. `kind` is "train" (means over the steps
since the last such record) or "val" (one evaluation); `values` maps names to floats. One that takes
pictures, too, has `write_pictures(step, kind, pictures)`.
"""

import datetime
import io
import json
import math
import os
import socket
import sys
import time
from collections.abc import Collection, Mapping
from pathlib import Path

from PIL import Image
from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.plugins.scalar.summary import scalar_pb
from tensorboard.summary.writer.record_writer import RecordWriter
from tqdm import tqdm

from fcos_tf.atomic_files import naming, write_text
from fcos_tf.training.loop import StepCallback
from fcos_tf.visualization.curves import read_records


class JsonLinesWriter:
    """One JSON object per line: {"step": 20, "kind": "train", "loss": 1.25, ...}.

    Non-finite numbers become null.

    Args:
        path: The file; its folder must exist.
        first_step: Updates done before. Lines of later steps, from a run that was killed after its
            last checkpoint, are cut, as they will be written again; so is an incomplete last line.

    Raises:
        ValueError: The file has a line that is no record.
    """

    def __init__(self, path: str | Path, *, first_step: int = 0):
        path = Path(path)
        records = read_records(path) if path.exists() else ()
        write_text(path, "".join(f"{line}\n" for line, step, *_ in records if step <= first_step))
        self._file = _AppendedFile(path)

    def write(self, step: int, kind: str, values: Mapping[str, float]) -> None:
        """Appends one line and waits until it is on disk.

        Raises:
            OSError: It cannot be written, e.g. on a full disk.
        """
        # JSON has no NaN.
        numbers = {k: float(x) if math.isfinite(x) else None for k, x in values.items()}
        record = {"step": step, "kind": kind, **numbers}
        self._file.write(json.dumps(record, allow_nan=False).encode() + b"\n")
        self._file.sync()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


class TensorBoardWriter:
    """Scalars and pictures for TensorBoard, by step: `train/loss`, `val/AP` ...

    Args:
        folder: Folder of the event files; created if missing.
        first_step: Updates done before; TensorBoard drops the records of a killed run for later
            steps.
    """

    def __init__(self, folder: str | Path, *, first_step: int = 0):
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        # TensorBoard reads the files in the order of their names.
        name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}"
        # Not tensorboard's EventFileWriter: its thread prints a traceback when a disk is full.
        self._file = _AppendedFile(folder / name)
        self._records = RecordWriter(self._file)
        self._add(0, file_version="brain.Event:2")
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._add(first_step + 1, session_log=start)

    def write(self, step: int, kind: str, values: Mapping[str, float]) -> None:
        """Writes one scalar per value."""
        for name, value in values.items():
            self._add(step, summary=scalar_pb(f"{kind}/{name}", float(value)))

    def write_pictures(self, step: int, kind: str, pictures: Mapping[str, Image.Image]) -> None:
        """Writes RGB pictures: `val/image_12` ..."""
        for name, picture in pictures.items():
            encoded = io.BytesIO()
            picture.save(encoded, format="PNG")
            size = {"height": picture.height, "width": picture.width, "colorspace": 3}  # RGB
            image = summary_pb2.Summary.Image(encoded_image_string=encoded.getvalue(), **size)
            value = summary_pb2.Summary.Value(tag=f"{kind}/{name}", image=image)
            self._add(step, summary=summary_pb2.Summary(value=[value]))

    def close(self) -> None:
        """Closes the event file."""
        self._file.close()

    def _add(self, step: int, **content) -> None:
        event = event_pb2.Event(wall_time=time.time(), step=step, **content)
        self._records.write(event.SerializeToString())


class TextWriter:
    """One readable line per record, for log files and terminals without a progress bar.

    Lines of training, except the first, end with the remaining time at the pace since the first.

    Args:
        total_steps: The length of the run, shown beside each step.
        left_out: Names that are for files only, such as `ImageModel.detail_names`.
    """

    def __init__(self, total_steps: int, *, left_out: Collection[str] = ()):
        self._total_steps = total_steps
        self._left_out = left_out
        self._first: tuple[int, float] | None = None

    def write(self, step: int, kind: str, values: Mapping[str, float]) -> None:
        """Prints the record."""
        parts = [f"step {step}/{self._total_steps}"]
        if kind != "train":
            parts.append(f"[{kind}]")
        parts += [f"{name} {x:.4g}" for name, x in values.items() if name not in self._left_out]
        if kind == "train":
            now = time.monotonic()
            self._first = self._first or (step, now)  # excludes the start-up
            first_step, first_time = self._first
            if step > first_step:
                left = (self._total_steps - step) * (now - first_time) / (step - first_step)
                parts.append(f"ETA {datetime.timedelta(seconds=round(left))}")
        print("  ".join(parts), flush=True)

    def close(self) -> None:
        """Nothing to close."""


class ProgressBar(StepCallback):
    """A bar over the steps of a run, for terminals: a writer, and a callback.

    The bar moves at every step and shows losses and speed of the newest record: reading them from
    the device at every step, as `keras.callbacks.ProgbarLogger` does, would make training wait.
    Before each evaluation it stays on a line of its own. Stand after TrainingLog and before
    callbacks that evaluate.

    Args:
        total_steps: The length of the run.
        first_step: Updates done before the first `fit`.
        left_out: Names that lines of text do not show.
    """

    def __init__(self, total_steps: int, *, first_step: int = 0, left_out: Collection[str] = ()):
        super().__init__(first_step)
        self._first_step, self._total_steps = first_step, total_steps
        self._text = TextWriter(total_steps, left_out=left_out)
        self._bar: tqdm | None = None
        self._values = ""

    def on_epoch_begin(self, epoch, logs=None):
        """Draws the bar at the beginning of the run."""
        super().on_epoch_begin(epoch, logs)
        if self._bar is None:
            # Without smoothing the time that is left has evaluations in it.
            self._bar = tqdm(
                desc="step", total=self._total_steps, initial=self.step, unit="step",
                smoothing=0, miniters=1, dynamic_ncols=True, leave=False, file=sys.stdout,
            )  # fmt: skip

    def on_step_end(self, step, logs):
        """Moves the bar."""
        if self._bar.initial == self._first_step:
            # The first step, which has the start-up in it, says nothing about the speed.
            self._bar.initial = step
            self._bar.unpause()
        self._bar.set_postfix_str(self._values, refresh=False)
        self._bar.update(step - self._bar.n)
        if logs is not None:
            self._bar.refresh()
            print()

    def write(self, step: int, kind: str, values: Mapping[str, float]) -> None:
        """Keeps the numbers of training that the bar shows; prints those of an evaluation."""
        if kind == "train":
            names = [name for name in values if name.endswith("loss")] + ["images_per_second"]
            self._values = "  ".join(f"{name} {values[name]:.4g}" for name in names)
        else:
            self._text.write(step, kind, values)

    def close(self) -> None:
        """Ends the line of a bar that was broken off; one at an evaluation has ended its own."""
        if self._bar is not None:
            self._bar.leave = self._batch is not None
            self._bar.close()


class _AppendedFile:
    """A file written at its end, without a buffer; errors name it."""

    def __init__(self, path: Path):
        self._path = path
        with naming(path):
            self._file = open(path, "ab", buffering=0)  # noqa: SIM115 - closed by close()

    def write(self, content: bytes) -> None:
        """Hands all of it to the operating system, which may take a part at a time."""
        with naming(self._path):
            while content:
                content = content[self._file.write(content) :]

    def sync(self) -> None:
        """Waits until all is on disk."""
        with naming(self._path):
            os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()
