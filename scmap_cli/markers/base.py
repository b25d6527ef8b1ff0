"""What a marker selector gets and gives: one protocol for all of them.

A selector is a function ``select(data, k, *, seed, as_published) -> Selection``. It sees the training cells alone (a
:class:`MarkerData`), returns exactly ``k`` distinct genes, best first, and draws only from generators seeded by
``seed``. Which selectors there are is in :data:`scmap_cli.registry.SELECTORS`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import scipy.sparse as sp

from scmap_cli.data.matrices import cell_totals, log1p_cp10k, to_counts
from scmap_cli.data.scaling import fit_scaling
from scmap_cli.errors import InputError
from scmap_cli.registry import Selector
from scmap_cli.runtime.logs import log


@dataclass(frozen=True)
class MarkerData:
    """Cells that genes are chosen from.

    Attributes
    ----------
    counts
        (n, g) CSR float32, raw counts.
    log1p
        (n, g) CSR float32, log(1 + counts per 10,000).
    codes
        (n,) int64 class of each cell, or None without labels.
    classes
        Names of the classes, in the order of their codes.
    held
        (n,) bool, cells that a selector with epochs keeps for validation; the others are free to use them too.
    sizes
        (n,) counts of each cell over all its genes, by which ``log1p`` was made; None for the sums of ``counts``.
    """

    counts: sp.csr_matrix
    log1p: sp.csr_matrix
    codes: np.ndarray | None
    classes: tuple[str, ...]
    held: np.ndarray
    sizes: np.ndarray | None = None

    @property
    def n_genes(self) -> int:
        """Number of genes."""
        return int(self.counts.shape[1])

    @property
    def labels(self) -> np.ndarray:
        """The codes of a selector that needs labels."""
        if self.codes is None:
            raise InputError("this method needs labels", "name their column with --label-key")
        return self.codes

    @property
    def strata(self) -> np.ndarray:
        """(n,) int64 class of each cell, one class for all without labels."""
        return np.zeros(self.counts.shape[0], dtype=np.int64) if self.codes is None else self.codes

    @cached_property
    def scaled(self) -> np.ndarray:
        """(n, g) float32, ``log1p`` scaled over these cells and clipped at 10; dense, made on first use."""
        return fit_scaling(self.log1p).apply(self.log1p)

    @cached_property
    def members(self) -> sp.csr_matrix:
        """(classes, n) float64 CSR: 1 where a cell is of a class."""
        codes = self.labels
        ones = np.ones(len(codes))
        return sp.csr_matrix((ones, (codes, np.arange(len(codes)))), shape=(len(self.classes), len(codes)))

    @cached_property
    def class_means(self) -> np.ndarray:
        """(classes, g) float64 mean of ``log1p`` in each class."""
        sizes = np.bincount(self.labels, minlength=len(self.classes))
        return np.asarray((self.members @ self.log1p).todense()) / sizes[:, None]

    def take_genes(self, genes: np.ndarray) -> MarkerData:
        """The same cells with some of the genes."""
        return replace(self, counts=self.counts[:, genes], log1p=self.log1p[:, genes])


def marker_data(
    counts: Any,
    labels: Sequence[str] | np.ndarray | None = None,
    *,
    held: np.ndarray | None = None,
    totals: np.ndarray | None = None,
) -> MarkerData:
    """Data for the selectors from raw counts, sparse or dense.

    Parameters
    ----------
    counts
        (n, g) whole numbers: scipy CSR or CSC, or a dense array.
    labels
        (n,) text, every cell labelled.
    held
        (n,) bool validation cells; by default none.
    totals
        (n,) counts of each cell over all its genes, where ``counts`` has only some of them.
    """
    csr = to_counts(counts)
    codes: np.ndarray | None = None
    classes: tuple[str, ...] = ()
    if labels is not None:
        names, codes = np.unique(np.asarray(labels).astype(str), return_inverse=True)
        codes, classes = codes.astype(np.int64), tuple(str(name) for name in names)
    held = np.zeros(csr.shape[0], dtype=bool) if held is None else held
    totals = cell_totals(csr) if totals is None else totals
    return MarkerData(csr, log1p_cp10k(csr, totals=totals), codes, classes, held, totals)


@dataclass(frozen=True)
class Selection:
    """Chosen genes, best first.

    Attributes
    ----------
    genes
        (k,) int64 columns of the data, all different.
    scores
        (k,) float64; larger is better within one method, not between methods.
    classes
        (k,) name of the class that each gene speaks for, or None where the method has no such thing.
    """

    genes: np.ndarray
    scores: np.ndarray
    classes: tuple[str, ...] | None = None

    def first(self, k: int) -> Selection:
        """The first k genes."""
        return Selection(self.genes[:k], self.scores[:k], None if self.classes is None else self.classes[:k])


class SelectFunction(Protocol):
    """Type of a selector's function."""

    def __call__(self, data: MarkerData, k: int, *, seed: int, as_published: bool, **more: Any) -> Selection:
        """Choose k genes of ``data``; ``as_published`` does it as the MarkerMap paper did.

        ``more`` is ``device``, and ``forced_in`` and ``forced_out`` (columns), for those that
        :class:`~scmap_cli.registry.Selector` says take them.
        """
        ...


def named(data: MarkerData, codes: np.ndarray) -> tuple[str, ...]:
    """Names of class codes."""
    return tuple(data.classes[int(code)] for code in codes)


def best(scores_g: np.ndarray, k: int) -> np.ndarray:
    """Indices of the k largest scores, best first; equal ones in the order of the genes, NaN last."""
    ranked = np.where(np.isnan(scores_g), -np.inf, scores_g)
    return np.argsort(-ranked, kind="stable")[:k].astype(np.int64)


def best_for_classes(data: MarkerData, scores_g: np.ndarray, k: int) -> Selection:
    """The k genes with the largest scores; each speaks for the class where its scaled mean is highest."""
    genes = best(scores_g, k)
    scaling = fit_scaling(data.log1p[:, genes])
    lifted_cg = (data.class_means[:, genes] - scaling.mean) / scaling.deviation
    return Selection(genes, scores_g[genes].astype(np.float64), named(data, lifted_cg.argmax(axis=0)))


def rows_by_class(data: MarkerData, scores_cg: np.ndarray, k: int) -> Selection:
    """Genes by turns: every class takes its best gene that is still free, the class with the largest score first.

    Parameters
    ----------
    data
        The cells, for the names of the classes.
    scores_cg
        (classes, g) score of each gene in each class, larger is better.
    k
        Number of genes.
    """
    ranked_cg = np.where(np.isnan(scores_cg), -np.inf, scores_cg)
    orders_cg = np.argsort(-ranked_cg, axis=1, kind="stable")
    free = np.ones(scores_cg.shape[1], dtype=bool)
    position = np.zeros(len(scores_cg), dtype=np.int64)
    genes: list[int] = []
    classes: list[int] = []
    while len(genes) < k:
        row: list[tuple[float, int, int]] = []
        for code, order in enumerate(orders_cg):
            while position[code] < len(order) and not free[order[position[code]]]:
                position[code] += 1
            if position[code] < len(order):
                gene = int(order[position[code]])
                free[gene] = False
                row.append((-float(ranked_cg[code, gene]), code, gene))
        for _, code, gene in sorted(row):
            genes.append(gene)
            classes.append(code)
    genes, classes = genes[:k], classes[:k]
    scores = scores_cg[classes, genes].astype(np.float64)
    return Selection(np.array(genes, dtype=np.int64), scores, named(data, np.array(classes)))


def published_rows(data: MarkerData, scores_cg: np.ndarray, k: int, last_cg: np.ndarray | None = None) -> Selection:
    """Genes by turns as in the MarkerMap paper: rank by rank the union of the classes' genes until there are k.

    A gene that two classes rank equally high is taken once, so that a class may stay without a gene in a row.

    Parameters
    ----------
    data, scores_cg, k
        As :func:`rows_by_class`.
    last_cg
        (classes, g) what decides which genes of the last row are taken, smallest first: p-values. By default the score,
        largest first.
    """
    ranked_cg = np.where(np.isnan(scores_cg), -np.inf, scores_cg)
    orders_cg = np.argsort(-ranked_cg, axis=1, kind="stable")
    last_cg = -ranked_cg if last_cg is None else np.where(np.isnan(last_cg), np.inf, last_cg)
    genes: dict[int, int] = {}
    for rank in range(scores_cg.shape[1]):
        row = sorted(
            (float(last_cg[code, order[rank]]), code, int(order[rank])) for code, order in enumerate(orders_cg)
        )
        for _, code, gene in row:
            genes.setdefault(gene, code)
        if len(genes) >= k:
            break
    chosen = np.array(list(genes)[:k], dtype=np.int64)
    codes = np.array(list(genes.values())[:k])
    return Selection(chosen, scores_cg[codes, chosen].astype(np.float64), named(data, codes))


def run_selector(
    spec: Selector,
    data: MarkerData,
    k: int,
    *,
    seed: int = 0,
    as_published: bool = False,
    device: str = "cpu",
    forced_in: np.ndarray | None = None,
    forced_out: np.ndarray | None = None,
) -> Selection:
    """Check the data, run a selector on the genes it may choose, and check what it gives.

    Parameters
    ----------
    spec
        The selector.
    data
        Training cells.
    k
        Number of genes, the forced ones included.
    seed, as_published
        As :class:`SelectFunction`.
    device
        Where a selector that is trained ``on_device`` is; the others run on the CPU.
    forced_in
        Columns that are chosen whatever the method says of them; their score is infinite. A method that does not force
        genes itself chooses the others as if these were not there; these then come first and have no class.
    forced_out
        Columns that are not chosen.

    Raises
    ------
    InputError
        There are fewer than k genes to choose from, no labels where they are needed, or a class of one cell.
    """
    forced = np.array([] if forced_in is None else forced_in, dtype=np.int64)
    free = np.ones(data.n_genes, dtype=bool)
    free[forced] = False
    if forced_out is not None:
        free[forced_out] = False
    check_data(spec, data, k, int(free.sum()) + len(forced))
    if as_published and not spec.published:
        log.info("%s: the paper ran it as it is meant, --as-published changes nothing", spec.name)
    rest = k - len(forced)
    if rest <= 0:
        return Selection(forced[:k], np.full(k, np.inf))
    columns = np.flatnonzero(free)
    candidates = data if free.all() else data.take_genes(columns)
    more: dict[str, Any] = {"device": device} if spec.on_device else {}
    if spec.forces and not free.all():
        more |= {"forced_in": forced, "forced_out": forced_out}
        return spec.load()(data, k, seed=seed, as_published=as_published, **more)
    found = spec.load()(candidates, rest, seed=seed, as_published=as_published, **more)
    if len(found.genes) != rest or len(np.unique(found.genes)) != rest:
        raise RuntimeError(f"{spec.name} gave {len(np.unique(found.genes))} genes, not {rest}")
    genes = np.concatenate([forced, columns[found.genes]])
    scores = np.concatenate([np.full(len(forced), np.inf), found.scores])
    classes = None if found.classes is None else ("",) * len(forced) + found.classes
    return Selection(genes, scores, classes)


def check_data(spec: Selector, data: MarkerData, k: int, choice: int) -> None:
    """Refuse data that a selector cannot work on; see :func:`run_selector`."""
    if k > choice:
        raise InputError(f"{k} genes are wanted of {choice}", "lower -k, or force fewer genes out")
    if not spec.needs_labels:
        return
    if data.codes is None:
        raise InputError(f"the method {spec.name} needs labels", "name their column with --label-key")
    sizes = np.bincount(data.codes, minlength=len(data.classes))
    if len(sizes) < 2:
        raise InputError(f"all cells are of the class {data.classes[0]!r}", "give labels of at least two kinds")
    smallest = int(sizes.argmin())
    if sizes[smallest] < 2:
        raise InputError(
            f"the class {data.classes[smallest]!r} has {sizes[smallest]} cell to choose by, at least 2 are needed",
            "leave it out with --exclude-labels, or merge it with another",
        )
