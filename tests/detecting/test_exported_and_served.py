"""A SavedModel and a server as models that detect."""

import base64
import contextlib
import io
import json
import socket
import threading
import tracemalloc
from concurrent import futures

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from fcos_tf.data.images import ImageError
from fcos_tf.detecting import served
from fcos_tf.detecting.exported import (
    ExportedModel,
    newest_version,
    portable_bytes,
    read_description,
    to_labels,
)
from fcos_tf.detecting.folder import labels_of
from fcos_tf.detecting.models import OpenedModel
from fcos_tf.detecting.pictures import Picture, read_picture
from fcos_tf.detecting.served import ServedModel
from tests.detecting.stubs import (
    WEAK,
    Stub,
    answer_like,
    detect_with,
    flat,
    make_video,
    read_records,
    save_stub,
    serve,
)


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    return save_stub(tmp_path_factory.mktemp("export"))


def description_of(export):
    return export / "1" / "assets" / "description.json"


@pytest.fixture
def images(tmp_path):
    """Two images of different sizes, one the model refuses, and one TensorFlow cannot decode."""
    for name, value, size in (
        ("a.png", 51, (40, 60)), ("b.png", 102, (30, 20)), ("c.png", 13, (8, 8)),
        ("d.tiff", 204, (10, 20)),
    ):  # fmt: skip
        flat(tmp_path / "in" / name, value, *size)
    return tmp_path / "in"


def comparable(folder):
    return [(*record[:4], pytest.approx(record[4], rel=1e-6)) for record in read_records(folder)]


@pytest.mark.parametrize("batch_size", [1, 3])
def test_all_models_write_the_same(export, images, tmp_path, batch_size):
    options = {"batch_size": batch_size}
    stub, line = detect_with(Stub(), images, tmp_path / "stub", **options)
    assert line.startswith("3 images, 1 detections of score 0.5 or more")
    saved, _ = detect_with(ExportedModel(export), images, tmp_path / "saved", **options)
    with serve(answer_like(Stub())) as (address, requests):
        server = ServedModel(f"{address}/v1/models/stub", description_of(export))
        served, _ = detect_with(server, images, tmp_path / "served", **options)
    expected = comparable(tmp_path / "stub")
    # Grey levels 51, 102 and 204 of 255.
    assert [record[4] for record in expected] == pytest.approx([0.2, WEAK, 0.4, WEAK, 0.8, WEAK])
    assert read_records(tmp_path / "saved") == expected
    assert read_records(tmp_path / "served") == expected
    for name in ("a.png", "d.png"):
        drawn = [np.asarray(Image.open(tmp_path / n / name)) for n in ("stub", "saved", "served")]
        np.testing.assert_array_equal(drawn[1], drawn[0])
        np.testing.assert_array_equal(drawn[2], drawn[0])
    (fault,) = stub.faults
    assert fault.endswith("c.png: refused")
    for detection in (saved, served):
        (fault,) = detection.faults
        assert "c.png: " in fault and "refused" in fault
    # What TensorFlow can decode travels as it is.
    sent = [instance["b64"] for _, body in requests for instance in body["instances"]]
    assert base64.b64encode((images / "a.png").read_bytes()).decode() in sent


def test_pixels_travel_as_png():
    pixels = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
    for data in (None, b"II*\0 a TIFF file"):
        sent = portable_bytes(Picture("a", pixels, data))
        image = Image.open(io.BytesIO(sent))
        assert image.format == "PNG" and np.array_equal(image, pixels)
    for data in (b"\xff\xd8\xff...", b"RIFF1234WEBP..."):
        assert portable_bytes(Picture("a", pixels, data)) == data


def test_frames_of_a_video(export, tmp_path):
    video = make_video(tmp_path / "clip.mp4", (51, 102, 204))
    texts = []
    detect_with(Stub(), video, tmp_path / "stub", batch_size=2)
    detect_with(ExportedModel(export), video, tmp_path / "saved", batch_size=2)
    with serve(answer_like(Stub())) as (address, _):
        server = ServedModel(f"{address}/v1/models/stub", description_of(export))
        detect_with(server, video, tmp_path / "served", batch_size=2)
    for name in ("stub", "saved", "served"):
        lines = (tmp_path / name / "detections.jsonl").read_text().splitlines()
        found = [json.loads(line)["detections"] for line in lines]
        texts.append(
            [[(d["category_id"], d["bbox"], round(d["score"], 5)) for d in f] for f in found]
        )
    assert len(texts[0]) == 3 and texts[1] == texts[0] and texts[2] == texts[0]


def test_versions(export, tmp_path):
    assert newest_version(export) == newest_version(export / "1") == export / "1"
    for version in ("2", "10"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "saved_model.pb").write_bytes(b"")
    (tmp_path / "11").mkdir()  # not yet complete
    assert newest_version(tmp_path) == tmp_path / "10"
    with pytest.raises(ValueError, match=r"model: cannot load \S+10: "):
        ExportedModel(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no saved_model\.pb in \S+11 or a version in it"):
        newest_version(tmp_path / "11")
    with pytest.raises(FileNotFoundError, match=r"no folder \S+12"):
        newest_version(tmp_path / "12")


@pytest.mark.parametrize(
    "text, message",
    [
        ("no json", "expected JSON with class_names and category_ids, got JSONDecodeError"),
        ("[]", "expected JSON with class_names and category_ids, got TypeError"),
        ('{"class_names": ["a"]}', r"got KeyError\('category_ids'\)"),
        ('{"class_names": null, "category_ids": [Infinity]}', "got OverflowError"),
        ('{"class_names": ["a"], "category_ids": [1, 2]}', "for each of 1 class names, got 2"),
    ],
)
def test_descriptions_that_are_none(tmp_path, text, message):
    (tmp_path / "d.json").write_text(text)
    with pytest.raises(ValueError, match=rf"d\.json: .*{message}"):
        read_description(tmp_path / "d.json")


def test_a_model_without_names(tmp_path):
    (tmp_path / "d.json").write_text('{"class_names": null, "category_ids": [4, 6]}')
    assert read_description(tmp_path / "d.json") == (None, (4, 6), False, None, None)
    model = OpenedModel(None, (4, 6))
    assert labels_of(model, ["6"]).tolist() == [1]
    found = {
        "boxes": [[[0.0] * 4] * 3], "scores": [[0.5, 0.4, 0.0]], "labels": np.array([[6, 4, -1]]),
        "num_detections": np.array([2]),
    }  # fmt: skip
    assert to_labels(found, (4, 6), 1)["labels"].tolist() == [[1, 0, -1]]
    # Without ids either, labels are the ids.
    assert to_labels(found, None, 1)["labels"].tolist() == [[6, 4, -1]]
    with pytest.raises(ValueError, match=r"category id 6, which its description\.json does not"):
        to_labels(found, (4, 5), 1)


@pytest.mark.parametrize(
    "status, body, error, message",
    [
        (404, {"error": "Servable not found"}, OSError, "/v1/models/m:predict answers 404: Serva"),
        (503, b"<html>busy</html>", OSError, "answers 503: <html>busy"),
        (400, {"error": "cannot decode"}, ImageError, "^a.png: cannot decode$"),
        (400, {"error": '"x" not found in signature def'}, OSError, 'answers 400: "x" not found'),
        (200, b"no json", ValueError, "does not answer as an exported detector"),
        (200, {"predictions": []}, ValueError, "does not answer as an exported detector"),
        (200, {"predictions": [[1.0, 2.0]]}, ValueError, "as an exported detector: .*classifier"),
        (200, {"predictions": [{"x": 1}]}, ValueError, "gave x; expected boxes, scores, labels"),
    ],
)
def test_what_a_server_may_answer(status, body, error, message):
    picture = Picture("a.png", np.zeros([4, 4, 3], np.uint8))
    with (
        serve(lambda path, sent: (status, body)) as (address, _),
        pytest.raises(error, match=message),
    ):
        ServedModel(f"{address}/v1/models/m").detect([picture])


def answer_with(**changes):
    """An answer with one box in a picture of 4 x 4, and changes to it."""
    row = {"boxes": [[0.0, 0.0, 4.0, 4.0]], "scores": [0.5], "labels": [1], "num_detections": 1}
    return {"predictions": [{**row, **changes}]}


@pytest.mark.parametrize(
    "answer, message",
    [
        (
            answer_with(boxes=[[0.0, 0.0, 4.0]]),
            r"boxes float64 \[1, 1, 3\]; expected",
        ),
        (answer_with(boxes=[[0.0, 0.0, 4.0], [1.0]]), "inhomogeneous"),
        (answer_with(boxes=[[0.0, 0.0, 4.0, 9.0]]), "answers boxes outside of the images"),
        (answer_with(boxes=[[0.0, 0.0, 4.0, 1e300]]), r"gave 1e\+300 in boxes"),
        (answer_with(scores=[float("nan")]), "gave nan in scores; expected 0 to 1"),
        (answer_with(scores=[-0.5]), r"gave -0\.5 in scores"),
        (answer_with(scores=["0.5"]), "expected numbers, got '0.5'"),
        (answer_with(scores=[None]), "expected numbers, got 'None'"),
        (answer_with(scores=0.5), r"scores float64 \[1\]; expected numbers \[1, 1\]"),
        (answer_with(labels=[1.5]), r"gave 1\.5 in labels"),
        (answer_with(labels=[10**400]), "int too large"),
        (answer_with(labels=[2**31]), "in labels; expected -1 to 2147483647"),
        (answer_with(num_detections=2), r"gave 2\.0 in num_detections; expected 0 to 1"),
        (answer_with(num_detections=[1]), r"num_detections float64 \[1, 1\]; expected"),
        ({"predictions": answer_with()["predictions"] * 2}, r"boxes float64 \[2, 1, 4\]"),
        (b"[" * 100_000, "RecursionError"),
        (b'{"predictions": [' + b"[" * 900 + b"]" * 900 + b"]}", "classifier"),
    ],
)
def test_answers_that_are_no_detections(answer, message):
    picture = Picture("a.png", np.zeros([4, 4, 3], np.uint8))
    with serve(lambda path, sent: (200, answer)) as (address, _):
        model = ServedModel(f"{address}/v1/models/m")
        with pytest.raises(ValueError, match=f"(?s)^model: {address}.*{message}"):
            model.detect([picture])


def test_without_a_description_a_server_gets_no_image_to_turn(export, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = np.random.default_rng(0).integers(0, 256, (4, 8, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    picture = read_picture(str(tmp_path / "a.png"))
    with serve(lambda path, sent: (200, answer_with(labels=[3]))) as (address, sent):
        for description in (None, description_of(export)):
            ServedModel(f"{address}/v1/models/m", description).detect([picture])
    first, second = (base64.b64decode(each["instances"][0]["b64"]) for _, each in sent)
    assert Image.open(io.BytesIO(first)).getexif().get(0x0112, 1) == 1
    np.testing.assert_array_equal(Image.open(io.BytesIO(first)), pixels)
    assert second == (tmp_path / "a.png").read_bytes()


def test_a_large_label_needs_no_memory():
    picture = Picture("a.png", np.zeros([4, 4, 3], np.uint8))
    with serve(lambda path, sent: (200, answer_with(labels=[100_000_000]))) as (address, _):
        (found,) = ServedModel(f"{address}/v1/models/m").detect([picture])
    tracemalloc.start()
    (record,) = found.to_coco()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert record["category_id"] == 100_000_000 and peak < 1e6


@pytest.mark.parametrize("status", [200, 400, 500])
def test_answers_that_are_too_long(monkeypatch, status):
    monkeypatch.setattr(served, "MAX_ANSWER_BYTES", 1000)
    picture = Picture("a.png", np.zeros([4, 4, 3], np.uint8))
    with (
        serve(lambda path, sent: (status, b" " * 1001)) as (address, _),
        pytest.raises(OSError, match="answer of at most 1000 bytes, got more"),
    ):
        ServedModel(f"{address}/v1/models/m").detect([picture])


def test_a_server_that_never_ends_its_answer(monkeypatch):
    monkeypatch.setattr(served, "TIMEOUT", 0.5)
    stop = threading.Event()

    def drip(listener):
        """A byte of a header line at a time, each well before a timeout between two bytes."""
        connection, _ = listener.accept()
        with connection, contextlib.suppress(OSError):
            while not stop.wait(0.05):
                connection.sendall(b"H")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=drip, args=(listener,))
        thread.start()
        address = f"http://127.0.0.1:{listener.getsockname()[1]}/v1/models/m"
        picture = Picture("a.png", np.zeros([4, 4, 3], np.uint8))
        try:
            with pytest.raises(OSError, match=r"no whole answer within 0\.5 seconds"):
                ServedModel(address).detect([picture])
        finally:
            stop.set()
            thread.join()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_pictures_are_not_sent_where_a_server_says(status):
    picture = Picture("a.png", np.zeros([4, 4, 3], np.uint8))
    with serve(lambda path, sent: (200, answer_with())) as (other, requests):
        headers = {"Location": f"{other}/v1/models/m:predict"}
        with (
            serve(lambda path, sent: (status, {}), headers) as (address, _),
            pytest.raises(OSError, match=f"refused a redirect to {other}/"),
        ):
            ServedModel(f"{address}/v1/models/m").detect([picture])
    assert requests == []


def test_addresses():
    picture = Picture("a.png", np.zeros([4, 4, 3], np.uint8))
    with serve(lambda path, sent: (200, {})) as (address, _):
        pass
    with pytest.raises(OSError, match=r"model: cannot reach http://127\S+:predict: .*refused"):
        ServedModel(f"{address}/v1/models/m").detect([picture])
    for address in (
        "localhost:8501", "http://host:8501", "http://host/v1/models/", "grpc://host",
        "file:///v1/models/m", "ftp://host/v1/models/m", "http://host:99999/v1/models/m",
        "http://host:x/v1/models/m", "http://a@host/v1/models/m", "http://host/v1/models/m\r\nX: y",
    ):  # fmt: skip
        with pytest.raises(ValueError, match=f"model: expected http://host.* got {address}"):
            ServedModel(address)


def test_grpc_without_its_package(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tensorflow_serving.apis", None)
    with pytest.raises(ValueError, match="grpc:// needs the package tensorflow-serving-api"):
        ServedModel("grpc://host:8500/m")


def test_grpc(export, images, tmp_path):
    """Against a service of the real protocol, if its package is there."""
    service = pytest.importorskip("tensorflow_serving.apis.prediction_service_pb2_grpc")
    import grpc
    from tensorflow_serving.apis import predict_pb2

    signatures = tf.saved_model.load(export / "1").signatures

    class Service(service.PredictionServiceServicer):
        def Predict(self, request, context):  # noqa: N802
            assert request.model_spec.name == "stub"
            inputs = {name: tf.make_ndarray(value) for name, value in request.inputs.items()}
            inputs = {name: tf.constant(value) for name, value in inputs.items()}
            try:
                found = signatures[request.model_spec.signature_name](**inputs)
            except tf.errors.InvalidArgumentError as error:
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, error.message)
            answer = predict_pb2.PredictResponse()
            for name, value in found.items():
                answer.outputs[name].CopyFrom(tf.make_tensor_proto(value.numpy()))
            return answer

    server = grpc.server(futures.ThreadPoolExecutor(1))
    service.add_PredictionServiceServicer_to_server(Service(), server)
    address = f"grpc://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}/stub"
    server.start()
    try:
        model = ServedModel(address, description_of(export))
        detection, _ = detect_with(model, images, tmp_path / "served")
        strong = model.detect([Picture("a", np.full([4, 4, 3], 51, np.uint8))], 0.1)
    finally:
        server.stop(None).wait()
    assert [found.names for found in strong] == [["dog"]]
    detect_with(ExportedModel(export), images, tmp_path / "saved")
    assert read_records(tmp_path / "served") == read_records(tmp_path / "saved")
    (fault,) = detection.faults
    assert "c.png: " in fault and "refused" in fault
    with pytest.raises(OSError, match=r"model: grpc://127\S+/stub: UNAVAILABLE: "):
        ServedModel(address).detect([Picture("a", np.zeros([4, 4, 3], np.uint8))])
