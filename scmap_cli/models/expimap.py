r"""expiMap: a conditional VAE whose latent dimensions are gene programs.

Lotfollahi, Rybakov, Hrovatin et al., "Biologically informed deep learning to query gene programs in single-cell
atlases", Nature Cell Biology 25 (2023), doi:10.1038/s41556-022-01072-x. Implemented here:

* equation 2, the model: a non-linear encoder of log(1 + x) with the condition in its first layer; a linear decoder
  :math:`H = [Z, C][W, L]^T` without bias; negative binomial counts with mean :math:`g(H)` (softmax times library size,
  softplus or exp) and a dispersion for every gene and condition; or squared error for normalised input;
* equation 4, hard membership (entries outside a program do not exist) and soft membership (they start free and are
  pulled to zero by an L1 penalty, equation 5); all-free "unconstrained" programs, which are columns with
  :math:`B_{:,k}=0`;
* equation 7, the loss: reconstruction + :math:`\beta` KL (annealed) + :math:`\nu` HSIC of each unconstrained program
  against all other programs;
* equations 8-19, group lasso over programs and L1 as an exact proximal step after every optimiser step.

Where the released code differs, and what is done here:

* HSIC there is NaN from 344 latent dimensions on, and at zero variance; here it is finite at any width
  (:mod:`..nn.hsic`).
* KL and L1 weights rise linearly with every step rather than in jumps per epoch, from the first step on.
* Unconstrained programs of reference training take the group lasso as well as the L1 penalty (equation 19); the
  released code leaves the group lasso out there.
* The proximal step is scaled by Adam's learning rate, as released; the paper writes plain gradient descent.
* A program whose decoder column is zero is inactive: its posterior is reported as its prior, N(0, 1), because the
  encoder's output for it means nothing. The released code reports that output.
* Optimal programs are the ones of the best validation epoch; there the "best" state was an alias of the last one.

Defaults and their sources: hidden 3 x 256, dropout 0.05, group lasso 0.7 and KL weight 0.5 annealed over 100 epochs
are those of the paper's reference training ("Choice of hyperparameters", published Kang model); soft L1 0.5 and
unconstrained L1 0.7 annealed over 50 epochs, and HSIC weight 1, are those of the authors' tutorials.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn

from scmap_cli.data.batches import Batch
from scmap_cli.errors import UsageError
from scmap_cli.models.base import LossOutput, Posterior, ScmapModel
from scmap_cli.nn.blocks import ConditionalEncoder, SparsePattern
from scmap_cli.nn.distributions import LINKS, gaussian_kl, negative_binomial_nll
from scmap_cli.nn.hsic import hsic_one_against_rest
from scmap_cli.nn.proximal import group_shrink_, segment_shrink_, soft_threshold_

_MIN_VARIANCE = 1e-4


@dataclass(frozen=True)
class ExpiMapConfig:
    """Hyperparameters of expiMap.

    Attributes
    ----------
    hidden
        Widths of the encoder's layers.
    dropout
        Share of encoder units dropped in training.
    likelihood
        ``nb`` for counts, ``mse`` for normalised values.
    mean
        Mean function of ``nb``: ``softmax`` (times library size), ``softplus`` or ``exp``.
    membership
        ``hard``: a program holds its genes only. ``soft``: other genes may join against an L1 penalty.
    group_lasso
        Weight alpha of the group lasso that de-activates programs (equation 8).
    soft_l1
        Weight gamma of the L1 penalty on genes outside a soft program (equation 5).
    kl_weight, kl_anneal_epochs
        Final weight beta of the KL term, and the epochs over which it rises linearly from 0.
    unconstrained, unconstrained_l1, l1_anneal_epochs
        Number of programs without a gene list, their L1 weight, and the epochs over which both L1 weights rise.
    hsic
        Weight nu of the independence penalty on unconstrained programs.
    input_scale
        ``counts``: the input is raw counts (``mse`` sees log1p CP10k of them). ``as-is``: ``mse`` on the values given.
    """

    hidden: tuple[int, ...] = (256, 256, 256)
    dropout: float = 0.05
    likelihood: str = "nb"
    mean: str = "softmax"
    membership: str = "hard"
    group_lasso: float = 0.7
    soft_l1: float = 0.5
    kl_weight: float = 0.5
    kl_anneal_epochs: float = 100.0
    unconstrained: int = 0
    unconstrained_l1: float = 0.7
    l1_anneal_epochs: float = 50.0
    hsic: float = 1.0
    input_scale: str = "counts"

    def __post_init__(self) -> None:
        choices = {"likelihood": ("nb", "mse"), "mean": LINKS, "membership": ("hard", "soft")}
        for key, allowed in (*choices.items(), ("input_scale", ("counts", "as-is"))):
            if getattr(self, key) not in allowed:
                raise UsageError(f"{key} is {getattr(self, key)!r}", f"choose one of {', '.join(allowed)}")
        if not self.hidden or min(self.hidden) < 1:
            raise UsageError(f"hidden layer widths {self.hidden} must all be at least 1")
        if not 0 <= self.dropout < 1:
            raise UsageError(f"dropout {self.dropout} is not in [0, 1)")
        for key in ("group_lasso", "soft_l1", "kl_weight", "unconstrained", "unconstrained_l1", "hsic"):
            if getattr(self, key) < 0:
                raise UsageError(f"{key} {getattr(self, key)} must not be negative")
        if self.input_scale == "as-is" and self.likelihood != "mse":
            raise UsageError("normalised input needs likelihood mse; nb needs raw counts")


class ExpiMap(ScmapModel):
    """The expiMap network; see the module for the equations.

    Parameters
    ----------
    config
        Hyperparameters.
    n_genes, n_conditions, n_programs
        Sizes; ``n_programs`` counts the programs that have a gene list.
    n_entries
        Memberships (ones of the program matrix).
    """

    name: ClassVar[str] = "expimap"
    config_type: ClassVar[type] = ExpiMapConfig
    capabilities: ClassVar[frozenset[str]] = frozenset({"embed", "programs"})

    omega_k: Tensor

    def __init__(
        self, config: ExpiMapConfig, *, n_genes: int, n_conditions: int, n_programs: int, n_entries: int
    ) -> None:
        super().__init__()
        self.config = config
        self.structure = {
            "n_genes": n_genes,
            "n_conditions": n_conditions,
            "n_programs": n_programs,
            "n_entries": n_entries,
        }
        self.n_programs, self.n_free = n_programs, config.unconstrained
        n_latent = n_programs + self.n_free
        self.kl_anneal_epochs, self.l1_anneal_epochs = config.kl_anneal_epochs, config.l1_anneal_epochs
        self.encoder = ConditionalEncoder(n_genes, n_conditions, config.hidden, 2 * n_latent, config.dropout)
        self.pattern = SparsePattern(n_genes, n_programs, n_entries)
        self.register_buffer("omega_k", torch.ones(n_programs))
        bound = n_latent**-0.5
        if config.membership == "hard":
            self.member_e = nn.Parameter(torch.empty(n_entries).uniform_(-bound, bound))
        else:
            self.soft_gk = nn.Parameter(torch.empty(n_genes, n_programs).uniform_(-bound, bound))
        if self.n_free:
            self.free_gu = nn.Parameter(torch.empty(n_genes, self.n_free).uniform_(-bound, bound))
        self.condition_bg = nn.Parameter(torch.empty(n_conditions, n_genes).uniform_(-1, 1) * n_conditions**-0.5)
        if config.likelihood == "nb":
            self.log_theta_bg = nn.Parameter(torch.randn(n_conditions, n_genes))

    @classmethod
    def create(
        cls,
        config: ExpiMapConfig,
        mask_gk: sparse.sparray | sparse.spmatrix,
        n_conditions: int,
        seed: int,
        omega_k: np.ndarray | None = None,
    ) -> ExpiMap:
        """A freshly initialised model.

        Parameters
        ----------
        config
            Hyperparameters.
        mask_gk
            Membership of genes in programs, genes x programs, any non-zero is a member.
        n_conditions
            Number of conditions (batches).
        seed
            Seed of the initial weights; the global generator is left as it was.
        omega_k
            Group lasso weight of each program, 1 by default; 0 keeps a program active.
        """
        entries: Any = sparse.coo_matrix(mask_gk)  # type: ignore[call-overload]
        entries.eliminate_zeros()
        n_genes, n_programs = entries.shape
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)  # noqa: TID251
            model = cls(
                config, n_genes=n_genes, n_conditions=n_conditions, n_programs=n_programs, n_entries=entries.nnz
            )
        model.pattern.set(
            torch.from_numpy(entries.row.astype(np.int64)), torch.from_numpy(entries.col.astype(np.int64))
        )
        if omega_k is not None:
            model.omega_k.copy_(torch.from_numpy(np.asarray(omega_k, dtype=np.float32)))
        return model

    def loaded(self) -> None:
        """Rebuild the derived pattern after loading."""
        self.pattern.refresh()

    @property
    def anneal_epochs(self) -> float:
        """Epochs until all weights of the loss have their final values."""
        return max(self.kl_anneal_epochs, self.l1_anneal_epochs)

    def shorten_annealing(self, epochs: int) -> None:
        """Let annealing take at most half of the run, so that the full objective is really trained."""
        self.kl_anneal_epochs = min(self.config.kl_anneal_epochs, epochs / 2)
        self.l1_anneal_epochs = min(self.config.l1_anneal_epochs, epochs / 2)

    def _input(self, batch: Batch) -> Tensor:
        if self.config.likelihood == "nb":
            return batch.dense(torch.log1p(batch.value_m))
        return self._target(batch)

    def _target(self, batch: Batch) -> Tensor:
        if self.config.input_scale == "as-is":
            return batch.dense(batch.value_m)
        cell_m = torch.div(batch.flat_m, batch.g, rounding_mode="floor")
        return batch.dense(torch.log1p(batch.value_m * (1e4 / batch.size_n.clamp_min(1.0))[cell_m]))

    def _posterior(self, batch: Batch) -> Posterior:
        head_nh = self.encoder(self._input(batch), batch.condition_n, batch.noise)
        # Under mixed precision only the encoder's products are rough; the rest is in the dtype of the model.
        mean_nz, log_var_nz = head_nh.to(self.dtype).chunk(2, dim=1)
        return Posterior(mean_nz, log_var_nz.exp() + _MIN_VARIANCE)

    def decode(self, z_nz: Tensor, condition_n: Tensor) -> Tensor:
        """Output of the linear decoder before the mean function, (n, g)."""
        member_nk = z_nz[:, : self.n_programs]
        if self.config.membership == "hard":
            logits_ng = self.pattern.product(member_nk, self.member_e)
        else:
            logits_ng = member_nk @ self.soft_gk.T
        if self.n_free:
            logits_ng = logits_ng + z_nz[:, self.n_programs :] @ self.free_gu.T
        return logits_ng + nn.functional.embedding(condition_n, self.condition_bg)

    def loss(self, batch: Batch) -> LossOutput:
        """Equation 7 on one batch; parts ``recon``, ``kl`` and, with unconstrained programs, ``hsic``."""
        posterior = self._posterior(batch)
        z_nz = posterior.mean_nz
        if batch.noise is not None:
            z_nz = z_nz + posterior.var_nz.sqrt() * batch.noise.normal(z_nz)
        with torch.autocast(z_nz.device.type, enabled=False):
            logits_ng = self.decode(z_nz, batch.condition_n)
        if self.config.likelihood == "nb":
            recon_n = negative_binomial_nll(
                logits_ng,
                self.log_theta_bg,
                batch.size_n,
                batch.condition_n,
                batch.flat_m,
                batch.value_m,
                batch.constant_n,
                self.config.mean,
            )
        else:
            recon_n = (self._target(batch) - logits_ng).square().sum(1)
        recon = recon_n.mean()
        kl = gaussian_kl(posterior.mean_nz, posterior.var_nz).mean()
        parts = {"recon": recon.detach(), "kl": kl.detach()}
        other = recon.new_zeros(())
        if self.n_free and self.config.hsic > 0:
            hsic = hsic_one_against_rest(z_nz, list(range(self.n_programs, z_nz.shape[1])))
            parts["hsic"] = hsic.detach()
            other = self.config.hsic * hsic
        beta = self.config.kl_weight * min(1.0, batch.progress / max(self.kl_anneal_epochs, 1e-9))
        total = recon + beta * kl + other
        score = (recon + self.config.kl_weight * kl + other).detach()
        return LossOutput(total, score, parts)

    @torch.no_grad()
    def after_step(self, lr: float, progress: float) -> None:
        """The proximal step of equations 8-19, with step size ``lr``."""
        config = self.config
        rise = min(1.0, progress / max(self.l1_anneal_epochs, 1e-9))
        lasso_k = lr * config.group_lasso * self.omega_k
        if config.membership == "hard":
            if config.group_lasso > 0:
                segment_shrink_(self.member_e, self.pattern.program_e, lasso_k)
        else:
            if config.soft_l1 > 0:
                outside_gk = 1.0 - self.membership()
                soft_threshold_(self.soft_gk, lr * config.soft_l1 * rise * outside_gk)
            if config.group_lasso > 0:
                group_shrink_(self.soft_gk, lasso_k)
        if self.n_free:
            soft_threshold_(self.free_gu, lr * config.unconstrained_l1 * rise)
            group_shrink_(self.free_gu, lasso_k.new_full((self.n_free,), lr * config.group_lasso))

    def membership(self) -> Tensor:
        """The program matrix B, (genes, programs) of 0 and 1, in the dtype of the model."""
        return self.pattern.dense(torch.ones_like(self.pattern.gene_e, dtype=self.dtype))

    @torch.no_grad()
    def decoder_weights(self) -> Tensor:
        """W, (genes, programs + unconstrained)."""
        w_gk = self.pattern.dense(self.member_e) if self.config.membership == "hard" else self.soft_gk
        return (torch.cat([w_gk, self.free_gu], dim=1) if self.n_free else w_gk).detach()

    @torch.no_grad()
    def active(self) -> Tensor:
        """Which programs have a non-zero decoder column, bool (programs + unconstrained,)."""
        return (self.decoder_weights() != 0).any(0)

    def outside_share_inactive(self) -> float | None:
        """Share of soft-membership weights outside their program that are zero; None for hard membership.

        The authors advise to raise ``soft_l1`` when it ends below 0.9.
        """
        if self.config.membership == "hard":
            return None
        outside_gk = self.membership() == 0
        return float((self.soft_gk.detach()[outside_gk] == 0).double().mean())

    @torch.no_grad()
    def embed(self, batch: Batch) -> Posterior:
        """Posterior means and variances; an inactive program has its prior, mean 0 and variance 1."""
        posterior = self._posterior(batch)
        active_z = self.active()
        return Posterior(torch.where(active_z, posterior.mean_nz, 0.0), torch.where(active_z, posterior.var_nz, 1.0))
