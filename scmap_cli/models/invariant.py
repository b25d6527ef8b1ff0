r"""What SAILER and SAILERX share: the invariant VAE of open peaks without its encoder and its decoder's hidden layers.

Cao, "Deep learning methods for single-cell multi-omics" (thesis 2023), equations 2.1-2.6 and section 2.2.2 (the same
objective is equations 3.1-3.2): the loss per cell

.. math:: (1+\lambda)\,\mathrm{recon} + \beta\,[KL(q(z|x)\|p(z)) + \lambda\,KL(q(z|x)\|q(z))],

the schedule of :math:`\beta`, and imputation. :mod:`.sailer` says where the released code differs.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn

from scmap_cli.data.batches import Batch
from scmap_cli.errors import UsageError
from scmap_cli.models.base import LossOutput, Posterior, ScmapModel
from scmap_cli.nn.bernoulli import open_peaks_loss
from scmap_cli.nn.distributions import gaussian_kl
from scmap_cli.nn.invariance import BOUNDS, mean_pairwise_kl, mixture_kl

_MIN_VARIANCE = 1e-4

# Peaks that a step looks at by default where there are more; the last layer's products are most of a step's work.
_PEAKS_A_STEP = 12_500


def number(key: str, value: str, choices: str, *, above: bool = False, most: float = math.inf) -> float:
    """A weight that is given as text: a finite number from 0 up, or ``above`` 0, and ``most`` at most.

    Raises
    ------
    UsageError
        It is none; ``choices`` tells what would be.
    """
    try:
        found = float(value)
    except ValueError:
        found = math.nan
    if not math.isfinite(found) or not 0 <= found <= most or (above and found == 0):
        raise UsageError(f"{key} is {value!r}", f"choose {choices}")
    return found


@dataclass(frozen=True)
class InvariantConfig:
    """Hyperparameters of both models.

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
        Share of the peaks whose likelihood a training step looks at, drawn anew each step and scaled up to all: a
        number, or ``auto`` for 12,500 peaks at most.
    invariance
        Weight lambda of the invariance term (equation 2.3), a number, or ``auto``: the elbow of what the embedding
        tells of depth and batch against it, which is found before the network is made.
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

    hidden: tuple[int, ...]
    latent: int
    thinning: float = 0.5
    peak_share: str = "auto"
    invariance: str = "1"
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
        for key in ("kl_weight", "warmup_epochs", "cycle_epochs"):
            if getattr(self, key) < 0:
                raise UsageError(f"{key} {getattr(self, key)} must not be negative")
        if not 0 <= self.thinning < 1:
            raise UsageError(f"thinning {self.thinning} is not in [0, 1)")
        self.omega(0.5)
        self.share(1)
        if self.invariance != "auto":
            self.lam()

    def lam(self) -> float:
        """The weight lambda as a number; :class:`~scmap_cli.errors.UsageError` if it is none."""
        return number("invariance", self.invariance, "auto or a number, at least 0")

    def share(self, n_peaks: int) -> float:
        """The share of so many peaks that a training step looks at."""
        if self.peak_share == "auto":
            return min(1.0, _PEAKS_A_STEP / n_peaks)
        return number("peak_share", self.peak_share, "auto or a number above 0, at most 1", above=True, most=1)

    def omega(self, open_share: float) -> float:
        """The weight of open peaks, given their share among the entries of the training cells."""
        if self.positive_weight == "none":
            return 1.0
        if self.positive_weight == "auto":
            return (1.0 - open_share) / open_share
        return number("positive_weight", self.positive_weight, "none, auto or a number above 0", above=True)


class InvariantVae(ScmapModel):
    """The objective, its schedule and imputation; a model adds ``_posterior`` and ``_hidden``.

    ``last_ph`` and ``last_p`` are weights and biases of the output layer, and ``edges_c`` the first peak of each group
    whose hidden units are its own (None for one net of all peaks), as
    :func:`scmap_cli.nn.bernoulli.open_peaks_loss` takes them.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"embed", "impute"})
    features: ClassVar[str] = "peaks"
    told_condition: ClassVar[bool] = False

    config: InvariantConfig
    last_ph: nn.Parameter
    last_p: nn.Parameter
    edges_c: tuple[int, ...] | None = None

    def __init__(self, config: InvariantConfig, **structure: Any) -> None:
        super().__init__()
        self.structure = structure
        self.config = config
        self.warmup_epochs, self.cycle_epochs = config.warmup_epochs, config.cycle_epochs

    def _make_output(self, n_peaks: int, width: int) -> None:
        self.last_ph = nn.Parameter(torch.empty(n_peaks, width))
        self.last_p = nn.Parameter(torch.zeros(n_peaks))
        nn.init.uniform_(self.last_ph, -(width**-0.5), width**-0.5)

    @classmethod
    def create(
        cls, config: InvariantConfig, open_share_p: np.ndarray, *, seed: int, lam: float | None = None, **sizes: Any
    ) -> Self:
        """A freshly initialised model.

        Parameters
        ----------
        config
            Hyperparameters.
        open_share_p
            Share of the training cells in which each peak is open. The output biases start at its log-odds plus
            log(omega), which is the optimum for independent peaks.
        seed
            Seed of the initial weights; the global generator is left as it was.
        lam
            Weight of the invariance term, where it is not that of ``config``.
        sizes
            What the model is made with beside ``n_peaks``, ``omega`` and ``lam``.
        """
        omega = config.omega(float(np.clip(open_share_p.mean(), 1e-9, 1 - 1e-9)))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)  # noqa: TID251
            model = cls(
                config, n_peaks=len(open_share_p), omega=omega, lam=config.lam() if lam is None else lam, **sizes
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

    def _seen(self, batch: Batch) -> Batch:
        """What the encoder sees of a batch: in training a share of each cell's open peaks is hidden."""
        if batch.noise is None or self.config.thinning == 0:
            return batch
        keep_m = batch.noise.kept(torch.div(batch.flat_m, batch.g, rounding_mode="floor"), self.config.thinning)
        return replace(batch, flat_m=batch.flat_m[keep_m], value_m=batch.value_m[keep_m])

    def _gaussian(self, heads_nz: Tensor) -> Posterior:
        mean_nz, log_var_nz = heads_nz.to(self.dtype).chunk(2, dim=1)
        return Posterior(mean_nz, log_var_nz.exp() + _MIN_VARIANCE)

    @staticmethod
    def _told(z_nz: Tensor, batch: Batch, n_told: int) -> Tensor:
        """What the decoder gets: latent variables, covariates and the one-hot batch."""
        told = [z_nz, batch.covariate_nc]
        if n_told:
            told.append(nn.functional.one_hot(batch.condition_n, n_told).to(z_nz.dtype))
        return torch.cat(told, dim=1)

    @abstractmethod
    def _posterior(self, batch: Batch) -> Posterior:
        """The encoder."""

    @abstractmethod
    def _hidden(self, z_nz: Tensor, batch: Batch) -> Tensor:
        """The decoder's last hidden layer, (n, h), or (n, groups, h) with groups of peaks."""

    def _further(self, batch: Batch, posterior: Posterior) -> dict[str, tuple[float, Tensor]]:
        """Terms that a model adds to the loss, by name: weight and value; none here."""
        return {}

    def loss(self, batch: Batch) -> LossOutput:
        """Equations 2.5-2.6 on one batch; parts ``recon``, ``kl`` and ``invariance``, and what a model adds."""
        posterior = self._posterior(batch)
        z_nz = posterior.mean_nz
        if batch.noise is not None and batch.progress >= self.warmup_epochs:
            z_nz = z_nz + posterior.var_nz.sqrt() * batch.noise.normal(z_nz)
        h_nh = self._hidden(z_nz, batch)
        peaks_s = None
        if batch.noise is not None:
            peaks_s = batch.noise.sample(batch.g, self.config.share(batch.g), h_nh.device)
        omega = self.structure["omega"]
        recon = open_peaks_loss(
            h_nh, self.last_ph, self.last_p, batch.flat_m, omega, peaks_s, self.edges_c, self.sparse_gradients
        )
        kl = gaussian_kl(posterior.mean_nz, posterior.var_nz).mean()
        bound = mean_pairwise_kl if self.config.invariance_bound == "pairwise" else mixture_kl
        apart = bound(posterior.mean_nz, posterior.var_nz)
        weight = self.structure["lam"]
        divergence = kl + weight * apart
        # Summed in this order, so that without a further term the bits are those of the three alone.
        rest = (1.0 + weight) * recon
        parts = {"recon": recon, "kl": kl, "invariance": apart}
        for name, (factor, value) in self._further(batch, posterior).items():
            rest = rest + factor * value
            parts[name] = value
        return LossOutput(
            rest + self.beta(batch.progress) * divergence,
            (rest + self.config.kl_weight * divergence).detach(),
            {name: value.detach() for name, value in parts.items()},
        )

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
        h_nh = self._hidden(self._posterior(batch).mean_nz, batch)
        if self.edges_c is None:
            logit_np = h_nh @ self.last_ph[peaks].T + self.last_p[peaks]
        else:
            logit_np = self.last_p[peaks].expand(batch.n, -1).clone()
            group_s = torch.bucketize(peaks, torch.tensor(self.edges_c[1:], device=peaks.device), right=True)
            for c in group_s.unique().tolist():
                place = torch.nonzero(group_s == c).squeeze(1)
                logit_np[:, place] += h_nh[:, c] @ self.last_ph[peaks[place]].T
        return (logit_np - float(np.log(self.structure["omega"]))).sigmoid_()
