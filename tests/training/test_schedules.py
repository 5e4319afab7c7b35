import keras
import pytest

from fcos_tf.training.schedules import WarmupConstant, WarmupCosine, WarmupStepDecay


def rates(schedule, steps):
    return [float(schedule(step)) for step in steps]


def test_warm_up_is_linear_and_ends_at_its_last_step():
    # From 0.1 * 2 at step 0 to 2 at step 10: slope 1.8 / 10 = 0.18 per step.
    schedule = WarmupConstant(2.0, warmup_steps=10, warmup_factor=0.1)
    expected = [0.2, 0.38, 0.2 + 5 * 0.18, 0.2 + 9 * 0.18, 2.0, 2.0, 2.0]
    assert rates(schedule, [0, 1, 5, 9, 10, 11, 1000]) == pytest.approx(expected)


def test_no_warm_up_begins_at_the_full_rate():
    assert rates(WarmupConstant(0.5, warmup_steps=0), [0, 1]) == [0.5, 0.5]


def test_step_decay_lowers_the_rate_at_exactly_its_steps():
    schedule = WarmupStepDecay(1.0, decay_steps=(60, 80), decay_factor=0.1)
    expected = [1.0, 1.0, 0.1, 0.1, 0.01, 0.01]
    assert rates(schedule, [0, 59, 60, 79, 80, 10_000]) == pytest.approx(expected)


def test_decay_during_warm_up_lowers_both():
    # At step 5 warm-up is at 0 + 5 / 10 = 0.5, and the decay at 5 has happened: 0.5 * 0.1.
    schedule = WarmupStepDecay(
        1.0, decay_steps=(5,), decay_factor=0.1, warmup_steps=10, warmup_factor=0.0
    )
    assert rates(schedule, [4, 5, 10]) == pytest.approx([0.4, 0.05, 0.1])


def test_cosine_goes_from_the_full_rate_to_zero():
    # 100 steps after 20 of warm-up: a third of the way cos(60 degrees) = 0.5 -> (1 + 0.5) / 2.
    schedule = WarmupCosine(4.0, total_steps=140, warmup_steps=20, warmup_factor=0.5)
    expected = [2.0, 4.0, 4.0 * 0.75, 4.0 * 0.5, 4.0 * 0.25, 0.0, 0.0]
    assert rates(schedule, [0, 20, 60, 80, 100, 140, 200]) == pytest.approx(expected, abs=1e-6)


def test_large_steps_stay_exact():
    # 90,000 is a whole number in float32.
    schedule = WarmupStepDecay(0.01, decay_steps=(60_000, 80_000))
    assert rates(schedule, [59_999, 60_000, 79_999, 80_000]) == pytest.approx(
        [0.01, 0.001, 0.001, 0.0001]
    )


@pytest.mark.parametrize(
    "schedule",
    [
        WarmupConstant(0.1, warmup_steps=3, warmup_factor=0.2),
        WarmupStepDecay(0.1, decay_steps=(5, 7), decay_factor=0.5, warmup_steps=3),
        WarmupCosine(0.1, total_steps=10, warmup_steps=3),
    ],
)
def test_serialises_inside_an_optimizer(schedule):
    optimizer = keras.optimizers.SGD(schedule)
    copy = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert copy._learning_rate.get_config() == schedule.get_config()
    steps = range(12)
    assert rates(copy._learning_rate, steps) == rates(schedule, steps)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: WarmupConstant(0.0), "learning_rate.*> 0"),
        (lambda: WarmupConstant(0.1, warmup_steps=-1), "warmup_steps"),
        (lambda: WarmupConstant(0.1, warmup_factor=2.0), "warmup_factor.*2.0"),
        (lambda: WarmupStepDecay(0.1, decay_steps=(8, 6)), "decay_steps.*increasing"),
        (lambda: WarmupCosine(0.1, total_steps=5, warmup_steps=5), "warmup_steps.* the 5 steps"),
    ],
)
def test_wrong_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
