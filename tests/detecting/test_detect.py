"""`fcos_tf.detect`: any image into any model."""

import io
import json
import subprocess
import sys

import keras
import numpy as np
import pytest
from PIL import Image

import fcos_tf
from fcos_tf.data.images import ImageError
from fcos_tf.data.prepare import prepare_batch
from fcos_tf.detecting import Detections, models, open_model
from fcos_tf.detecting.models import KerasModel
from fcos_tf.detecting.pictures import Picture, list_images, read_picture
from tests.detecting.stubs import IDS, NAMES, WEAK, Stub, answer_like, save_stub, serve


@pytest.fixture(scope="module")
def model():
    """A detector with random weights, to which nearly every point is something."""
    keras.utils.set_random_seed(0)
    return fcos_tf.FCOS(
        3, class_names=NAMES, category_ids=IDS, backbone="resnet18", fpn_channels=32, head_convs=1,
        score_threshold=0.05, max_detections=20, image_size="64x96",
    )  # fmt: skip


@pytest.fixture
def photos(tmp_path):
    """Three noisy images of different sizes, and what is none."""
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, size in (("b.png", (50, 90)), ("a.bmp", (120, 70)), ("c.PNG", (33, 64))):
        pixels = rng.integers(0, 256, (*size, 3), np.uint8)
        Image.fromarray(pixels).save(folder / name, "BMP" if name == "a.bmp" else "PNG")
    (folder / "notes.txt").write_text("no image")
    return folder


def pixels_of(path):
    return np.asarray(Image.open(path))


def test_images_of_every_kind_are_the_same_image(photos):
    files = [photos / "a.bmp", photos / "b.png", photos / "c.PNG"]
    model = Stub()
    expected = [(found.boxes, found.scores) for found in fcos_tf.detect(model, photos)]
    assert [name for batch in model.batches for name in batch] == list(map(str, files))
    # A dog in the left half, by the mean grey level, and the cat in the rest.
    pixels = [pixels_of(file) for file in files]
    np.testing.assert_array_equal(expected[1][0], [[0, 0, 45, 50], [45, 0, 90, 50]])
    assert expected[1][1] == pytest.approx([pixels[1].mean() / 255, WEAK])
    for images in (
        str(photos),
        files,
        (file for file in files),
        [file.read_bytes() for file in files],
        pixels,
        [Image.open(file) for file in files],
        [str(files[0]), pixels[1], Image.open(files[2])],
    ):
        found = fcos_tf.detect(Stub(), images, batch_size=2)
        for one, (boxes, scores) in zip(found, expected, strict=True):
            np.testing.assert_array_equal(one.boxes, boxes)
            np.testing.assert_array_equal(one.scores, scores)
            assert one.draw().size


def test_one_image_is_a_list_of_one(photos):
    file = photos / "b.png"
    for image in (file, str(file), file.read_bytes(), pixels_of(file), Image.open(file)):
        (found,) = fcos_tf.detect(Stub(), image)
        assert found.image_size == (50, 90) and found.names == ["dog", "cat"]
        assert found.file == (str(file) if str(image) == str(file) else None)
    (found,) = fcos_tf.detect(Stub(), file)
    assert found.image == str(file)  # no pixels are kept
    assert found.category_ids == IDS and found.class_names == NAMES


def test_a_batch_of_pixels_is_its_images():
    images = np.stack([np.full([20, 30, 3], value, np.uint8) for value in (51, 102)])
    found = fcos_tf.detect(Stub(), images)
    # The dog's score is the grey level by 255.
    assert [one.scores[0] for one in found] == pytest.approx([0.2, 0.4])
    assert len(fcos_tf.detect(Stub(), [images, images[0]])) == 3


@pytest.mark.parametrize(
    ("image", "got"),
    [
        (np.zeros([4, 5, 3], np.float32), r"got float32 \[4, 5, 3\]"),
        (np.zeros([4, 5], np.uint8), r"got uint8 \[4, 5\]"),
        (np.zeros([4, 5, 4], np.uint8), r"got uint8 \[4, 5, 4\]"),
        (np.zeros([3, 4, 5], np.uint8), r"got uint8 \[3, 4, 5\]"),
        (np.zeros([0, 5, 3], np.uint8), r"got uint8 \[0, 5, 3\]"),
        (np.zeros([0, 4, 5, 3], np.uint8), r"got uint8 \[0, 4, 5, 3\]"),
    ],
)
def test_pixels_of_another_form_are_refused(image, got):
    for images, place in ((image, 0), ([np.zeros([4, 5, 3], np.uint8), image], 1)):
        with pytest.raises(ValueError, match=rf"images\[{place}\]: expected pixels uint8.* {got}"):
            fcos_tf.detect(Stub(), images)


def test_what_is_no_image_is_named(tmp_path, photos):
    with pytest.raises(ValueError, match="images: expected at least one, got none"):
        fcos_tf.detect(Stub(), [])
    with pytest.raises(ValueError, match=r"images\[1\]: expected a path.* got a list"):
        fcos_tf.detect(Stub(), [photos / "b.png", [photos]])
    with pytest.raises(ValueError, match=r"images\[0\]: expected a path.* got a int"):
        fcos_tf.detect(Stub(), 7)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"no image in the folder \S+empty"):
        fcos_tf.detect(Stub(), tmp_path / "empty")
    with pytest.raises(ImageError, match=r"no image file \S+gone\.jpg"):
        fcos_tf.detect(Stub(), [photos / "b.png", photos / "gone.jpg"])
    with pytest.raises(ImageError, match=r"cannot decode image \S+notes\.txt: it is of no known"):
        fcos_tf.detect(Stub(), photos / "notes.txt")
    with pytest.raises(ImageError, match=r"cannot decode image images\[1\]: the file is empty"):
        fcos_tf.detect(Stub(), [photos / "b.png", b""], batch_size=2)
    data = (photos / "b.png").read_bytes()
    with pytest.raises(ImageError, match=r"cannot read image images\[0\]: "):
        fcos_tf.detect(Stub(), Image.open(io.BytesIO(data[: len(data) // 2])))


def test_of_a_batch_the_image_that_the_model_refuses_is_named():
    images = [np.full([4, 4, 3], value, np.uint8) for value in (12, 13, 14)]
    with pytest.raises(ImageError, match=r"^images\[1\]: refused$"):
        fcos_tf.detect(Stub(), images, batch_size=3)


@pytest.mark.parametrize("mode", ["P", "L", "LA", "RGBA", "CMYK", "I;16"])
def test_images_of_pillow_are_converted_as_files_are(mode, tmp_path):
    rng = np.random.default_rng(1)
    image = Image.fromarray(rng.integers(0, 256, (20, 30, 3), np.uint8))
    if mode == "I;16":
        image = Image.fromarray(rng.integers(0, 65536, (20, 30), np.uint16))
    else:
        image = image.convert(mode)
    path = tmp_path / ("a.tiff" if mode == "CMYK" else "a.png")
    image.save(path)
    from_file = read_picture(str(path)).pixels
    assert from_file.shape == (20, 30, 3) and from_file.std() > 10
    np.testing.assert_array_equal(read_picture(image).pixels, from_file)
    np.testing.assert_array_equal(read_picture(Image.open(path)).pixels, from_file)


def test_images_that_exif_turns(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "a.png"
    pixels = np.random.default_rng(1).integers(0, 256, (20, 30, 3), np.uint8)
    Image.fromarray(pixels).save(path, exif=exif)
    stored = read_picture(str(path))
    np.testing.assert_array_equal(stored.pixels, pixels)
    for source in (str(path), path.read_bytes(), Image.open(path)):
        turned = read_picture(source, apply_exif=True)
        np.testing.assert_array_equal(turned.pixels, np.rot90(pixels, -1))
        assert turned.data is None  # its bytes are of other pixels
        found = Detections([[5, 5, 10, 10]], [0.5], [0], image=turned.source)
        drawn = np.asarray(found.draw())  # enlarged 11 times
        np.testing.assert_array_equal(drawn[-1, ::11], turned.pixels[-1])


def test_lists_do_not_read(tmp_path):
    assert list_images([tmp_path / "gone.jpg", b"no image"]) == [
        str(tmp_path / "gone.jpg"),
        b"no image",
    ]


class Middle:
    """A detector that finds the left half of every image, in the pixels it gets, and padding."""

    num_classes, class_names, category_ids = 1, None, None

    def __init__(self, image_size, inclusive_pixels=False):
        self.image_size, self.inclusive_pixels = image_size, inclusive_pixels

    def detect(self, images, image_sizes):
        height, width = image_sizes[:, 0], image_sizes[:, 1]  # [1]
        zero = keras.ops.zeros_like(width)
        box = keras.ops.stack([zero, zero, width / 2, height], -1)[:, None]  # [1, 1, 4]
        canvas = keras.ops.cast(keras.ops.shape(images)[1], "float32")
        return {
            "boxes": keras.ops.concatenate([box, keras.ops.zeros_like(box)], 1),
            "scores": keras.ops.stack([canvas, 0.0])[None],
            "labels": keras.ops.convert_to_tensor([[0, -1]]),
        }


def test_the_image_size_and_the_way_back():
    pixels = np.zeros([100, 50, 3], np.uint8)
    for opened, canvas, right in (
        # 100 x 50 becomes 64 x 32 and is padded to 64 x 64; half of 32 is 25 of the original.
        (open_model(Middle("64x64")), 64, 25),
        (open_model(Middle("64x64"), image_size="96x96"), 96, 25),
        # The last pixel belongs to the box, but there is none below the image.
        (open_model(Middle("64x64", inclusive_pixels=True)), 64, 26),
    ):
        (found,) = opened.detect([Picture("a", pixels)])
        assert found.boxes.tolist() == [[0, 0, right, 100]]
        assert found.scores.tolist() == [canvas] and found.labels.tolist() == [0]
        assert (found.class_names, found.category_ids) == (None, (1,))
        assert found.to_coco()[0]["category_id"] == 1


def test_a_model_without_an_image_size_needs_one():
    with pytest.raises(ValueError, match=r"image_size: expected one, as m\.keras has none"):
        KerasModel(Middle(None), name="m.keras")
    (found,) = fcos_tf.detect(Middle(None), np.zeros([64, 64, 3], np.uint8), image_size="32x32")
    assert found.scores[0] == 32


def test_a_threshold_takes_the_place_of_the_models(model, photos):
    opened = open_model(model)
    own = fcos_tf.detect(opened, photos / "b.png")[0]
    # Random weights: all classes have a probability near 0.01, below the model's own threshold.
    assert len(own) == 0
    (low,) = fcos_tf.detect(opened, photos / "b.png", score_threshold=0.001)
    assert len(low) == 20
    batch = prepare_batch([photos / "b.png"], "64x96")
    expected = model.detect(batch["images"], batch["image_sizes"], score_threshold=0.001)
    np.testing.assert_allclose(low.scores, np.asarray(expected["scores"])[0], atol=1e-6)
    # About half of the classes have a larger probability than this.
    (some,) = fcos_tf.detect(opened, photos / "b.png", score_threshold=0.01)
    expected = model.detect(batch["images"], batch["image_sizes"], score_threshold=0.01)
    np.testing.assert_allclose(
        some.scores, np.asarray(expected["scores"])[0, : len(some)], atol=1e-6
    )
    assert len(some) == np.asarray(expected["num_detections"])[0] > 0
    (none,) = fcos_tf.detect(opened, photos / "b.png", score_threshold=1.0)
    assert len(none) == 0
    assert model.score_threshold == 0.05
    for wrong in (-0.1, 1.5, float("nan")):
        with pytest.raises(ValueError, match=f"score_threshold: expected 0 to 1, got {wrong}"):
            fcos_tf.detect(opened, photos, score_threshold=wrong)
    with pytest.raises(ValueError, match="batch_size: expected at least 1, got 0"):
        fcos_tf.detect(opened, photos, batch_size=0)


def test_thresholds_of_the_best_f1(model, photos):
    own = fcos_tf.detect(model, photos / "b.png", score_threshold=0.001)[0]
    with pytest.raises(ValueError, match=r"score_threshold: expected a number, .* best_f1; run"):
        fcos_tf.detect(model, photos / "b.png", score_threshold="best_f1")
    limits = np.quantile(own.scores, [0.3, 0.5, 0.7]).tolist()
    copy = model.with_classes(NAMES)
    copy.best_f1 = {"score_threshold": 0.001, "by_class": limits}
    (found,) = fcos_tf.detect(copy, photos / "b.png", score_threshold="best_f1")
    kept = own.scores >= np.array(limits)[own.labels]
    assert 0 < len(found) < len(own)
    np.testing.assert_array_equal(found.scores, own.scores[kept])
    np.testing.assert_array_equal(found.labels, own.labels[kept])


def test_thresholds_of_the_best_f1_of_an_export_and_a_server(tmp_path):
    description = save_stub(tmp_path) / "1" / "assets" / "description.json"
    # Of the hat, the dog (0.2 and 0.8 here) and the cat (1 / 64).
    best_f1 = {"score_threshold": 0.01, "by_class": [0.0, 0.5, WEAK]}
    told = json.loads(description.read_text()) | {"best_f1": best_f1}
    description.write_text(json.dumps(told))
    images = [np.full([8, 8, 3], value, np.uint8) for value in (51, 204)]
    with serve(answer_like(Stub())) as (address, requests):
        served = open_model(f"{address}/v1/models/stub", description=description)
        for opened in (open_model(tmp_path), served):
            found = fcos_tf.detect(opened, images, score_threshold="best_f1", batch_size=2)
            assert [one.names for one in found] == [["cat"], ["dog", "cat"]]
        plain = open_model(f"{address}/v1/models/stub")
        with pytest.raises(ValueError, match="keeps no thresholds of the best F1"):
            fcos_tf.detect(plain, images, score_threshold="best_f1")
    (instance,) = {one["score_threshold"] for one in requests[0][1]["instances"]}
    assert instance == pytest.approx(0.01)
    told["best_f1"]["by_class"] = [0.5]
    description.write_text(json.dumps(told))
    with pytest.raises(ValueError, match=r"description\.json: expected JSON .*best_f1: expected 3"):
        open_model(tmp_path)


def test_what_scores_less_than_the_threshold_is_left_out():
    images = [np.full([8, 8, 3], value, np.uint8) for value in (51, 204)]
    found = fcos_tf.detect(Stub(), images, score_threshold=0.5)  # dogs of 0.2 and 0.8
    assert [one.names for one in found] == [[], ["dog"]]


def test_a_model_in_memory_is_traced_once_while_its_settings_stay(model, photos, monkeypatch):
    compiled = []
    compile_detect = models.compile_detect
    monkeypatch.setattr(
        models, "compile_detect", lambda model: compiled.append(model) or compile_detect(model)
    )
    copy = model.with_classes(model.class_names)

    def find():
        return fcos_tf.detect(copy, photos, score_threshold=0.001)[0]

    before = find()
    assert len(before) and find() == before and len(compiled) == 1
    # What it has learnt since counts: with all logits far below 0 nothing is found.
    bias = copy.head.class_logits.bias
    bias.assign(bias - 100.0)
    assert not find() and len(compiled) == 1
    bias.assign(bias + 100.0)
    copy.max_detections = 1
    assert len(find()) == 1 and len(compiled) == 2


def test_most_detections_as_an_argument(model):
    images = np.random.default_rng(0).integers(0, 256, (1, 64, 96, 3), np.uint8)
    many = model.detect(images, score_threshold=0.001)
    few = model.detect(images, score_threshold=0.001, max_detections=5)
    assert few["boxes"].shape == (1, 5, 4) and model.max_detections == 20
    np.testing.assert_array_equal(few["boxes"], many["boxes"][:, :5])


@pytest.fixture(scope="module")
def stub_export(tmp_path_factory):
    return save_stub(tmp_path_factory.mktemp("export"))


def test_a_threshold_for_an_export_and_for_a_server(stub_export):
    images = [np.full([8, 8, 3], value, np.uint8) for value in (51, 204)]
    with serve(answer_like(Stub())) as (address, requests):
        served = open_model(
            f"{address}/v1/models/stub",
            description=stub_export / "1" / "assets" / "description.json",
        )
        for opened in (open_model(stub_export), served):
            for threshold, numbers in ((None, [2, 2]), (0.1, [1, 1]), (0.5, [0, 1])):
                found = fcos_tf.detect(opened, images, score_threshold=threshold, batch_size=2)
                assert [len(one) for one in found] == numbers
                assert found[1].names[0] == "dog"
    assert [body["signature_name"] for _, body in requests] == [
        "serving_default",
        "serving_with_options",
        "serving_with_options",
    ]
    assert requests[1][1]["instances"][1]["score_threshold"] == pytest.approx(0.1)
    assert requests[1][1]["instances"][1]["max_detections"] == 2**31 - 1


def test_what_a_model_may_be(model, stub_export, tmp_path):
    model.save(tmp_path / "m.keras")
    image = np.zeros([64, 96, 3], np.uint8)
    assert isinstance(fcos_tf.detect(str(tmp_path / "m.keras"), image)[0], Detections)
    assert open_model(tmp_path / "m.keras").category_ids == IDS
    opened = open_model(stub_export)
    assert open_model(opened) is opened
    assert open_model(str(stub_export / "1")).class_names == NAMES
    for one in (stub_export, "http://host:8501/v1/models/m", opened):
        with pytest.raises(ValueError, match=r"image_size: expected none with .*; got 64x64"):
            fcos_tf.detect(one, image, image_size="64x64")
    with pytest.raises(ValueError, match="description: expected with the address of a server"):
        open_model(stub_export, description="d.json")
    with pytest.raises(ValueError, match=r"model: expected a detector or .* got a dict"):
        open_model({})
    with pytest.raises(FileNotFoundError, match=r"no weights file \S+gone; expected a"):
        open_model(tmp_path / "gone")
    with pytest.raises(ValueError, match="model: expected http://host:8501/v1/models/NAME or grpc"):
        open_model("http://host")


def test_scoring_result_files_and_naming_inputs_do_not_wait_for_tensorflow():
    code = (
        "import sys, fcos_tf.evaluation, fcos_tf.detecting.files, fcos_tf.detecting.detections\n"
        "import fcos_tf.detecting.packages  # before tools/export.py loads TensorFlow\n"
        "print('tensorflow' in sys.modules, 'keras' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
