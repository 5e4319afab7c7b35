"""Flag files: lookup and format of `--flagfile=NAME.cfg`."""

import os
import re
from collections.abc import Callable
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]
# Inside an installed package, beside it in the repository.
CONFIGS = _PACKAGE / "configs"
if not CONFIGS.is_dir():
    CONFIGS = _PACKAGE.parent / "configs"


def split_flag_files(
    arguments: list[str], counts: Callable[[str], bool]
) -> tuple[list[str], list[str]]:
    """Reads the flag files of a command line.

    Args:
        arguments: Of the command line.
        counts: See `read_flag_file`.

    Returns:
        The lines of the files, and the other arguments.
    """
    lines, others = [], []
    remaining = list(arguments)
    while remaining:
        argument = remaining.pop(0)
        name = _flag_file_name(argument)
        if name is None:
            others.append(argument)
            continue
        if name == "":
            if "=" in argument or not remaining:
                raise ValueError("--flagfile: expected the name of a file, got none")
            name = remaining.pop(0)
        lines += read_flag_file(name, counts)
    return lines, others


def read_flag_file(
    name: str, counts: Callable[[str], bool], opened_by: tuple[Path, ...] = ()
) -> list[str]:
    """Reads the flags of a file: one `--name=value` per line, `#` starts a comment line.

    A line `--flagfile=OTHER` includes the lines of that file.

    Args:
        name: A path, or the name of a file in the working directory, in `configs` below it, or
            among the configs of this package.
        counts: The name of a flag -> whether its line is used; ValueError for an unknown one.
        opened_by: The including files.

    Raises:
        FileNotFoundError: No such file.
        ValueError: A line that is no flag, or a file that includes itself.
    """
    path = find_flag_file(name)
    if path in opened_by:
        raise ValueError(f"flag file {path} includes itself")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"--flagfile: {path} is not a text file in UTF-8") from None
    lines = []
    for number, line in enumerate(text.splitlines(), start=1):
        line = line.strip()
        if not line or line.startswith(("#", "//")):
            continue
        nested = _flag_file_name(line)
        if nested:
            lines += read_flag_file(nested, counts, (*opened_by, path))
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


def _flag_file_name(argument: str) -> str | None:
    """The value of a --flagfile argument: "" if it is the next one, None for other arguments."""
    match = re.fullmatch(r"--?flagfile(?:=(.*))?", argument.strip())
    return None if match is None else (match[1] or "").strip()
