"""The exported detector against the detector: on files, photos, broken requests, and alone."""

import functools
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from tensorflow.core.protobuf import saved_model_pb2

import fcos_tf
from fcos_tf.data.prepare import prepare_batch
from fcos_tf.detecting import compile_detect, detect_batch
from fcos_tf.export import Limits, export_saved_model, saved_model, signatures
from fcos_tf.export.checks import read_sample
from tests.export.encoded import READABLE, jpeg
from tests.models.test_faster_rcnn import SMALL
from tests.models.test_folding import randomize

IDS = (7, 9, 40)
NAMES = ("cat", "dog", "Käfer")
SIZE = "96,160"
# Of different sizes and orientations, larger and smaller than the detector's.
FILES = [jpeg(60, 90), jpeg(90, 60, seed=1), jpeg(200, 333, seed=2), jpeg(96, 96, seed=3)]


def make_detector(*, backbone="resnet18", **options):
    """A detector that finds much, of clearly different scores."""
    keras.utils.set_random_seed(1)
    model = fcos_tf.FCOS(
        3, backbone=backbone, fpn_channels=32, head_convs=1, class_names=NAMES, category_ids=IDS,
        image_size=SIZE, max_detections=20, **options,
    )  # fmt: skip
    randomize(model)
    logits = model.head.class_logits
    logits.kernel.assign(logits.kernel * 8)
    logits.bias.assign([-1.0, -1.5, -2.0])
    ltrb = model.head.ltrb
    ltrb.bias.assign([2.0, 2.0, 2.0, 2.0])
    return model


@pytest.fixture(scope="module")
def model():
    return make_detector()


@pytest.fixture(scope="module")
def small():
    return make_detector(backbone="simple_cnn", fpn_levels=3)


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    # Not folded: equal to the last bit, so that suppression has nothing to fall over.
    return export_saved_model(model, tmp_path_factory.mktemp("fcos") / "1", fold=False)


@pytest.fixture(scope="module")
def serve(exported):
    loaded = tf.saved_model.load(str(exported)).signatures

    def call(signature, **inputs):
        inputs = {name: tf.constant(value) for name, value in inputs.items()}
        return {name: value.numpy() for name, value in loaded[signature](**inputs).items()}

    return call


_compiled = functools.cache(compile_detect)


def predict(model, sources):
    """What the model gives, in pixels of the original images and with the data set's ids."""
    batch = prepare_batch(sources, model.image_size)
    found = detect_batch(_compiled(model), batch["images"], batch)
    counts = (found["labels"] >= 0).sum(axis=1)
    labels = np.array([-1, *IDS])[found["labels"] + 1]
    return {**found, "num_detections": counts, "labels": labels}


def assert_same(found, expected):
    for name in ("num_detections", "labels"):
        np.testing.assert_array_equal(found[name], expected[name])
    np.testing.assert_allclose(found["scores"], expected["scores"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(found["boxes"], expected["boxes"], rtol=0, atol=0.01)


def pixels_of(data):
    return tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE").numpy()


def test_one_by_one_both_signatures_give_what_the_model_gives(model, serve):
    for data in FILES:
        expected = predict(model, [data])
        assert expected["num_detections"] == [20] and np.ptp(expected["scores"]) > 0.02
        assert_same(serve("serving_default", image_bytes=[data]), expected)
        assert_same(serve("detect_images", images=pixels_of(data)[None]), expected)


def test_a_mixed_batch_is_the_models_mixed_batch(model, serve):
    assert_same(serve("serving_default", image_bytes=FILES), predict(model, FILES))
    same = np.stack([pixels_of(FILES[0])] * 2)
    assert_same(serve("detect_images", images=same), predict(model, list(same)))


def test_real_photos(model, serve, shared_data):
    photos = sorted((shared_data / "voc2007" / "JPEGImages").glob("*.jpg"))[::200][:6]
    assert len(photos) > 3
    for photo in photos:
        found = serve("serving_default", image_bytes=[photo.read_bytes()])
        assert_same(found, predict(model, [photo]))


def test_two_stages(tmp_path):
    """Also that the gradient of RoIAlign, which a SavedModel holds, can be written."""
    keras.utils.set_random_seed(0)
    two_stage = fcos_tf.FasterRCNN(
        3, class_names=NAMES, category_ids=IDS, image_size=SIZE, max_detections=20, **SMALL
    )
    randomize(two_stage)
    folder = export_saved_model(two_stage, tmp_path / "1", fold=False)
    found = tf.saved_model.load(str(folder)).signatures["serving_default"](tf.constant(FILES[:1]))
    expected = predict(two_stage, FILES[:1])
    assert expected["num_detections"][0] > 5
    assert_same({name: value.numpy() for name, value in found.items()}, expected)


def test_odd_files(model, serve):
    for kind in ("jpeg cmyk", "jpeg rotated by exif", "png 16-bit grey", "webp rgba"):
        found = serve("serving_default", image_bytes=[READABLE[kind]])
        assert_same(found, predict(model, [READABLE[kind]]))


def test_raw_outputs_are_the_models(model, serve):
    batch = prepare_batch(FILES, SIZE)
    prepared = serve("prepare_image", image_bytes=FILES)
    for name, value in batch.items():
        np.testing.assert_allclose(prepared[name], value, rtol=0, atol=1e-4)
    inputs = {name: prepared[name] for name in ("images", "image_sizes")}
    for name, value in serve("raw_outputs", **inputs).items():
        np.testing.assert_allclose(value, model(inputs)[name], rtol=0, atol=1e-4)


def test_options_are_those_of_the_model(serve):
    found = serve(
        "serving_with_options",
        image_bytes=FILES[:1] * 3, score_threshold=[0.85, 0.85, 0.05], max_detections=[99, 5, 20],
    )  # fmt: skip
    strict = predict(make_detector(score_threshold=0.85), FILES[:1] * 3)
    count = int(strict["num_detections"][0])
    assert 5 < count < 20
    np.testing.assert_array_equal(found["num_detections"], [count, 5, 20])
    for row, kept in ((0, 20), (1, 5)):
        for name in ("labels", "scores", "boxes"):
            np.testing.assert_allclose(
                found[name][row, :kept], strict[name][row, :kept], rtol=1e-5, atol=1e-5
            )
    assert (found["labels"][1, 5:] == -1).all()


def test_a_broken_request_is_an_error_and_the_next_one_works(model, serve):
    expected = predict(model, FILES[:1])
    for data, message in (
        (b"no image", r"image_bytes\[1\]: expected JPEG, PNG, BMP or WebP, got 8 bytes"),
        (FILES[1][: len(FILES[1]) // 2], "Invalid JPEG data"),
    ):
        with pytest.raises(tf.errors.InvalidArgumentError, match=message):
            serve("serving_default", image_bytes=[FILES[0], data])
        assert_same(serve("serving_default", image_bytes=FILES[:1]), expected)


def test_assets_say_what_it_is(model, exported):
    loaded = tf.saved_model.load(str(exported))
    description = json.loads(Path(loaded.description.asset_path.numpy().decode()).read_text())
    assert description["class_names"] == list(NAMES)
    assert description["category_ids"] == list(IDS)
    assert description["image_size"] == SIZE
    assert (description["score_threshold"], description["max_detections"]) == (0.05, 20)
    assert (description["folded_batch_norms"], description["other_batch_norms"]) == (0, 20)
    assert description["request_limits"] == {"images": 8, "pixels": 2**26}
    assert description["model"]["config"]["backbone"] == "resnet18"
    assert set(description["signatures"]) == set(loaded.signatures)
    classes = json.loads((exported / "assets" / "classes.json").read_text(encoding="utf-8"))
    assert classes == {"7": "cat", "9": "dog", "40": "Käfer"}


def test_no_operation_runs_python(exported):
    content = saved_model_pb2.SavedModel.FromString((exported / "saved_model.pb").read_bytes())
    (meta,) = content.meta_graphs
    functions = meta.graph_def.library.function
    used = {node.op for node in meta.graph_def.node}
    used |= {node.op for function in functions for node in function.node_def}
    assert {"DecodeJpeg", "DecodeImage", "NonMaxSuppressionV3", "Conv2D"} <= used
    assert not [name for name in used if "Py" in name]
    # The network is there once, whatever the number of signatures: a ResNet-18 has 20 convolutions,
    # the pyramid 8, the head's towers 2 and outputs 3 for each of five levels.
    nodes = [node for function in functions for node in function.node_def]
    assert sum(node.op == "Conv2D" for node in nodes) == 20 + 8 + 5 * 5


ALONE = """
import sys
import numpy as np, tensorflow as tf

class Blocked:
    def find_spec(self, name, *args):
        if name.split(".")[0] in ("keras", "fcos_tf", "cv2", "PIL"):
            raise ImportError("blocked: " + name)

for name in list(sys.modules):
    if name.split(".")[0] == "keras":
        del sys.modules[name]
sys.meta_path.insert(0, Blocked())
folder, source, target = sys.argv[1:]
serve = tf.saved_model.load(folder).signatures["serving_default"]
found = serve(image_bytes=tf.constant([open(source, "rb").read()]))
np.savez(target, **{name: value.numpy() for name, value in found.items()})
assert not {"keras", "fcos_tf"} & set(sys.modules)
"""


def test_tensorflow_alone_runs_it(model, exported, tmp_path):
    source, target = tmp_path / "a.jpg", tmp_path / "found.npz"
    source.write_bytes(FILES[0])
    subprocess.run(
        [sys.executable, "-I", "-c", ALONE, exported, source, target],
        check=True, cwd=tmp_path, env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )  # fmt: skip
    assert_same(np.load(target), predict(model, FILES[:1]))


def test_what_is_written_by_default(small, tmp_path, caplog):
    """Folded, on a static canvas, with thresholds of its own."""
    folder = tmp_path / "new" / "fcos" / "12"
    options = {"score_threshold": 0.3, "max_detections": 4, "sample": FILES[0]}
    with caplog.at_level("INFO", logger="tensorflow"):  # as in a notebook
        written = export_saved_model(small, folder, image_size=(64, 96), **options)
    assert written == folder
    assert ".writing_12" not in caplog.text
    assert [path.name for path in folder.parent.iterdir()] == ["12"]
    assert folder.stat().st_mode & 0o777 == 0o755
    description = json.loads((folder / "assets" / "description.json").read_text())
    assert description["image_size"] == "64x96"
    assert (description["folded_batch_norms"], description["other_batch_norms"]) == (2, 0)
    assert (description["score_threshold"], small.score_threshold) == (0.3, 0.05)
    loaded = tf.saved_model.load(str(folder)).signatures["serving_default"]
    assert loaded(image_bytes=tf.constant(FILES))["boxes"].shape == (4, 4, 4)
    # A weight is stored once, whatever the number of signatures: those of the convolutions and
    # of the head, four bytes each.
    kept = sum(
        np.prod(weight.shape)
        for weight in small.weights
        if weight.path.split("/")[-1] not in ("gamma", "moving_mean", "moving_variance")
        or "head" in weight.path
    )
    (data,) = (folder / "variables").glob("*.data-*")
    assert 4 * kept <= data.stat().st_size < 4 * kept + 100_000


def test_thresholds_of_the_best_f1_are_in_the_graph(model, tmp_path):
    own = predict(model, FILES[:1])
    labels, scores = own["labels"][0], own["scores"][0]
    # Between two scores of each class, as rounding differs.
    best = {each: np.sort(scores[labels == each])[-2:] for each in IDS}
    limits = [float(best[each].mean()) if len(best[each]) else 0.5 for each in IDS]
    kept = np.flatnonzero(scores > np.array(limits)[[IDS.index(each) for each in labels]])
    assert len(kept) == sum(len(two) == 2 for two in best.values()) > 1
    copy = model.with_classes(model.class_names, category_ids=IDS)
    copy.best_f1 = {"score_threshold": 0.05, "by_class": limits}
    folder = export_saved_model(
        copy, tmp_path / "1", score_threshold="best_f1", fold=False, sample=FILES[0]
    )
    description = json.loads((folder / "assets" / "description.json").read_text())
    assert description["score_threshold"] == "best_f1"
    assert description["best_f1"] == {"score_threshold": 0.05, "by_class": limits}
    for options, number in (({}, kept), ({"score_threshold": 0.05}, np.arange(20))):
        (found,) = fcos_tf.detect(folder, FILES[0], **options)
        np.testing.assert_array_equal(np.array(IDS)[found.labels], labels[number])
        np.testing.assert_allclose(found.scores, scores[number], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["latest", "1.5", "v1", "-1", "²", ""])
def test_a_version_is_a_whole_number(model, tmp_path, name):
    with pytest.raises(ValueError, match="a whole number as in EXPORT/1; got "):
        export_saved_model(model, f"{tmp_path}/{name}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("most", [1, 1000, 100_000, 10**6])
def test_the_photo_of_the_check_keeps_the_limit_of_a_request(most):
    with Image.open(io.BytesIO(read_sample(None, most))) as image:
        width, height = image.size
    assert (width, height) == (640, 427) if most == 10**6 else 0.5 * most <= width * height <= most


def test_no_version_is_overwritten(model, tmp_path):
    (tmp_path / "3").mkdir()
    with pytest.raises(FileExistsError, match=r"expected a new version; got .*3, which exists"):
        export_saved_model(model, tmp_path / "3")
    assert list((tmp_path / "3").iterdir()) == []


def test_options_that_are_wrong(model, tmp_path):
    for options, message in (
        ({"image_size": "large"}, "image_size: expected"),
        ({"precision": "int8"}, "precision: expected one of"),
        ({"sample": b"no image"}, "sample: cannot decode image from bytes"),
        ({"limits": Limits(images=0)}, "limits: expected positive numbers"),
        (
            {"limits": Limits(pixels=30), "sample": jpeg(6, 8)},
            "sample: expected at most 30 pixels, the limit of a request; got 6 x 8",
        ),
        ({"threshold": 0.5}, "expected score_threshold, .*; got threshold"),
    ):
        with pytest.raises(ValueError, match=message):
            export_saved_model(model, tmp_path / "1", **options)
    without = fcos_tf.FCOS(3, backbone="simple_cnn", fpn_channels=32, head_convs=0)
    with pytest.raises(ValueError, match="image_size: expected a size"):
        export_saved_model(without, tmp_path / "1")
    assert list(tmp_path.iterdir()) == []


def refuses(model, folder, message):
    with pytest.raises(ValueError, match=f"disagrees with the source model: {message}"):
        export_saved_model(model, folder / "1", sample=FILES[0])
    assert list(folder.iterdir()) == []


def test_a_model_without_a_third_output(tmp_path):
    # The export compares itself with the model.
    model = make_detector(backbone="simple_cnn", fpn_levels=3, quality="joint")
    folder = export_saved_model(model, tmp_path / "1", sample=FILES[0])
    loaded = tf.saved_model.load(str(folder))
    description = json.loads(Path(loaded.description.asset_path.numpy().decode()).read_text())
    assert set(description["signatures"]["raw_outputs"]["outputs"]) == {"class_logits", "ltrb"}
    found = loaded.signatures["serving_default"](image_bytes=tf.constant(FILES[:1]))
    assert found["num_detections"][0] > 0


def test_a_graph_turns_images_upright(small, tmp_path):
    model = type(small).from_config(small.get_config() | {"apply_exif": True})
    model.set_weights(small.get_weights())
    photo = tmp_path / "a.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(io.BytesIO(FILES[0])).convert("RGB").save(photo, exif=exif, quality=95)
    # The check of the export compares the turned image, too.
    folder = export_saved_model(model, tmp_path / "1", sample=photo, score_threshold=0.0)
    (found,) = fcos_tf.detect(folder, str(photo))
    model.score_threshold = 0.0
    (expected,) = fcos_tf.detect(model, str(photo))
    assert found.image_size == expected.image_size == Image.open(photo).size
    np.testing.assert_allclose(found.boxes, expected.boxes, atol=0.01)
    # A client that knows nothing of EXIF sends the file as it is.
    serve = tf.saved_model.load(str(folder)).signatures["serving_default"]
    answer = serve(image_bytes=tf.constant([photo.read_bytes()]))
    np.testing.assert_allclose(answer["boxes"][0][: len(found)], found.boxes, atol=0.01)
    with pytest.raises(ValueError, match="apply_exif: expected true, as the exported model turns"):
        fcos_tf.detect(folder, str(photo), apply_exif=False)
    (stored,) = fcos_tf.detect(model, str(photo), apply_exif=False)
    assert stored.image_size == found.image_size[::-1]


def test_wrong_weights_are_noticed(small, tmp_path, monkeypatch):
    right = saved_model.inference_copy

    def wrong(*args, **kwargs):
        copy = right(*args, **kwargs)
        bias = copy.head.centerness.bias
        bias.assign(bias + 0.001)
        return copy

    monkeypatch.setattr(saved_model, "inference_copy", wrong)
    # sigmoid has a slope of at most 1/4.
    refuses(small, tmp_path, r"centerness_logits: expected 0.0001, got a difference of 0.0002")


def test_a_wrong_frame_is_noticed(small, tmp_path, monkeypatch):
    right = signatures.in_originals

    def shifted(*args):
        found = right(*args)
        return found | {"boxes": found["boxes"] + tf.constant([0.02, 0, 0, 0])}

    monkeypatch.setattr(signatures, "in_originals", shifted)
    refuses(
        small, tmp_path, "serving_default: expected none, got 20 of 20 detections without a match"
    )


def test_wrong_preparation_is_noticed(small, tmp_path, monkeypatch):
    from fcos_tf.export import decoding

    right = decoding.decode_image
    monkeypatch.setattr(decoding, "decode_image", lambda *a, **k: right(*a, **k)[..., ::-1])
    refuses(small, tmp_path, "prepared images: expected 0.01, got a difference of")
