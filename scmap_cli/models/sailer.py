r"""SAILER: an invariant VAE for single-cell ATAC, whose embedding is free of sequencing depth and batch.

Cao, "Deep learning methods for single-cell multi-omics" (thesis 2023), chapter 2; Cao, Fu, Wu, Zhang, Bioinformatics 37
(2021), doi:10.1093/bioinformatics/btab303. Implemented here:

* equations 2.1-2.2, the model: the encoder sees open peaks alone; the decoder gets the latent variables and the
  confounders (z-scored log depth, one-hot batch, further covariates), so the latent variables need not carry them;
* section 2.2.2, the likelihood: binary cross-entropy with a weight :math:`\omega` on open peaks;
* equations 2.5-2.6, the loss per cell:
  :math:`(1+\lambda)\,\mathrm{recon} + \beta\,[KL(q(z|x)\|p(z)) + \lambda\,KL(q(z|x)\|q(z))]`, where the last term is
  bounded by the mean pairwise divergence of the batch (:mod:`..nn.invariance`);
* section 2.2.2, the schedule: a deterministic warm-up (reconstruction from the posterior mean, no divergence), then
  :math:`\beta` rises from 0 to 1 over the first half of each cycle.

Where the released code differs, and what is done here:

* Its main training multiplies open and closed peaks alike by the weight; here the weight is on open peaks, as written.
* It adds reconstruction and prior divergence over the cells of a batch but averages the pairwise term, which makes
  lambda weaker by the batch size; here every term is a mean over cells.
* It samples with the standard deviation exp(log var) and takes divergences at exp(log var / 2); here both are the same.
* Its batch is one 0/1 column; here it is one-hot with any number of batches.
* Its hidden layers have batch norm; here they have layer norm, so that a cell's embedding is a function of the cell,
  and depth, a factor of the first layer's output, is taken out at once.
* It slips in indices and a sign of the pairwise divergence; here it is the closed form, tested against all pairs.
* It imputes from a sample, with the cell's own depth and batch; here from the posterior mean, at depth z-score 0 and as
  one batch, and the weight's share of the log-odds, :math:`\log\omega`, is taken off before the sigmoid.
* Its depth is a stored row sum in one place and the number of open peaks in another; here it is the latter throughout,
  unless a column is named.
* Its learning rate falls by .5 % an epoch, and training runs to the last one; here a tenth of the cells is held out,
  the rate falls to a tenth after 5 epochs without progress there, and the best epoch is kept.
* Its warm-up takes the mean over peaks, of samples; here it is their sum, from the posterior mean. Its :math:`\beta`
  rises with every epoch; here with every step.
* The pairwise bound is taken over the cells of a process: with several, each sees its own share of the batch.
* Weight decay is an L2 term as released (5e-4), but beside a loss that is a mean over cells, not their sum.
* Variances have a floor of 1e-4; biases of the last layer start at the log-odds of each peak; the first layer has no
  bias and starts within one by the root of its units, as only a cell's open peaks add up.

* Two additions of ours, each with a setting that switches it off: in training a share of a cell's open peaks is hidden
  from the encoder, and a step looks at a sample of the peaks where there are many (``peak_share``).
* Adam keeps one second moment a peak for the two layers with a row a peak (:mod:`...training.optimizer`), which is a
  fifth of the memory that training takes.

Defaults: 1000 and 100 hidden units and lambda 1 are the thesis's. Of its 10 latent dimensions there are 20 here: no
single one tells as much of depth then, and batches mix better. It takes the ratio of closed to open entries as the
weight of open peaks. The further the weight is from 1, the less the likelihood is that of the data and the narrower the
posteriors: less of the depth shows in them, and less of the cell types. The weight 8, the 20 dimensions and the hidden
share were chosen by depth, batch and the loss of held-out cells on one data set, the last two with scores of its types
in view (CHANGELOG); the released 10 epochs of warm-up and 4 cycles of 100 are 5 and 2 of 10 here.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn

from scmap_cli.data.batches import Batch
from scmap_cli.models.base import Posterior
from scmap_cli.models.invariant import InvariantConfig, InvariantVae
from scmap_cli.nn.bernoulli import sum_of_open


@dataclass(frozen=True)
class SailerConfig(InvariantConfig):
    """Hyperparameters of SAILER; see :class:`~scmap_cli.models.invariant.InvariantConfig`."""

    hidden: tuple[int, ...] = (1000, 100)
    latent: int = 20
    thinning: float = 0.8


class _Layers(nn.Module):
    """Linear, layer norm and leaky ReLU, once between every two widths."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.linear = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.norm = nn.ModuleList(nn.LayerNorm(b) for b in widths[1:])

    def forward(self, x_nw: Tensor) -> Tensor:
        for linear, norm in zip(self.linear, self.norm, strict=True):
            x_nw = nn.functional.leaky_relu(norm(linear(x_nw)), 0.2)
        return x_nw


class Sailer(InvariantVae):
    """The SAILER network; see the module for the equations.

    Parameters
    ----------
    config
        Hyperparameters.
    n_peaks, n_conditions, n_covariates
        Sizes; depth is the first of the covariates.
    omega, lam
        Weights of open peaks and of the invariance term.
    """

    name: ClassVar[str] = "sailer"
    config_type: ClassVar[type] = SailerConfig
    tall: ClassVar[frozenset[str]] = frozenset({"first_ph", "last_ph"})

    def __init__(
        self, config: SailerConfig, *, n_peaks: int, n_conditions: int, n_covariates: int, omega: float, lam: float
    ) -> None:
        super().__init__(
            config, n_peaks=n_peaks, n_conditions=n_conditions, n_covariates=n_covariates, omega=omega, lam=lam
        )
        first, *rest = config.hidden
        # A row a peak, so that the first layer adds the rows of open peaks.
        self.first_ph = nn.Parameter(torch.empty(n_peaks, first))
        self.first_norm = nn.LayerNorm(first)
        self.encoder = _Layers((first, *rest))
        self.head = nn.Linear(config.hidden[-1], 2 * config.latent)
        # One condition is no information, so it gets no column.
        self.n_told = n_conditions if n_conditions > 1 else 0
        self.decoder = _Layers((config.latent + n_covariates + self.n_told, *reversed(config.hidden)))
        nn.init.uniform_(self.first_ph, -(first**-0.5), first**-0.5)
        self._make_output(n_peaks, first)

    def _posterior(self, batch: Batch) -> Posterior:
        h_nh = self.first_norm(sum_of_open(self._seen(batch), self.first_ph))
        return self._gaussian(self.head(self.encoder(nn.functional.leaky_relu(h_nh, 0.2))))

    def _hidden(self, z_nz: Tensor, batch: Batch) -> Tensor:
        hidden: Tensor = self.decoder(self._told(z_nz, batch, self.n_told))
        return hidden.to(self.dtype)
