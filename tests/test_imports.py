"""Imports go down only, and the portable parts stay portable."""

import ast
import configparser
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# The longest matching prefix counts. Parts with different names on floor 1 do not know each other.
FLOORS = {
    "fcos_tf": 0,  # the lazy __init__ and the version
    "fcos_tf.ops": 0,
    "fcos_tf.atomic_files": 0,
    "fcos_tf.config": 0,
    "fcos_tf.downloads": 0,
    "fcos_tf.published": 0,
    "fcos_tf.image_size": 0,
    "fcos_tf.image_files": 0,
    "fcos_tf.keras_cv_import": 0,
    "fcos_tf.keras_files": 0,
    "fcos_tf.options": 0,
    "fcos_tf.tensorflow_words": 0,
    "fcos_tf.version": 0,
    "fcos_tf.layers": 1,
    "fcos_tf.data": 1,
    "fcos_tf.evaluation.analysis": 1,
    "fcos_tf.evaluation.charts": 1,
    "fcos_tf.evaluation.coco": 1,
    "fcos_tf.evaluation.curves": 1,
    "fcos_tf.evaluation.overlaps": 1,
    "fcos_tf.evaluation.records": 1,
    "fcos_tf.evaluation.tide": 1,
    "fcos_tf.evaluation.voc": 1,
    "fcos_tf.models": 2,
    "fcos_tf.detecting": 3,
    "fcos_tf.visualization": 3,
    "fcos_tf.convert": 3,
    "fcos_tf.evaluation": 4,
    "fcos_tf.export": 4,
    "fcos_tf.training": 5,
    "fcos_tf.training.optimizers": 1,  # Keras needs them to load a saved model
    "fcos_tf.training.schedules": 1,
    "fcos_tf.build": 6,
    "fcos_tf.jobs": 6,
    "fcos_tf.cli": 7,
    "benchmarks": 7,
    "tools": 7,
}
PORTABLE = ("fcos_tf.ops", "fcos_tf.layers", "fcos_tf.models")


def modules():
    for folder in ("fcos_tf", "benchmarks", "tools"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            parts = file.relative_to(ROOT).with_suffix("").parts
            yield ".".join(parts).removesuffix(".__init__"), ast.parse(file.read_text(), str(file))


MODULES = dict(modules())


def imports_of(tree, *, top_level_only=False):
    """Full names of what a module imports; `from a import b` counts as a and, if it is one, a.b."""
    nodes = tree.body if top_level_only else ast.walk(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (n if n in MODULES or n == "absl.flags" else node.module for n in names)


def part_of(name):
    return max((p for p in FLOORS if name == p or name.startswith(p + ".")), key=len)


def faults_of(name, tree):
    part = part_of(name)
    for imported in imports_of(tree):
        if imported.split(".")[0] not in ("fcos_tf", "benchmarks", "tools"):
            continue
        other = part_of(imported)
        goes_up = FLOORS[other] > FLOORS[part]
        sideways = FLOORS[part] == FLOORS[other] == 1 and part.split(".")[1] != other.split(".")[1]
        if goes_up or sideways:
            yield f"{name} (floor {FLOORS[part]}) imports {imported} (floor {FLOORS[other]})"


def test_imports_go_down_only():
    assert len(MODULES) > 30
    assert [fault for name, tree in MODULES.items() for fault in faults_of(name, tree)] == []


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("fcos_tf.ops.boxes", "from fcos_tf.models import fcos"),
        ("fcos_tf.layers.fpn", "import fcos_tf.data.formats.voc"),
        ("fcos_tf.models.fcos", "from fcos_tf import visualization"),
        ("fcos_tf.detecting.models", "from fcos_tf.evaluation import evaluate"),
        ("fcos_tf.build", "from fcos_tf.cli import train"),
    ],
)
def test_the_check_sees_a_fault(name, line):
    assert list(faults_of(name, ast.parse(line)))


def users_of(imported, *, below=8, trees=MODULES):
    """Modules under a floor that import something, however they name it."""
    return {
        name
        for name, tree in trees.items()
        if FLOORS[part_of(name)] < below
        and any(i == imported or i.startswith(imported + ".") for i in imports_of(tree))
    }


def test_only_build_and_tools_know_the_config():
    assert users_of("fcos_tf.config") >= {
        "fcos_tf.build",
        "fcos_tf.jobs.train",
        "fcos_tf.cli.train",
    }
    assert users_of("fcos_tf.config", below=6) == set()


def test_models_do_not_know_the_data():
    assert users_of("fcos_tf.data") >= {"fcos_tf.build"}
    assert not [name for name in users_of("fcos_tf.data") if part_of(name) == "fcos_tf.models"]


def test_what_lower_floors_take_from_the_public_names():
    # The namespace resolves a name when it is used, so these lead up: each needs its reason.
    taken = {
        (name, alias.name)
        for name, tree in MODULES.items()
        if FLOORS[part_of(name)] < 3
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "fcos_tf"
        for alias in node.names
        if f"fcos_tf.{alias.name}" not in MODULES
    }
    assert taken == {
        ("fcos_tf.models.weights", "fetch_weights"),  # a name in place of a file
        ("fcos_tf.layers.backbones", "fetch_weights"),
    }


def test_no_imports_in_a_circle():
    graph = {n: {*imports_of(t, top_level_only=True)} & {*MODULES} for n, t in MODULES.items()}
    graphlib.TopologicalSorter(graph).prepare()


def test_only_load_knows_the_formats_of_data():
    others = {n for n in MODULES if n.startswith("fcos_tf.data.")}
    others -= {n for n in others if n.startswith("fcos_tf.data.formats")}
    assert not users_of("fcos_tf.data.formats") & others


def test_one_module_imports_keras_cv_and_late():
    assert users_of("keras_cv") == {"fcos_tf.keras_cv_import"}
    assert "keras_cv" not in imports_of(MODULES["fcos_tf.keras_cv_import"], top_level_only=True)


def test_only_tools_touch_flags():
    assert users_of("absl.flags") == {"fcos_tf.cli.command_line"}


def test_portable_parts_import_no_tensorflow_at_the_top():
    users = {
        name
        for name, tree in MODULES.items()
        if name.startswith(PORTABLE)
        and any(i.split(".")[0] == "tensorflow" for i in imports_of(tree, top_level_only=True))
    }
    # The custom steps, which models.image_model imports under TensorFlow only.
    assert users == {"fcos_tf.models.train_steps"}


def test_setup_lists_every_package():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    listed = set(setup["options"]["packages"].split())
    folders = {file.parent for file in (ROOT / "fcos_tf").rglob("__init__.py")}
    packages = {".".join(folder.relative_to(ROOT).parts) for folder in folders}
    assert listed == packages | {"fcos_tf.configs"}


def test_importing_the_package_is_cheap():
    code = "import sys, fcos_tf; print('tensorflow' in sys.modules, 'keras' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


@pytest.mark.parametrize(
    "imports",
    ["import fcos_tf, tensorflow, keras", "from fcos_tf.ops.boxes import box_area; import keras"],
)
def test_keras_loads_a_saved_detector_in_a_process_that_knows_the_package(imports, tmp_path):
    """What that takes imports no more of training and no keras_cv."""
    import fcos_tf

    file = tmp_path / "fcos.keras"
    small = {"backbone": "simple_cnn", "fpn_levels": 3, "fpn_channels": 32, "head_convs": 0}
    fcos_tf.FCOS(class_names=("rod", "ring"), **small).save(file)
    loading = f"keras.models.load_model({str(file)!r}, compile=False)"
    code = f"import sys; {imports}; print(*sys.modules); print({loading}.class_names)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    names, _, classes = done.stdout.partition("\n")
    assert classes == "('rod', 'ring')\n", done.stderr
    names = names.split()
    assert "keras_cv" not in names and "fcos_tf.layers.backbones" in names
    names = [name for name in names if name.startswith("fcos_tf.")]
    loaded = {part_of(name) for name in names}
    above = {part for part in loaded if FLOORS[part] > FLOORS["fcos_tf.models"]}
    assert above == {"fcos_tf.training"}  # the package, whose names are imported on first use
    trained = {name for name in names if name.startswith("fcos_tf.training.")}
    assert trained == {"fcos_tf.training.optimizers", "fcos_tf.training.schedules"}
