"""TensorFlow's messages without those for its authors: its start-up, and errors in one line."""

import contextlib
import os
import re
import sys
import tempfile

_START_UP = re.compile(
    r"[IWE]0000 |WARNING: All log messages before absl|\d{4}-\d\d-\d\d .*: [IW] "
)


def load_tensorflow() -> None:
    """Imports TensorFlow without its start-up messages, but with real errors."""
    # Errors come as Python exceptions as well.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.stderr.flush()
    # C++ prints before its logging can be set up, so only the file descriptor catches it.
    with tempfile.TemporaryFile() as caught:
        saved = os.dup(2)
        try:
            os.dup2(caught.fileno(), 2)
            with _hidden("sklearn", "matplotlib"):
                import tensorflow as tf  # and Keras with it

            tf.config.list_physical_devices()
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            caught.seek(0)
            for line in caught.read().decode(errors="replace").splitlines():
                if line.strip() and not _START_UP.match(line):
                    print(line, file=sys.stderr)


@contextlib.contextmanager
def _hidden(*packages):
    """Packages that Keras imports for wrappers and galleries; no tool uses these.

    They take a third of the time of the import.
    """
    packages = [name for name in packages if name not in sys.modules]
    sys.modules.update(dict.fromkeys(packages))
    try:
        yield
    finally:
        for name in packages:
            del sys.modules[name]


def one_line(error: Exception) -> str:
    """The text of an error, without the names of graph nodes, tracebacks and line breaks."""
    text = getattr(error, "message", None) or str(error) or type(error).__name__
    if "Collective ops is aborted" in text:
        host = re.search(r"(?:remote target|sending heartbeats\):)\s+(/job:\S+)", text)
        return (
            f"host {host[1] if host else 'of the run'} does not answer any more; see its messages, "
            "then start all hosts again: they resume from the last checkpoint"
        )
    # An assertion, or a Python error, inside a TensorFlow graph.
    for pattern in (
        r"assertion failed: \[(.+?)\]\s*(?:\n|$)",
        r"\w+Error: (.+?)\s*\nTraceback \(most recent",
    ):
        if inner := re.search(pattern, text, flags=re.DOTALL):
            text = inner[1]
    # The names of graph nodes around TensorFlow's own text.
    text = re.sub(r"\{\{\S+ .*?\}\}|\[\[\{*.*?\}*\]\]|\[Op:\w+\].*", " ", text, flags=re.DOTALL)
    return escaped(" ".join(text.split()))


def escaped(text: str, keep: str = "") -> str:
    """Text for a terminal or a log; control characters, such as newlines in file names, as escapes.

    Args:
        text: with names from files, which may move the cursor or pretend to be other lines.
        keep: characters that stay, such as the newlines of a table.
    """
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() or c in keep else c.encode("unicode_escape").decode() for c in text
    )


def is_for_the_user(error: Exception) -> bool:
    """Whether an error is about flags, files, data or missing packages, not about the program."""
    if isinstance(error, ValueError | OSError | MemoryError | ImportError):
        return True
    import tensorflow as tf

    # Errors of a data set's map functions come out as these.
    kinds = "InvalidArgument", "NotFound", "PermissionDenied", "ResourceExhausted", "Unavailable"
    return isinstance(error, tuple(getattr(tf.errors, f"{kind}Error") for kind in kinds))


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error means that memory ran out."""
    import tensorflow as tf

    # TensorFlow calls a full disk an exhausted resource, too.
    exhausted = isinstance(error, tf.errors.ResourceExhaustedError | tf.errors.InternalError)
    words = re.search("OOM|memory|allocat", str(error), re.IGNORECASE)
    return isinstance(error, MemoryError) or (exhausted and words is not None)
