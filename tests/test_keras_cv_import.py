"""Without keras-cv, or with a broken one, all works but what is made of it."""

import sys

import pytest

import fcos_tf
from fcos_tf.tensorflow_words import is_for_the_user

SMALL = {"fpn_levels": 3, "fpn_channels": 32, "head_convs": 0}
DIGITS = {"split": "val", "batch_size": 2, "image_size": "64x64", "training": True}
NEEDS = r"the backbones keras_cv/\.\.\. and the augmentations color_jitter and rand_augment need it"


class Hide:
    """Finds keras_cv before all other finders do, and raises an error."""

    def __init__(self, error):
        self.error = error

    def find_spec(self, name, *args):
        if name.split(".")[0] == "keras_cv":
            raise self.error


@pytest.fixture(
    params=[
        (ModuleNotFoundError("No module named 'keras_cv'"), "ModuleNotFoundError: No module named"),
        (AttributeError("module 'keras'\nhas no"), "AttributeError: module 'keras' has no"),
    ],
    ids=["missing", "broken"],
)
def cause(request, monkeypatch):
    """Hides keras_cv; what the error of its import says."""
    error, words = request.param
    for name in [name for name in sys.modules if name.split(".")[0] == "keras_cv"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Hide(error), *sys.meta_path])
    return words


def test_what_needs_it_says_so(cause):
    message = rf"keras-cv cannot be imported \({cause}.*\); {NEEDS}, .*: pip install keras-cv$"
    with pytest.raises(ImportError, match=message) as caught:
        fcos_tf.FCOS(2, backbone="keras_cv/mobilenet_v3_small", **SMALL)
    assert is_for_the_user(caught.value)
    for name in ("color_jitter", "rand_augment"):
        with pytest.raises(ImportError, match=message):
            fcos_tf.data.load("digits", augment=("mosaic", name), **DIGITS)


def test_all_else_works(cause):
    train = fcos_tf.data.load("digits", augment=("mosaic", "scale_jitter"), **DIGITS)
    images, _ = next(iter(train))
    model = fcos_tf.FCOS(class_names=train.class_names, backbone="simple_cnn", **SMALL)
    assert model.detect(images)["boxes"].shape == (2, 100, 4)
