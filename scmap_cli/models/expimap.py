r"""expiMap: a conditional VAE whose latent dimensions are gene programs.

Lotfollahi, Rybakov, Hrovatin et al., "Biologically informed deep learning to query gene programs in single-cell
atlases", Nature Cell Biology 25 (2023), doi:10.1038/s41556-022-01072-x. Implemented here:

* equation 2, the model: a non-linear encoder of log(1 + x) with the condition in its first layer; a linear decoder
  :math:`H = [Z, C][W, L]^T` without bias; negative binomial counts with mean :math:`g(H)` (softmax times library size,
  softplus or exp) and a dispersion for every gene and condition; or squared error for normalised input;
* equation 4, hard membership (entries outside a program do not exist) and soft membership (they start free and are
  pulled to zero by an L1 penalty, equation 5); all-free "unconstrained" programs, which are columns with
  :math:`B_{:,k}=0`;
* equation 7, the loss: reconstruction + :math:`\beta` KL (annealed) + :math:`\nu` root of the HSIC of each
  unconstrained program against all other programs (the released code takes the root, too);
* equations 8-19, group lasso over programs and L1 as an exact proximal step after every optimiser step.

Where the released code differs, and what is done here:

* HSIC there is NaN from 344 latent dimensions on, and at zero variance; here it is finite at any width
  (:mod:`..nn.hsic`).
* KL and L1 weights rise linearly with every step rather than in jumps per epoch, from the first step on.
* Unconstrained programs of reference training take the group lasso as well as the L1 penalty (equation 16); the
  released code leaves the group lasso out there.
* Every condition's decoder shift starts at the pooled log mean of the genes, dispersions start at 1 and the encoder's
  condition weights at 0; the released code draws all three at random, which costs likelihood, and accuracy with it.
* A program's group lasso weight goes by the root of its size (Yuan and Lin 2006), 1 at the mean size;
  ``--program-weights equal`` is the paper's equation 11. With equal weights REACTOME_IMMUNE_SYSTEM and its like stand
  in for the specific programs inside them (CHANGELOG).
* The proximal step is scaled by Adam's learning rate, as released; the paper writes plain gradient descent.
* After training, columns that one optimiser step could have made are set to zero. Proximal steps with Adam leave a
  column that is held at zero with the noise of the last step, a thousandth of an active one: of 306 Reactome programs
  some 230 are not zero to the bit, and about 100 have a norm above 0.003, all of them above 0.1.
* A program whose decoder column is zero is inactive: its posterior is reported as its prior, N(0, 1), because the
  encoder's output for it means nothing. The released code reports that output.
* Optimal programs are the ones of the best validation epoch; there the "best" state was an alias of the last one.

Defaults and their sources: group lasso 0.7 is the paper's advice for 300 to 500 programs ("Choice of hyperparameters");
hidden 3 x 256, dropout 0.05, KL annealing over 100 epochs, soft L1 0.5 and unconstrained L1 0.7 annealed over 50 epochs
are those of the authors' tutorials and published Kang model, HSIC weight 1 that of the released code. The KL weight is
the 0.1 of the authors' integration benchmark (Fig. 3c, its notebooks). The paper advises 0.5 "in most cases", with
which rare types were told apart less well and batches mixed less (CHANGELOG).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn

from scmap_cli.data.batches import Batch
from scmap_cli.errors import UsageError
from scmap_cli.models.base import LossOutput, Posterior, ScmapModel
from scmap_cli.nn.blocks import ConditionalEncoder
from scmap_cli.nn.distributions import LINKS, gaussian_kl, negative_binomial_nll
from scmap_cli.nn.hsic import hsic_one_against_rest
from scmap_cli.nn.programs import ProgramBlock

_MIN_VARIANCE = 1e-4
# Beyond it the distribution is Poisson's for any count met in practice, and float32 could not tell the difference.
_MAX_LOG_THETA = 10.0
# Parts of the encoder's first layer: their names in version 1 of the model directory, and now.
_FIRST = (("weight", "gh"), ("bias", "bias_h"))


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
        Weight alpha of the group lasso that de-activates programs (R_alpha, equation 11).
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
    kl_weight: float = 0.1
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
    n_genes, n_conditions
        Sizes.
    blocks
        Sizes of the blocks of programs, as :class:`~scmap_cli.nn.programs.ProgramBlock` takes them: the reference
        first, then what queries added. Latent dimensions are in this order.
    """

    name: ClassVar[str] = "expimap"
    config_type: ClassVar[type] = ExpiMapConfig
    capabilities: ClassVar[frozenset[str]] = frozenset({"embed", "map_query", "programs"})

    def __init__(
        self, config: ExpiMapConfig, *, n_genes: int, n_conditions: int, blocks: Sequence[dict[str, Any]]
    ) -> None:
        super().__init__()
        self.config = config
        self.structure = {"n_genes": n_genes, "n_conditions": n_conditions, "blocks": [dict(b) for b in blocks]}
        self.kl_anneal_epochs, self.l1_anneal_epochs = config.kl_anneal_epochs, config.l1_anneal_epochs
        self.encoder = ConditionalEncoder(n_genes, n_conditions, config.hidden, config.dropout)
        self.blocks = nn.ModuleList(ProgramBlock(n_genes, config.hidden[-1], **b) for b in blocks)
        self.condition_bg = nn.Parameter(torch.zeros(n_conditions, n_genes))
        if config.likelihood == "nb":
            self.log_theta_bg = nn.Parameter(torch.zeros(n_conditions, n_genes))
        # Blocks before this one are left as they are by a query (models/surgery.py).
        self.first_trained = 0

    @classmethod
    def create(
        cls,
        config: ExpiMapConfig,
        mask_gk: sparse.sparray | sparse.spmatrix,
        n_conditions: int,
        seed: int,
        omega_k: np.ndarray | None = None,
        mean_g: np.ndarray | None = None,
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
        mean_g
            Mean of every gene over all cells, on the scale that the decoder models: the shift of every condition starts
            there. Without it shifts start at zero.
        """
        block, n_genes = block_sizes(mask_gk, config.unconstrained, config.membership == "soft")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)  # noqa: TID251
            model = cls(config, n_genes=n_genes, n_conditions=n_conditions, blocks=[block])
        model.programs(0).set_members(mask_gk)
        if omega_k is not None:
            model.programs(0).omega_k.copy_(torch.from_numpy(np.asarray(omega_k, dtype=np.float32)))
        if mean_g is not None:
            with torch.no_grad():
                model.condition_bg.copy_(torch.from_numpy(_start(mean_g, config).astype(np.float32)))
        return model

    @classmethod
    def upgraded(cls, tensors: dict[str, np.ndarray], version: int) -> dict[str, np.ndarray]:
        """In version 1 the encoder's first layer was one of its linear layers, units x genes."""
        if version > 1:
            return tensors
        known = dict(tensors)
        now = {f"encoder.first_{new}": known.pop(f"encoder.layers.0.{old}").T for old, new in _FIRST}
        for name, tensor in known.items():
            found = re.fullmatch(r"encoder\.layers\.(\d+)\.(.+)", name)
            now[f"encoder.layers.{int(found[1]) - 1}.{found[2]}" if found else name] = tensor
        return now

    def tables(self) -> tuple[str, ...]:
        """Names of the tensors that have one row a condition."""
        return ("encoder.condition_bh", "condition_bg", "log_theta_bg")[: 3 if self.config.likelihood == "nb" else 2]

    def programs(self, block: int) -> ProgramBlock:
        """A block of programs."""
        return self.all_programs()[block]

    def all_programs(self) -> list[ProgramBlock]:
        """All blocks, in the order of the latent dimensions."""
        return cast(list[ProgramBlock], list(self.blocks))

    def loaded(self) -> None:
        """Rebuild the derived patterns after loading."""
        for block in self.all_programs():
            block.pattern.refresh()

    @property
    def anneal_epochs(self) -> float:
        """Epochs until all weights of the loss have their final values."""
        return max(self.kl_anneal_epochs, self.l1_anneal_epochs)

    def shorten_annealing(self, epochs: int) -> None:
        """Let annealing take at most half of the run, so that the full objective is really trained."""
        self.kl_anneal_epochs = min(self.config.kl_anneal_epochs, epochs / 2)
        self.l1_anneal_epochs = min(self.config.l1_anneal_epochs, epochs / 2)

    def _input(self, batch: Batch) -> Tensor:
        """What the encoder sees at the stored positions of a batch; with mse also what the decoder is to give."""
        if self.config.likelihood == "nb":
            return torch.log1p(batch.value_m)
        if self.config.input_scale == "as-is":
            return batch.value_m
        cell_m = torch.div(batch.flat_m, batch.g, rounding_mode="floor")
        return torch.log1p(batch.value_m * (1e4 / batch.size_n.clamp_min(1.0))[cell_m])

    def _posterior(self, batch: Batch) -> Posterior:
        h_nh = self.encoder(batch, self._input(batch))
        # Under mixed precision only the encoder's products are rough; the rest is in the dtype of the model.
        halves = [block.head(h_nh).to(self.dtype).chunk(2, dim=1) for block in self.all_programs()]
        mean_nz, log_var_nz = (_joined(list(parts)) for parts in zip(*halves, strict=True))
        return Posterior(mean_nz, log_var_nz.exp() + _MIN_VARIANCE)

    def decode(self, z_nz: Tensor, condition_n: Tensor) -> Tensor:
        """Output of the linear decoder before the mean function, (n, g)."""
        first, *others = self.all_programs()
        logits_ng = first.decode(z_nz[:, : first.n_latent], self.condition_bg, condition_n)
        start, no_shift_bg = first.n_latent, torch.zeros_like(self.condition_bg)
        for block in others:
            z_nk = z_nz[:, start : start + block.n_latent]
            logits_ng = logits_ng + block.decode(z_nk, no_shift_bg, condition_n)
            start += block.n_latent
        return logits_ng

    def _reconstruction(self, z_nz: Tensor, batch: Batch) -> Tensor:
        """Negative log-likelihood of each cell at a latent position, or its squared error."""
        with torch.autocast(z_nz.device.type, enabled=False):
            logits_ng = self.decode(z_nz, batch.condition_n)
        if self.config.likelihood == "nb":
            nll_n: Tensor = negative_binomial_nll(
                logits_ng,
                self.log_theta_bg,
                batch.size_n,
                batch.condition_n,
                batch.flat_m,
                batch.value_m,
                batch.constant_n,
                self.config.mean,
            )
            return nll_n
        return (batch.dense(self._input(batch)) - logits_ng).square().sum(1)

    def cost(self, z_nz: Tensor, batch: Batch) -> Tensor:
        """Equation 7 of each cell for a point in place of a posterior: (n,), least at the posterior's mode."""
        return self._reconstruction(z_nz, batch) + 0.5 * self.config.kl_weight * z_nz.square().sum(1)

    def loss(self, batch: Batch) -> LossOutput:
        """Equation 7 on one batch; parts ``recon``, ``kl`` and, with unconstrained programs, ``hsic``."""
        posterior = self._posterior(batch)
        z_nz = posterior.mean_nz
        if batch.noise is not None:
            z_nz = z_nz + posterior.var_nz.sqrt() * batch.noise.normal(z_nz)
        recon_n = self._reconstruction(z_nz, batch)
        recon = recon_n.mean()
        kl = gaussian_kl(posterior.mean_nz, posterior.var_nz).mean()
        parts = {"recon": recon.detach(), "kl": kl.detach()}
        other = recon.new_zeros(())
        free = self._trained_free()
        if free and self.config.hsic > 0:
            hsic = hsic_one_against_rest(z_nz, free)
            parts["hsic"] = hsic.detach()
            other = self.config.hsic * hsic
        beta = self.config.kl_weight * min(1.0, batch.progress / max(self.kl_anneal_epochs, 1e-9))
        total = recon + beta * kl + other
        score = (recon + self.config.kl_weight * kl + other).detach()
        return LossOutput(total, score, parts)

    def _trained_free(self) -> list[int]:
        """Latent dimensions of the unconstrained programs that train."""
        found: list[int] = []
        start = 0
        for i, block in enumerate(self.all_programs()):
            if i >= self.first_trained:
                found += range(start + block.n_programs, start + block.n_latent)
            start += block.n_latent
        return found

    @torch.no_grad()
    def after_step(self, lr: float, progress: float) -> None:
        """The proximal step of equations 8-19 with step size ``lr``; rows of known conditions of a query stay."""
        config = self.config
        rise = lr * min(1.0, progress / max(self.l1_anneal_epochs, 1e-9))
        for block in self.all_programs()[self.first_trained :]:
            block.shrink_(lr * config.group_lasso, rise * config.soft_l1, rise * config.unconstrained_l1)
        for name, held in self.held.items():
            self.get_parameter(name)[: len(held)] = held
        if config.likelihood == "nb":
            self.log_theta_bg.clamp_(max=_MAX_LOG_THETA)

    def finished(self, lr: float) -> None:
        """Programs that the group lasso holds at zero are switched off, not left with the noise of the last step."""
        if self.config.group_lasso > 0:
            for block in self.all_programs()[self.first_trained :]:
                block.drop_noise_(lr)

    def membership(self) -> Tensor:
        """The program matrix B, (genes, latent), 0 for unconstrained programs, in the dtype of the model."""
        return _joined([nn.functional.pad(block.membership(), (0, block.n_free)) for block in self.all_programs()])

    @torch.no_grad()
    def decoder_weights(self) -> Tensor:
        """W, (genes, latent)."""
        return _joined([block.weights() for block in self.all_programs()])

    @torch.no_grad()
    def active(self) -> Tensor:
        """Which programs have a non-zero decoder column, bool (latent,)."""
        return (self.decoder_weights() != 0).any(0)

    def outside_share_inactive(self) -> float | None:
        """Share of trained soft-membership weights outside their program that are zero; None if there are none."""
        trained = self.all_programs()[self.first_trained :]
        soft = [b for b in trained if b.soft and (b.membership() == 0).any()]
        if not soft:
            return None
        return float(torch.cat([(b.soft_gk.detach()[b.membership() == 0] == 0) for b in soft]).double().mean())

    def report(self) -> dict[str, Any]:
        """Programs, how many are active, and the share of weights outside soft programs that are zero."""
        return {
            "programs": sum(block.n_latent for block in self.all_programs()),
            "active_programs": int(self.active().sum()),
            "outside_share_inactive": self.outside_share_inactive(),
        }

    @torch.no_grad()
    def embed(self, batch: Batch) -> Posterior:
        """Posterior means and variances; an inactive program has its prior, mean 0 and variance 1."""
        posterior = self._posterior(batch)
        active_z = self.active()
        return Posterior(torch.where(active_z, posterior.mean_nz, 0.0), torch.where(active_z, posterior.var_nz, 1.0))


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def block_sizes(mask_gk: Any, unconstrained: int, soft: bool) -> tuple[dict[str, Any], int]:
    """Sizes of a block of programs, and the number of genes."""
    n_genes, n_programs = map(int, mask_gk.shape)
    entries = int(sparse.csc_matrix(mask_gk).count_nonzero())
    return {"n_programs": n_programs, "n_entries": entries, "n_free": unconstrained, "soft": soft}, n_genes


def _start(mean_g: np.ndarray, config: ExpiMapConfig) -> np.ndarray:
    """Decoder outputs that give every gene its mean; a gene never seen starts as if seen half as often as any."""
    if config.likelihood == "mse":
        return mean_g
    mean = np.maximum(mean_g, mean_g[mean_g > 0].min(initial=1.0) / 2)
    logs: np.ndarray = np.log(mean)
    if config.mean == "softmax":
        return logs - logs.mean()
    return logs if config.mean == "exp" else mean + np.log(-np.expm1(-mean))
