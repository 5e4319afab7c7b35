"""What all tests share."""

import gc
import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ["FCOS_TF_MIRROR"] = "http://127.0.0.1:1"  # no test downloads published weights

import pytest

# The folders whose files take longest.
_FIRST = ("training", "models", "cli", "export", "serving")


def pytest_collection_modifyitems(items):
    """Long files first, so that at the end no process of several is left alone with one."""
    items.sort(key=lambda item: item.nodeid.split("/")[1] not in _FIRST)


def pytest_collection_finish():
    """Full garbage collections leave out what has been imported, and come more seldom.

    They took a tenth of the time of a test that traces a model: each looked at all of TensorFlow.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*gc.get_threshold()[:2], 100)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real photos and annotations, which the repository does not carry."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("FCOS_TF_TEST_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set FCOS_TF_TEST_DATA to run this test")
    return folder
