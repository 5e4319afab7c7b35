"""The benchmark takes turns, and times something real."""

import pytest

from fcos_tf.tools import benchmark


def test_sides_take_turns_after_one_step_that_does_not_count():
    calls = []
    sides = {name: lambda name=name: calls.append(name) for name in "ab"}
    seconds = benchmark.time_in_turns(sides, rounds=2, steps=3)
    assert "".join(calls) == "ab" + "aaabbb" * 2
    assert {name: len(values) for name, values in seconds.items()} == {"a": 2, "b": 2}


@pytest.mark.parametrize("what", ["training", "inference"])
def test_it_times_our_model(what, capsys):
    arguments = ["--backbone=resnet18", "--fpn_channels=32", "--head_convs=0", "--batch_size=2"]
    with pytest.raises(SystemExit) as end:
        benchmark.main(
            ["benchmark.py", f"--what={what}", "--image_size=64x64", "--rounds=1", *arguments]
        )
    assert end.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{what}, resnet18, 64x64, batch 2")
    assert "s per step" in lines[1] and lines[1].endswith("1.00 x")
