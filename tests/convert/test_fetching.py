"""Published weights by name, from a server on this machine to detections."""

import dataclasses
import hashlib
import shutil
from concurrent import futures

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import fcos_tf
from fcos_tf import FCOS, build
from fcos_tf.cli import detect
from fcos_tf.config import Config
from fcos_tf.convert import convert_checkpoint, fetching
from fcos_tf.convert.backbones import CONVERTIBLE, load_imagenet_file
from fcos_tf.models.fcos_presets import PRESETS
from fcos_tf.published import BACKBONES, DETECTORS
from fcos_tf.version import __version__
from tests.convert import fcos_parameter_names as published
from tests.file_server import serving

NAME = "torchvision_coco"
SMALL = {"backbone": "resnet18", "fpn_channels": 32, "head_convs": 1, "image_size": "64x64"}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A small detector and a ResNet-18 as torchvision stores them."""
    folder = tmp_path_factory.mktemp("published")
    names = published.torchvision(depth=18, channels=32, num_convs=1)
    detector = published.save_zip(folder / "detector.pth", published.tensors(names))
    names = published.body("x", 18, style="torchvision")
    names = {name.removeprefix("x."): shape for name, shape in names.items()}
    tensors = published.tensors({**names, "fc.bias": (1000,)})
    return {"detector": detector, "resnet18": published.save_zip(folder / "r.pth", tensors)}


@pytest.fixture
def server(files, tmp_path, monkeypatch):
    """A mirror of the two files, which take the places of the real ones in the tables."""
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv("FCOS_TF_HOME", str(tmp_path / "home"))
    with serving() as server:
        monkeypatch.setenv("FCOS_TF_MIRROR", f"{server.address}/models/")
        for key, table, name in (
            ("detector", DETECTORS, NAME), ("resnet18", BACKBONES["imagenet_v1"], "resnet18"),
        ):  # fmt: skip
            data = files[key].read_bytes()
            digest = hashlib.sha256(data).hexdigest()[:8]
            entry = dataclasses.replace(table[name], file=f"{key}-{digest}.pth", sha256=digest)
            monkeypatch.setitem(table, name, entry)
            server.files[f"/models/{entry.file}"] = data
        monkeypatch.setitem(PRESETS, NAME, {**PRESETS[NAME], **SMALL})
        yield server


def photo():
    return np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3)).astype("uint8")


def assert_same(ours, theirs):
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_detector_by_name(server, files, tmp_path, capsys):
    expected, report = convert_checkpoint(files["detector"], flavour="torchvision")
    assert report.is_complete
    model = FCOS.from_preset(NAME)
    told = capsys.readouterr().err.splitlines()
    entry, folder = DETECTORS[NAME], tmp_path / "home" / "weights"
    url = f"{server.address}/models/{entry.file}"
    assert told[0] == f"downloading {url} to {folder}; licence: {entry.licence}"
    assert "BSD-3-Clause" in entry.licence and told[1] == f"converting {folder / entry.file}"
    converted = folder / f"{entry.file.removesuffix('.pth')}_{__version__}.keras"
    assert {folder / entry.file, converted} <= set(folder.iterdir())
    assert_same(model.get_weights(), expected.get_weights())
    found, wanted = model.detect(photo()), expected.detect(photo())
    assert int(wanted["num_detections"][0]) > 0
    for key, value in wanted.items():
        np.testing.assert_array_equal(found[key], value)
    # The file alone is a detector, and the second time nothing is downloaded or told.
    alone = keras.models.load_model(converted, compile=False)
    assert_same(alone.get_weights(), expected.get_weights())
    assert fcos_tf.load_model(NAME).get_config() == alone.get_config()
    assert len(server.requests) == 1 and capsys.readouterr().err == ""
    rest = FCOS.from_preset(NAME, load_weights=False)
    assert np.any(rest.get_weights()[0] != expected.get_weights()[0])
    again = FCOS.from_preset(NAME, class_names=("cat", "dog"))
    assert again.head.class_logits.kernel.shape[-1] == 2 and len(server.requests) == 1
    np.testing.assert_array_equal(again.head.ltrb.kernel, expected.head.ltrb.kernel)


def test_the_first_run_is_as_later_ones(server, monkeypatch):
    inside = []
    convert = fetching.convert_checkpoint
    monkeypatch.setattr(
        fetching, "convert_checkpoint",
        lambda *a, **k: (inside.append(tf.distribute.has_strategy()), convert(*a, **k))[1],
    )  # fmt: skip
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        drawn = []
        for _ in range(2):
            keras.utils.set_random_seed(3)
            config = Config(initial_weights=NAME, precision="float32")
            with tf.distribute.OneDeviceStrategy("/cpu:0").scope():
                assert tf.distribute.has_strategy()
                drawn.append(build.make_model(config, ("cat", "dog")).get_weights())
        assert keras.config.dtype_policy().name == "mixed_bfloat16"
    finally:
        keras.config.set_dtype_policy("float32")
    assert_same(*drawn)
    assert inside == [False]
    assert fcos_tf.load_model(NAME).dtype_policy.name == "float32"


def test_the_tools_take_the_name(server, tmp_path, capsys):
    Image.fromarray(photo()[0]).save(tmp_path / "a.png")
    arguments = [f"--input={tmp_path / 'a.png'}", f"--output_dir={tmp_path / 'found'}"]
    with pytest.raises(SystemExit) as end:
        detect.main(["detect.py", f"--weights={NAME}", *arguments])
    assert end.value.code == 0, capsys.readouterr().err
    assert (tmp_path / "found" / "detections.json").is_file()
    shutil.rmtree(tmp_path / "home")
    server.files.clear()
    with pytest.raises(SystemExit) as end:
        detect.main(["detect.py", f"--weights={NAME}", *arguments])
    last = capsys.readouterr().err.splitlines()[-1]
    assert end.value.code == 1 and last.startswith("detect.py: error: cannot download http")


def test_a_backbone_by_name(server, files):
    expected, report = load_imagenet_file(files["resnet18"], "resnet18")
    assert report.is_complete
    small = {**SMALL, "backbone_weights": "imagenet"}
    for _ in range(2):
        model = FCOS(2, **small)
        assert (model.channel_order, model.mean[0]) == ("rgb", 123.675)
        assert_same(model.backbone.get_weights(), expected.get_weights())
    assert len(server.requests) == 1


def test_without_a_network_one_line_says_what_to_do(server, tmp_path, monkeypatch):
    monkeypatch.setenv("FCOS_TF_MIRROR", "http://127.0.0.1:1/weights")
    entry, folder = DETECTORS[NAME], tmp_path / "home" / "weights"
    with pytest.raises(OSError) as error:
        fcos_tf.fetch_weights(NAME)
    url = f"http://127.0.0.1:1/weights/{entry.file}"
    assert str(error.value).startswith(f"cannot download {url} (")
    assert str(error.value).endswith(
        f"refused); put {entry.file} into {folder} by hand, or name another address in "
        "FCOS_TF_MIRROR"
    )
    assert "\n" not in str(error.value)
    # By hand: a wrong file is named and stays, the right one is used.
    (folder / entry.file).write_bytes(b"another file")
    with pytest.raises(ValueError, match=rf"{entry.file}: expected .* {entry.sha256}.*; remove it"):
        fcos_tf.fetch_weights(NAME)
    (folder / entry.file).write_bytes(server.files[f"/models/{entry.file}"])
    assert fcos_tf.fetch_weights(NAME).is_file()
    assert server.requests == []


def test_wrong_and_missing_files(server, tmp_path):
    entry = DETECTORS[NAME]
    server.files[f"/models/{entry.file}"] = b"another file"
    with pytest.raises(ValueError, match=rf"cannot download .*{entry.file} \(expected .* SHA-256"):
        fcos_tf.fetch_weights(NAME)
    server.files.clear()
    with pytest.raises(OSError, match="HTTP 404 Not Found"):
        fcos_tf.fetch_weights(NAME)
    assert not list((tmp_path / "home" / "weights").glob("*.pth"))
    with pytest.raises(ValueError, match="weights exist for torchvision_coco; got 'coco'"):
        fcos_tf.fetch_weights("coco")
    (tmp_path / "file").write_text("")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(OSError, match="set FCOS_TF_HOME"):
        patch.setenv("FCOS_TF_HOME", str(tmp_path / "file"))
        fcos_tf.fetch_weights(NAME)


def test_a_corrupt_conversion_is_made_anew(server):
    path = fcos_tf.fetch_weights("imagenet", backbone="resnet18")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert fcos_tf.fetch_weights("imagenet_v1", backbone="resnet18") == path
    assert path.stat().st_size > len(whole) // 2 and len(server.requests) == 1


def test_several_at_once(server, monkeypatch):
    converted = []
    convert = fetching._convert
    monkeypatch.setattr(fetching, "_convert", lambda *a: (converted.append(a), convert(*a)))
    server.delay = 0.5
    with futures.ThreadPoolExecutor(3) as pool:
        names = pool.map(lambda _: fcos_tf.fetch_weights("imagenet", backbone="resnet18"), range(3))
        paths = list(names)
    assert len(paths) == 3 and len(set(paths)) == len(server.requests) == len(converted) == 1


def test_presets_without_published_weights(server):
    with pytest.warns(UserWarning, match="random: no published weights of adelaidet_coco; give"):
        FCOS.from_preset("adelaidet_coco", **SMALL)
    with pytest.raises(ValueError, match="load_weights: no published weights of adelaidet_coco;"):
        FCOS.from_preset("adelaidet_coco", load_weights=True, **SMALL)
    # Weights of another architecture are not downloaded.
    other = {"fpn_channels": 64, "head_norm": "none"}
    with pytest.raises(ValueError, match="torchvision_coco with another fpn_channels, head_norm;"):
        FCOS.from_preset(NAME, load_weights=True, **other)
    assert server.requests == []


def test_the_tables_are_torchvisions():
    pytest.importorskip("torch")
    from benchmarks.torchvision_peer import import_torchvision

    models = import_torchvision()[1].models
    for version in (1, 2):
        for name, entry in BACKBONES[f"imagenet_v{version}"].items():
            theirs = models.get_model_weights(name.replace("regnetx", "regnet_x"))
            assert f"{entry.base}/{entry.file}" == theirs[f"IMAGENET1K_V{version}"].url
            assert entry.backbone == name and entry.sha256 == entry.file[-12:-4]
    assert set(BACKBONES["imagenet"]) <= set(CONVERTIBLE) and BACKBONES["imagenet_v2"]
    entry = DETECTORS[NAME]
    theirs = models.get_model_weights("fcos_resnet50_fpn")["COCO_V1"]
    assert f"{entry.base}/{entry.file}" == theirs.url and set(DETECTORS) <= set(PRESETS)
