"""The base of the tools: flags from options, flag files, help, and errors in one line."""

import contextlib
import dataclasses
import difflib
import logging
import os
import re
import sys
import textwrap
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from fcos_tf.config import Config
from fcos_tf.flag_files import CONFIGS, flag_file_name, read_flag_file
from fcos_tf.options import Options, fields_of, flag_value, is_list, item_type, sections_of
from fcos_tf.tensorflow_words import escaped, is_for_the_user, one_line
from fcos_tf.training.interruption import leave_process_one

_HELP = ("--help", "-help", "--helpshort", "-helpshort", "--helpfull", "-h", "-?")
_NEAR = 0.7  # least similarity, 0 to 1, of an unknown name to a suggested one

Uses = Iterable[type[Options] | str]


class Given(frozenset[str]):
    """The names of all options on the command line or in a flag file; `typed`: on the former."""

    typed: frozenset[str] = frozenset()


def run(
    tool: Callable[[Config, Any, Given], None],
    description: str,
    argv: list[str] | None = None,
    *,
    uses: Uses,
    options: type[Options] = Options,
) -> None:
    """Parses the flags, runs a tool with them, and ends the process.

    Exit status: 0 on success, 1 after an error, 2 after wrong flags, 130 when interrupted. Errors
    of flags, files and data are one line on standard error, with a traceback only under --debug.

    Args:
        tool: Called with the result of `parse`.
        description: The first text of --help.
        argv: Program name and arguments; None = `sys.argv`.
        uses: Sections and single names of the options of a run that the tool uses.
        options: The tool's own options.
    """
    if argv is None:
        leave_process_one()
    argv = list(sys.argv if argv is None else argv)
    program = Path(argv[0]).name
    warnings.formatwarning = lambda message, *_, **__: (
        f"{program}: warning: {escaped(' '.join(str(message).split()))}\n"
    )
    logging.getLogger("absl").addFilter(_escape_record)
    if any(argument in _HELP for argument in argv[1:]):
        with contextlib.suppress(BrokenPipeError):  # as in "... --help | head"
            print(help_text(description, uses, options), flush=True)
        sys.exit(0)
    debug = any(re.fullmatch("--?debug(=true)?", argument) for argument in argv)
    try:
        given = parse(argv, uses, options)
    except (flags.Error, ValueError, OSError) as error:
        if debug:
            raise
        print(f"{program}: error: {one_line(error)}", file=sys.stderr)
        sys.exit(2)
    try:
        tool(*given)
    except KeyboardInterrupt:
        print(f"\n{program}: interrupted", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if debug or not is_for_the_user(error):
            traceback.print_exc()
        else:
            print(f"{program}: error: {one_line(error)}", file=sys.stderr)
        sys.exit(1)
    sys.exit(0)


def _escape_record(record: logging.LogRecord) -> bool:
    record.msg, record.args = escaped(record.getMessage(), keep="\n"), ()
    return True


def parse(
    argv: Sequence[str],
    uses: Uses = (Config,),
    options: type[Options] = Options,
    *,
    config: type[Config] = Config,
) -> tuple[Config, Any, Given]:
    """Parses a command line and its flag files.

    Flags on the command line override those in flag files, in any order. Options in flag files
    that the tool does not use are ignored, so that all tools read the same files.

    Args:
        argv: Program name and arguments.
        uses: See `run`.
        options: See `run`.
        config: The class of all options of a run.

    Returns:
        The options of a run, those that the tool does not use at their defaults; the tool's own
        options; the names of all options on the command line or in a flag file.

    Raises:
        ValueError: An unknown flag or value, or a flag that the tool does not use.
        FileNotFoundError: No such flag file.
    """
    own, used, known = fields_of(options), _used(uses, config), fields_of(config)
    fields = {**own, **used}
    values = _define(fields)

    def counts(name: str) -> bool:
        if name not in values and name not in known:
            raise ValueError(f"unknown flag --{name}{_suggest(name, fields)}")
        return name in values

    from_files, arguments, remaining = [], [], iter(argv[1:])
    for argument in remaining:
        file = flag_file_name(argument)
        if file is None:
            arguments.append(argument)
            continue
        file = file or ("" if "=" in argument else next(remaining, ""))
        if not file:
            raise ValueError("--flagfile: expected the name of a file, got none")
        from_files += read_flag_file(file, counts)
    try:
        values([argv[0], *from_files])
        in_files = {name: values[name].present for name in fields if values[name].present}
        rest = values([argv[0], *arguments])[1:]
    except flags.UnrecognizedFlagError as error:
        name = error.flagname
        if name.removeprefix("no") in {**fields, **known}:
            name = name.removeprefix("no")  # of a flag that is no boolean
        counts(name)
        near = _suggest(name, fields, cutoff=1)
        raise ValueError(f"--{name} is not used by {Path(argv[0]).name}{near}") from None
    except flags.IllegalFlagValueError as error:  # booleans and lists; absl reads others as text
        name, value = re.match(r"flag --(\w+)=(.*?): ", str(error), re.DOTALL).groups()
        of_list = name in fields and is_list(fields[name])  # else perhaps one of absl's own
        expected = "values with commas" if of_list else "true or false"
        raise ValueError(f"--{name}: expected {expected}, got {value!r}") from None
    found = {n: _value(field, values[n].value) for n, field in fields.items() if values[n].present}
    if rest:
        got = " ".join(map(repr, rest))
        takes = [name for name, field in fields.items() if field.metadata["positional"]]
        if not takes:
            raise ValueError(f"expected flags like --name=value only, got {got}")
        if takes[0] in found:
            raise ValueError(f"expected --{takes[0]} or arguments without a flag, got both: {got}")
        found[takes[0]] = tuple(map(_expanded, rest))
    given = Given(found)
    given.typed = frozenset(n for n in found if values[n].present != in_files.get(n))
    return (
        config(**{name: value for name, value in found.items() if name in used}),
        options(**{name: value for name, value in found.items() if name in own}),
        given,
    )


def replacing(config: Config, given: Given, model: Any = None) -> Given:
    """The given options that replace a model's; defaults in flag files replace what it lacks."""
    options = fields_of(type(config)).items()
    spelled = {n for n, each in options if getattr(config, n) == each.default} - given.typed
    found = Given(given - {n for n in spelled if getattr(model, n, n) is not None})
    found.typed = given.typed
    return found


def refuse_unused(given: Given, mode: str, unused: Uses) -> None:
    """Refuses options on the command line that a mode of a tool does not use.

    Flag files may hold them, as all tools and modes read the same files.

    Args:
        given: See `parse`.
        mode: The flags that choose the mode, such as "--what=curves".
        unused: Sections and single names of options.

    Raises:
        ValueError: Some are typed; names all.
    """
    if typed := sorted(given.typed & _names(unused)):
        names = ", ".join(f"--{name}" for name in typed)
        raise ValueError(f"{names}: not used with {mode}; leave it out")


def help_text(
    description: str, uses: Uses, options: type[Options] = Options, *, config: type[Config] = Config
) -> str:
    """The text of --help: the description and every flag of the tool with its default."""
    used = _used(uses, config)
    files = f"File with one flag per line; looked up here, in configs/ and in {CONFIGS}."
    lines = [_flag_help("flagfile", files), _flag_help("debug", "Print tracebacks of errors.")]
    lines[1:1] = [_option_help(field) for field in fields_of(options).values()]
    parts = [description.strip(), "\n".join(["This tool:", *lines])]
    for section, names in sections_of(config).items():
        lines = [_option_help(used[name]) for name in names if name in used]
        if lines:
            parts.append("\n".join([f"{section.title}:", *lines]))
    return "\n\n".join(parts)


@contextlib.contextmanager
def arguments_as_flags(names: Mapping[str, str]) -> Iterator[None]:
    """Replaces the argument that an error starts with, as in "model: ...", by its flag.

    Args:
        names: Name of an argument -> name of its flag.
    """
    try:
        yield
    except (ValueError, OSError) as error:
        argument, colon, text = str(error).partition(": ")
        if not colon or argument not in names:
            raise
        kind = OSError if isinstance(error, OSError) else ValueError
        raise kind(f"--{names[argument]}: {text}") from error


def _used(uses: Uses, config: type[Config]) -> dict[str, dataclasses.Field]:
    fields = fields_of(config)
    return {name: fields[name] for name in sorted(_names(uses), key=list(fields).index)}


def _names(uses: Uses) -> set[str]:
    return {n for use in uses for n in ([use] if isinstance(use, str) else fields_of(use))}


def _define(fields: Mapping[str, dataclasses.Field]) -> flags.FlagValues:
    values = flags.FlagValues()
    values.set_gnu_getopt()  # arguments without a flag may stand before flags
    for name, field in fields.items():
        define = flags.DEFINE_boolean if item_type(field) is bool else flags.DEFINE_string
        define = flags.DEFINE_list if is_list(field) else define
        define(name, None, field.metadata["text"], flag_values=values)
    flags.DEFINE_boolean("debug", False, "", flag_values=values)
    return values


def _value(field: dataclasses.Field, given: Any) -> Any:
    """Converts a value read by absl to the type of its option."""
    kind = item_type(field)
    kind = _expanded if kind is str else kind
    if given in field.metadata["words"]:
        return given
    try:
        return tuple(kind(text.strip()) for text in given) if is_list(field) else kind(given)
    except ValueError:
        got = flag_value(tuple(given) if is_list(field) else given)
        expected = " or ".join((item_type(field).__name__, *field.metadata["words"]))
        raise ValueError(f"--{field.name}: expected {expected}, got {got!r}") from None


def _expanded(text: str) -> str:
    """Paths with a home folder, ~ or ~name, as shells put it only at the start of an argument."""
    return ",".join(map(os.path.expanduser, text.split(",")))


def _suggest(name: str, fields: Mapping[str, dataclasses.Field], *, cutoff: float = _NEAR) -> str:
    """The option nearest to an unknown name, which may be of another program."""
    # Names override other words, the tool's own those of a run.
    words = reversed([(n, word) for n, field in fields.items() for word in field.metadata["also"]])
    spellings = {word: name for name, word in words} | {name: name for name in fields}
    word = name.lower().replace("-", "_")
    near = [word] if word in spellings else difflib.get_close_matches(word, spellings, 1, cutoff)
    return f"; did you mean --{spellings[near[0]]}?" if near else "; --help lists its flags"


def _option_help(field: dataclasses.Field) -> str:
    choices, default = field.metadata["choices"], flag_value(field.default)
    choices += field.metadata["words"] and ("a number", *field.metadata["words"])
    notes = [" | ".join(choices)] if choices else []
    notes += ["comma-separated list"] if is_list(field) else []
    if field.metadata["required"]:
        notes.append("required")
    elif field.default is not None:
        notes.append(f"default {default or 'empty'}")
    text = field.metadata["text"]
    return _flag_help(field.name, f"{text} ({'; '.join(notes)})" if notes else text)


def _flag_help(name: str, text: str) -> str:
    indents = {"initial_indent": "  ", "subsequent_indent": "      "}
    return textwrap.fill(f"--{name}: {text}", width=100, **indents)
