"""What the tests of docker/ share."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
DOCKER = ROOT / "docker"
DOCKERFILES = ("Dockerfile", "Dockerfile.runtime", "Dockerfile.serving")


def instructions(dockerfile):
    """The (instruction, arguments) of a Dockerfile."""
    text = re.sub(r"^#.*\n", "", (DOCKER / dockerfile).read_text(), flags=re.MULTILINE)
    lines = text.replace("\\\n", " ").splitlines()
    return [tuple(line.split(None, 1)) for line in lines if line.strip()]


def compose(file="compose.yaml", service="serving"):
    return yaml.safe_load((DOCKER / file).read_text())["services"][service]


def committed(folder="."):
    """The files that git has, or would take."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "."]
    found = subprocess.run(command, cwd=ROOT / folder, capture_output=True, text=True)
    if found.returncode:
        pytest.skip("not a git repository")
    return found.stdout.splitlines()
