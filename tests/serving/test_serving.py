"""An exported detector behind a server, asked by the client of `tools/detect.py` and by hand.

First by many clients at once: one file, as the server and the model are those of one process.
"""

import json
import math
import re
import socket
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

import fcos_tf
from fcos_tf.data.images import ImageError
from fcos_tf.detecting import Detections, open_model
from fcos_tf.detecting.exported import ExportedModel
from fcos_tf.detecting.pictures import Picture
from fcos_tf.detecting.served import ServedModel
from tests.detecting.stubs import run
from tests.export.encoded import save, with_texts
from tests.serving.asking import (
    REFUSED,
    ask,
    b64,
    difference,
    found_in,
    picture,
    predicted,
    rows_of,
    with_ids,
)
from tests.serving.conftest import LIMITS

BROKEN_EVERY = 20  # 5 %
MIB_OF_LIMITS = 12 * LIMITS.pixels / 2**20 + 32 * LIMITS.images  # as docs/serving.md states it


def resident_mib(process, what="VmRSS"):
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(re.search(rf"{what}:\s*(\d+) kB", status)[1]) / 2**10


def forget_peak(process):
    Path(f"/proc/{process.pid}/clear_refs").write_text("5")


def worst(kind, side, **options):
    """An image of one colour: the fewest bytes for its pixels."""
    return save(Image.new("RGB", (side, side), (90, 120, 30)), kind, **options)


def test_the_worst_request_within_the_limits_needs_what_is_stated(server):
    """One image, or eight, of as many pixels as are allowed, in every format."""
    address, process = server
    side = math.isqrt(LIMITS.pixels)
    part = math.isqrt(LIMITS.pixels // LIMITS.images)
    progressive = {"progressive": True, "subsampling": 0}
    frames = [Image.new("RGB", (side, side), (level, 0, 0)) for level in range(8)]
    files = {
        "png": [worst("PNG", side)],
        "webp": [worst("WEBP", side)],
        "lossless webp": [worst("WEBP", side, lossless=True)],
        "animated webp": [save(frames[0], "WEBP", save_all=True, append_images=frames[1:])],
        "jpeg": [worst("JPEG", side)],
        "progressive jpeg": [worst("JPEG", side, **progressive)],
        "eight progressive jpegs": [worst("JPEG", part, **progressive)] * 8,
        "eight pngs with texts": [with_texts(worst("PNG", part), 4)] * 8,
    }
    for name, images in files.items():
        forget_peak(process)
        before = resident_mib(process)
        code, answer = ask(f"{address}:predict", {"instances": [b64(data) for data in images]})
        needed = resident_mib(process, "VmHWM") - before
        print(f"{name}: {sum(map(len, images))} bytes, {needed:.0f} of {MIB_OF_LIMITS:.0f} MiB")
        assert code == 200, (name, answer)
        assert needed < MIB_OF_LIMITS, name


@pytest.mark.parametrize("count", [200, pytest.param(2000, marks=pytest.mark.slow)])
def test_mixed_requests_of_eight_clients(model, server, photos, count):
    """None is lost, none is wrong; memory stays once all kinds (the first 920) have come."""
    address, process = server
    pixels = load_sample_image("flower.jpg")[100:132, 200:248]
    groups = [*([data] for data in photos), photos[:2], photos[3:6], [pixels]]
    expected = [predicted(model, group) for group in groups]
    broken = [item for item in REFUSED if item[0] == ":predict" and item[1] is not None]
    client = ServedModel(address)

    def answer(i):
        """None where the answer to request `i` is right, or what is wrong."""
        turn, place = divmod(i, BROKEN_EVERY)
        if place == 7 and turn % 2:
            try:
                return f"no error: {client.detect([picture(photos[2][: 1000 + i])])}"
            except ImageError:
                return None
        if place == 7:
            suffix, body, status, message = broken[turn // 2 % len(broken)]
            code, got = ask(f"{address}{suffix}", body)
            right = code == status and re.search(message, got["error"])
            return None if right else f"{code}: {got}"
        kind = i % len(groups)
        if groups[kind][0] is pixels:
            request = {"signature_name": "detect_images", "instances": [pixels.tolist()]}
            code, got = ask(f"{address}:predict", request)
            found = found_in(got["predictions"])
        else:
            found = client.detect([picture(data) for data in groups[kind]])
        return difference(found, expected[kind])

    with ThreadPoolExecutor(8) as clients:
        answers = list(clients.map(answer, range(count // 2)))
        before = resident_mib(process)
        forget_peak(process)
        answers += clients.map(answer, range(count // 2, count))
        after, peak = resident_mib(process), resident_mib(process, "VmHWM")
    assert answers == [None] * count
    print(f"{count} requests: {before:.0f} MiB after half, {after:.0f} after all, most {peak:.0f}")
    assert after < before + 40
    assert peak < before + 8 * MIB_OF_LIMITS


def test_status_and_metadata(address):
    status = {"error_code": "OK", "error_message": ""}
    versions = [{"version": "3", "state": "AVAILABLE", "status": status}]
    for url in (address, f"{address}/versions/3"):
        assert ask(url) == (200, {"model_version_status": versions})
    code, told = ask(f"{address}/metadata")
    assert code == 200
    assert told["model_spec"] == {"name": "tiny", "signature_name": "", "version": "3"}
    signature = told["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert signature["method_name"] == "tensorflow/serving/predict"
    (key,) = signature["inputs"]
    # The API takes {"b64": ...} for names with this ending.
    assert key.endswith("_bytes")
    assert signature["inputs"][key]["dtype"] == "DT_STRING"
    assert [d["size"] for d in signature["inputs"][key]["tensor_shape"]["dim"]] == ["-1"]
    outputs = {key: value["dtype"] for key, value in signature["outputs"].items()}
    assert outputs == {
        "boxes": "DT_FLOAT",
        "scores": "DT_FLOAT",
        "labels": "DT_INT32",
        "num_detections": "DT_INT32",
    }


def test_one_by_one_like_predict(model, address, photos):
    client = ServedModel(address)
    for data in photos:
        expected = predicted(model, [data])
        assert len(expected[0].scores) > 3 and len(set(expected[0].labels)) > 1
        assert difference(client.detect([picture(data)]), expected) is None


def test_a_batch_like_predict_on_that_batch(model, address, photos):
    found = ServedModel(f"{address}/versions/3").detect([picture(data) for data in photos])
    assert difference(found, predicted(model, photos)) is None


def test_forms_of_requests(model, address, photos):
    expected = predicted(model, photos[:2])
    values = [b64(data) for data in photos[:2]]
    for rows in (values, [{"image_bytes": value} for value in values]):
        code, answer = ask(f"{address}:predict", {"instances": rows})
        assert code == 200
        assert difference(found_in(answer["predictions"]), expected) is None
    for columns in (values, {"image_bytes": values}):
        code, answer = ask(f"{address}:predict", {"inputs": columns})
        assert code == 200
        assert difference(found_in(rows_of(answer["outputs"])), expected) is None


def test_options_of_each_image(model, address, photos):
    expected = predicted(model, photos[:2])
    rows = [
        {"image_bytes": b64(photos[0]), "score_threshold": 0.05, "max_detections": 2},
        # No probability is larger.
        {"image_bytes": b64(photos[1]), "score_threshold": 1.0, "max_detections": 20},
    ]
    request = {"signature_name": "serving_with_options", "instances": rows}
    code, answer = ask(f"{address}:predict", request)
    assert code == 200, answer
    first, second = found_in(answer["predictions"])
    assert difference([first], [expected[0][:2]]) is None
    assert len(second.scores) == 0


def test_pixels_like_predict(model, address):
    pixels = load_sample_image("flower.jpg")[100:140, 200:260]
    request = {"signature_name": "detect_images", "inputs": pixels[None].tolist()}
    code, answer = ask(f"{address}:predict", request)
    assert code == 200
    found = found_in(rows_of(answer["outputs"]))
    assert difference(found, predicted(model, [pixels])) is None


@pytest.mark.parametrize("suffix, body, status, message", REFUSED)
def test_what_is_refused(address, suffix, body, status, message):
    code, answer = ask(f"{address}{suffix}", body)
    assert (code, list(answer)) == (status, ["error"])
    assert re.search(message, answer["error"]), answer


def test_a_broken_image_is_an_error_of_its_request_alone(model, address, photos):
    client = ServedModel(address)
    with pytest.raises(ImageError, match=r"^photo.jpg: .+"):
        client.detect([picture(photos[2][:2000])])
    with pytest.raises(ImageError, match=r"^one of 2 images: .+"):
        client.detect([picture(photos[0]), picture(photos[2][:2000])])
    assert difference(client.detect([picture(photos[0])]), predicted(model, photos[:1])) is None


def test_clients_that_go_away(model, address, photos):
    host, port = urlsplit(address).netloc.split(":")
    head = b"POST /v1/models/tiny:predict HTTP/1.1\r\nContent-Length: 1000\r\n\r\n"
    for said in (b"", b"GET", b"\x00\xff\r\n\r\n", head, head + b'{"inst'):
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(said)
    found = ServedModel(address).detect([picture(photos[0])])
    assert difference(found, predicted(model, photos[:1])) is None


def results(folder):
    """What detections.json holds: file name -> `Detections` with category ids."""
    rows = defaultdict(list)
    for record in json.loads((folder / "detections.json").read_text()):
        x, y, width, height = record["bbox"]
        box = (x, y, x + width, y + height)
        rows[record["file_name"]].append((box, record["score"], record["category_id"]))
    return {name: Detections(*zip(*found, strict=True)) for name, found in rows.items()}


def test_the_tool(model, address, export, photos, tmp_path, capsys):
    folder, out = tmp_path / "photos", tmp_path / "out"
    folder.mkdir()
    for i, data in enumerate(photos):
        (folder / f"{i}.jpg").write_bytes(data)
    # Its pixels can be shown, and the server has the last word on whether it is broken.
    (folder / "broken.jpg").write_bytes(photos[2][:-1000])
    description = export / "3" / "assets" / "description.json"
    code, _, err = run(
        capsys,
        f"--server={address}",
        f"--description={description}",
        f"--input={folder}",
        f"--output_dir={out}",
        "--batch_size=1",
    )
    assert code == 0, err
    assert "broken.jpg" in err
    found = results(out)
    assert len(found) == len(photos)
    for i, data in enumerate(photos):
        assert difference([found[str(folder / f"{i}.jpg")]], predicted(model, [data])) is None


def test_detect_gives_the_same_everywhere(model, export, address, photos, tmp_path):
    """A model, its file, its export and a server of that; files, bytes and pixels."""
    model.save(tmp_path / "model.keras")
    files, photos = [], [photos[0], photos[2]]  # of one canvas
    for i, data in enumerate(photos):
        files.append(tmp_path / f"{i}.jpg")
        files[-1].write_bytes(data)
    pixels = [picture(data).pixels[..., ::-1] for data in photos]  # from OpenCV's order
    description = export / "3" / "assets" / "description.json"
    own, exported = open_model(model), open_model(export)
    others = (
        (open_model(tmp_path / "model.keras"), files),
        (exported, files),
        (exported, pixels),
        (open_model(address, description=description), photos),
    )
    scores = np.concatenate([one.scores for one in fcos_tf.detect(own, files)])
    numbers = []
    for threshold in (None, float(np.median(scores))):
        expected = fcos_tf.detect(own, files, score_threshold=threshold)
        numbers.append(sum(map(len, expected)))
        for opened, images in others:
            found = fcos_tf.detect(opened, images, score_threshold=threshold)
            assert difference(found, expected) is None
            assert [one.category_ids for one in found] == [(7, 3, 90)] * 2
            assert [one.image_size for one in found] == [one.image_size for one in expected]
    assert numbers[0] > numbers[1] > 0


@pytest.mark.slow
def test_real_photos_like_predict(model, export, address, shared_data, tmp_path, capsys):
    """50 photos through everything that detects, one by one, and all at once."""
    files = [
        *sorted((shared_data / "coco" / "val2017").glob("*.jpg"))[:30],
        *sorted((shared_data / "voc2007" / "JPEGImages").glob("*.jpg"))[:20],
    ]
    photos = [picture(file.read_bytes()) for file in files]
    assert len({photo.pixels.shape for photo in photos}) > 20
    expected = [predicted(model, [photo.data])[0] for photo in photos]
    assert sum(len(found.scores) for found in expected) > 500
    saved, client = ExportedModel(export), ServedModel(address)
    for photo, right in zip(photos, expected, strict=True):
        pixels = picture(photo.data).pixels[..., ::-1]
        assert difference(client.detect([photo]), [right]) is None
        for source in (photo, Picture("frame", pixels)):  # serving_default, detect_images
            (found,) = saved.detect([source])
            assert difference([with_ids(found)], [right]) is None
    some = photos[:8]
    assert difference(client.detect(some), predicted(model, [p.data for p in some])) is None

    model.save(tmp_path / "model.keras")
    description = f"--description={export / '3' / 'assets' / 'description.json'}"
    for source in (
        [f"--weights={tmp_path / 'model.keras'}"],
        [f"--saved_model={export}"],
        [f"--server={address}", description],
    ):
        out = tmp_path / source[0].split("=")[0]
        code, _, err = run(
            capsys, *source, f"--input={','.join(map(str, files))}", f"--output_dir={out}"
        )
        assert code == 0, err
        found = results(out)
        assert difference([found[str(file)] for file in files], expected) is None
