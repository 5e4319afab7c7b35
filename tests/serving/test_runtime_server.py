"""docker/runtime_server.py in a process of its own: answers, limits, errors, the end."""

import contextlib
import http.client
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

import fcos_tf
from fcos_tf.export.onnx import export_onnx
from fcos_tf.export.openvino import export_openvino
from tests.export.encoded import save
from tests.export.runtimes import small_detector
from tests.limits import HANG
from tests.serving.docker_files import DOCKER

for package in ("onnx", "onnxruntime", "openvino", "starlette", "uvicorn"):
    pytest.importorskip(package, reason="make runtimes")

SERVER = [sys.executable, str(DOCKER / "runtime_server.py")]
SMALL = {"MAX_BYTES": 100_000, "MAX_PIXELS": 200_000, "MAX_REQUESTS": 2, "READ_SECONDS": 2}


def photos():
    """Real photos, larger and smaller than the canvas, wide and high."""
    china, flower = (load_sample_image(f"{name}.jpg") for name in ("china", "flower"))
    turned = Image.Exif()
    turned[0x0112] = 6
    return {
        "wide": save(china, "JPEG"), "high": save(flower[:400, 100:250], "JPEG", progressive=True),
        "small": save(china[100:140, 200:231], "PNG"), "grey": save(flower[:200, :, 1], "JPEG"),
        "EXIF": save(china[:120, :200], "JPEG", exif=turned), "line": save(china[:1], "PNG"),
    }  # fmt: skip


@pytest.fixture(scope="module")
def files(model, tmp_path_factory):
    """The models by the names of their files, and the folder of those."""
    folder = tmp_path_factory.mktemp("runtime")
    canvas = small_detector(apply_exif=True)
    export_onnx(model, folder / "sides.onnx")
    export_onnx(canvas, folder / "canvas.onnx")
    export_openvino(model, folder / "sides.xml")
    return {"sides.onnx": model, "canvas.onnx": canvas, "sides.xml": model}, folder


@contextlib.contextmanager
def serving(file, **settings):
    """A server: its port and its process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    given = {"MODEL": file, "PORT": port, "THREADS": 1, **settings}
    process = subprocess.Popen(
        SERVER, env=os.environ | {name: str(value) for name, value in given.items()}
    )
    try:
        end = time.monotonic() + HANG
        while time.monotonic() < end:
            assert process.poll() is None
            with contextlib.suppress(OSError):
                assert ask(port, None, "/health")[0] == 200
                break
            time.sleep(0.1)
        yield port, process
    finally:
        process.kill()
        process.wait()


def ask(port, data, path="/detect", method=None):
    """The status of an answer, and its JSON."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=HANG)
    connection.request(method or ("GET" if data is None else "POST"), path, data)
    response = connection.getresponse()
    assert response.getheader("connection") == "close"
    return response.status, json.loads(response.read())


def begin(port, text):
    """A connection that has sent this much."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=HANG)
    connection.sendall(text)
    return connection


HEAD = b"POST /detect HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n"


@pytest.mark.parametrize("name", ["sides.onnx", "canvas.onnx", "sides.xml"])
def test_answers_are_the_detections_of_the_model(files, name):
    models, folder = files
    with serving(folder / name) as (port, _):
        for kind, data in photos().items():
            for option, threshold in (("", None), ("?score_threshold=0.2", 0.2)):
                status, found = ask(port, data, f"/detect{option}")
                assert status == 200, found
                (expected,) = fcos_tf.detect(models[name], data, score_threshold=threshold)
                rows = found["detections"]
                assert len(rows) == len(expected), kind
                ids = [expected.category_ids[label] for label in expected.labels]
                assert sorted(row["category_id"] for row in rows) == sorted(ids)
                size = Image.open(io.BytesIO(data)).size
                turned = kind == "EXIF" and name == "canvas.onnx"
                assert (found["width"], found["height"]) == size[:: -1 if turned else 1]
                if not rows:
                    continue
                scores = np.array([row["score"] for row in rows])
                np.testing.assert_allclose(scores, expected.scores, rtol=0, atol=2e-4)
                # Equal scores may come in another order.
                boxes = np.array([row["box"] for row in rows])
                far = np.abs(boxes[:, None] - expected.boxes).max(-1) > 0.02
                far |= np.array([row["category_id"] for row in rows])[:, None] != ids
                assert not far.all(0).any() and not far.all(1).any(), kind
        names = {row["class_name"] for row in rows}
        assert names <= set(expected.class_names or [None])


def test_concurrent_requests_get_their_own_answers(files):
    _, folder = files
    data = [photos()[kind] for kind in ("wide", "high", "grey", "small")] * 4
    for name in ("sides.onnx", "sides.xml"):
        with serving(folder / name, WORKERS=4) as (port, _):
            alone = [ask(port, each) for each in data[:4]] * 4
            with ThreadPoolExecutor(8) as pool:
                assert list(pool.map(lambda each, port=port: ask(port, each), data)) == alone


def test_wrong_requests_are_refused_and_do_no_harm(files):
    _, folder = files
    good = photos()["small"]
    whole = save(load_sample_image("china.jpg")[:200, :300], "JPEG")
    scan = b"\xff\xda\x00\x0c\x03\x01\x00\x02\x11\x03\x11\x00\x3f\x00"
    large = Image.new("L", (500, 401))
    wrong = [
        (400, "JPEG or PNG", b""), (400, "JPEG or PNG", b"nonsense" * 9),
        (400, "JPEG or PNG", save(large.resize((9, 9)), "GIF")),
        (400, "cannot decode", whole[: len(whole) // 2]), (400, "cannot decode", good[:-40]),
        (400, "at most 100 scans", whole + scan * 100),
        (413, "at most 200000 pixels, got 500 x 401", save(large, "PNG")),
        (413, "at most 100000 bytes, got 100001", b"\0" * 100_001),
        (413, "at most 100000 bytes, got 9000000", b"\0" * 9_000_000),
    ]  # fmt: skip
    with serving(folder / "sides.onnx", **SMALL) as (port, _):
        for status, text, data in wrong:
            got = ask(port, data)
            assert got[0] == status and text in got[1]["error"], got
            assert "\n" not in got[1]["error"] and "object at" not in got[1]["error"]
        for value in ("x", "nan", "-1", "1.5", ""):
            got = ask(port, good, f"/detect?score_threshold={value}")
            assert got == (400, {"error": f"score_threshold: expected 0 to 1, got {value!r}"})
        # A client that sends a large body reads the answer only afterwards.
        got = ask(port, b"\0" * 9_000_000, "/detect?score_threshold=2")
        assert got == (400, {"error": "score_threshold: expected 0 to 1, got '2'"})
        assert ask(port, None)[0] == 405 and ask(port, good, "/nothing")[0] == 404
        assert ask(port, good)[0] == 200
        with begin(port, b"GET /" + b"a" * 99_999) as connection:
            assert connection.recv(99).startswith(b"HTTP/1.1 400 ")


def test_slow_clients_are_cut_off_and_further_ones_told_to_wait(files):
    _, folder = files
    good = photos()["small"]
    with serving(folder / "sides.onnx", **SMALL) as (port, _):
        start = time.monotonic()
        slow = [begin(port, HEAD % 99 + b"few") for _ in range(2)]
        headless = begin(port, b"POST /detect HTT")
        while ask(port, None, "/health")[1]["requests"] < 2:
            assert time.monotonic() < start + 2
        for data in (good, b"\0" * 9_000_000):
            assert ask(port, data) == (503, {"error": "busy"})
        for connection in slow:
            assert connection.recv(99).startswith(b"HTTP/1.1 408 ")
        assert headless.recv(99) == b""
        assert 1.9 < time.monotonic() - start < HANG / 2
        assert ask(port, good)[0] == 200
        for connection in (*slow, headless):
            connection.close()


def test_sigterm_lets_requests_in_work_end(files):
    _, folder = files
    good = photos()["small"]
    with serving(folder / "sides.onnx") as (port, process):
        connection = begin(port, HEAD % len(good) + good[:20])
        end = time.monotonic() + HANG
        while ask(port, None, "/health")[1]["requests"] < 1:
            assert time.monotonic() < end
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(OSError):
            while time.monotonic() < end:  # until it no longer listens
                begin(port, b"").close()
        assert time.monotonic() < end
        connection.sendall(good[20:])
        assert connection.recv(99).startswith(b"HTTP/1.1 200 ")
        assert process.wait(HANG) == 0
    with serving(folder / "sides.onnx") as (port, process):
        process.send_signal(signal.SIGTERM)
        assert process.wait(HANG) == 0


def test_a_server_that_cannot_start_says_why(files, tmp_path):
    _, folder = files
    bad = tmp_path / "bad.onnx"
    bad.write_bytes(b"nonsense")
    for given, text in (
        ({}, "MODEL: expected an .onnx or .xml file, got ''"),
        ({"MODEL": str(tmp_path / "no.xml")}, "MODEL: expected an .onnx or .xml file, got "),
        ({"MODEL": str(bad)}, f"MODEL: expected a file of tools/export.py, got {bad}: "),
        ({"WORKERS": "many"}, "WORKERS: expected a whole number from 1 to 2147483648, got 'many'"),
        ({"WORKERS": "0"}, "WORKERS: expected a whole number from 1 to 2147483648, got '0'"),
        ({"MODEL": str(folder / "sides.onnx"), "PORT": "70000"}, "PORT: expected a"),
    ):
        environment = {name: x for name, x in os.environ.items() if name != "MODEL"} | given
        ended = subprocess.run(SERVER, env=environment, capture_output=True, text=True)
        assert ended.returncode == 1 and ended.stderr.splitlines()[-1].startswith(text)
