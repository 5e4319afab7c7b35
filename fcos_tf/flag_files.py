"""Flag files: one option per line."""

import os
import re
from collections.abc import Callable
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
# Inside an installed package, beside it in the repository.
CONFIGS = _PACKAGE / "configs"
if not CONFIGS.is_dir():
    CONFIGS = _PACKAGE.parent / "configs"
MAX_FLAG_FILES = 50  # of one command line, each as often as it is included


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
        text = path.read_text(encoding="utf-8-sig")  # with or without a mark
    except UnicodeDecodeError:
        raise ValueError(f"--flagfile: {path} is not a text file in UTF-8") from None
    lines = []
    for number, line in enumerate(map(str.strip, text.splitlines()), start=1):
        if not line or line.startswith(("#", "//")):
            continue
        if nested := flag_file_name(line):
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


def flag_file_name(argument: str) -> str | None:
    """The value of a --flagfile argument: "" if it is the next one, None for other arguments."""
    match = re.fullmatch(r"--?flagfile(?:=(.*))?", argument.strip())
    return None if match is None else (match[1] or "").strip()
