"""A script that leaves a data set running ends all the same."""

import os
import subprocess
import sys

import pytest

from tests.digit_files import write_digits
from tests.limits import HANG

SCRIPT = """
import fcos_tf
data = fcos_tf.data.load({dataset!r}, data_dir={data_dir!r}, split="train", batch_size=2,
                         image_size=(64, 64), training=True, repeat=True)
iterator = iter(data)
for _ in range(3):
    next(iterator)
print("last line", flush=True)
"""


@pytest.mark.parametrize("dataset", ["digits", "voc"])
def test_the_interpreter_ends_while_batches_are_fetched(tmp_path, dataset):
    write_digits("voc", tmp_path, {"train": 6})
    data_dir = None if dataset == "digits" else str(tmp_path)
    code = SCRIPT.format(dataset=dataset, data_dir=data_dir)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=HANG,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "0"},
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "last line\n"), done.stderr
    assert "Traceback" not in done.stderr and "shutting down" not in done.stderr
