"""A config from flags, for tests that call a tool's function."""

from collections.abc import Sequence

from fcos_tf.cli.command_line import parse
from fcos_tf.config import Config


def parse_config(arguments: Sequence[str]) -> Config:
    """The config that flags, such as those of `train.py`, stand for."""
    return parse(["", *arguments])[0]
