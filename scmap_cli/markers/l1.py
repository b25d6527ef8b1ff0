"""Multinomial logistic regression with an L1 penalty: the strong simple baseline for labels.

Minimises (1/n) sum_i CE(softmax(x_i W + b), y_i) + lambda ||W||_1 on scaled values, along a falling path of lambda
with warm starts, until k genes have a coefficient. Each problem is solved by accelerated proximal gradient (Beck and
Teboulle 2009, doi:10.1137/080716542) on the genes that the sequential strong rule keeps (Tibshirani et al. 2012,
doi:10.1111/j.1467-9868.2011.01004.x); the others are checked and taken in where the rule was wrong about them.
"""

from __future__ import annotations

import numpy as np

from scmap_cli.markers.base import MarkerData, Selection, best, named

_RATIO, _STEPS = 0.93, 100
_ITERATIONS, _TOLERANCE = 2000, 1e-5


def _probabilities(logits_nc: np.ndarray) -> np.ndarray:
    shifted = np.exp(logits_nc - logits_nc.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


def solve(
    x_na: np.ndarray, y_nc: np.ndarray, penalty: float, weights_ac: np.ndarray, bias_c: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients and intercepts of one penalty, from a starting point.

    Parameters
    ----------
    x_na
        (n, a) float64 values.
    y_nc
        (n, c) indicators of the classes.
    penalty
        lambda.
    weights_ac, bias_c
        Starting point, not changed.
    """
    n = len(x_na)
    # The curvature of the softmax is at most 1/2; the column of ones stands for the intercept.
    step = 2.0 * n / (np.linalg.norm(x_na, 2) ** 2 + n)
    weights, bias = weights_ac.copy(), bias_c.copy()
    ahead_w, ahead_b, momentum = weights.copy(), bias.copy(), 1.0
    for _ in range(_ITERATIONS):
        wrong = (_probabilities(x_na @ ahead_w + ahead_b) - y_nc) / n
        moved = ahead_w - step * (x_na.T @ wrong)
        new_w = np.sign(moved) * np.maximum(np.abs(moved) - step * penalty, 0.0)
        new_b = ahead_b - step * wrong.sum(axis=0)
        change_w, change_b = new_w - weights, new_b - bias
        # Momentum that points uphill is dropped (O'Donoghue and Candes 2015).
        if ((ahead_w - new_w) * change_w).sum() + ((ahead_b - new_b) * change_b).sum() > 0:
            momentum = 1.0
        following = (1 + np.sqrt(1 + 4 * momentum**2)) / 2
        pace = (momentum - 1) / following
        ahead_w, ahead_b = new_w + pace * change_w, new_b + pace * change_b
        weights, bias, momentum = new_w, new_b, following
        if np.abs(change_w).max(initial=0.0) <= _TOLERANCE * max(1.0, np.abs(weights).max(initial=0.0)):
            break
    return weights, bias


def fit_path(x_ng: np.ndarray, codes: np.ndarray, n_classes: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Follow the path until k genes have a coefficient.

    Parameters
    ----------
    x_ng
        (n, g) float32 scaled values.
    codes
        (n,) classes.
    n_classes
        Their number.
    k
        Genes wanted.

    Returns
    -------
    tuple
        (g, classes) coefficients at the end, and (g,) the largest penalty at which each gene had one, relative to the
        largest penalty at which any has; 0 for those without.
    """
    n, g = x_ng.shape
    y_nc = np.eye(n_classes)[codes]
    shares = y_nc.mean(axis=0)
    weights, bias = np.zeros((g, n_classes)), np.log(shares)
    slope_gc = (x_ng.T @ (shares - y_nc).astype(np.float32)).astype(np.float64) / n
    first = max(float(np.abs(slope_gc).max()), 1e-12)
    entered_g = np.zeros(g)
    penalty = first
    for step in range(1, _STEPS + 1):
        before, penalty = penalty, first * _RATIO**step
        active = (np.abs(slope_gc).max(axis=1) >= 2 * penalty - before) | weights.any(axis=1)
        while True:
            chosen = np.flatnonzero(active)
            inside = x_ng[:, chosen].astype(np.float64)
            weights[chosen], bias = solve(inside, y_nc, penalty, weights[chosen], bias)
            wrong = _probabilities(inside @ weights[chosen] + bias) - y_nc
            slope_gc = (x_ng.T @ wrong.astype(np.float32)).astype(np.float64) / n
            missed = ~active & (np.abs(slope_gc).max(axis=1) > penalty * 1.001)
            if not missed.any():
                break
            active |= missed
        used = weights.any(axis=1)
        entered_g[used & (entered_g == 0)] = penalty / first
        if used.sum() >= k:
            break
    return weights, entered_g


def select(data: MarkerData, k: int, *, seed: int, as_published: bool) -> Selection:
    """Choose k genes; the score is the largest coefficient at the path's end, the class that of the largest one.

    Where the path ends with fewer than k genes, as it can with hardly more cells than genes, those of largest slope
    follow with a score below 0.
    """
    x_ng = data.scaled
    weights_gc, _ = fit_path(x_ng, data.labels, len(data.classes), k)
    strength_g = np.abs(weights_gc).max(axis=1)
    means_gc = data.class_means.T
    if np.count_nonzero(strength_g) < k:
        centred = np.eye(len(data.classes))[data.labels]
        slope_g = np.abs(x_ng.T @ (centred - centred.mean(axis=0)).astype(np.float32)).max(axis=1).astype(np.float64)
        strength_g = np.where(strength_g > 0, strength_g, slope_g / max(float(slope_g.max()), 1e-12) - 1.0)
    genes = best(strength_g, k)
    codes = np.where(weights_gc.any(axis=1, keepdims=True), weights_gc, means_gc)[genes].argmax(axis=1)
    return Selection(genes, strength_g[genes], named(data, codes))
