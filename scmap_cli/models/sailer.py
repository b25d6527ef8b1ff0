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
* The pairwise bound is taken over the cells of a process: with several, each sees its own share of the batch.

* Two additions of ours, each with a setting that switches it off: in training a share of a cell's open peaks is hidden
  from the encoder, and with ``peak_share`` a step looks at a sample of the peaks.

Defaults: 1000 and 100 hidden units, 10 latent dimensions and lambda 1 are the thesis's. It takes the ratio of closed to
open entries as the weight of open peaks. The further the weight is from 1, the less the likelihood is that of the data
and the narrower the posteriors: less of the depth shows in them, and less of the cell types. The weight 8 and the
hidden share were chosen by depth and batch alone on one data set (CHANGELOG); the released 10 epochs of warm-up
and 4 cycles of 100 are 5 and 2 of 10 here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from scmap_cli.data.batches import Batch
from scmap_cli.errors import UsageError
from scmap_cli.models.base import LossOutput, Posterior, ScmapModel
from scmap_cli.nn.bernoulli import open_peaks_loss
from scmap_cli.nn.distributions import gaussian_kl
from scmap_cli.nn.invariance import BOUNDS, mean_pairwise_kl, mixture_kl
from scmap_cli.nn.rows import sum_of_rows

_MIN_VARIANCE = 1e-4


@dataclass(frozen=True)
class SailerConfig:
    """Hyperparameters of SAILER.

    Attributes
    ----------
    hidden
        Widths of the encoder's layers; the decoder has them in reverse order.
    latent
        Latent dimensions.
    thinning
        Largest share of a cell's open peaks that is hidden from the encoder in a training step; each cell draws its own
        share anew, uniform from 0.
    peak_share
        Share of the peaks whose likelihood a training step looks at, drawn anew each step and scaled up to all.
    invariance
        Weight lambda of the invariance term (equation 2.3).
    invariance_bound
        ``pairwise``: mean divergence between all pairs of cells (the thesis). ``mixture``: from their mixture, tighter.
    positive_weight
        Weight omega of open peaks: ``none`` (1), ``auto`` (closed over open entries of the training cells) or a number.
    kl_weight
        Final weight beta of both divergences.
    warmup_epochs, cycle_epochs, cycles
        Epochs without divergences; epochs of one rise of beta and the plateau after it; how many such cycles, after
        which beta stays.
    """

    hidden: tuple[int, ...] = (1000, 100)
    latent: int = 10
    thinning: float = 0.5
    peak_share: float = 1.0
    invariance: float = 1.0
    invariance_bound: str = "pairwise"
    positive_weight: str = "8"
    kl_weight: float = 1.0
    warmup_epochs: float = 5.0
    cycle_epochs: float = 10.0
    cycles: int = 2

    def __post_init__(self) -> None:
        if self.invariance_bound not in BOUNDS:
            raise UsageError(f"invariance_bound is {self.invariance_bound!r}", f"choose one of {', '.join(BOUNDS)}")
        if not self.hidden or min(self.hidden) < 1:
            raise UsageError(f"hidden layer widths {self.hidden} must all be at least 1")
        for key in ("latent", "cycles"):
            if getattr(self, key) < 1:
                raise UsageError(f"{key} {getattr(self, key)} must be at least 1")
        for key in ("invariance", "kl_weight", "warmup_epochs", "cycle_epochs"):
            if getattr(self, key) < 0:
                raise UsageError(f"{key} {getattr(self, key)} must not be negative")
        if not 0 < self.peak_share <= 1:
            raise UsageError(f"peak_share {self.peak_share} is not in (0, 1]")
        if not 0 <= self.thinning < 1:
            raise UsageError(f"thinning {self.thinning} is not in [0, 1)")
        self.omega(0.5)

    def omega(self, open_share: float) -> float:
        """The weight of open peaks, given their share among the entries of the training cells."""
        if self.positive_weight == "none":
            return 1.0
        if self.positive_weight == "auto":
            return (1.0 - open_share) / open_share
        try:
            weight = float(self.positive_weight)
        except ValueError:
            weight = -1.0
        if not 0 < weight < float("inf"):
            raise UsageError(f"positive_weight is {self.positive_weight!r}", "choose none, auto or a number above 0")
        return weight


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


class Sailer(ScmapModel):
    """The SAILER network; see the module for the equations.

    Parameters
    ----------
    config
        Hyperparameters.
    n_peaks, n_conditions, n_covariates
        Sizes; depth is the first of the covariates.
    omega
        Weight of open peaks.
    """

    name: ClassVar[str] = "sailer"
    config_type: ClassVar[type] = SailerConfig
    capabilities: ClassVar[frozenset[str]] = frozenset({"embed", "impute"})
    features: ClassVar[str] = "peaks"
    told_condition: ClassVar[bool] = False

    def __init__(
        self, config: SailerConfig, *, n_peaks: int, n_conditions: int, n_covariates: int, omega: float
    ) -> None:
        super().__init__()
        self.config = config
        self.structure = {
            "n_peaks": n_peaks,
            "n_conditions": n_conditions,
            "n_covariates": n_covariates,
            "omega": omega,
        }
        self.warmup_epochs, self.cycle_epochs = config.warmup_epochs, config.cycle_epochs
        first, *rest = config.hidden
        # A row a peak, so that the first layer adds the rows of open peaks.
        self.first_ph = nn.Parameter(torch.empty(n_peaks, first))
        self.first_norm = nn.LayerNorm(first)
        self.encoder = _Layers((first, *rest))
        self.head = nn.Linear(config.hidden[-1], 2 * config.latent)
        # One condition is no information, so it gets no column.
        self.n_told = n_conditions if n_conditions > 1 else 0
        self.decoder = _Layers((config.latent + n_covariates + self.n_told, *reversed(config.hidden)))
        self.last_ph = nn.Parameter(torch.empty(n_peaks, first))
        self.last_p = nn.Parameter(torch.zeros(n_peaks))
        bound = first**-0.5
        nn.init.uniform_(self.first_ph, -bound, bound)
        nn.init.uniform_(self.last_ph, -bound, bound)

    @classmethod
    def create(
        cls,
        config: SailerConfig,
        open_share_p: np.ndarray,
        n_conditions: int,
        n_covariates: int,
        seed: int,
    ) -> Sailer:
        """A freshly initialised model.

        Parameters
        ----------
        config
            Hyperparameters.
        open_share_p
            Share of the training cells in which each peak is open. The output biases start at its log-odds plus
            log(omega), which is the optimum for independent peaks.
        n_conditions, n_covariates
            Sizes.
        seed
            Seed of the initial weights; the global generator is left as it was.
        """
        omega = config.omega(float(np.clip(open_share_p.mean(), 1e-9, 1 - 1e-9)))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)  # noqa: TID251
            model = cls(
                config,
                n_peaks=len(open_share_p),
                n_conditions=n_conditions,
                n_covariates=n_covariates,
                omega=omega,
            )
        p = np.clip(open_share_p, 1e-4, 1 - 1e-4)
        with torch.no_grad():
            model.last_p.copy_(torch.from_numpy((np.log(p) - np.log1p(-p) + np.log(omega)).astype(np.float32)))
        return model

    @property
    def anneal_epochs(self) -> float:
        """Epochs until beta has reached its final value for good."""
        return self.warmup_epochs + (self.config.cycles - 0.5) * self.cycle_epochs

    def shorten_annealing(self, epochs: int) -> None:
        """Let warm-up and cycles take at most half of the run, so that the full objective is really trained."""
        factor = min(1.0, epochs / 2 / max(self.anneal_epochs, 1e-9))
        self.warmup_epochs, self.cycle_epochs = factor * self.warmup_epochs, factor * self.cycle_epochs

    def beta(self, progress: float) -> float:
        """Weight of the divergences at a time in epochs: 0 in the warm-up, then cyclical, then constant."""
        config, since = self.config, progress - self.warmup_epochs
        if since >= (config.cycles - 0.5) * self.cycle_epochs:
            return config.kl_weight
        if since < 0:
            return 0.0
        phase = since % self.cycle_epochs / self.cycle_epochs
        return config.kl_weight * min(1.0, 2.0 * phase)

    def _posterior(self, batch: Batch) -> Posterior:
        if batch.noise is not None and self.config.thinning > 0:
            keep_m = batch.noise.kept(torch.div(batch.flat_m, batch.g, rounding_mode="floor"), self.config.thinning)
            batch = replace(batch, flat_m=batch.flat_m[keep_m], value_m=batch.value_m[keep_m])
        h_nh = self.first_norm(sum_of_rows(batch, torch.ones_like(batch.value_m), self.first_ph))
        h_nh = self.encoder(nn.functional.leaky_relu(h_nh, 0.2))
        mean_nz, log_var_nz = self.head(h_nh).to(self.dtype).chunk(2, dim=1)
        return Posterior(mean_nz, log_var_nz.exp() + _MIN_VARIANCE)

    def _hidden(self, z_nz: Tensor, covariate_nc: Tensor, condition_n: Tensor) -> Tensor:
        """The decoder's last hidden layer, (n, hidden[0])."""
        told = [z_nz, covariate_nc]
        if self.n_told:
            told.append(nn.functional.one_hot(condition_n, self.n_told).to(z_nz.dtype))
        hidden: Tensor = self.decoder(torch.cat(told, dim=1))
        return hidden.to(self.dtype)

    def loss(self, batch: Batch) -> LossOutput:
        """Equations 2.5-2.6 on one batch; parts ``recon``, ``kl`` and ``invariance``."""
        posterior = self._posterior(batch)
        z_nz = posterior.mean_nz
        if batch.noise is not None and batch.progress >= self.warmup_epochs:
            z_nz = z_nz + posterior.var_nz.sqrt() * batch.noise.normal(z_nz)
        h_nh = self._hidden(z_nz, batch.covariate_nc, batch.condition_n)
        peaks_s = None
        if batch.noise is not None:
            peaks_s = batch.noise.sample(batch.g, self.config.peak_share, h_nh.device)
        recon = open_peaks_loss(h_nh, self.last_ph, self.last_p, batch.flat_m, self.structure["omega"], peaks_s)
        kl = gaussian_kl(posterior.mean_nz, posterior.var_nz).mean()
        bound = mean_pairwise_kl if self.config.invariance_bound == "pairwise" else mixture_kl
        apart = bound(posterior.mean_nz, posterior.var_nz)
        weight = self.config.invariance
        divergence = kl + weight * apart
        total = (1.0 + weight) * recon + self.beta(batch.progress) * divergence
        score = ((1.0 + weight) * recon + self.config.kl_weight * divergence).detach()
        return LossOutput(total, score, {"recon": recon.detach(), "kl": kl.detach(), "invariance": apart.detach()})

    @torch.no_grad()
    def embed(self, batch: Batch) -> Posterior:
        """Posterior means and variances; the encoder is told neither depth nor batch."""
        return self._posterior(batch)

    @torch.no_grad()
    def impute(self, batch: Batch, peaks: Tensor) -> Tensor:
        """Probability that peaks are open, (n, len(peaks)), from posterior means and the batch's confounders.

        With ``omega`` other than 1 the weighted likelihood's optimum is not the probability of an open peak; its
        log-odds are too large by log(omega), which is taken off.
        """
        h_nh = self._hidden(self._posterior(batch).mean_nz, batch.covariate_nc, batch.condition_n)
        logit_np = h_nh @ self.last_ph[peaks].T + self.last_p[peaks] - float(np.log(self.structure["omega"]))
        return logit_np.sigmoid_()
