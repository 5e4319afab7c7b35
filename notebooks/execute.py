"""Executes the notebooks from their first cell to their last, in the order below.

    python notebooks/execute.py                     # all, in a temporary folder
    python notebooks/execute.py --write quickstart  # one; its outputs are stored in the notebook

The first error ends it. `make test-notebooks` installs what this needs, and runs all.
"""

import argparse
import base64
import io
import os
import re
import tempfile
import time
from pathlib import Path

from PIL import Image

HERE = Path(__file__).resolve().parent
# The others need the detector of the first.
NAMES = (
    "quickstart", "own_data", "explaining_a_detector", "classification_and_linear_probe",
    "export_and_serve",
)  # fmt: skip
CELL_SECONDS = 1200  # more than any cell takes on a busy machine
MOST_BYTES = 40_000  # of a picture as PNG; larger ones become JPEG
MOST_PIXELS = 900  # width of a stored picture
# Lines of TensorFlow's C++ log, which Python cannot turn off.
_LOG = re.compile(r"^(?:WARNING: All log messages|[IWE]\d{4} |\d{4}-\d\d-\d\d ).*\n?", re.MULTILINE)


def execute(path: Path, folder: str) -> dict:
    """Executes a notebook in a working folder; returns it with its outputs.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell fails.
    """
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    options = {"timeout": CELL_SECONDS, "record_timing": False, "coalesce_streams": True}
    client = NotebookClient(notebook, resources={"metadata": {"path": folder}}, **options)
    return client.execute()


def clean(notebook: dict, folder: str) -> None:
    """Leaves out what differs between machines, in place: logs, paths, metadata; shrinks pictures.

    Args:
        notebook: as nbformat 4 has it, executed.
        folder: where it ran.
    """
    notebook["metadata"] = {"kernelspec": notebook["metadata"]["kernelspec"]}
    for cell in notebook["cells"]:
        cell["metadata"] = {}
        for output in cell.get("outputs", ()):
            if "text" in output:
                output["text"] = _LOG.sub("", output["text"]).replace(f"{folder}/", "")
            if "image/png" in output.get("data", ()):
                _shrink(output["data"])
        if "outputs" in cell:
            cell["outputs"] = [output for output in cell["outputs"] if output.get("text", "-")]


def _shrink(data: dict) -> None:
    """Stores a picture once: as the PNG it is, or narrower and as a JPEG where it is large."""
    data.pop("image/jpeg", None)  # Pillow gives both
    stored = base64.b64decode(data["image/png"])
    if len(stored) <= MOST_BYTES:
        return
    picture = Image.open(io.BytesIO(stored)).convert("RGB")
    picture.thumbnail((MOST_PIXELS, 1 << 16), Image.Resampling.LANCZOS)
    for quality in (80, 65, 50, 35):
        buffer = io.BytesIO()
        picture.save(buffer, format="JPEG", quality=quality, optimize=True)
        if buffer.tell() <= 1.5 * MOST_BYTES:
            break
    del data["image/png"]
    data["image/jpeg"] = base64.b64encode(buffer.getvalue()).decode()


def main() -> None:
    """Executes the notebooks named on the command line, or all."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", default=NAMES)
    parser.add_argument("--folder", help="working folder; default: a temporary one")
    parser.add_argument("--write", action="store_true", help="store the outputs")
    options = parser.parse_args()
    # The package of this checkout, also where another one is installed.
    paths = [str(HERE.parent), os.environ.get("PYTHONPATH")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or temporary
        for name in options.names:
            path, start = HERE / f"{name}.ipynb", time.perf_counter()
            notebook = execute(path, folder)
            print(f"{path.name}: {time.perf_counter() - start:.0f} s", flush=True)
            if options.write:
                import nbformat

                clean(notebook, folder)
                nbformat.write(notebook, path)


if __name__ == "__main__":
    main()
