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

from fcos_tf.cli.process_one import leave_process_one
from fcos_tf.config import Config
from fcos_tf.options import Options, fields_of, flag_value, is_list, item_type, sections_of
from fcos_tf.tensorflow_words import escaped, is_for_the_user, one_line

_PACKAGE = Path(__file__).resolve().parents[1]
# Inside an installed package, beside it in the repository.
CONFIGS = _PACKAGE / "configs"
if not CONFIGS.is_dir():
    CONFIGS = _PACKAGE.parent / "configs"
_HELP = ("--help", "-help", "--helpshort", "-helpshort", "--helpfull", "-h", "-?")
MAX_FLAG_FILES = 50  # of one command line, each as often as it is included
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
        file = _flag_file_name(argument)
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
        expected = "values with commas" if is_list(fields[name]) else "true or false"
        raise ValueError(f"--{name}: expected {expected}, got {value!r}") from None
    found = {n: _value(field, values[n].value) for n, field in fields.items() if values[n].present}
    if rest:
        got = " ".join(map(repr, rest))
        takes = [name for name, field in fields.items() if field.metadata["positional"]]
        if not takes:
            raise ValueError(f"expected flags like --name=value only, got {got}")
        if takes[0] in found:
            raise ValueError(f"expected --{takes[0]} or arguments without a flag, got both: {got}")
        found[takes[0]] = tuple(rest)
    given = Given(found)
    given.typed = frozenset(n for n in found if values[n].present != in_files.get(n))
    return (
        config(**{name: value for name, value in found.items() if name in used}),
        options(**{name: value for name, value in found.items() if name in own}),
        given,
    )


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


def read_flag_file(
    name: str, counts: Callable[[str], bool], opened: list[Path] | None = None
) -> list[str]:
    """Reads the flags of a file: one `--name=value` per line, `#` starts a comment line.

    A line `--flagfile=OTHER` includes the lines of that file.

    Args:
        name: A path, or the name of a file in the working directory, in `configs` below it, or
            among the configs of this package.
        counts: The name of a flag -> whether its line is used; ValueError for an unknown one.
        opened: The files that were read before, which is updated.

    Raises:
        FileNotFoundError: No such file.
        ValueError: A line that is no flag, or a file that includes itself or very many.
    """
    path = find_flag_file(name)
    opened = [] if opened is None else opened
    opened.append(path)
    if len(opened) > MAX_FLAG_FILES:
        most = f"more than {MAX_FLAG_FILES} files are included"
        raise ValueError(f"flag file {path} includes itself, or {most}")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"--flagfile: {path} is not a text file in UTF-8") from None
    lines = []
    for number, line in enumerate(map(str.strip, text.splitlines()), start=1):
        if not line or line.startswith(("#", "//")):
            continue
        if nested := _flag_file_name(line):
            lines += read_flag_file(nested, counts, opened)
            continue
        match = re.match(r"--?([\w-]+)=", line)
        if match is None:
            # Without "=" absl takes the next line as the value.
            raise ValueError(f"{path} line {number}: expected --name=value, got {line!r}")
        try:
            if counts(match[1]):
                lines.append(line)
        except ValueError as error:
            raise ValueError(f"{path} line {number}: {error}") from None
    return lines


def find_flag_file(name: str) -> Path:
    """The path of a flag file, looked up as `read_flag_file` says."""
    name = os.path.expanduser(name)
    folders = dict.fromkeys((Path.cwd(), Path.cwd() / "configs", CONFIGS))
    for folder in folders:
        path = folder / name  # `name` if that is absolute
        if path.is_file():
            return path.resolve()
    if os.path.isabs(name):
        raise FileNotFoundError(f"--flagfile: no file {name}")
    have = sorted(path.name for path in CONFIGS.glob("*.cfg"))
    raise FileNotFoundError(
        f"--flagfile: no file {name!r} in {', '.join(map(str, folders))}; "
        f"available: {', '.join(have) or 'none'}"
    )


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


def _flag_file_name(argument: str) -> str | None:
    """The value of a --flagfile argument: "" if it is the next one, None for other arguments."""
    match = re.fullmatch(r"--?flagfile(?:=(.*))?", argument.strip())
    return None if match is None else (match[1] or "").strip()


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
    try:
        return tuple(kind(text.strip()) for text in given) if is_list(field) else kind(given)
    except ValueError:
        got = flag_value(tuple(given) if is_list(field) else given)
        raise ValueError(f"--{field.name}: expected {kind.__name__}, got {got!r}") from None


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
