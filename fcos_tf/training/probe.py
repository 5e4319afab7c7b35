"""Linear probe: the class logits of a classifier, fitted to the features of its fixed backbone.

The features of all images are computed once. On them the loss is convex,

    the classifier's loss, a mean  +  weight decay / 2 * |kernel|^2

and L-BFGS finds its minimum in full passes. It is where `fit` of the same model with a frozen
backbone, SGD and this weight decay would end, without augmentation: scikit-learn's
`LogisticRegression` of a class, with C = 1 / (weight decay * known pairs); of one class an image,
that of all classes, with C = 1 / (weight decay * images). The weight decay is the best of a
geometric series on a held-out part of the images; then all of them are fitted.

As in Kornblith et al., Do Better ImageNet Models Transfer Better?, arXiv:1805.08974, appendix A.4.

N images, F features, C classes.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize
from scipy.special import logsumexp
from threadpoolctl import threadpool_limits  # which scikit-learn needs

from fcos_tf.detecting.batches import compile_classify
from fcos_tf.evaluation import run_classifier
from fcos_tf.models.classifier import ImageClassifier

WEIGHT_DECAYS = tuple(float(10.0 ** (power / 2)) for power in range(-1, -13, -1))  # .3 to 1e-6
HELD_OUT = 0.2
_MOST_PASSES = 3000  # of a fit, over the features
_WORSE = 2  # so many weaker decays in a row without a better metric end the series


class LinearFit(NamedTuple):
    """The result of `fit_logistic`: kernel float64 [F, C], bias [C], passes over the features."""

    kernel: np.ndarray
    bias: np.ndarray
    passes: int

    def logits(self, features: np.ndarray) -> np.ndarray:
        """[N, F] to [N, C]."""
        return features @ self.kernel + self.bias


def fit_probe(
    model: ImageClassifier,
    dataset: Iterable,
    *,
    weight_decays: Sequence[float] = WEIGHT_DECAYS,
    seed: int = 0,
    report: Callable[[str], None] = lambda line: None,
    progress: Callable[[int], None] | None = None,
) -> dict[str, float]:
    """Fits the class logits of a classifier; its backbone stays as it is.

    Args:
        model: the classifier; its class logits are replaced.
        dataset: finite batches of `(images, targets)`, as `fcos_tf.data.load(..., training=False)`
            gives them for the training split.
        weight_decays: to choose from, in descending order; a single one is used as it is.
        seed: of the held-out part.
        report: called with each line of progress.
        progress: called after every batch with the number of images done.

    Returns:
        `weight_decay`, the chosen one; `steps`, passes of the last fit; `passes`, of all fits;
        `passes_per_second`; and `held_out_mAP_all`, or `held_out_accuracy` of one class an image,
        if there was a choice.

    Raises:
        ValueError: an endless or empty data set, other classes than the model's, or fewer than two
            images to choose by.

    Example:
        >>> model = ImageClassifier(class_names=val.class_names, backbone="simple_cnn")
        >>> found = fit_probe(model, val)  # of the training split, rather
    """
    extract = compile_classify(model, features=True)
    found = run_classifier(model, dataset, classify=extract, progress=progress)
    features, labels, single = found.features.astype(np.float64), found.labels, found.single
    start, passes, numbers = time.perf_counter(), 0, {}
    fit, chosen = None, float(weight_decays[0])
    if len(weight_decays) > 1:
        part = np.random.default_rng(seed).permutation(len(features))
        count = max(1, round(HELD_OUT * len(part)))
        held, kept = part[:count], part[count:]
        if not len(kept):
            raise ValueError(f"expected two images to choose a weight decay by, got {len(part)}")
        best, worse = -np.inf, 0
        for weight_decay in weight_decays:
            fit = fit_logistic(features[kept], labels[kept], weight_decay, single=single, start=fit)
            passes += fit.passes
            logits = fit.logits(features[held])
            held_out = found._replace(probabilities=logits, labels=labels[held])
            metric, value = next(iter(held_out.scores().metrics.items()))
            report(
                f"weight decay {weight_decay:.2g}: {metric} {value:.4f} of {count} images held out"
            )
            if value > best:
                best, chosen, worse, chosen_fit = value, weight_decay, 0, fit
            else:
                worse += 1
            if worse == _WORSE:
                break
        fit, numbers = chosen_fit, {f"held_out_{metric}": best}
    fit = fit_logistic(features, labels, chosen, single=single, start=fit)
    passes += fit.passes
    rate = passes / (time.perf_counter() - start)
    report(f"{passes} passes over the features of {len(features)} images, {rate:.0f} a second")
    model.class_logits.set_weights([fit.kernel, fit.bias])
    counts = {"steps": fit.passes, "passes": passes, "passes_per_second": rate}
    return {"weight_decay": chosen, **counts, **numbers}


def fit_logistic(
    features: np.ndarray,
    labels: np.ndarray,
    weight_decay: float,
    *,
    single: bool = False,
    start: LinearFit | None = None,
) -> LinearFit:
    """The logistic regressions of all classes at once.

    Args:
        features: float [N, F].
        labels: [N, C], 1 in the image, -1 not, 0 left out.
        weight_decay: of the kernel; the bias has none.
        single: softmax over the classes, for images of one class; else a sigmoid for each.
        start: where to begin; None: zeros.
    """
    centre = features.mean(axis=0)  # the bias takes it, so that the loss is the same
    x = np.asarray(features - centre, np.float64)
    signs = np.asarray(labels, np.float64)  # [N, C]
    shape, mean_loss = (x.shape[1], signs.shape[1]), _softmax_loss if single else _sigmoid_loss

    def loss_and_gradient(flat):
        kernel, bias = flat[: -shape[1]].reshape(shape), flat[-shape[1] :]
        loss, slopes = mean_loss(x @ kernel + bias, signs)
        loss += weight_decay / 2 * (kernel**2).sum()
        gradient = (slopes.T @ x).T + weight_decay * kernel
        return loss, np.concatenate([gradient.ravel(), slopes.sum(axis=0)])

    begin = np.zeros(shape[0] * shape[1] + shape[1])
    if start is not None:
        begin = np.concatenate([start.kernel.ravel(), start.bias + centre @ start.kernel])
    options = {"maxfun": _MOST_PASSES, "maxiter": _MOST_PASSES, "maxcor": 20, "ftol": 1e-13}
    # On a busy machine the threads of such small products wait for each other, up to 20 times as
    # long as they compute.
    with threadpool_limits(1, user_api="blas"):
        found = minimize(
            loss_and_gradient, begin, jac=True, method="L-BFGS-B", options={**options, "gtol": 1e-8}
        )
    kernel, bias = found.x[: -shape[1]].reshape(shape), found.x[-shape[1] :]
    return LinearFit(kernel, bias - centre @ kernel, int(found.nfev))


def _sigmoid_loss(logits: np.ndarray, signs: np.ndarray) -> tuple[float, np.ndarray]:
    """The mean over known pairs of -log(sigmoid(sign * logit)), and its derivative [N, C]."""
    known = max(1, np.count_nonzero(signs))
    margins = signs * logits
    small = np.exp(-np.abs(margins))  # without overflow
    losses = np.log1p(small) + np.maximum(-margins, 0.0)
    slopes = -signs * np.where(margins > 0, small, 1.0) / (1.0 + small) / known
    return losses[signs != 0].sum() / known, slopes


def _softmax_loss(logits: np.ndarray, signs: np.ndarray) -> tuple[float, np.ndarray]:
    """The mean over images with a class of -log(softmax), and its derivative [N, C]."""
    positive = signs > 0
    counts = positive.sum(axis=1, keepdims=True)
    known = max(1, np.count_nonzero(counts))
    shares = positive / np.maximum(counts, 1)
    logs = logits - logsumexp(logits, axis=1, keepdims=True)
    return -(shares * logs).sum() / known, (np.exp(logs) * (counts > 0) - shares) / known
