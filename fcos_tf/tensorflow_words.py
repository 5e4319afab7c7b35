"""What TensorFlow says, without what matters to its authors only."""

import os
import re
import sys
import tempfile


def load_tensorflow() -> None:
    """Imports TensorFlow without the remarks it prints on the way, but with real errors."""
    # What matters comes as a Python exception as well.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.stderr.flush()
    # They come from C++ before its logging can be set up, so only the file descriptor catches them.
    with tempfile.TemporaryFile() as caught:
        saved = os.dup(2)
        try:
            os.dup2(caught.fileno(), 2)
            import tensorflow as tf

            tf.config.list_physical_devices()
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            caught.seek(0)
            text = caught.read().decode(errors="replace")
            kept = [line for line in text.splitlines() if not _is_start_up_noise(line)]
            if kept:
                print("\n".join(kept), file=sys.stderr)


def _is_start_up_noise(line: str) -> bool:
    return not line.strip() or bool(
        re.match(
            r"[IWE]0000 |WARNING: All log messages before absl|\d{4}-\d\d-\d\d .*: [IW] ", line
        )
    )


def one_line(error: Exception) -> str:
    """What an error says, without the names of graph nodes, tracebacks and line breaks."""
    text = getattr(error, "message", None) or str(error) or type(error).__name__
    if "Collective ops is aborted" in text:
        host = re.search(r"(?:remote target|sending heartbeats\):)\s+(/job:\S+)", text)
        return (
            f"host {host[1] if host else 'of the run'} does not answer any more; see what it says, "
            "then start all hosts again: they go on from the last checkpoint"
        )
    # The words of an assertion, or of a Python error, that happened inside a TensorFlow graph.
    for pattern in (
        r"assertion failed: \[(.+?)\]\s*(?:\n|$)",
        r"\w+Error: (.+?)\s*\nTraceback \(most recent",
    ):
        inner = re.search(pattern, text, flags=re.DOTALL)
        if inner:
            text = inner[1]
    # The names of graph nodes that TensorFlow puts around its own words.
    text = re.sub(r"\{\{\S+ .*?\}\}|\[\[\{*.*?\}*\]\]|\[Op:\w+\].*", " ", text, flags=re.DOTALL)
    return " ".join(text.split())


def is_for_the_user(error: Exception) -> bool:
    """Whether an error is about flags, files, data or missing packages, not about the program."""
    if isinstance(error, ValueError | OSError | MemoryError | ImportError):
        return True
    import tensorflow as tf

    # What a data set's map functions raise comes out as one of these.
    kinds = (
        tf.errors.InvalidArgumentError,
        tf.errors.NotFoundError,
        tf.errors.PermissionDeniedError,
        tf.errors.ResourceExhaustedError,
        tf.errors.UnavailableError,
    )
    return isinstance(error, kinds)


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error means that memory ran out."""
    import tensorflow as tf

    # TensorFlow calls a full disk an exhausted resource, too.
    exhausted = isinstance(error, tf.errors.ResourceExhaustedError | tf.errors.InternalError)
    words = re.search("OOM|memory|allocat", str(error), re.IGNORECASE)
    return isinstance(error, MemoryError) or (exhausted and words is not None)
