"""Downloads files: verified, resumed where the connection broke off, once over all processes."""

import contextlib
import fcntl
import hashlib
import http.client
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

from tqdm import tqdm

from fcos_tf.atomic_files import put_in_place

TIMEOUT = 30.0  # seconds without a byte
MAX_BYTES = 1 << 30
_CHUNK_BYTES = 1 << 16
_HASHED_BYTES = 1 << 20
_ATTEMPTS = 5  # in a row, each of which must receive something


def download(url: str, path: str | os.PathLike, *, sha256: str) -> None:
    """Downloads a file; it gets its name once it is complete and verified.

    A broken-off download is kept as `.NAME.part` and resumed, now or by the next call. Hold
    `locked` where several processes may download the same file.

    Args:
        url: http or https. Redirects must lead to https or stay on the host.
        path: the file to write; its folder exists.
        sha256: the first hexadecimal digits of its SHA-256.

    Raises:
        ValueError: another kind of address, or a file with another digest, which is removed.
        OSError: no connection, no such file, no byte for `TIMEOUT` seconds, or more than
            `MAX_BYTES`.
    """
    if urlsplit(url).scheme not in ("http", "https"):
        raise ValueError(f"expected an address of http or https, got {url}")
    path = Path(path)
    part = path.with_name(f".{path.name}.part")
    for attempt in range(1, _ATTEMPTS + 1):
        before = _size(part)
        try:
            _receive(url, part)
            break
        except urllib.error.HTTPError as error:
            raise OSError(f"HTTP {error.code} {error.reason}") from error
        except (OSError, http.client.HTTPException) as error:
            if _size(part) <= before or attempt == _ATTEMPTS:
                reason = getattr(error, "reason", None) or str(error) or type(error).__name__
                raise OSError(str(reason)) from error
    try:
        check_digest(part, sha256)
    except ValueError:
        part.unlink()
        raise
    put_in_place(part, path)


def check_digest(path: Path, sha256: str) -> None:
    """Refuses a file with another SHA-256.

    Raises:
        ValueError: with the expected and the actual first digits.
    """
    hashed = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_HASHED_BYTES):
            hashed.update(chunk)
    digest = hashed.hexdigest()
    if not digest.startswith(sha256):
        got = digest[: len(sha256)]
        raise ValueError(f"expected a file with SHA-256 {sha256}..., got {got}...")


@contextlib.contextmanager
def locked(path: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Holds a lock between processes; a dead process holds none.

    Args:
        path: of the lock file, which stays.
        waiting: called once if another process holds the lock.
    """
    with path.open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _receive(url: str, part: Path) -> None:
    """Receives what is missing of a file, or all of it from a server without ranges."""
    start = _size(part)
    request = urllib.request.Request(url, headers={"User-Agent": "fcos_tf"})
    if start:
        request.add_header("Range", f"bytes={start}-")
    try:
        response = urllib.request.build_opener(_Redirects).open(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if start and error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return  # nothing is missing; the digest tells
        raise
    with response:
        resumed = response.status == http.HTTPStatus.PARTIAL_CONTENT
        got = response.headers.get("Content-Range", "")
        if resumed and not got.startswith(f"bytes {start}-"):
            part.unlink()
            raise OSError(f"expected the bytes from {start} on, got {got!r}")
        at = start if resumed else 0
        length = response.headers.get("Content-Length")
        total = at + int(length) if length else None
        _check_size(at if total is None else total, part)
        shown = {"total": total, "initial": at, "unit": "B", "unit_scale": True, "disable": None}
        with part.open("ab" if resumed else "wb") as stream, tqdm(**shown) as bar:
            while chunk := response.read1(_CHUNK_BYTES):
                stream.write(chunk)
                bar.update(len(chunk))
                at += len(chunk)
                _check_size(at, part)
    if total is not None and at < total:
        raise OSError(f"the connection ended after {at} of {total} bytes")


def _check_size(num_bytes: int, part: Path) -> None:
    if num_bytes > MAX_BYTES:
        part.unlink(missing_ok=True)
        raise OSError(f"expected at most {MAX_BYTES} bytes, got {num_bytes}")


class _Redirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req, fp, code, msg, headers, newurl):
        """Follows a redirect to https, or to the same scheme and host."""
        old, new = urlsplit(req.full_url), urlsplit(newurl)
        if new.scheme != "https" and new[:2] != old[:2]:
            raise urllib.error.URLError(f"refused a redirect to {newurl}: expected https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)
