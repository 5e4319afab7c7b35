"""Fifty steps of SGD with warm-up and decays: by our optimizer, and by PyTorch's rule in NumPy."""

import keras
import numpy as np

from fcos_tf.training.optimizers import SGD
from fcos_tf.training.schedules import WarmupStepDecay

STEPS, RATE, WARMUP_STEPS, WARMUP_FACTOR, DECAY_STEPS, DECAY = 50, 0.01, 10, 0.1, (25, 40), 0.1
# Of the shapes of a convolution and its bias; names and ranks tell our optimizer which is which.
SHAPES = {"kernel": (3, 4), "bias": (4,)}

CASES = {
    "plain": {},
    "momentum": {"momentum": 0.9},
    "nesterov": {"momentum": 0.9, "nesterov": True, "weight_decay": 0.02},
    "decay of kernels": {"momentum": 0.9, "weight_decay": 0.02},
    "decay of all": {"momentum": 0.9, "weight_decay": 0.02, "decay_vectors": True},
    "faster biases": {"momentum": 0.9, "weight_decay": 0.02, "bias_lr_factor": 2.0},
}


def drawn() -> tuple[dict[str, np.ndarray], list[dict[str, np.ndarray]]]:
    """Weights to begin with, and the gradients of each step, all float32 and about 1."""
    rng = np.random.default_rng(0)

    def draw():
        return {name: rng.normal(1, 1, shape).astype("float32") for name, shape in SHAPES.items()}

    return draw(), [draw() for _ in range(STEPS)]


def by_ours(options: dict) -> dict[str, np.ndarray]:
    """Every weight after every step, [STEPS, ...], with these arguments of `SGD`."""
    weights, gradients = drawn()
    weights = {name: keras.Variable(value, name=name) for name, value in weights.items()}
    schedule = WarmupStepDecay(
        RATE,
        decay_steps=DECAY_STEPS,
        decay_factor=DECAY,
        warmup_steps=WARMUP_STEPS,
        warmup_factor=WARMUP_FACTOR,
    )
    optimizer = SGD(schedule, **options)
    path = []
    for step in gradients:
        optimizer.apply([keras.ops.convert_to_tensor(step[n]) for n in SHAPES], weights.values())
        path.append({name: np.array(weight) for name, weight in weights.items()})
    return {name: np.stack([each[name] for each in path]) for name in SHAPES}


def by_the_rule(options: dict) -> dict[str, np.ndarray]:
    """The same in float64, as PyTorch documents `torch.optim.SGD` (dampening 0)."""
    weights, gradients = drawn()
    momentum, decay = options.get("momentum", 0), options.get("weight_decay", 0)
    paths = {}
    for name in SHAPES:
        w, buffer, path = weights[name].astype("float64"), 0.0, []
        is_bias = name == "bias"
        for step in range(STEPS):
            rate = RATE * DECAY ** sum(step >= start for start in DECAY_STEPS)
            rate *= WARMUP_FACTOR + (1 - WARMUP_FACTOR) * min(step / WARMUP_STEPS, 1)
            rate *= options.get("bias_lr_factor", 1) if is_bias else 1
            g = gradients[step][name].astype("float64")
            if not is_bias or options.get("decay_vectors"):
                g = g + decay * w
            buffer = momentum * buffer + g
            w = w - rate * (g + momentum * buffer if options.get("nesterov") else buffer)
            path.append(w)
        paths[name] = np.stack(path)
    return paths
