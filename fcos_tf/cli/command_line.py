"""What the tools share: flags made from `Config`, help, and errors in one line."""

import contextlib
import dataclasses
import os
import re
import sys
import tempfile
import textwrap
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from absl import flags

from fcos_tf.cli.flag_files import CONFIGS, split_flag_files
from fcos_tf.config import SECTIONS, Config, flag_value, item_type

_HELP = ("--help", "-help", "--helpshort", "-helpshort", "--helpfull", "-h", "-?")
_TOOL_SECTION = "Tool"


def run(
    tool: Callable[[Config, flags.FlagValues], None],
    description: str,
    argv: list[str] | None = None,
    *,
    options: Mapping[str, str] | None = None,
) -> None:
    """Reads the flags, runs a tool with them, and ends the process.

    Exit status: 0 on success, 1 after an error, 2 after wrong flags, 130 when interrupted. Errors
    that a user can mend (flags, files, data) are told in one line on standard error, without a
    traceback unless --debug is given.

    Args:
        tool: Takes the config and the flags.
        description: The text that --help begins with.
        argv: Program name and arguments; None = `sys.argv`.
        options: Flags of this tool beside those of `Config`: name -> help. All are strings.
    """
    argv = list(sys.argv if argv is None else argv)
    program = Path(argv[0]).name
    _one_line_warnings(program)
    values = define_flags(options or {})
    if any(argument in _HELP for argument in argv[1:]):
        with contextlib.suppress(BrokenPipeError):  # as in "... --help | head"
            print(help_text(description, values), flush=True)
        sys.exit(0)
    debug = "--debug" in argv
    try:
        config = parse(values, argv)
    except (flags.Error, ValueError, OSError) as error:
        if debug:
            raise
        print(f"{program}: error: {_one_line(error)}", file=sys.stderr)
        sys.exit(2)
    debug = values["debug"].value
    try:
        tool(config, values)
    except KeyboardInterrupt:
        print(f"\n{program}: interrupted", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if debug or not _is_for_the_user(error):
            traceback.print_exc()
        else:
            print(f"{program}: error: {_one_line(error)}", file=sys.stderr)
        sys.exit(1)
    sys.exit(0)


def define_flags(options: Mapping[str, str]) -> flags.FlagValues:
    """Defines a flag for every field of `Config`, for `options`, and --debug."""
    values = flags.FlagValues()
    for field in dataclasses.fields(Config):
        text = field.metadata["help"]
        if isinstance(field.default, tuple):
            flags.DEFINE_list(field.name, list(map(str, field.default)), text, flag_values=values)
            continue
        define = {
            bool: flags.DEFINE_boolean,
            int: flags.DEFINE_integer,
            float: flags.DEFINE_float,
            str: flags.DEFINE_string,
        }[item_type(field)]
        define(field.name, field.default, text, flag_values=values)
    for name, text in options.items():
        flags.DEFINE_string(name, None, text, flag_values=values)
    flags.DEFINE_boolean("debug", False, "Show the traceback of errors.", flag_values=values)
    return values


def parse(values: flags.FlagValues, argv: list[str]) -> Config:
    """Parses the command line, flag files included, into `values` and a checked config.

    Flags on the command line win over those in flag files, wherever they stand.

    Raises:
        ValueError: For a flag or a value that does not exist.
        FileNotFoundError: For a flag file that does not exist.
    """
    from_files, arguments = split_flag_files(argv[1:], values)
    rest = values([argv[0], *from_files, *arguments])[1:]
    if rest:
        raise ValueError(f"expected flags like --name=value only, got {' '.join(map(repr, rest))}")
    options: dict[str, Any] = {}
    for field in dataclasses.fields(Config):
        value = values[field.name].value
        if isinstance(field.default, tuple):
            value = tuple(_item(field, text) for text in value)
        options[field.name] = value
    return Config(**options)


def help_text(description: str, values: flags.FlagValues) -> str:
    """What --help prints: the description and every flag with its default."""
    sections: dict[str, list[str]] = {_TOOL_SECTION: [], **{name: [] for name in SECTIONS}}
    fields = {field.name: field for field in dataclasses.fields(Config)}
    for name in values:
        if name not in fields:
            sections[_TOOL_SECTION].append(_flag_help(name, values[name].help, None, ()))
    file_help = f"File with a flag per line; looked up here, in configs/ and in {CONFIGS}."
    sections[_TOOL_SECTION].insert(0, _flag_help("flagfile", file_help, None, ()))
    for name, field in fields.items():
        default = flag_value(field.default)
        text = _flag_help(name, field.metadata["help"], default, field.metadata["choices"])
        sections[field.metadata["section"]].append(text)
    parts = [description.strip()]
    parts += [f"{title}:\n" + "\n".join(lines) for title, lines in sections.items()]
    return "\n\n".join(parts)


@contextlib.contextmanager
def arguments_as_flags(names: Mapping[str, str]) -> Iterator[None]:
    """Makes errors that begin with the name of an argument, "model: ...", begin with its flag.

    Args:
        names: Name of an argument -> name of the flag that gave it.
    """
    try:
        yield
    except (ValueError, OSError) as error:
        argument, colon, text = str(error).partition(": ")
        if not colon or argument not in names:
            raise
        raise type(error)(f"--{names[argument]}: {text}") from error


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


def _flag_help(name: str, text: str, default: str | None, choices: tuple[str, ...]) -> str:
    notes = []
    if choices:
        notes.append(" | ".join(choices))
    if default is not None:
        notes.append(f"default {default or 'empty'}")
    line = f"{text} ({'; '.join(notes)})" if notes else text
    return textwrap.fill(
        f"--{name}: {line}", width=100, initial_indent="  ", subsequent_indent="      "
    )


def _item(field: dataclasses.Field, text: str) -> Any:
    try:
        return item_type(field)(text.strip())
    except ValueError:
        expected = item_type(field).__name__
        raise ValueError(f"--{field.name}: expected {expected}, got {text!r}") from None


def _is_for_the_user(error: Exception) -> bool:
    """Whether an error says what is wrong with flags, files or data, not with the program."""
    if isinstance(error, ValueError | OSError | MemoryError | flags.Error):
        return True
    with contextlib.suppress(ImportError):
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
    return False


def _one_line(error: Exception) -> str:
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


def _one_line_warnings(program: str) -> None:
    def one_line(message, category, filename, lineno, line=None):
        del category, filename, lineno, line
        return f"{program}: warning: {' '.join(str(message).split())}\n"

    warnings.formatwarning = one_line
