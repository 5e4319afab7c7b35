"""Trains to the figures that the README states: `pytest -m slow`, about half an hour on 2 cores."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[1]


def train(tmp_path, *flags):
    """Runs tools/train.py and returns its metrics.json."""
    command = [sys.executable, "tools/train.py", f"--model_dir={tmp_path}", *flags]
    subprocess.run(command, cwd=ROOT, check=True)
    assert (tmp_path / "detections.png").is_file() and (tmp_path / "model.keras").is_file()
    return json.loads((tmp_path / "metrics.json").read_text())


def test_the_demo_reaches_its_figures(tmp_path):
    metrics = train(tmp_path, "--flagfile=digits.cfg")
    assert metrics["AP"] >= 0.60 and metrics["AP50"] >= 0.90


def test_blood_cells_equal_torchvision(tmp_path, shared_data):
    # torchvision's FCOS in the same set-up, two seeds: AP .474 and .485, AP50 .812 and .825.
    runs = [
        train(
            tmp_path / str(seed),
            "--flagfile=bccd.cfg",
            f"--data_dir={shared_data / 'bccd'}",
            f"--seed={seed}",
        )
        for seed in (0, 1)
    ]
    assert sum(run["AP"] for run in runs) / 2 >= (0.474 + 0.485) / 2
    assert sum(run["AP50"] for run in runs) / 2 >= (0.812 + 0.825) / 2


def test_eight_images_are_learnt_by_heart(tmp_path, shared_data):
    metrics = train(tmp_path, "--flagfile=overfit.cfg", f"--data_dir={shared_data / 'voc2007'}")
    assert metrics["AP50"] >= 0.95
