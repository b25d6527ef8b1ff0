r"""MarkerMap: k marker genes that tell the labels of cells, or that all other genes can be rebuilt from, or both.

Gregory, Sarwar, Kevrekidis, Villar, Dumitrascu, npj Systems Biology and Applications 10:17 (2024),
doi:10.1038/s41540-024-00339-3. Implemented here, for log1p CP10k values scaled by the training cells:

* Methods, "Optimization", steps 1-2: a network gives every cell logits of the genes; their mean over the batch enters a
  running mean, :math:`\log\pi \leftarrow \beta\log\pi + (1-\beta)\log\pi^b`. The mean of its last, linear layer is that
  layer of the mean, so this layer sees one vector a batch;
* step 3 and equation 1: Gumbel noise and a relaxed choice of k genes at temperature :math:`\tau` (:mod:`..nn.subset`;
  k draws without replacement, as in the released code, where equation 1 would let a gene be drawn twice);
* steps 4-5: the masked genes enter a variational autoencoder with decoders of the mean and of the log variance of every
  gene, and a classifier fed with the mean of the latent variables;
* equation 4, the loss :math:`\alpha\,\mathrm{recon} + (1-\alpha)\,\mathrm{class}`. The paper writes its terms as norms;
  in its code they are a Gaussian likelihood with a divergence from the prior, and a cross-entropy;
* "Temperature annealing": geometric, from 2 to 0.02, both within the paper's ranges.

Where the released code differs, and what is done here:

* It trains by a mask that may still be soft when training ends, and validates by a hard one. Here the annealing takes
  the first part of a run; then the k genes of largest running logits are fixed, the networks see only these, and only
  then does validation count and may training end early. Validation and inference are the same.
* Its reconstruction is a sum over thousands of genes beside one cross-entropy, so that its joint model is the
  unsupervised one. Here it is the mean over genes (``loss_scale`` "sum" is the released way).
* Its cross-entropy is nearly zero for any panel that holds a few good genes of each class, because the classifier may
  weigh them as it likes; what else is in the panel is then left to noise. And its decoders see a panel through 16
  latent dimensions, and lag behind the mask. ``direct_share`` is the share of either loss that is taken on the masked
  genes themselves, without a network: for labels neighbourhood components analysis (Goldberger et al. 2004), minus the
  log of the chance that a neighbour, drawn by its distance, is of the same class; for all genes ridge regression
  within the batch. 0 is the paper's loss for labels.
* Its Gaussian likelihood divides an error by the reconstructed variance, and so the mask looks away from genes that are
  hard to rebuild. Here mean and mask learn by squared errors, and the variance decoder learns
  from what is left once the mask is hard. ``rebuild_by`` "gaussian" is the released way.
* Layer norm instead of batch norm, so that a cell's values do not depend on the others of its batch.
* Its learning rate is what a finder picks out of noise between 1e-8 and 1e-3 (supervised) or 1e-4. Here it is fixed,
  falls along a cosine while the mask is soft, and is full again once the mask is hard.
* The encoder has three hidden layers, as in its code; the paper says two. Variances are bounded: of a gene exp(-6) to
  exp(6), of a latent variable 1e-4 to exp(6).
* A step leaves out genes with less of the soft mask than a hundredth of an even share, k / g.
* "per-gene" divides the divergence by the number of genes, too: beside the cross-entropy it weighs that much less.
* The paper has batches of 64, widths of about g / 10, 25 to 100 epochs, a patience of 3, and a temperature of 3 times
  0.95 an epoch. ``select-markers --as-published`` takes these, its width for Zeisel and its loss; no other point above.

Additions of ours: genes that are forced in or out, and costs of genes (their mean over the mask is added to the loss).
The running logits start at a prior where one is given, else at zero, and nothing is swapped after training.
Defaults: 16 latent dimensions, beta 0.95 and a divergence of weight 0.1 are the paper's and its code's. Their alpha is
0.5; ours was chosen on splits that are not reported, ``direct_share`` and the learning rate on validation cells
(CHANGELOG). Widths, temperatures, lengths, batches and ``gene_share`` were set by hand while the model was made and are
not tuned.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from scmap_cli.data.batches import Batch
from scmap_cli.data.scaling import CLIP, Scaling
from scmap_cli.errors import UsageError
from scmap_cli.models.base import LossOutput, Posterior, ScmapModel
from scmap_cli.nn.choice import Block, GeneChoice
from scmap_cli.nn.distributions import gaussian_kl
from scmap_cli.nn.neighbours import neighbour_loss
from scmap_cli.nn.ridge import ridge_loss
from scmap_cli.nn.scaled import scaled_log1p
from scmap_cli.nn.subset import masked_product

MODES = ("supervised", "unsupervised", "joint")
_MIN_VARIANCE = 1e-4
# Natural logarithms between which the variance of a scaled gene is taken to lie.
_LOG_VARIANCE = 6.0
# A gene with less of the relaxed mask than this share of an even one, k / g, is left out of a step: together such genes
# hold less than this share of the mask, whatever k and g are.
_LEAST = 0.01


@dataclass(frozen=True)
class MarkerMapConfig:
    """Hyperparameters of MarkerMap.

    Attributes
    ----------
    k
        Number of marker genes, forced ones included.
    mode
        ``supervised`` (alpha 0), ``unsupervised`` (alpha 1) or ``joint`` (alpha is ``tradeoff``).
    tradeoff
        Weight alpha of the reconstruction in the joint model.
    loss_scale
        ``per-gene``: reconstruction is a mean over genes. ``sum``: it is a sum.
    direct_share
        Share of either loss that is taken on the masked genes themselves while the mask is soft: neighbours for labels,
        ridge regression for genes. The rest is that of the classifier or the decoders.
    width
        Width of all hidden layers.
    latent
        Latent dimensions.
    logits
        ``network``: logits by cell, averaged over the batch (the paper). ``free``: one parameter a gene.
    momentum
        Weight beta of the earlier batches in the running logits.
    temperature, final_temperature
        At the start, and at the end of the annealing.
    anneal_epochs
        Epochs after which the mask is hard.
    gene_share
        Share of the genes that a step rebuilds while the mask is soft, drawn anew each step.
    kl_weight
        Weight of the divergence from the prior of the latent variables.
    rebuild_by
        ``squared``: the mean is learnt by squared errors, the variance from its errors. ``gaussian``: both by the
        Gaussian likelihood.
    prior_weight
        What a prior score, scaled to mean 0 and deviation 1, adds to the first logits.
    cost_weight
        Weight of the mean cost of the chosen genes.
    """

    k: int = 50
    mode: str = "supervised"
    tradeoff: float = 0.6
    loss_scale: str = "per-gene"
    direct_share: float = 0.9
    width: int = 64
    latent: int = 16
    logits: str = "network"
    momentum: float = 0.95
    temperature: float = 2.0
    final_temperature: float = 0.02
    anneal_epochs: float = 40.0
    gene_share: float = 0.25
    kl_weight: float = 0.1
    rebuild_by: str = "squared"
    prior_weight: float = 1.0
    cost_weight: float = 1.0

    def __post_init__(self) -> None:
        choices = {
            "mode": MODES,
            "loss_scale": ("per-gene", "sum"),
            "logits": ("network", "free"),
            "rebuild_by": ("squared", "gaussian"),
        }
        for key, allowed in choices.items():
            if getattr(self, key) not in allowed:
                raise UsageError(f"{key} is {getattr(self, key)!r}", f"choose one of {', '.join(allowed)}")
        for key in ("k", "width", "latent"):
            if getattr(self, key) < 1:
                raise UsageError(f"{key} {getattr(self, key)} must be at least 1")
        for key in ("tradeoff", "direct_share"):
            if not 0 <= getattr(self, key) <= 1:
                raise UsageError(f"{key} {getattr(self, key)} is not in [0, 1]")
        for key in ("anneal_epochs", "kl_weight", "prior_weight", "cost_weight"):
            if getattr(self, key) < 0:
                raise UsageError(f"{key} {getattr(self, key)} must not be negative")
        if self.anneal_epochs == 0:
            raise UsageError("anneal_epochs is 0", "the mask is chosen while the temperature falls; give some epochs")
        if not 0 < self.gene_share <= 1:
            raise UsageError(f"gene_share {self.gene_share} is not in (0, 1]")
        if not 0 <= self.momentum < 1:
            raise UsageError(f"momentum {self.momentum} is not in [0, 1)")
        if not 0 < self.final_temperature <= self.temperature:
            raise UsageError(f"temperatures {self.temperature} to {self.final_temperature} must fall, and stay above 0")

    @property
    def alpha(self) -> float:
        """Weight of the reconstruction."""
        return {"supervised": 0.0, "unsupervised": 1.0, "joint": self.tradeoff}[self.mode]


class MarkerMap(ScmapModel):
    """The MarkerMap networks; see the module for the equations.

    Parameters
    ----------
    config
        Hyperparameters.
    n_genes, n_classes
        Sizes; 0 classes for an unsupervised model.
    """

    name: ClassVar[str] = "markermap"
    config_type: ClassVar[type] = MarkerMapConfig
    capabilities: ClassVar[frozenset[str]] = frozenset({"embed", "impute", "classify"})
    told_condition: ClassVar[bool] = False

    mean_g: Tensor
    deviation_g: Tensor
    cost_g: Tensor

    def __init__(self, config: MarkerMapConfig, *, n_genes: int, n_classes: int) -> None:
        super().__init__()
        self.config = config
        self.structure = {"n_genes": n_genes, "n_classes": n_classes}
        self.annealing = config.anneal_epochs
        width, z = config.width, config.latent
        self.register_buffer("mean_g", torch.zeros(n_genes))
        self.register_buffer("deviation_g", torch.ones(n_genes))
        self.register_buffer("cost_g", torch.zeros(n_genes))
        self.choice = GeneChoice(n_genes, width if config.logits == "network" else 0, config.momentum)
        self.first_gh = nn.Parameter(torch.randn(n_genes, width) * math.sqrt(2 / n_genes))
        self.first_norm = nn.LayerNorm(width)
        self.encoder = nn.Sequential(Block(width, width), Block(width, width, norm=False))
        self.head = nn.Linear(width, 2 * z)
        if config.alpha < 1:
            self.classifier = nn.Sequential(Block(z, width), nn.Linear(width, n_classes))
            # About a tenth of the squared distance of two cells, 2 k on average.
            self.log_reach = nn.Parameter(torch.tensor(math.log(config.k / 5)))
        if config.alpha > 0:
            # Error over prior variance of a weight, where k genes together explain a fifth: 0.8 k / 0.2.
            self.log_ridge = nn.Parameter(torch.tensor(math.log(4.0 * config.k)))
            self.mean_decoder = nn.Sequential(Block(z, width), nn.Linear(width, n_genes))
            self.variance_decoder = nn.Sequential(Block(z, width), nn.Linear(width, n_genes))

    @classmethod
    def create(
        cls,
        config: MarkerMapConfig,
        scaling: Scaling,
        n_classes: int,
        seed: int,
        *,
        prior_g: np.ndarray | None = None,
        cost_g: np.ndarray | None = None,
        forced_in: np.ndarray | None = None,
        forced_out: np.ndarray | None = None,
    ) -> MarkerMap:
        """A freshly initialised model.

        Parameters
        ----------
        config
            Hyperparameters.
        scaling
            Mean and deviation of log1p CP10k of every gene in the training cells.
        n_classes
            Number of labels.
        seed
            Seed of the initial weights; the global generator is left as it was.
        prior_g, cost_g
            (g,) first logits and costs of the genes, 0 for all by default.
        forced_in, forced_out
            Columns of genes that are always, or never, markers.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)  # noqa: TID251
            model = cls(config, n_genes=len(scaling.mean), n_classes=n_classes)
        with torch.no_grad():
            model.mean_g.copy_(torch.from_numpy(scaling.mean))
            model.deviation_g.copy_(torch.from_numpy(scaling.deviation))
            if cost_g is not None:
                model.cost_g.copy_(torch.from_numpy(cost_g))
        prior_g = None if prior_g is None else config.prior_weight * prior_g
        model.choice.start(prior_g, forced_in, forced_out)
        return model

    @property
    def anneal_epochs(self) -> float:
        """Epochs until the mask is hard."""
        return self.annealing

    def shorten_annealing(self, epochs: int) -> None:
        """Leave a third of the run, at least, to the hard mask."""
        self.annealing = min(self.config.anneal_epochs, epochs * 2 / 3)

    def lr_share(self, progress: float) -> float:
        """Falls along a half cosine while the temperature does, so that the choice settles; then 1 again."""
        if progress >= self.annealing:
            return 1.0
        return 0.02 + 0.98 * 0.5 * (1.0 + math.cos(math.pi * progress / self.annealing))

    def temperature(self, progress: float) -> float:
        """Temperature of the relaxed choice at a time in epochs."""
        config, share = self.config, min(1.0, progress / max(self.annealing, 1e-9))
        return float(config.temperature * (config.final_temperature / config.temperature) ** share)

    def markers(self) -> Tensor:
        """Columns of the k markers, those forced in first, then by the running logits."""
        return self.choice.chosen(self.config.k)

    def _values(self, batch: Batch, genes_a: Tensor | None = None) -> Tensor:
        """Scaled log1p CP10k of all genes or some, (n, a), clipped."""
        if genes_a is None:
            return scaled_log1p(batch, self.mean_g, self.deviation_g, None, CLIP)
        return scaled_log1p(batch, self.mean_g[genes_a], self.deviation_g[genes_a], genes_a, CLIP)

    def _encode(self, x_na: Tensor, mask_a: Tensor | None, first_ah: Tensor) -> Posterior:
        h_nh = x_na @ first_ah if mask_a is None else masked_product(x_na, mask_a, first_ah)
        h_nh = self.encoder(nnf.leaky_relu(self.first_norm(h_nh), 0.01))
        mean_nz, log_var_nz = self.head(h_nh).to(self.dtype).chunk(2, dim=1)
        return Posterior(mean_nz, log_var_nz.clamp(max=_LOG_VARIANCE).exp() + _MIN_VARIANCE)

    def _class_loss(self, x_na: Tensor, mask_a: Tensor | None, mean_nz: Tensor, batch: Batch) -> dict[str, Tensor]:
        parts = {"class": nnf.cross_entropy(self.classifier(mean_nz).to(self.dtype), batch.condition_n)}
        if self.config.direct_share > 0:
            # Distances of like cells are small differences of large numbers: bf16 has no digits for them.
            with torch.autocast(x_na.device.type, enabled=False):
                parts["neighbours"] = neighbour_loss(x_na, mask_a, self.log_reach, batch.condition_n)
        return parts

    def _reconstruction(
        self, x_ng: Tensor, x_na: Tensor, mask_a: Tensor | None, posterior: Posterior, batch: Batch
    ) -> dict[str, Tensor]:
        config, z_nz, genes_s = self.config, posterior.mean_nz, None
        # Validation, whose progress is infinite, is as inference: the mean of the latent variables, and all genes.
        if batch.noise is not None and math.isfinite(batch.progress):
            z_nz = z_nz + posterior.var_nz.sqrt() * batch.noise.normal(z_nz)
            if mask_a is not None:
                genes_s = batch.noise.sample(batch.g, config.gene_share, z_nz.device)
        target_ns = x_ng if genes_s is None else x_ng[:, genes_s]
        error_ns = target_ns - self._decoded(self.mean_decoder, z_nz, genes_s)
        whole = 1.0 if config.loss_scale == "per-gene" else float(batch.g)
        kl = gaussian_kl(posterior.mean_nz, posterior.var_nz).mean() * (whole / batch.g)
        parts = {"kl": kl}
        if config.direct_share > 0:
            with torch.autocast(x_na.device.type, enabled=False):
                parts["ridge"] = whole * ridge_loss(x_na, mask_a, self.log_ridge, target_ns)
        if config.rebuild_by == "gaussian":
            return parts | {"recon": whole * self._nll(error_ns, z_nz, genes_s).mean()}
        parts["recon"] = 0.5 * whole * error_ns.square().mean()
        if mask_a is None:
            parts["spread"] = whole * self._nll(error_ns.detach(), z_nz.detach(), genes_s).mean()
        return parts

    def _decoded(self, decoder: nn.Sequential, z_nz: Tensor, genes_s: Tensor | None) -> Tensor:
        """What a decoder makes of some genes, (n, s), or of all."""
        block = decoder[0]
        last: Any = decoder[1]
        if genes_s is None:
            return last(block(z_nz)).to(self.dtype)
        return nnf.linear(block(z_nz), last.weight[genes_s], last.bias[genes_s]).to(self.dtype)

    def _nll(self, error_ns: Tensor, z_nz: Tensor, genes_s: Tensor | None) -> Tensor:
        """Gaussian likelihood of errors by the variance decoder, (n, s), without the constant."""
        log_var_ns = self._decoded(self.variance_decoder, z_nz, genes_s).clamp(-_LOG_VARIANCE, _LOG_VARIANCE)
        return 0.5 * (log_var_ns + error_ns.square() * torch.exp(-log_var_ns))

    def loss(self, batch: Batch) -> LossOutput:
        """Equation 4 on one batch, by the relaxed mask while the temperature falls and by the hard one after it.

        Parts: ``class``, ``neighbours``; ``recon``, ``kl``, ``ridge`` and, once the mask is hard, ``spread``; ``cost``.
        """
        config, alpha = self.config, self.config.alpha
        noise = batch.noise if batch.progress < self.annealing else None
        # What is taken on the genes themselves moves nothing once these are fixed, so that it is reported only.
        share = 0.0 if noise is None else config.direct_share
        by_cell = noise is not None and config.logits == "network"
        x_ng = self._values(batch) if alpha > 0 or by_cell else None
        mask_a: Tensor | None = None
        if noise is not None:
            mask_g = self.choice(x_ng, noise, config.k, self.temperature(batch.progress))
            genes_a = (mask_g.detach() > _LEAST * config.k / batch.g).nonzero()[:, 0]
            mask_a, cost = mask_g[genes_a], (mask_g * self.cost_g).sum() / config.k
        else:
            genes_a = self.markers()
            cost = self.cost_g[genes_a].mean()
        x_na = self._values(batch, genes_a) if x_ng is None else x_ng[:, genes_a]
        posterior = self._encode(x_na, mask_a, self.first_gh[genes_a])
        parts: dict[str, Tensor] = {}
        total = config.cost_weight * cost
        if alpha < 1:
            parts |= self._class_loss(x_na, mask_a, posterior.mean_nz, batch)
            total = total + (1 - alpha) * ((1 - share) * parts["class"] + share * parts.get("neighbours", 0.0))
        if x_ng is not None and alpha > 0:
            parts |= self._reconstruction(x_ng, x_na, mask_a, posterior, batch)
            decoded = parts["recon"] + config.kl_weight * parts["kl"] + parts.get("spread", 0.0)
            total = total + alpha * ((1 - share) * decoded + share * parts.get("ridge", 0.0))
        parts["cost"] = cost
        return LossOutput(total, total.detach(), {name: part.detach() for name, part in parts.items()})

    def _of_markers(self, batch: Batch) -> Posterior:
        markers_k = self.markers()
        return self._encode(self._values(batch, markers_k), None, self.first_gh[markers_k])

    @torch.no_grad()
    def embed(self, batch: Batch) -> Posterior:
        """Posterior means and variances, from the markers alone."""
        return self._of_markers(batch)

    @torch.no_grad()
    def classify(self, batch: Batch) -> Tensor:
        """Probabilities of the labels, (n, c), from the markers alone."""
        logits_nc: Tensor = self.classifier(self._of_markers(batch).mean_nz)
        return logits_nc.softmax(1)

    @torch.no_grad()
    def impute(self, batch: Batch, genes: Tensor) -> Tensor:
        """log1p CP10k of genes, (n, len(genes)): the mean decoder at the posterior means, in the genes' own units."""
        scaled_ng = self._decoded(self.mean_decoder, self._of_markers(batch).mean_nz, genes)
        return scaled_ng * self.deviation_g[genes] + self.mean_g[genes]

    def report(self) -> dict[str, Any]:
        """Number of markers, and how far apart the last one's logit is from the best gene left out."""
        k = self.config.k - self.choice.forced()
        ranked = self.choice.running_g[self.choice.fixed_g == 0].sort(descending=True).values
        gap = float(ranked[k - 1] - ranked[k]) if 0 < k < len(ranked) else 0.0
        return {"markers": self.config.k, "mode": self.config.mode, "logit_gap": gap}

    def described(self, features: np.ndarray) -> dict[str, Any]:
        """The names of the markers, best first."""
        return {"markers": features[self.markers().cpu().numpy()].tolist()}
