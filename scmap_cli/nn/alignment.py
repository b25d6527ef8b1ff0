r"""Local structure of two embeddings of the same cells: how far their matrices of cosines are apart.

Cao 2023 (thesis), equations 3.3 and 3.4, with the per-cell weights of section 3.2.2. With cosines
:math:`S^g` of a reference and :math:`S^p` of the posterior means, and a weight :math:`w_i` a cell,

.. math:: L_{local} = \frac{1}{b(b-1)}\sum_{i\ne j} w_i w_j\,(S^g_{ij} - S^p_{ij})^2

over the b cells of a batch that have a reference. It is the mean over pairs, so that its expectation over random
batches is the value of all cells, whatever the size of a batch; the released code adds the pairs up.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize


def alignment_gap(mean_nz: Tensor, unit_nr: Tensor, weight_n: Tensor) -> Tensor:
    """Weighted mean squared gap between the cosines of two embeddings, over ordered pairs of different cells.

    Parameters
    ----------
    mean_nz
        Posterior means, (n, z).
    unit_nr
        Reference of the same cells, (n, r), rows of length one; zeros where a cell has none, which is then left out.
    weight_n
        Weight of each cell, (n,), at least 0; a pair's weight is the product of its two.

    Returns
    -------
    Tensor
        Scalar; 0 for fewer than two cells with a reference.
    """
    has_n = unit_nr.any(1) if unit_nr.shape[1] else weight_n.new_zeros(len(weight_n)).bool()
    count = has_n.sum()
    weight_n = weight_n * has_n
    # Cells without a reference weigh nothing, and so need not be taken out, which would wait for a GPU.
    cosine_nz = normalize(mean_nz, dim=1)
    # Two cosines near one another differ by less than bfloat16 resolves.
    with torch.autocast(mean_nz.device.type, enabled=False):
        gap_nn = (unit_nr @ unit_nr.T - cosine_nz @ cosine_nz.T).square().fill_diagonal_(0.0)
        total: Tensor = weight_n @ gap_nn @ weight_n
        return total / (count * (count - 1)).clamp_min(1)
