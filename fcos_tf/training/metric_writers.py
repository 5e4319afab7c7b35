"""Where the numbers of a run go: `metrics.jsonl`, TensorBoard, the terminal.

Each writer has `write(step, kind, values)` and `close()`. `kind` is "train" (means over the steps
since the last such record) or "val" (one evaluation); `values` maps names to floats.
"""

import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TextIO

from tensorboard.compat.proto import event_pb2
from tensorboard.plugins.scalar.summary import scalar_pb
from tensorboard.summary.writer.event_file_writer import EventFileWriter


class JsonLinesWriter:
    """One JSON object per line: {"step": 20, "kind": "train", "loss": 1.25, ...}.

    Args:
        path: The file; its folder must exist.
        first_step: Updates done before this run goes on. Lines of later steps, which a run that
            was killed after its last checkpoint leaves behind, are cut, as they will be written
            again; so is a last line that was cut short.
    """

    def __init__(self, path: str | Path, *, first_step: int = 0):
        path = Path(path)
        kept = _lines_until(path, first_step) if path.exists() else []
        temporary = path.with_name(f".{path.name}.writing")
        with open(temporary, "w", encoding="utf-8") as file:
            file.writelines(line + "\n" for line in kept)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 - closed by close()

    def write(self, step: int, kind: str, values: Mapping[str, float]) -> None:
        """Appends one line and hands it to the operating system."""
        record = {"step": step, "kind": kind, **{name: float(v) for name, v in values.items()}}
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


class TensorBoardWriter:
    """Scalars for TensorBoard, by step: `train/loss`, `val/AP` ...

    Args:
        folder: Where the event files go; made if it is not there.
        first_step: Updates done before this run goes on; TensorBoard then drops what a killed
            run wrote for later steps.
    """

    def __init__(self, folder: str | Path, *, first_step: int = 0):
        self._writer = EventFileWriter(str(folder))
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._add(first_step + 1, session_log=start)

    def write(self, step: int, kind: str, values: Mapping[str, float]) -> None:
        """Writes one scalar per value."""
        for name, value in values.items():
            self._add(step, summary=scalar_pb(f"{kind}/{name}", float(value)))
        self._writer.flush()

    def close(self) -> None:
        """Closes the event file."""
        self._writer.close()

    def _add(self, step: int, **content) -> None:
        self._writer.add_event(event_pb2.Event(wall_time=time.time(), step=step, **content))


class TextWriter:
    """One readable line per record, for log files and terminals without a progress bar.

    Args:
        total_steps: The length of the run, shown beside each step.
        stream: Where to print; standard output by default.
    """

    def __init__(self, total_steps: int, stream: TextIO | None = None):
        self._total_steps = total_steps
        self._stream = stream

    def write(self, step: int, kind: str, values: Mapping[str, float]) -> None:
        """Prints the record."""
        numbers = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        label = "" if kind == "train" else f"[{kind}]  "
        line = f"step {step}/{self._total_steps}  {label}{numbers}"
        print(line, file=self._stream or sys.stdout, flush=True)

    def close(self) -> None:
        """Nothing to close."""


def _lines_until(path: Path, last_step: int) -> list[str]:
    """The whole lines of a metrics file whose step is at most `last_step`."""
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            step = json.loads(line)["step"]
        except (json.JSONDecodeError, KeyError, TypeError):
            continue
        if step <= last_step:
            kept.append(line)
    return kept
