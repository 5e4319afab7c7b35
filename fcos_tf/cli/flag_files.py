"""Flag files: where `--flagfile=NAME.cfg` is looked up, and what is in one."""

import os
import re
from collections.abc import Callable
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]
# In the package where it is installed, else beside it, as in the repository.
CONFIGS = _PACKAGE / "configs"
if not CONFIGS.is_dir():
    CONFIGS = _PACKAGE.parent / "configs"


def split_flag_files(
    arguments: list[str], counts: Callable[[str], bool]
) -> tuple[list[str], list[str]]:
    """Takes --flagfile out of arguments.

    Args:
        arguments: Of the command line.
        counts: As of `read_flag_file`.

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
    """Reads the flags of a file: one `--name=value` per line, `#` begins a comment line.

    A line `--flagfile=OTHER` stands for the lines of that file.

    Args:
        name: A path, or the name of a file in the working directory, in `configs` below it, or
            among the configs of this package.
        counts: The name of a flag -> whether its line counts; raises ValueError for an unknown one.
        opened_by: The files that led here.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: For a line that is no flag, and for files that lead in a circle.
    """
    path = find_flag_file(name)
    if path in opened_by:
        raise ValueError(f"flag file {path} leads to itself")
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
            # Without "=" a flag would take the next line for its value.
            raise ValueError(f"{path} line {number}: expected --name=value, got {line!r}")
        try:
            if counts(match[1]):
                lines.append(line)
        except ValueError as error:
            raise ValueError(f"{path} line {number}: {error}") from None
    return lines


def find_flag_file(name: str) -> Path:
    """The path of a flag file, see `read_flag_file`."""
    name = os.path.expanduser(name)
    folders = dict.fromkeys((Path.cwd(), Path.cwd() / "configs", CONFIGS))
    for folder in folders:
        path = folder / name  # an absolute name stays itself
        if path.is_file():
            return path.resolve()
    if os.path.isabs(name):
        raise FileNotFoundError(f"--flagfile: no file {name}")
    have = sorted(path.name for path in CONFIGS.glob("*.cfg"))
    raise FileNotFoundError(
        f"--flagfile: no file {name!r} in {', '.join(map(str, folders))}; "
        f"there are: {', '.join(have) or 'none'}"
    )


def _flag_file_name(argument: str) -> str | None:
    """The file that a --flagfile argument names; "" if the next argument does, None if no such."""
    match = re.fullmatch(r"--?flagfile(?:=(.*))?", argument.strip())
    return None if match is None else (match[1] or "").strip()
