"""The parts of a step: what an operation belongs to, and that shares sum to 1."""

import functools

import pytest

from benchmarks.step_profile import (
    CHOICE,
    CONVOLUTIONS,
    EXECUTOR,
    INPUT,
    LAYERS,
    LOSSES,
    NORMS,
    OPTIMIZER,
    OTHER,
    PARTS,
    PYTHON,
    Event,
    _scope,
    part_of,
    profile,
    shares,
)

SCOPES = {
    "head": LAYERS,
    "stem_norm": NORMS,
    "class_norm_2": NORMS,
    "sgd": OPTIMIZER,
    _scope(LOSSES): LOSSES,
    _scope(CHOICE): CHOICE,
}


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("fcos_1/head_1/class_conv_0_1/convolution:Conv2D", CONVOLUTIONS),
        ("a/add:_MklNativeFusedConv2D", CONVOLUTIONS),
        ("a/BiasAdd:_FusedMatMul", CONVOLUTIONS),
        ("gradient_tape/a/Conv2DBackpropFilter:_MklNativeConv2DBackpropFilter", CONVOLUTIONS),
        ("fcos_1/resnet18_1/stem_norm_1/batchnorm/mul:FusedBatchNormV3", NORMS),
        ("fcos_1/head_1/class_norm_2_3/Rsqrt:Rsqrt", NORMS),
        (f"gradient_tape/{_scope(LOSSES)}/fcos_1/head_1/class_norm_2/mul:Mul", NORMS),
        (f"{_scope(LOSSES)}/fcos_1/head_1/Relu:Relu", LAYERS),
        (f"{_scope(LOSSES)}/mul_3:Mul", LOSSES),
        (f"gradient_tape/{_scope(LOSSES)}_1/mul_3:Mul", LOSSES),
        (f"{_scope(CHOICE)}/NonMaxSuppressionV5:NonMaxSuppressionV5", CHOICE),
        ("StatefulPartitionedCall/sgd/mul_384:Mul", OPTIMIZER),
        ("IteratorGetNext:IteratorGetNext", INPUT),
        ("tf.constant", INPUT),
        ("global_norm/mul:Mul", OTHER),
        ("KernelAndDeviceFunc::Run", EXECUTOR),
        ("ExecutorState::Process", None),
        ("EagerLocalExecute: Add", None),
        ("benchmark_step", None),
    ],
)
def test_the_part_of_an_operation(name, part):
    assert part_of(name, SCOPES) == part


def test_shares_of_a_known_step():
    events = [
        Event("benchmark_step", 1, 0, 100),
        Event("KernelAndDeviceFunc::Run", 1, 10, 90),  # 10 before and after it: Python
        Event("a:Conv2D", 2, 20, 60),  # alone from 20 to 40: 20
        Event("sgd/mul:Mul", 3, 40, 80),  # both from 40 to 60, 10 each; alone to 80: 20
        Event("head/while:While", 4, 82, 88),  # 2 + 2, around ...
        Event("a:MatMul", 4, 84, 86),  # ... an operation inside
        Event("b:Conv2D", 2, 100, 150),  # between the steps
        Event("benchmark_step", 1, 200, 300),
        Event("b:Conv2D", 2, 250, 400),  # the half that lies in the second step
    ]
    found = shares(events, functools.partial(part_of, scopes=SCOPES))
    assert tuple(found) == PARTS
    # Executor: 80 - 40 - 20 - 6 = 14. The second step: 50 of Python and 50 of the convolution.
    expected = {CONVOLUTIONS: 30 + 2 + 50, OPTIMIZER: 30, LAYERS: 4, EXECUTOR: 14}
    expected |= {PYTHON: 20 + 50}
    for part in PARTS:
        assert found[part] == pytest.approx(expected.get(part, 0) / 200), part


def test_a_profile_without_a_step_is_an_error():
    with pytest.raises(RuntimeError, match="holds no step"):
        shares([Event("a:Conv2D", 2, 20, 60)], functools.partial(part_of, scopes=SCOPES))


@pytest.mark.parametrize(
    "options",
    [
        {"backbone": "resnet18"},
        {
            "model": "faster_rcnn", "backbone": "simple_cnn", "fpn_first_level": 3,
            "fc_channels": 32, "proposals_per_level": (60, 40), "num_proposals": (40, 20),
        },
    ],
    ids=["fcos", "faster_rcnn"],
)  # fmt: skip
def test_the_parts_of_inference(options):
    from benchmarks import our_model
    from fcos_tf.config import Config

    small = {"fpn_levels": 3, "fpn_channels": 32, "image_size": "64x64", "batch_size": 2}
    side = our_model.tensorflow_side(Config(**small, **options, precision="float32"), "inference")
    side.run(1)
    found = side.profile(2)
    assert sum(found.values()) == pytest.approx(1)
    assert all(found[part] > 0 for part in (CONVOLUTIONS, LAYERS, CHOICE, PYTHON))
    assert found[LOSSES] == found[OPTIMIZER] == 0
    assert found[OTHER] < 0.2


def test_a_gpu_or_xla_is_refused():
    class Compiled:
        jit_compile = True

    with pytest.raises(ValueError, match="--profile: expected a CPU without --jit_compile"):
        profile(lambda: None, Compiled(), 1)
