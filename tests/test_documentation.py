"""The promises of README.md and docs/ that can be kept in a minute: Python runs, names exist."""

import cProfile
import importlib
import json
import os
import pkgutil
import re
import shlex
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

import fcos_tf
from fcos_tf.cli import command_line
from fcos_tf.training.cluster import Cluster, read_cluster
from tests.digit_files import write_digits
from tests.limits import HANG

ROOT = Path(__file__).resolve().parents[1]
PAGES = {
    str(path.relative_to(ROOT)): path.read_text()
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
} | {
    f"notebooks/{path.name}": "\n\n".join(
        "".join(cell["source"])
        if cell["cell_type"] == "markdown"
        else "```python\n{}\n```".format("".join(cell["source"]))
        for cell in json.loads(path.read_text())["cells"]
    )
    for path in sorted((ROOT / "notebooks").glob("*.ipynb"))
}


def python_of(page):
    (code,) = re.findall(r"```python\n(.*?)```", PAGES[page], re.DOTALL)
    return code


def shorten(code, backbone, *more):
    for long, short in (
        ('backbone="resnet50"', backbone),
        ("(512, 512)", "(64, 64)"),
        ("512x512", "64x64"),
        ("batch_size=8", "batch_size=2"),
        ("epochs=12", "epochs=1"),
        *more,
    ):
        assert long in code
        code = code.replace(long, short)
    return code


def files_that_run(code, names):
    """Executes Python; returns the files of the functions that it called."""
    for name in fcos_tf.__all__:
        getattr(fcos_tf, name)  # imported here, as imports do not count
    with cProfile.Profile(builtins=False) as profile:
        exec(code, names)
    return {entry.code.co_filename for entry in profile.getstats()}


def test_the_python_of_the_pages_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_digits("voc", "VOC2007", {"train": 4, "val": 2})
    Path("photos").mkdir()
    for name in ("a.jpg", "b.png", "photos/c.jpg"):
        Image.new("RGB", (50, 40)).save(name)
    code = python_of("README.md")
    # The same lines on a small model, small images and one epoch.
    small = 'backbone="simple_cnn", fpn_channels=32'
    code = shorten(code, f"{small}, head_convs=1", ('    backbone_weights="imagenet",\n', ""))
    names: dict = {}
    ran = files_that_run(code, names)
    to_read = re.findall(r"^\d+\. `(fcos_tf/.+\.py)`", PAGES["README.md"], re.MULTILINE)
    assert len(to_read) == 10 and {str(ROOT / file) for file in to_read} <= ran
    assert (tmp_path / "fcos.keras").is_file() and (tmp_path / "found.png").is_file()
    model = names["model"]
    exec(python_of("docs/detecting.md"), names)
    # The loaded model is the trained one.
    trained = model.predict(names["images"], verbose=0)
    for name, value in names["detections"].items():
        np.testing.assert_array_equal(trained[name], value, err_msg=name)
    # What is saved knows its classes and its image size, so that all tools take it.
    assert names["loaded"].class_names == names["train"].class_names
    assert names["loaded"].image_size == "64x64"
    names["model"] = model
    exec(python_of("docs/training.md").replace("epochs=12", "epochs=1"), names)
    assert {"val_AP", "val_mAP_voc07"} <= set(model.history.history)
    exec(python_of("docs/own_data.md"), names)
    assert names["train"].notes == ("VOC2007 is read as voc: it has JPEGImages, Annotations, "
                                    "ImageSets/Main",)  # fmt: skip
    small = 'backbone="resnet18", fpn_channels=32, fc_channels=32, num_proposals=(40, 20)'
    exec(shorten(python_of("docs/faster_rcnn.md"), small), names)
    assert len(names["two_stage"].history.history["rpn_box_loss"]) == 1


def test_the_readme_is_short_and_leads_to_all_pages():
    assert len(PAGES["README.md"].splitlines()) <= 200
    assert set(PAGES) - {"README.md"} <= set(re.findall(r"\]\(([^)]+)\)", PAGES["README.md"]))


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files_and_sections(page):
    prose = re.sub(r"```.*?```", "", PAGES[page], flags=re.DOTALL)
    for link in re.findall(r"\]\((?!http)([^)]+)\)", prose):
        file, _, section = link.partition("#")
        target = (ROOT / page).parent / file
        assert target.is_file(), link
        headings = re.findall(r"^#+ (.+)", target.read_text(), re.MULTILINE) if section else [""]
        assert section in [heading.lower().replace(" ", "-") for heading in headings], link


@pytest.mark.parametrize("page", PAGES)
def test_names_on_a_page_exist(page, flags):
    text = PAGES[page]
    folders = "benchmarks|configs|docker|docs|fcos_tf|notebooks|tests|tools"
    files = set(re.findall(rf"(?<![\w/])(?:{folders})/[\w./]*\w", text))
    configs = set(re.findall(r"\b\w+\.cfg\b", text)) - {"config.cfg"}  # a run's own
    for file in files | {f"configs/{name}" for name in configs}:
        assert (ROOT / file).exists(), file
    makefile, setup = (ROOT / "Makefile").read_text(), (ROOT / "setup.cfg").read_text()
    for target in re.findall(r"(?:^|`)make ([\w-]+)", text, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    for command in re.findall(r"`(fcos-\w+)`", text):
        assert f"    {command} = " in setup, command
    for name in re.findall(r"\bfcos_tf(?:\.\w+)+", text):
        pkgutil.resolve_name(name)
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    named = re.findall(r"--(\w+)\b(?!-)", " ".join(re.findall(r"`[^`]+`", prose)))
    assert set(named) <= set().union(*flags.values(), {"flagfile", "help"})


@pytest.fixture
def tools(monkeypatch):
    """What each tool gives to `command_line.run`, by its name."""
    taken = {}
    for path in (ROOT / "tools").glob("*.py"):
        package = "benchmarks" if path.stem == "benchmark" else "fcos_tf.cli"
        module = importlib.import_module(f"{package}.{path.stem}")
        run = lambda *_, name=path.stem, **given: taken.update({name: given})  # noqa: E731
        monkeypatch.setattr(command_line, "run", run)
        module.main([])
    return taken


@pytest.fixture
def flags(tools):
    """The names of the flags of each tool."""
    texts = {name: command_line.help_text("", **given) for name, given in tools.items()}
    return {name: set(re.findall(r"^  --(\w+):", text, re.M)) for name, text in texts.items()}


def commands():
    """Every call of a tool that the pages, the configs and the tools themselves show."""
    files = [*(ROOT / "configs").glob("*.cfg"), *(ROOT / "fcos_tf" / "cli").glob("*.py")]
    texts = [path.read_text() for path in (*files, ROOT / "benchmarks" / "benchmark.py")]
    texts = [re.sub(r"\n#? {4,}(?=--)", " ", text) for text in texts]  # commands of two lines
    command = r"""python tools/(\w+)\.py((?: +--\w+(?:=(?:'[^']*'|[^\s`'"]*))?)+)"""
    for tool, arguments in re.findall(command, "\n".join([*PAGES.values(), *texts])):
        yield tool, shlex.split(arguments)


def test_tools_take_the_flags_that_commands_show(tools):
    found = list(commands())
    assert {tool for tool, _ in found} == set(tools)
    assert len(found) > 50
    for tool, arguments in found:
        command_line.parse([tool, *arguments], **tools[tool])


def slurm_script():
    return re.search(r"```sh\n(#!/bin/bash\n#SBATCH.*?)```", PAGES["docs/hosts.md"], re.DOTALL)[1]


def kubernetes_script():
    (text,) = re.findall(r"```yaml\n(.*?)```", PAGES["docs/hosts.md"], re.DOTALL)
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
    output, errors = start_with(commands, script(), tmp_path).communicate(timeout=HANG)
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
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
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
    try:
        if stopped:
            assert job.stdout.readline() == "ready\n"
            job.terminate()
        output, _ = job.communicate(timeout=HANG)
    finally:
        is_left = end_group(job)
    assert job.returncode == status
    assert ("kept" in output) is stopped and not is_left


def end_group(job):
    """Kills what a script of `start_with` has left behind; returns whether that was anything."""
    job.kill()
    job.wait()
    try:
        os.killpg(job.pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def test_a_job_of_kubernetes_is_stopped_whenever_the_signal_comes(tmp_path):
    trains = "trap 'exit 0' TERM; while true; do sleep 0.01; done"
    for number in range(80):  # one every 0.2 ms around the start of the training
        job = start_with({"python": trains}, kubernetes_script(), tmp_path)
        time.sleep(number * 0.0002)
        job.terminate()
        try:
            # Without the signal it would go on without end.
            job.communicate(timeout=60)
        finally:
            is_left = end_group(job)
        assert job.returncode != 0 and not is_left, number
