"""Downloads over a real connection: good, wrong, broken off, refused, slow, several at once."""

import hashlib
import os
import signal
import subprocess
import sys
import time

import pytest

from fcos_tf import downloads
from tests.file_server import serving
from tests.limits import HANG

DATA = bytes(range(256)) * 2000
DIGEST = hashlib.sha256(DATA).hexdigest()[:8]


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with serving() as server:
        server.files["/a.bin"] = DATA
        yield server


def download(server, folder, path="/a.bin"):
    downloads.download(f"{server.address}{path}", folder / "a.bin", sha256=DIGEST)


def test_a_good_file(server, tmp_path):
    download(server, tmp_path)
    assert (tmp_path / "a.bin").read_bytes() == DATA
    assert os.listdir(tmp_path) == ["a.bin"] and server.requests == [("/a.bin", None)]


def test_a_wrong_file_is_removed(server, tmp_path):
    server.files["/a.bin"] = DATA[1:]
    got = hashlib.sha256(DATA[1:]).hexdigest()[:8]
    with pytest.raises(ValueError, match=rf"expected .* SHA-256 {DIGEST}\.\.\., got {got}\.\.\."):
        download(server, tmp_path)
    assert os.listdir(tmp_path) == []


def test_a_broken_off_download_is_resumed_at_once(server, tmp_path):
    server.breaks = [100_000, 50_000]
    download(server, tmp_path)
    assert (tmp_path / "a.bin").read_bytes() == DATA
    assert [asked for _, asked in server.requests] == [None, "bytes=100000-", "bytes=150000-"]


def test_a_broken_off_download_is_resumed_by_the_next_call(server, tmp_path):
    server.breaks = [100_000, 0]
    with pytest.raises(OSError, match="ended after 100000 of 512000 bytes"):
        download(server, tmp_path)
    assert os.listdir(tmp_path) == [".a.bin.part"]
    download(server, tmp_path)
    assert (tmp_path / "a.bin").read_bytes() == DATA
    assert server.requests[-1] == ("/a.bin", "bytes=100000-")


def test_a_server_without_ranges_starts_again(server, tmp_path):
    server.breaks, server.ranges = [100_000], False
    download(server, tmp_path)
    assert (tmp_path / "a.bin").read_bytes() == DATA


def test_a_complete_part_is_verified_and_renamed(server, tmp_path):
    (tmp_path / ".a.bin.part").write_bytes(DATA)  # killed before the rename
    download(server, tmp_path)
    assert os.listdir(tmp_path) == ["a.bin"]


def test_a_part_of_another_file_is_removed(server, tmp_path):
    (tmp_path / ".a.bin.part").write_bytes(b"other" * 1000)
    with pytest.raises(ValueError, match="SHA-256"):
        download(server, tmp_path)
    download(server, tmp_path)
    assert (tmp_path / "a.bin").read_bytes() == DATA


def test_no_such_file(server, tmp_path):
    with pytest.raises(OSError, match="HTTP 404 Not Found"):
        download(server, tmp_path, "/b.bin")
    assert len(server.requests) == 1


def test_a_silent_server_is_given_up(server, tmp_path, monkeypatch):
    monkeypatch.setattr(downloads, "TIMEOUT", 0.3)
    server.breaks, server.stalls = [100_000, 0], True
    start = time.monotonic()
    with pytest.raises(OSError, match="timed out"):
        download(server, tmp_path)
    assert time.monotonic() - start < 10
    server.go_on.set()
    download(server, tmp_path)
    assert server.requests[-1] == ("/a.bin", "bytes=100000-")


def test_no_server(server, tmp_path):
    address = "http://127.0.0.1:1/a.bin"
    with pytest.raises(OSError, match="refused"):
        downloads.download(address, tmp_path / "a.bin", sha256=DIGEST)


@pytest.mark.parametrize("said", [True, False])
def test_too_large(server, tmp_path, monkeypatch, said):
    monkeypatch.setattr(downloads, "MAX_BYTES", 300_000)
    server.lengths = said
    with pytest.raises(OSError, match="expected at most 300000 bytes, got"):
        download(server, tmp_path)
    assert os.listdir(tmp_path) == []


def test_addresses(server, tmp_path):
    with pytest.raises(ValueError, match="expected an address of http or https, got file:"):
        downloads.download("file:///etc/passwd", tmp_path / "a.bin", sha256="0")
    server.redirects = {"/moved": f"{server.address}/a.bin", "/away": "http://localhost:1/a.bin"}
    download(server, tmp_path, "/moved")
    (tmp_path / "a.bin").unlink()
    with pytest.raises(OSError, match=r"refused a redirect to http://localhost:1/a\.bin"):
        download(server, tmp_path, "/away")


CODE = """
import sys
from pathlib import Path
from fcos_tf.downloads import download, locked
path = Path(sys.argv[2])
with locked(path.with_suffix(".lock"), lambda: print("waiting", flush=True)):
    if not path.exists():
        download(sys.argv[1], path, sha256=sys.argv[3])
"""


def start(server, path):
    arguments = [sys.executable, "-c", CODE, f"{server.address}/a.bin", str(path), DIGEST]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)


def wait_for(condition):
    end = time.monotonic() + HANG
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_of_two_processes_one_downloads(server, tmp_path):
    server.breaks, server.stalls = [100_000], True
    first = start(server, tmp_path / "a.bin")
    wait_for(lambda: server.requests)
    second = start(server, tmp_path / "a.bin")
    assert second.stdout.readline() == "waiting\n"
    server.go_on.set()
    assert (first.wait(HANG), second.wait(HANG)) == (0, 0)
    assert (tmp_path / "a.bin").read_bytes() == DATA
    assert [asked for _, asked in server.requests] == [None, "bytes=100000-"]


def test_a_killed_process_leaves_no_lock_and_its_bytes(server, tmp_path):
    server.breaks, server.stalls = [100_000], True
    killed = start(server, tmp_path / "a.bin")
    part = tmp_path / ".a.bin.part"
    wait_for(part.exists)
    killed.send_signal(signal.SIGKILL)
    killed.wait(HANG)
    kept = part.stat().st_size
    again = start(server, tmp_path / "a.bin")
    assert again.communicate(timeout=HANG)[0] == "" and again.returncode == 0
    assert (tmp_path / "a.bin").read_bytes() == DATA
    assert server.requests[-1] == ("/a.bin", f"bytes={kept}-" if kept else None)
