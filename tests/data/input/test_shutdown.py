"""A script that leaves data sets running ends all the same."""

import os
import subprocess
import sys

from tests.digit_files import write_digits
from tests.limits import HANG

SCRIPT = """
import fcos_tf
options = dict(split="train", batch_size=2, image_size=(64, 64), training=True, repeat=True)
data = fcos_tf.data.load("digits", **options), fcos_tf.data.load("voc", data_dir={!r}, **options)
iterators = [iter(each) for each in data]
for iterator in iterators:
    for _ in range(3):
        next(iterator)
print("last line", flush=True)
"""


def test_the_interpreter_ends_while_batches_are_fetched(tmp_path):
    """Those of pixels in memory, and those of files."""
    write_digits("voc", tmp_path, {"train": 6})
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(str(tmp_path))],
        capture_output=True, text=True, timeout=HANG,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "0"},
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "last line\n"), done.stderr
    assert "Traceback" not in done.stderr and "shutting down" not in done.stderr
