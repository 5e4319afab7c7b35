"""The notebooks as they are stored; `make test-notebooks` runs them."""

import ast
import base64
import functools
import inspect
import io
import json
import pkgutil
import re
import runpy
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import fcos_tf

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
NOTEBOOKS = {path.stem: json.loads(path.read_text()) for path in FOLDER.glob("*.ipynb")}
EXECUTE = runpy.run_path(str(FOLDER / "execute.py"))

each_notebook = pytest.mark.parametrize("name", sorted(NOTEBOOKS))


def code_cells(name):
    return [cell for cell in NOTEBOOKS[name]["cells"] if cell["cell_type"] == "code"]


def outputs(name):
    return [output for cell in code_cells(name) for output in cell["outputs"]]


def test_all_notebooks_are_executed():
    assert set(EXECUTE["NAMES"]) == set(NOTEBOOKS)


@each_notebook
def test_a_notebook_holds_the_outputs_of_one_run_and_nothing_of_its_machine(name):
    counts = [cell["execution_count"] for cell in code_cells(name)]
    assert counts == list(range(1, len(counts) + 1))
    assert {output["output_type"] for output in outputs(name)} <= {
        "stream", "display_data", "execute_result"
    }  # fmt: skip
    assert not any(cell["metadata"] for cell in NOTEBOOKS[name]["cells"])
    assert set(NOTEBOOKS[name]["metadata"]) == {"kernelspec"}
    for output in outputs(name):
        text = "".join(output.get("text", output.get("data", {}).get("text/plain", "")))
        assert output.get("name") != "stderr" or text.startswith("WARNING:absl:"), text
        assert not re.search(r"/(?:tmp|home|root|usr|opt|Users|var)/|\r", text), text


@each_notebook
def test_a_notebook_is_small(name):
    assert (FOLDER / f"{name}.ipynb").stat().st_size < 500_000
    pictures = [
        base64.b64decode(data)
        for output in outputs(name)
        for kind, data in output.get("data", {}).items()
        if kind.startswith("image/")
    ]
    assert pictures and max(map(len, pictures)) < 150_000


@each_notebook
def test_calls_in_a_notebook_have_parameters_that_exist(name):
    trees = [ast.parse("".join(cell["source"])) for cell in code_cells(name)]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    known = {"fcos_tf": fcos_tf}  # test_documentation resolves its dotted names
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module.startswith("fcos_tf"):
            for alias in node.names:
                known[alias.name] = pkgutil.resolve_name(f"{node.module}:{alias.name}")
    calls = 0
    for node in nodes:
        first, *rest = ast.unparse(node.func).split(".") if isinstance(node, ast.Call) else [""]
        if first in known and all(map(str.isidentifier, rest)):
            called, calls = functools.reduce(getattr, rest, known[first]), calls + 1
            takes = inspect.signature(called).parameters
            if all(parameter.kind != parameter.VAR_KEYWORD for parameter in takes.values()):
                assert {word.arg for word in node.keywords if word.arg} <= set(takes)
    assert calls


def test_clean_keeps_what_a_reader_needs(tmp_path):
    def png(side):
        noise = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(noise).save(buffer, format="PNG")
        return base64.b64encode(buffer.getvalue()).decode()

    small, large = png(20), png(1500)
    log = "I0000 00:00:17.5 12 port.cc:153] oneDNN custom operations are on.\n"
    notebook = {
        "metadata": {"kernelspec": {"name": "python3"}, "language_info": {"version": "3.11"}},
        "cells": [
            {"cell_type": "markdown", "metadata": {"tags": []}, "source": "text"},
            {
                "cell_type": "code",
                "metadata": {"execution": {}},
                "outputs": [
                    {"output_type": "stream", "name": "stderr", "text": log},
                    {"output_type": "stream", "name": "stdout", "text": f"{tmp_path}/runs\n"},
                    {"output_type": "display_data", "data": {"image/png": small, "image/jpeg": ""}},
                    {"output_type": "display_data", "data": {"image/png": large}},
                ],
            },
        ],
    }
    EXECUTE["clean"](notebook, str(tmp_path))
    assert notebook["metadata"] == {"kernelspec": {"name": "python3"}}
    assert [cell["metadata"] for cell in notebook["cells"]] == [{}, {}]
    text, *pictures = notebook["cells"][1]["outputs"]
    assert text["text"] == "runs\n"
    assert pictures[0]["data"] == {"image/png": small}
    stored = Image.open(io.BytesIO(base64.b64decode(pictures[1]["data"]["image/jpeg"])))
    assert set(pictures[1]["data"]) == {"image/jpeg"} and stored.size == (900, 900)
