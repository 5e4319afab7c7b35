"""What the images of docker/ are made of, as far as it can be checked without Docker."""

import configparser
import re
import subprocess

import pytest
import yaml

from tests.serving.docker_files import DOCKER, DOCKERFILES, ROOT, committed, compose, instructions


def test_bases_are_pinned_by_digest():
    """But for TensorFlow Serving's, whose digest was not to be found; docs/serving.md says so."""
    bases = {}
    for dockerfile in DOCKERFILES:
        (name, text), *rest = instructions(dockerfile)
        argument, _, bases[dockerfile] = text.partition("=")
        stages = [text.split()[0] for name, text in rest if name == "FROM"]
        assert name == "ARG" and stages[0] == f"${{{argument}}}"
        assert set(stages) <= {stages[0], "server"}
    digest = r"python:3\.12\.\d+-slim-bookworm@sha256:[0-9a-f]{64}"
    assert re.fullmatch(digest, bases["Dockerfile"])
    assert bases["Dockerfile"] == bases["Dockerfile.runtime"]
    assert "Python :: 3.12" in (ROOT / "setup.cfg").read_text()


def piped(commands, text):
    return subprocess.run(
        ["sh", "-c", commands], input=text, capture_output=True, text=True, check=True
    ).stdout


def test_the_training_image_installs_what_the_package_needs():
    (command,) = (
        text for _, text in instructions("Dockerfile") if text.startswith("sed -n '/^install_")
    )
    command = command.partition(" > names.txt")[0].replace("setup.cfg", "-")
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    needs = [
        line
        for line in setup["options"]["install_requires"].splitlines()
        if line and not line.startswith("#")
    ]
    for tensorflow in ("tensorflow-cpu", "tensorflow[and-cuda]"):
        names = piped(f"TENSORFLOW={tensorflow}\n{command}", (ROOT / "setup.cfg").read_text())
        expected = [
            tensorflow
            if line.startswith("tensorflow>")
            else line.replace("opencv-python", "opencv-python-headless")
            for line in needs
        ]
        assert names.splitlines() == expected
        assert not any(word in names for word in ("pytest", "ruff", "hypothesis"))
    for image in ("Dockerfile", "Dockerfile.runtime"):
        installs = [text for name, text in instructions(image) if "pip install" in text]
        code = [text for text in installs if text.endswith("--editable .")]
        assert [text for text in installs if "--require-hashes" not in text] == code
        assert all("--no-deps" in text for text in code)
    ((_, entry),) = (item for item in instructions("Dockerfile") if item[0] == "ENTRYPOINT")
    assert yaml.safe_load(entry) == ["python", "tools/train.py"]
    assert "tools/train.py" in committed()


def test_the_images_install_the_pip_that_is_locked():
    lock = (DOCKER / "requirements.txt").read_text()
    for image in ("Dockerfile", "Dockerfile.runtime"):
        (command,) = (text for _, text in instructions(image) if text.startswith("sed -n '/^pip"))
        command = re.sub(r"'([^']*)' \S+ > pip.txt.*", r"'\1'", command)
        pip = piped(command, lock)
        assert re.fullmatch(r"pip==[\d.]+( \\\n +--hash=sha256:[0-9a-f]{64})+\n", pip)


def test_images_and_tests_have_the_same_versions():
    locks = [(folder / "requirements.txt").read_text() for folder in (ROOT, DOCKER)]
    tested, images = (
        dict(re.findall(r"^([\w-]+)(==.*?) \\$", lock, re.MULTILINE)) for lock in locks
    )
    # Those that depend on the version of Python have several; the last one is for the newest.
    last = {name: version.partition(" ;")[0] for name, version in tested.items()}
    both = last.keys() & images.keys()
    assert {"numpy", "pillow", "tensorflow", "keras"} <= both
    for name in both:
        assert images[name].partition(" ;")[0] == last[name], name
    assert images["tensorflow-cpu"] == tested["tensorflow"]
    assert images["opencv-python-headless"] == tested["opencv-python"]
    makefile = (ROOT / "Makefile").read_text()
    for name in ("onnxruntime", "openvino"):
        assert makefile.count(f"{name}{images[name]}") == 2  # RUNTIMES and CONTAINERS


def test_compose_runs_the_runtime_server_as_hardened_as_tensorflow_serving():
    runtime, serving = compose("compose.runtime.yaml", "runtime"), compose()
    for name in ("restart", "read_only", "tmpfs", "init", "cap_drop", "security_opt", "cpus"):
        assert runtime[name] == serving[name], name
    (mount,) = runtime["volumes"]
    assert mount["read_only"] is True and mount["bind"] == {"create_host_path": False}
    assert runtime["environment"]["MODEL"].startswith(f"{mount['target']}/${{MODEL:?")
    assert runtime["mem_limit"] == runtime["memswap_limit"] and runtime["pids_limit"] > 0
    build = runtime["build"]
    assert (DOCKER / build["context"] / build["dockerfile"]).is_file()
    arguments = [text for name, text in instructions("Dockerfile.runtime") if name == "ARG"]
    assert arguments[1] == "RUNTIME=onnxruntime" and ":-onnxruntime}" in build["args"]["RUNTIME"]
    (port,) = runtime["ports"]
    assert port == "${ADDRESS:-127.0.0.1}:8080:8080"


@pytest.mark.parametrize(
    "file, least",
    [("requirements", 90), ("requirements-notebooks", 30), ("docker/requirements", 50)],
)
def test_every_requirement_has_a_version_and_hashes(file, least):
    text = (ROOT / f"{file}.txt").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert len(lines) > least
    form = r"[\w-]+==[\w.]+( ; .+?)?( +--hash=sha256:[0-9a-f]{64})+"
    assert [line for line in lines if not re.fullmatch(form, line)] == []
