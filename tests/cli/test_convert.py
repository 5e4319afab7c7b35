"""The tool that converts PyTorch checkpoints: what it writes, what it says, how it ends."""

import numpy as np
import pytest

import fcos_tf
from fcos_tf.cli import convert
from fcos_tf.layers.backbones import build_backbone
from tests.convert import fcos_parameter_names as published
from tests.tools import run

SMALL = {"depth": 18, "channels": 32, "num_convs": 1}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("source") / "adelaidet.pth"
    yield published.save_zip(path, published.tensors(published.adelaidet(num_classes=2, **SMALL)))
    path.unlink()


def test_a_detector_is_written(source, capsys, tmp_path):
    output = tmp_path / "new" / "fcos.keras"
    code, out, error = run(
        capsys, convert, f"--source={source}", "--flavour=adelaidet", f"--output={output}",
        "--classes=cat,dog", "--quality=iou", "--score_threshold=0.3",
    )  # fmt: skip
    assert (code, error) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "adelaidet: settings of adelaidet_coco"
    assert "backbone=resnet18, num_classes=2" in lines[1]
    # 20 convolutions with norms of 4, 8 of the pyramid, 2 of the towers with norms, 3 outputs, all
    # of these with bias, and 5 scales.
    assert (
        lines[2]
        == f"used       {20 * 5 + 2 * (8 + 2 * 2 + 3) + 5:>5}  in the file and in the model"
    )
    assert lines[-1] == str(output)
    assert [path.name for path in output.parent.iterdir()] == ["fcos.keras"]
    model = fcos_tf.load_model(output)
    assert model.class_names == ("cat", "dog")
    assert (model.quality, model.score_threshold, model.image_size) == ("iou", 0.3, "800,1333")
    bias = published.draw("proposal_generator.fcos_head.cls_logits.bias", (2,))
    np.testing.assert_array_equal(model.head.class_logits.bias, bias)


def test_the_variant_decides(tmp_path, capsys):
    source = published.save_pickle(
        tmp_path / "a.pkl", published.tensors(published.official(**SMALL))
    )
    for variant, preset in (("base", "official_coco"), ("", "official_improved_coco")):
        output = tmp_path / f"{preset}.keras"
        options = [f"--variant={variant}"] if variant else []
        code, out, _ = run(
            capsys,
            convert,
            f"--source={source}",
            "--flavour=official",
            f"--output={output}",
            *options,
        )
        assert code == 0 and out.startswith(f"official: settings of {preset}\n")


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """torchvision's ResNet-18 with its classifier."""
    names = published.body("x", 18, style="torchvision")
    names = {name.removeprefix("x."): shape for name, shape in names.items()}
    path = tmp_path_factory.mktemp("classifier") / "resnet18.pkl"
    yield published.save_pickle(path, published.tensors({**names, "fc.bias": (1000,)}))
    path.unlink()


def test_a_backbone_is_written(classifier, capsys, tmp_path):
    output = tmp_path / "resnet18.keras"
    code, out, error = run(
        capsys, convert, f"--source={classifier}", "--flavour=imagenet", "--backbone=resnet18",
        f"--output={output}",
    )  # fmt: skip
    assert (code, error) == (0, "")
    assert out.splitlines()[0] == f"used       {20 * 5:>5}  in the file and in the model"
    assert out.splitlines()[-1] == str(output)
    backbone = build_backbone("resnet18", weights=str(output))
    mean = published.draw("layer2.0.bn1.running_mean", (128,))
    np.testing.assert_array_equal(backbone.get_layer("stage2_block1_1_norm").moving_mean, mean)


def test_another_backbone_than_the_files(classifier, capsys, tmp_path):
    code, out, error = run(
        capsys, convert, f"--source={classifier}", "--flavour=imagenet", "--backbone=resnet34",
        f"--output={tmp_path / 'a.keras'}",
    )  # fmt: skip
    # 8 more blocks of two convolutions, each with a norm of four.
    assert code == 1 and f"missing    {8 * 2 * 5:>5}  in the model" in out
    assert error.endswith(
        "resnet18.pkl: not all tensors fit, see the report; nothing was written\n"
    )
    assert not list(tmp_path.iterdir())


def test_a_partial_file_is_told_and_nothing_written(tmp_path, capsys):
    arrays = published.tensors(published.detectron2(**SMALL))
    del arrays["head.ctrness.bias"]
    source = published.save_pickle(tmp_path / "partial.pkl", arrays)
    output = tmp_path / "out" / "a.keras"
    code, out, error = run(
        capsys, convert, f"--source={source}", "--flavour=detectron2", f"--output={output}"
    )
    assert code == 1
    assert out.splitlines()[-2:] == ["missing:", "  head.ctrness.bias"]
    assert error == (
        f"convert.py: error: {source}: not all tensors fit, see the report; nothing was written\n"
    )
    assert not output.parent.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--flavour=mmdet"], "--flavour: expected one of torchvision, official, adelaidet, "
                              "detectron2, imagenet, got 'mmdet'"),
        (["--flavour="], "--flavour: expected a value, got none"),
        (["--source="], "--source: expected a value, got none"),
        (["--output="], "--output: expected a value, got none"),
        (["--flavour=official", "--variant=best"], "improved, base, got 'best'"),
        (["--learning_rate=1"], "--learning_rate is not used by convert.py; --help lists its fl"),
        (["--weights=a.pth"], "unknown flag --weights; did you mean --source?"),
    ],
)  # fmt: skip
def test_wrong_flags_are_refused(capsys, arguments, message):
    command = ["--source=a.pth", "--flavour=adelaidet", "--output=new.keras", *arguments]
    code, out, error = run(capsys, convert, *command)
    assert (code, out, error.count("\n")) == (2, "", 1) and message in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--flavour=official"], "expected names of official such as rpn.head.cls_logits.weight, "
                                 "got those of adelaidet"),
        (["--source=no.pth"], "--source: no file no.pth"),
        (["--output=fcos.h5"], "--output: expected a file that ends in .keras, got fcos.h5"),
        (["--output=old.keras"], "--output: expected a new file, got old.keras, which exists"),
        (["--variant=base"], "--variant: not used with --flavour=adelaidet; leave it out"),
        (["--flavour=imagenet", "--backbone=resnet18", "--quality=iou"], "--quality: not used with "
         "--flavour=imagenet; leave it out"),
        (["--flavour=imagenet"], "--backbone: expected with --flavour=imagenet, got none"),
        (["--classes=a,b,c"], "adelaidet.pth: expected 3 classes, got 2"),
        (["--backbone=regnetx_400mf"], "backbone: expected one of resnet18"),
        (["--entry=model_ema"], "got 'model_ema'"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_in_one_line(
    source, capsys, monkeypatch, tmp_path, arguments, message
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "old.keras").write_bytes(b"kept")
    code, out, error = run(
        capsys,
        convert,
        f"--source={source}",
        "--flavour=adelaidet",
        "--output=new.keras",
        *arguments,
    )
    assert code == 1 and out == ""
    assert error.startswith("convert.py: error: ") and error.count("\n") == 1 and message in error
    assert [file.name for file in tmp_path.iterdir()] == ["old.keras"]
    assert (tmp_path / "old.keras").read_bytes() == b"kept"
