r"""Bayes factors of gene programs between two groups of cells (expiMap, Methods, "Differential testing for GPs").

For a program and cells :math:`a, b` of two groups with Gaussian posteriors,
:math:`P(z_a > z_b) = \Phi\bigl((\mu_a-\mu_b)/\sqrt{\sigma_a^2+\sigma_b^2}\bigr)`; :math:`p(H_0)` is its mean over pairs
of cells, and the log Bayes factor is :math:`\log p(H_0) - \log(1 - p(H_0))`, natural. Both tails are summed apart, and
in log space where one of them underflows, so that a large factor does not saturate.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from scmap_cli.errors import InputError

EXACT_PAIRS = 400_000
"""Up to this many pairs of cells all are taken; beyond, a seeded sample."""

SAMPLED_PAIRS = 50_000
"""Pairs of a sample."""

# Entries (pairs x programs) of a tile: temporaries stay in the cache of a core.
_TILE = 1 << 18


@dataclass(frozen=True)
class BayesTest:
    """Results of one contrast, arrays over the programs.

    Attributes
    ----------
    log_bf
        log p(H0) - log(1 - p(H0)): above 0 the first group's values are larger.
    p
        p(H0), the posterior probability that a cell of the first group has the larger value; no significance value.
    se
        Standard error of ``log_bf`` from the sampling of pairs; 0 where all pairs were taken.
    pairs
        Pairs of cells that were compared.
    exact
        Whether these are all.
    """

    log_bf: np.ndarray
    p: np.ndarray
    se: np.ndarray
    pairs: int
    exact: bool


def bayes_factors(
    mean_az: np.ndarray,
    var_az: np.ndarray,
    mean_bz: np.ndarray,
    var_bz: np.ndarray,
    *,
    exact_pairs: int = EXACT_PAIRS,
    sampled_pairs: int = SAMPLED_PAIRS,
    seed: int = 0,
) -> BayesTest:
    """Compare the posteriors of two groups of cells, program by program.

    Parameters
    ----------
    mean_az, var_az
        (a, z) posterior means and variances of the first group.
    mean_bz, var_bz
        (b, z) those of the second.
    exact_pairs
        Up to this many pairs all are compared.
    sampled_pairs
        Otherwise so many, each cell of a group equally often (within one).
    seed
        Seed of the sample.

    Raises
    ------
    InputError
        A group is empty.
    """
    a, b = len(mean_az), len(mean_bz)
    if not a or not b:
        raise InputError(f"a comparison needs cells on both sides, not {a} and {b}")
    if not mean_az.shape[1]:
        nothing = np.zeros(0)
        return BayesTest(nothing, nothing, nothing, 0, True)
    exact = a * b <= exact_pairs
    pairs = a * b if exact else max(2, sampled_pairs)
    first = second = None
    if not exact:
        rng = np.random.default_rng(seed)
        first, second = _spread(rng, a, pairs), _spread(rng, b, pairs)

    def tiles(columns: np.ndarray | slice) -> Iterator[Tensor]:
        return _tiles(mean_az[:, columns], var_az[:, columns], mean_bz[:, columns], var_bz[:, columns], first, second)

    z = mean_az.shape[1]
    above, square = (torch.zeros(z, dtype=torch.float64) for _ in range(2))
    for x_mz in tiles(slice(None)):
        p_mz = torch.special.erfc(x_mz * -(0.5**0.5)).mul_(0.5)
        above += p_mz.sum(0, dtype=torch.float64)
        if not exact:
            square += p_mz.double().square_().sum(0)
    p = above / pairs
    log_p, log_q = p.log(), (1.0 - p).log()
    # Relative variance of the rarer side over the pairs; the standard error of the log Bayes factor follows from it.
    rare = torch.minimum(p, 1.0 - p)
    spread = (square / pairs - p * p).clamp_min(0.0) / rare.square().clamp_min(torch.finfo(torch.float64).tiny)
    # What rounding would spoil is summed again in log space: a small 1 - p, and a p where every pair underflows.
    floor = 1e-8 if exact else 1e-4
    for logs, weak, sign in ((log_q, 1.0 - p < floor, -1.0), (log_p, p < 1e-30, 1.0)):
        if weak.any():
            parts = [torch.special.log_ndtr(sign * x_mz.double()) for x_mz in tiles(weak.numpy())]
            first_moment, second_moment = (
                torch.stack([(power * part).logsumexp(0) for part in parts]).logsumexp(0) - np.log(pairs)
                for power in (1.0, 2.0)
            )
            logs[weak] = first_moment
            spread[weak] = torch.expm1(second_moment - 2.0 * first_moment).clamp_min(0.0)
    common = torch.maximum(log_p, log_q).exp()
    se = torch.zeros(z, dtype=torch.float64) if exact else (spread / (pairs - 1)).sqrt() / common
    return BayesTest((log_p - log_q).numpy(), p.numpy(), se.numpy(), pairs, exact)


def _spread(rng: np.random.Generator, n: int, count: int) -> np.ndarray:
    """``count`` of ``n`` indices in random order, each equally often (within one)."""
    rounds = [rng.permutation(n) for _ in range(-(-count // n))]
    return np.concatenate(rounds)[:count]


def _tiles(
    mean_az: np.ndarray,
    var_az: np.ndarray,
    mean_bz: np.ndarray,
    var_bz: np.ndarray,
    first: np.ndarray | None,
    second: np.ndarray | None,
) -> Iterator[Tensor]:
    """Standardised differences of pairs, (pairs, z) a tile: all in float64, or the listed pairs in float32.

    A sample's own error is far above that of float32, whose erfc takes a fifth of the time.
    """
    kind = torch.float64 if first is None else torch.float32
    m1, v1, m2, v2 = (torch.as_tensor(part, dtype=kind) for part in (mean_az, var_az, mean_bz, var_bz))
    (a, z), b = m1.shape, len(m2)
    if first is not None and second is not None:
        step = max(1, _TILE // z)
        for start in range(0, len(first), step):
            i, j = (torch.from_numpy(index[start : start + step]) for index in (first, second))
            difference = m1.index_select(0, i).sub_(m2.index_select(0, j))
            yield difference.div_(v1.index_select(0, i).add_(v2.index_select(0, j)).sqrt_())
        return
    columns = min(b, max(1, _TILE // z))
    rows = max(1, _TILE // (z * columns))
    for row in range(0, a, rows):
        for column in range(0, b, columns):
            left, right = slice(row, row + rows), slice(column, column + columns)
            variance = v1[left, None] + v2[None, right]
            yield (m1[left, None] - m2[None, right]).div_(variance.sqrt_()).reshape(-1, z)
