r"""How far the posteriors of a batch of cells are from one another: bounds that stand for SAILER's invariance term.

The term is :math:`E_x\,KL(q(z|x)\,\|\,q(z))` with the marginal :math:`q(z)` of the data (thesis, equation 2.5), known
only through the cells of a batch. Both bounds replace it by their posteriors :math:`q_i=N(\mu_i, v_i)`.
"""

from __future__ import annotations

import math

from torch import Tensor

BOUNDS = ("pairwise", "mixture")


def mean_pairwise_kl(mean_nz: Tensor, var_nz: Tensor) -> Tensor:
    r"""Mean of :math:`KL(q_i\|q_j)` over all i and j, equal ones too, in nats: the thesis's bound, exact and in O(n z).

    The logarithms cancel in the mean, and what is left factorises into means over cells:

    .. math:: \tfrac12\sum_d\Bigl[\overline{v}\,\overline{1/v} + \overline{\mu^2}\,\overline{1/v}
              - 2\,\overline{\mu}\,\overline{\mu/v} + \overline{\mu^2/v} - 1\Bigr]

    Computed in float64, because the terms cancel where the posteriors are alike. Means are centred first, which
    changes nothing but the rounding.

    Parameters
    ----------
    mean_nz, var_nz
        Posterior means and variances, (n, z).
    """
    mu_nz, var_nz = mean_nz.double(), var_nz.double()
    mu_nz = mu_nz - mu_nz.mean(0, keepdim=True)
    precision_nz = 1.0 / var_nz
    square_nz = mu_nz.square()
    # The mean of mu is zero now, so its product with the mean of mu / v is, too.
    sum_z = (var_nz.mean(0) + square_nz.mean(0)) * precision_nz.mean(0) + (square_nz * precision_nz).mean(0) - 1.0
    return 0.5 * sum_z.sum().to(mean_nz.dtype)


def mixture_kl(mean_nz: Tensor, var_nz: Tensor) -> Tensor:
    r"""Mean over cells of :math:`-\log\frac1n\sum_j e^{-KL(q_i\|q_j)}`, in nats: the tighter bound, over all pairs.

    It bounds the divergence of a posterior from the mixture of all of them. That mixture contains the posterior itself,
    so the value never exceeds ``log n`` and may lie below the term over all of the data.
    """
    mu_nz, var_nz = mean_nz.double(), var_nz.double()
    mu_nz = mu_nz - mu_nz.mean(0, keepdim=True)
    precision_nz = 1.0 / var_nz
    kl_nn = (var_nz + mu_nz.square()) @ precision_nz.T - 2.0 * mu_nz @ (mu_nz * precision_nz).T
    kl_nn = kl_nn + (mu_nz.square() * precision_nz + var_nz.log()).sum(1) - var_nz.log().sum(1, keepdim=True)
    kl_nn = 0.5 * (kl_nn - mean_nz.shape[1])
    return (math.log(len(mean_nz)) - (-kl_nn).logsumexp(1)).mean().to(mean_nz.dtype)
