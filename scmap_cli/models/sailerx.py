r"""SAILERX: SAILER whose embedding takes over the local structure of the RNA of paired cells; ATAC-only cells join in.

Cao, "Deep learning methods for single-cell multi-omics" (thesis 2023), chapter 3; Cao, Fu, Wu, Zhang, NAR 50 (2022),
doi:10.1093/nar/gkac781. Implemented here:

* equations 3.1-3.2, the invariant objective, which is SAILER's (:mod:`.invariant`);
* equations 3.3-3.4, the alignment: cosines among the posterior means of a batch approach those among the rows of a
  reference embedding of the RNA, with weights of cells by depths (:mod:`..nn.alignment`, :mod:`..data.alignment`);
* equation 3.5, the loss per cell: the objective plus gamma times the alignment;
* section 3.2.2, the network: two dense layers a chromosome, joined before the latent variables; the decoder is its
  mirror image (:mod:`..nn.chromosomes`);
* section 3.2.3, hybrid training: cells without RNA take part in all but the alignment.

Where the released code differs, and what is done here:

* It adds the pairs of a batch up and lets gamma be 6000; here the term is their mean, so that gamma does not depend on
  the batch size. In these units, beside its reconstruction, which weighs all entries alike, its gamma is 6e4, and so is
  the default. The ratio is another all the same: the reconstruction here has the factor (1 + lambda) and open peaks of
  weight 8, and cells' weights are larger (see below). Scores are flat over a wide range of gamma (Fig. 3.2B).
* A pair's weight is the product of its cells' weights and its gap is squared, as in its code; the text has one weight a
  cell, and a Euclidean distance of the two matrices.
* Its weights lie between the smallest and largest log ratio of depths; here between percentiles, and their mean is 1.
* It drops (1 + lambda) before the reconstruction and, in hybrid training, the user's lambda; here both are as written.
* It takes a step of ATAC-only cells beside every third of paired ones, and lowers the learning rate in each; here both
  kinds are in one mixed batch, and every training cell is seen every epoch (not so with ``--sampling balanced``, which
  draws with replacement). A share of either kind is held out for validation, which the released code has none of.
* Log depth is z-scored over all cells together; there each data set by itself, which hides from the decoder that one
  set is deeper than another.
* Its gamma is chosen where the final alignment falls no more (section 3.2.2); ``auto`` takes the smallest weight that
  reaches nine tenths of the whole fall (:mod:`..stages.weight_search`).
* Its warm-up weighs the alignment anew and leaves the depths out; here it is the same throughout.
* Batch norm and PReLU are layer norm and leaky ReLU, batches are one-hot, standard deviations are the same in sampling
  and divergences, all as in :mod:`.sailer`.

What is ours alone, beside the mixed batch and the weights between percentiles: open peaks are hidden from the encoder
at random (``thinning``), a step looks at the likelihood of a share of the peaks, scaled up to all (``peak_share``), and
open peaks weigh more in it (``positive_weight``; in the released code such a number scales all peaks alike once its
warm-up is over). Validation hides the reference of as many cells as training does, so that the best epoch is good for
cells without RNA too.

What the encoder is given. The thesis's encoder sees peaks alone, with or without RNA: what the RNA says of a cell is
kept only as far as the weights memorise the cell, and is lost for cells held out. Here the reference of a paired cell
is one more block beside its chromosomes, and is hidden from the encoder for a random share of the cells in each step
(``reference_dropout``), so that one encoder serves both kinds of cells. At a share of 1 the block is not there: the
thesis's encoder. Where the agreement below has no weight, a linear map of the reference is added to the posterior means
as well. It starts as a turn, of as many dimensions as both have, so that the cosines of cells whose RNA is seen are
nearly kept from the first step on.

Both kinds of cells shall share one space. The cosines to be met are the same whether a cell's RNA is seen or not, but
cosines leave cells that are seen and cells that are not free to lie side by side. So each cell whose RNA is seen is
encoded without it as well, and

.. math:: L_{agree} = KL\left(q(z|x, r)\,\|\,q(z|x)\right)

is added with the weight ``reference_agreement`` where some cells have no RNA. Its left side is held fixed, so that
q(z|x) becomes what peaks let one expect of q(z|x, r), and nothing that the RNA adds is given up.

The alignment is one of cosines, and layer norm keeps the decoder from caring for length: the length of a posterior mean
says little but how sure the encoder is, which depends on whether it saw the RNA. Where some cells have none, the
embedding has means of length one (``unit_length``).

Of what peaks let one expect of the RNA, q(z|x) has the mean, and such means lie nearer to one another than cells whose
RNA is seen, so that the two kinds of cells mix poorly still. So a cell without RNA borrows from one donor, the paired
cell of the training that is most like it by the peaks (:mod:`..nn.donors`): its embedding is moved towards that of the
donor by ``donor_share`` of the way, less where fewer of the cells around are paired than of all, as around a type that
none of the paired cells is of; where all cells of the training are paired nothing tells that. Imputed peaks are decoded
from the cell's own posterior.

Defaults. 50 latent dimensions, 64 and 32 units a chromosome and lambda 1 are the thesis's and its code's; beta, omega
and weight decay are SAILER's; half of the open peaks are hidden at most. Others differ from the code: 100 epochs at
most of batches of 400 with early stopping (there 410 of 200 without), a learning rate of 2e-3 lowered on plateaus
(there 1e-4, times .995 an epoch). ``peak_share`` .25 is for speed. ``reference_width`` and ``reference_dropout`` .3
have no counterpart there; where cells are also to agree without RNA a wider block, or the linear map, says more of it
than peaks can follow. No search of the rest or of the rate is on record. What the block of the reference brings, and
how its width, the weights of the alignment and of the agreement and the donors' share were chosen, is told in
CHANGELOG.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from scmap_cli.data.alignment import WEIGHTS
from scmap_cli.data.batches import Batch
from scmap_cli.errors import UsageError
from scmap_cli.models.base import Posterior
from scmap_cli.models.invariant import InvariantConfig, InvariantVae, number
from scmap_cli.nn.alignment import alignment_gap
from scmap_cli.nn.bernoulli import sum_of_open
from scmap_cli.nn.chromosomes import CellNorm, ChromosomeLinear, edges_of
from scmap_cli.nn.distributions import gaussian_kl_between
from scmap_cli.nn.donors import MOST, Donors
from scmap_cli.nn.noise import mixed_seed

UNIT_LENGTH = ("auto", "yes", "no")
_AGREEMENT, _DONOR_SHARE = 10.0, 0.6


@dataclass(frozen=True)
class SailerXConfig(InvariantConfig):
    """Hyperparameters of SAILERX, beside those of :class:`~scmap_cli.models.invariant.InvariantConfig`.

    Attributes
    ----------
    hidden
        Units of each chromosome in the encoder's layers, two or more; the decoder has them in reverse order.
    alignment_weight
        Weight gamma of the alignment, a number, or ``auto``: the elbow of its final value against its weight.
    depth_weights
        How depths become weights of cells, see :func:`scmap_cli.data.alignment.depth_weights`.
    reference_dropout
        Share of the cells with RNA from whose encoder the reference is hidden in a training step; 1 leaves it out of
        the encoder for good, as the thesis does.
    reference_agreement
        Weight of the divergence between a cell's posteriors with and without its reference, a number, or ``auto``: 10
        where some cells of the training have no RNA, else 0. Nothing at a ``reference_dropout`` of 1.
    reference_width
        Units of the encoder's block for the reference.
    unit_length
        Whether the embedding has posterior means scaled to length one: ``yes``, ``no``, or ``auto``, which is yes
        where some cells of the training have no RNA.
    donor_share
        How much of its embedding a cell without RNA takes from its donor, a number from 0 to 1, or ``auto``: .6 where
        some cells of the training have no RNA, else 0. Nothing at a ``reference_dropout`` of 1.
    """

    hidden: tuple[int, ...] = (64, 32)
    latent: int = 50
    peak_share: str = "0.25"
    alignment_weight: str = "60000"
    depth_weights: str = "robust"
    reference_dropout: float = 0.3
    reference_agreement: str = "auto"
    reference_width: int = 128
    unit_length: str = "auto"
    donor_share: str = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.hidden) < 2:
            raise UsageError(f"hidden layer widths {self.hidden} must be two or more")
        if self.depth_weights not in WEIGHTS:
            raise UsageError(f"depth_weights is {self.depth_weights!r}", f"choose one of {', '.join(WEIGHTS)}")
        if not 0 <= self.reference_dropout <= 1:
            raise UsageError(f"reference_dropout {self.reference_dropout} is not in [0, 1]")
        if self.reference_width < 1:
            raise UsageError(f"reference_width {self.reference_width} must be at least 1")
        if self.agreement(True) and self.reference_dropout == 1:
            raise UsageError(
                f"reference_agreement {self.reference_agreement} says nothing where reference_dropout is 1",
                "at 1 the encoder sees no RNA",
            )
        if self.lending(True) and self.reference_dropout == 1:
            raise UsageError(
                f"donor_share {self.donor_share} says nothing where reference_dropout is 1",
                "at 1 the encoder sees no RNA of a donor either",
            )
        if self.unit_length not in UNIT_LENGTH:
            raise UsageError(f"unit_length is {self.unit_length!r}", f"choose one of {', '.join(UNIT_LENGTH)}")
        if self.alignment_weight != "auto":
            self.gamma()

    def gamma(self) -> float:
        """The weight of the alignment as a number; :class:`~scmap_cli.errors.UsageError` if it is none."""
        return number("alignment_weight", self.alignment_weight, "auto or a number, at least 0")

    def agreement(self, some_without: bool) -> float:
        """The weight of the agreement, given whether some cells have no RNA."""
        if self.reference_agreement == "auto":
            return _AGREEMENT if self._two_kinds(some_without) else 0.0
        return number("reference_agreement", self.reference_agreement, "auto or a number, at least 0")

    def unit(self, some_without: bool) -> bool:
        """Whether embedded cells have length one, given whether some cells have no RNA."""
        return self._two_kinds(some_without) if self.unit_length == "auto" else self.unit_length == "yes"

    def lending(self, some_without: bool) -> float:
        """How much cells without RNA take from donors, given whether some cells have none."""
        if self.donor_share == "auto":
            return _DONOR_SHARE if self._two_kinds(some_without) else 0.0
        return number("donor_share", self.donor_share, "auto or a number, at least 0 and at most 1", most=1)

    def _two_kinds(self, some_without: bool) -> bool:
        # The thesis's encoder sees no RNA of any cell.
        return some_without and self.reference_dropout < 1


@dataclass(frozen=True)
class _Seeing(Posterior):
    """A batch's posterior in training: which cells' references were seen, (n,), and the posterior without any."""

    seen_n: Tensor
    blind: Posterior


class SailerX(InvariantVae):
    """The SAILERX network; see the module for the equations.

    Parameters
    ----------
    config
        Hyperparameters.
    chromosome_peaks
        Number of peaks of each chromosome; the peaks of one follow each other.
    n_peaks, n_conditions, n_covariates
        Sizes; depth is the first of the covariates.
    n_reference
        Dimensions of the reference embedding.
    omega, lam
        Weights of open peaks and of the invariance term.
    gamma, agreement
        Weights of the alignment and of the agreement.
    unit
        Whether embedded cells have length one.
    shortcut
        Whether posterior means have a linear part of the reference, where the encoder sees it.
    lending
        How much cells without RNA take from donors.
    donors, others
        How many cells of the training are kept for that, with RNA and without; none before the training is over.
    """

    name: ClassVar[str] = "sailerx"
    config_type: ClassVar[type] = SailerXConfig
    every_cell: ClassVar[bool] = True

    config: SailerXConfig

    def __init__(
        self,
        config: SailerXConfig,
        *,
        chromosome_peaks: Sequence[int],
        n_peaks: int,
        n_conditions: int,
        n_covariates: int,
        n_reference: int,
        omega: float,
        lam: float,
        gamma: float,
        agreement: float = 0.0,
        unit: bool = False,
        shortcut: bool = False,
        lending: float = 0.0,
        donors: int = 0,
        others: int = 0,
    ) -> None:
        super().__init__(
            config,
            chromosome_peaks=list(chromosome_peaks),
            n_peaks=n_peaks,
            n_conditions=n_conditions,
            n_covariates=n_covariates,
            n_reference=n_reference,
            omega=omega,
            lam=lam,
            gamma=gamma,
            agreement=agreement,
            unit=unit,
            shortcut=shortcut,
            lending=lending,
            donors=donors,
            others=others,
        )
        self.edges_c = edges_of(chromosome_peaks)
        self.chromosomes = chromosomes = len(chromosome_peaks)
        first, last = config.hidden[0], config.hidden[-1]
        pairs = list(zip(config.hidden, config.hidden[1:], strict=False))
        group_p = torch.from_numpy(np.repeat(np.arange(chromosomes), list(chromosome_peaks)))
        self.register_buffer("group_p", group_p, persistent=False)
        self.group_p: Tensor
        self.first_ph = nn.Parameter(torch.empty(n_peaks, first))
        nn.init.uniform_(self.first_ph, -(first**-0.5), first**-0.5)
        self.first_norm = CellNorm(chromosomes, first)
        self.encoder = nn.Sequential(
            *(part for a, b in pairs for part in (ChromosomeLinear(chromosomes, a, b), CellNorm(chromosomes, b)))
        )
        self.sees_reference = n_reference > 0 and config.reference_dropout < 1
        width = config.reference_width if self.sees_reference else 0
        if self.sees_reference:
            self.reference = nn.Sequential(nn.Linear(n_reference + 1, width), CellNorm(1, width))
        self.shortcut = nn.Linear(n_reference, config.latent, bias=False) if width and shortcut else None
        if self.shortcut is not None:
            nn.init.orthogonal_(self.shortcut.weight)
        joined = chromosomes * last + width
        self.head = nn.Linear(joined, 2 * config.latent)
        # One condition is no information, so it gets no column.
        self.n_told = n_conditions if n_conditions > 1 else 0
        self.spread = nn.Linear(config.latent + n_covariates + self.n_told, chromosomes * last)
        self.spread_norm = CellNorm(chromosomes, last)
        self.decoder = nn.Sequential(
            *(part for a, b in pairs[::-1] for part in (ChromosomeLinear(chromosomes, b, a), CellNorm(chromosomes, a)))
        )
        self._make_output(n_peaks, first)
        self.donors = Donors(donors, others, config.latent) if donors else None

    def _posterior(self, batch: Batch) -> Posterior:
        sums_nch = sum_of_open(self._seen(batch), self.first_ph, self.group_p, self.chromosomes)
        encoded_nw = self.encoder(self.first_norm(sums_nch)).flatten(1)
        if not self.sees_reference:
            return self._gaussian(self.head(encoded_nw))
        reference_nr = batch.reference_nr
        if batch.noise is None:
            return self._joined(encoded_nw, reference_nr)
        reference_nr = reference_nr * ~batch.noise.chosen(self.config.reference_dropout, reference_nr)[:, None]
        seeing = self._joined(encoded_nw, reference_nr)
        if self.structure["agreement"] == 0:
            return seeing
        blind = self._joined(encoded_nw, torch.zeros_like(reference_nr))
        return _Seeing(seeing.mean_nz, seeing.var_nz, reference_nr.any(1), blind)

    def _joined(self, encoded_nw: Tensor, reference_nr: Tensor) -> Posterior:
        """The posterior from the chromosomes' last layers and the reference; rows of zeros are not seen."""
        told_n1 = reference_nr.any(1, keepdim=True).to(reference_nr.dtype)
        first, norm = self.reference
        # Rows of length one have small entries; at this scale their mean square is 1.
        scaled_nr = reference_nr * reference_nr.shape[1] ** 0.5
        told_nh = norm(first(torch.cat([scaled_nr, told_n1], dim=1)).unsqueeze(1)).flatten(1)
        heads_nz = self.head(torch.cat([encoded_nw, told_nh], dim=1))
        if self.shortcut is not None:
            heads_nz = heads_nz + nn.functional.pad(self.shortcut(scaled_nr), (0, self.config.latent))
        return self._gaussian(heads_nz)

    def _hidden(self, z_nz: Tensor, batch: Batch) -> Tensor:
        spread_nw = self.spread(self._told(z_nz, batch, self.n_told))
        h_nch: Tensor = self.decoder(self.spread_norm(spread_nw.view(len(z_nz), -1, self.config.hidden[-1])))
        return h_nch.to(self.dtype)

    @torch.no_grad()
    def embed(self, batch: Batch) -> Posterior:
        """Posterior means, and variances at their scale; means of length one if ``unit``.

        The mean of a cell without RNA is that after borrowing from its donor, its variance that of its own posterior.
        """
        found = self._own(batch)
        if self.donors is None:
            return found
        blind_n = ~batch.reference_nr.any(1)
        own_nz = found.mean_nz[blind_n]
        donor_nz, trust_n = self.donors.lent(own_nz)
        mean_nz = found.mean_nz.clone()
        mean_nz[blind_n] = self._scaled(own_nz.lerp(donor_nz, self.structure["lending"] * trust_n[:, None]))
        return Posterior(mean_nz, found.var_nz)

    def _own(self, batch: Batch) -> Posterior:
        """The posterior at the scale of the embedding."""
        found = self._posterior(batch)
        if not self.structure["unit"]:
            return found
        return Posterior(self._scaled(found.mean_nz), found.var_nz / _length(found.mean_nz).square())

    def _scaled(self, mean_nz: Tensor) -> Tensor:
        return mean_nz / _length(mean_nz) if self.structure["unit"] else mean_nz

    @torch.no_grad()
    def keep(self, store: Any, seed: int) -> None:
        """Keep encodings of up to 10,000 cells with RNA, and of as many without at most, to lend and borrow by."""
        if not self.structure["lending"]:
            return
        rng = np.random.default_rng(mixed_seed(seed, "donors"))
        has_n = store.reference_nr.any(1).cpu().numpy()
        donors = np.sort(rng.permutation(np.flatnonzero(has_n))[:MOST])
        others = np.sort(rng.permutation(np.flatnonzero(~has_n))[: len(donors)])
        blind, seeing = [], []
        for cells in (donors, others):
            for start in range(0, len(cells), self.most_cells):
                batch = store.batch(torch.from_numpy(cells[start : start + self.most_cells]))
                blind.append(self._own(replace(batch, reference_nr=torch.zeros_like(batch.reference_nr))).mean_nz)
                if cells is donors:
                    seeing.append(self._own(batch).mean_nz)
        self.structure |= {"donors": len(donors), "others": len(others)}
        self.donors = Donors(len(donors), len(others), self.config.latent).to(blind[0])
        self.donors.fill(torch.cat(blind), torch.cat(seeing))

    def _further(self, batch: Batch, posterior: Posterior) -> dict[str, tuple[float, Tensor]]:
        gap = alignment_gap(posterior.mean_nz, batch.reference_nr, batch.weight_n)
        terms = {"alignment": (self.structure["gamma"], gap)}
        if isinstance(posterior, _Seeing):
            seeing, blind = (posterior.mean_nz.detach(), posterior.var_nz.detach()), posterior.blind
            apart_n = gaussian_kl_between(*seeing, blind.mean_nz, blind.var_nz) * posterior.seen_n
            terms["agreement"] = (self.structure["agreement"], apart_n.sum() / posterior.seen_n.sum().clamp_min(1))
        return terms


def _length(x_nz: Tensor) -> Tensor:
    return x_nz.norm(dim=1, keepdim=True).clamp_min(1e-12)
