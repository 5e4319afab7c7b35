"""Our SGD beside `torch.optim.SGD`, with warm-up and decays; needs the extra `parity`."""

import numpy as np
import pytest

from tests.training import sgd_rule

torch = pytest.importorskip("torch")


def by_torch(options):
    """Every weight after every step, as `sgd_rule.by_ours` gives them."""
    weights, gradients = sgd_rule.drawn()
    weights = {name: torch.nn.Parameter(torch.from_numpy(w)) for name, w in weights.items()}
    decay = options.get("weight_decay", 0)
    groups = [
        {"params": [weights["kernel"]], "weight_decay": decay},
        {
            "params": [weights["bias"]],
            "weight_decay": decay if options.get("decay_vectors") else 0,
            "lr": sgd_rule.RATE * options.get("bias_lr_factor", 1),
        },
    ]
    own = {name: options[name] for name in ("momentum", "nesterov") if name in options}
    optimizer = torch.optim.SGD(groups, lr=sgd_rule.RATE, **own)
    schedules = [
        torch.optim.lr_scheduler.LinearLR(
            optimizer, sgd_rule.WARMUP_FACTOR, total_iters=sgd_rule.WARMUP_STEPS
        ),
        torch.optim.lr_scheduler.MultiStepLR(optimizer, sgd_rule.DECAY_STEPS, sgd_rule.DECAY),
    ]
    path = []
    for step in gradients:
        for name, weight in weights.items():
            weight.grad = torch.from_numpy(step[name])
        optimizer.step()
        for schedule in schedules:
            schedule.step()
        path.append({name: w.detach().numpy().copy() for name, w in weights.items()})
    return {name: np.stack([each[name] for each in path]) for name in weights}


@pytest.mark.parametrize("options", sgd_rule.CASES.values(), ids=sgd_rule.CASES)
def test_fifty_steps(options):
    ours, theirs = sgd_rule.by_ours(options), by_torch(options)
    for name, path in theirs.items():
        np.testing.assert_allclose(ours[name], path, rtol=0, atol=1e-6, err_msg=name)
