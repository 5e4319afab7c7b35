"""Runs a tool as its command does."""

import pytest


def run(capsys, tool, *arguments):
    """Exit status, standard output and standard error of a module of `fcos_tf.cli`."""
    name = tool.__name__.rpartition(".")[-1]
    with pytest.raises(SystemExit) as end:
        tool.main([f"{name}.py", *map(str, arguments)])
    out = capsys.readouterr()
    return end.value.code, out.out, out.err
