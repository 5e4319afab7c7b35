"""The README's promises that can be kept in a minute: its Python runs, its files exist."""

import importlib
import os
import re
import shlex
import subprocess
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from fcos_tf.cli import command_line
from fcos_tf.training.cluster import Cluster, read_cluster
from tests.digit_files import write_digits

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def test_the_notebook_snippet_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_digits("voc", "VOC2007", {"train": 4, "val": 2})
    for name in ("a.jpg", "b.png"):
        Image.new("RGB", (50, 40)).save(name)
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    # The same lines on a small model, small images and one epoch.
    for long, short in (
        ('backbone="resnet50"', 'backbone="resnet18", head_convs=1'),
        ('    backbone_weights="imagenet",\n', ""),
        ("(512, 512)", "(64, 64)"),
        ("512x512", "64x64"),
        ("batch_size=8", "batch_size=2"),
        ("epochs=12", "epochs=1"),
    ):
        assert long in code
        code = code.replace(long, short)
    names: dict = {}
    exec(code, names)
    again = names["model"].predict(names["images"], verbose=0)
    # The loaded model is the trained one.
    for name, value in names["detections"].items():
        np.testing.assert_array_equal(again[name], value, err_msg=name)
    assert (tmp_path / "fcos.keras").is_file() and (tmp_path / "found.png").is_file()
    # What is saved knows its classes and its image size, so that all tools take it.
    assert names["model"].class_names == names["train"].class_names
    assert names["model"].image_size == "64x64"


def test_linked_files_and_configs_exist():
    links = re.findall(r"\]\((?!http)([^)]+)\)", README)
    configs = re.findall(r"`(\w+\.cfg)` \|", README)
    assert links and len(configs) >= 4
    for file in [*links, *(f"configs/{name}" for name in configs)]:
        assert (ROOT / file).is_file(), file


def test_commands_name_tools_and_targets_that_exist():
    tools = re.findall(r"python (tools/\w+\.py)", README)
    targets = re.findall(r"\bmake (\w+)", README)
    makefile = (ROOT / "Makefile").read_text()
    assert tools and {"demo", "test"} <= set(targets)
    for tool in tools:
        assert (ROOT / tool).is_file(), tool
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def commands():
    """Every call of a tool that the README, the configs and the tools themselves show."""
    files = [*(ROOT / "configs").glob("*.cfg"), *(ROOT / "fcos_tf" / "cli").glob("*.py")]
    texts = [path.read_text() for path in (*files, ROOT / "benchmarks" / "benchmark.py")]
    texts = [re.sub(r"\n#? {4,}(?=--)", " ", text) for text in texts]  # commands of two lines
    command = r"""python tools/(\w+)\.py((?: +--\w+(?:=(?:'[^']*'|[^\s`'"]*))?)+)"""
    for tool, arguments in re.findall(command, "\n".join([README, *texts])):
        yield tool, shlex.split(arguments)


def test_tools_take_the_flags_that_commands_show(monkeypatch):
    found = list(commands())
    assert {tool for tool, _ in found} == {path.stem for path in (ROOT / "tools").glob("*.py")}
    assert len(found) > 50
    taken = []
    monkeypatch.setattr(command_line, "run", lambda *_, **given: taken.append(given))
    for tool, arguments in found:
        module = "benchmarks" if tool == "benchmark" else "fcos_tf.cli"
        importlib.import_module(f"{module}.{tool}").main([])
        command_line.parse([tool, *arguments], **taken.pop())


def slurm_script():
    return re.search(r"```sh\n(#!/bin/bash\n#SBATCH.*?)```", README, re.DOTALL)[1]


def kubernetes_script():
    (text,) = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    _, job = yaml.safe_load_all(text)
    return job["spec"]["template"]["spec"]["containers"][0]["args"][0]


@pytest.mark.parametrize(
    "script, addresses",
    [
        (slurm_script, ("node-3:12345", "node-4:12345")),
        (kubernetes_script, ("fcos-0.fcos:12345", "fcos-1.fcos:12345")),
    ],
)
def test_schedulers_give_each_host_its_tf_config(script, addresses, tmp_path):
    commands = {
        "scontrol": "printf 'node-3\\nnode-4\\n'",
        "srun": 'SLURM_PROCID=1 "$@"',
        "python": f'echo "$TF_CONFIG"; touch {tmp_path}/model.keras',
    }
    output, errors = start_with(commands, script(), tmp_path).communicate(timeout=30)
    assert read_cluster({"TF_CONFIG": output}) == Cluster(addresses, 1), errors


def start_with(commands, script, folder):
    """Starts a script in a shell that finds these commands, which are one line each."""
    for name, line in commands.items():
        (folder / name).write_text(f"#!/bin/bash\n{line}\n")
        (folder / name).chmod(0o755)
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    return subprocess.Popen(
        ["bash", "-c", script.replace("/shared/runs/coco", str(folder))],
        env={"PATH": path, "JOB_COMPLETION_INDEX": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("trains", "stopped", "status"),
    [
        ("touch {}/model.keras", False, 0),
        ("exit 1", False, 1),
        # Stopped, a run ends well, but is not done.
        ("trap 'echo kept; exit 0' TERM; echo ready; while true; do sleep 0.1; done", True, 1),
    ],
)
def test_a_job_of_kubernetes_is_done_when_the_model_is_there(trains, stopped, status, tmp_path):
    script = kubernetes_script()
    job = start_with({"python": trains.format(tmp_path)}, script, tmp_path)
    if stopped:
        assert job.stdout.readline() == "ready\n"
        job.terminate()
    output, _ = job.communicate(timeout=30)
    assert job.returncode == status
    assert ("kept" in output) is stopped
