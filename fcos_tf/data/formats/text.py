"""Text files of data sets."""

import os

from fcos_tf.image_files import read_text


def read_utf8(file: str | os.PathLike) -> str:
    """The text of a file, as `read_text` gives it, where nothing else names the file.

    Raises:
        OSError: It is missing, no regular file, or cannot be read.
        ValueError: It is not UTF-8; names it.
    """
    try:
        return read_text(file)
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: expected text in UTF-8, got {error}") from None
