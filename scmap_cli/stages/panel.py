"""What the marker stages share: labelled counts of one file, their seeded splits, and the scores of a set of genes.

Genes are chosen, values are scaled and classifiers are trained on the training and validation cells of a split; its
test cells are looked at once, by the finished classifier. Values are log1p CP10k, scaled by mean and deviation of those
training cells and clipped at 10.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

from scmap_cli.data.matrices import cell_totals, log1p_cp10k
from scmap_cli.data.scaling import Scaling, fit_scaling
from scmap_cli.data.splits import LEAST_CELLS, TEST, VALID, three_way_split
from scmap_cli.errors import InputError, UsageError
from scmap_cli.io.text import read_names
from scmap_cli.markers.base import MarkerData, check_data
from scmap_cli.metrics import markers as scores
from scmap_cli.metrics.reconstruction import linear_map
from scmap_cli.registry import Selector
from scmap_cli.runtime.logs import log
from scmap_cli.stages.inputs import RnaInput, load_rna, text_column
from scmap_cli.training.device import resolve_device

SINGLE_CLASS = "all"
"""The one class of data without labels."""


@dataclass(frozen=True)
class Panel:
    """Labelled cells of one file.

    Attributes
    ----------
    path
        The file.
    counts
        (n, g) CSR raw counts of the cells that are used.
    genes
        (g,) names.
    kept
        (N,) bool: which cells of the file are used.
    codes
        (n,) classes, or None without labels.
    classes
        Their names.
    source
        The file as it was read.
    raw_depth
        Whether values are log(1 + counts), as the MarkerMap paper's of Zeisel, in the place of log1p CP10k.
    """

    path: Path
    counts: sparse.csr_matrix
    genes: np.ndarray
    kept: np.ndarray
    codes: np.ndarray | None
    classes: tuple[str, ...]
    source: RnaInput
    raw_depth: bool = False

    @cached_property
    def sizes(self) -> np.ndarray:
        """(n,) what counts are divided by, times 10,000."""
        return np.full(self.counts.shape[0], 1e4) if self.raw_depth else cell_totals(self.counts)

    @cached_property
    def log1p(self) -> sparse.csr_matrix:
        """(n, g) CSR, log(1 + counts per 10,000)."""
        return log1p_cp10k(self.counts, totals=self.sizes)

    @property
    def strata(self) -> np.ndarray:
        """Codes that splits are stratified by; one class for all without labels."""
        return np.zeros(self.counts.shape[0], dtype=np.int64) if self.codes is None else self.codes

    def data(self, cells: np.ndarray, held: np.ndarray | None = None, codes: np.ndarray | None = None) -> MarkerData:
        """What a selector sees of some of the cells (bool or indices), with other class codes where given."""
        codes = (None if self.codes is None else self.codes[cells]) if codes is None else codes
        classes = self.classes
        if codes is not None:
            present, codes = np.unique(codes, return_inverse=True)
            classes = tuple(self.classes[int(code)] for code in present)
        whole = cells.dtype == bool and cells.all()
        # What all cells have is not copied.
        counts, log1p = (self.counts, self.log1p) if whole else (self.counts[cells], self.log1p[cells])
        none_held = np.zeros(counts.shape[0], dtype=bool)
        held = none_held if held is None else held
        return MarkerData(counts, log1p, codes, classes, held, self.sizes[cells])

    def columns(self, names: Sequence[str], what: str) -> np.ndarray:
        """Columns of genes by name; :class:`InputError` names one that the data lack."""
        place = {str(name): i for i, name in enumerate(self.genes)}
        absent = [name for name in names if name not in place]
        if absent:
            raise InputError(
                f"{what}: {len(absent)} genes are not in {self.path}, such as {absent[0]!r}",
                "check how the genes are named, see --gene-column",
            )
        return np.array([place[name] for name in names], dtype=np.int64)

    def listed(self, path: Path | None, flag: str) -> np.ndarray:
        """Columns of the genes in a file of names, none without a file."""
        return np.zeros(0, dtype=np.int64) if path is None else self.columns(read_names(path), flag)


def check_forced(panel: Panel, k: int, forced_in: np.ndarray, forced_out: np.ndarray) -> None:
    """Refuse genes that are forced both ways, and more forced in than are wanted."""
    both = np.intersect1d(forced_in, forced_out)
    if len(both):
        raise UsageError(
            f"the gene {str(panel.genes[both[0]])!r} is forced in and out", "see --force-in and --force-out"
        )
    if len(forced_in) > k:
        raise UsageError(f"{len(forced_in)} genes are forced in, but -k is {k}", "raise -k, or force fewer")


def training_cells(panel: Panel, path: Path | None) -> np.ndarray:
    """(n,) bool over the panel's cells: those named in the file, or all."""
    names = panel.source.cells[panel.kept]
    if path is None:
        return np.ones(len(names), dtype=bool)
    wanted = read_names(path)
    absent = sorted(set(wanted) - set(panel.source.cells.tolist()))
    if absent:
        raise InputError(f"{path}: {len(absent)} cells are not in {panel.path}, such as {absent[0]!r}")
    chosen: np.ndarray = np.isin(names, wanted)
    if not chosen.any():
        raise InputError(f"{path}: none of its cells has a label that is used", "see --label-key and --exclude-labels")
    return chosen


def load_panel(
    path: Path,
    *,
    label_key: str | None = None,
    exclude_labels: Sequence[str] = (),
    layer: str | None = None,
    gene_column: str | None = None,
    raw_depth: bool = False,
) -> Panel:
    """Read counts and labels; cells without a label, or with an excluded one, are left out and counted.

    Raises
    ------
    UsageError
        Labels are excluded, but no column of labels is named.
    InputError
        As :func:`scmap_cli.stages.inputs.load_rna`; there is no such column, or no cell is left.
    """
    if exclude_labels and label_key is None:
        raise UsageError("--exclude-labels needs to know where the labels are", "name their column with --label-key")
    source = load_rna(path, layer, gene_column)
    n = source.counts.shape[0]
    if label_key is None:
        return Panel(path, source.counts, source.genes, np.ones(n, bool), None, (), source, raw_depth)
    labels = text_column(source.adata.obs, label_key, path)
    strange = sorted(set(exclude_labels) - set(labels.tolist()))
    if strange:
        raise InputError(f"{path}: no cell has the label {strange[0]!r}", "see --exclude-labels")
    kept = (labels != "") & ~np.isin(labels, list(exclude_labels))
    if not kept.any():
        raise InputError(f"{path}: no cell has a label in {label_key!r}", "name another column with --label-key")
    if not kept.all():
        log.info("%d of %d cells are used; the others have no label, or an excluded one", int(kept.sum()), n)
    names, codes = np.unique(labels[kept], return_inverse=True)
    counts = source.counts if kept.all() else source.counts[kept]
    classes = tuple(str(name) for name in names)
    return Panel(path, counts, source.genes, kept, codes.astype(np.int64), classes, source, raw_depth)


def check_classes(panel: Panel) -> None:
    """Refuse classes that are too small to be split; the message names the smallest."""
    sizes = np.bincount(panel.strata)
    smallest = int(sizes.argmin())
    if sizes[smallest] < LEAST_CELLS:
        name = panel.classes[smallest] if panel.classes else SINGLE_CLASS
        raise InputError(
            f"the class {name!r} has {sizes[smallest]} cells, a split needs at least {LEAST_CELLS}",
            "leave it out with --exclude-labels, or merge it with another",
        )


def check_splits(splits: int) -> None:
    """Refuse a number of splits below 1."""
    if splits < 1:
        raise UsageError(f"--splits must be at least 1, not {splits}")


def check_selectors(panel: Panel, specs: Sequence[Selector], k: int, device: str) -> None:
    """Refuse, before any work, data that a selector cannot work on, and a device that is not there."""
    if any(spec.on_device for spec in specs):
        resolve_device(device)
    data = panel.data(np.ones(len(panel.strata), dtype=bool))
    for spec in specs:
        spec.load()
        check_data(spec, data, k, len(panel.genes))


class Fold:
    """One split of a panel: what selectors see, and what the genes they choose are worth."""

    def __init__(self, panel: Panel, number: int, seed: int) -> None:
        self.panel, self.number = panel, number
        part_n = three_way_split(panel.strata, number, seed)
        self.train = np.flatnonzero(part_n != TEST)
        self.test = np.flatnonzero(part_n == TEST)
        self.held = part_n[self.train] == VALID
        self.seed = int(np.random.SeedSequence([seed, number]).generate_state(1)[0]) % 2**31
        self._noise_seed = [seed, number, 1]

    def data(self, codes: np.ndarray | None = None) -> MarkerData:
        """The training and validation cells, with other class codes where given."""
        return self.panel.data(self.train, self.held, codes)

    def noisy_codes(self, share: float) -> np.ndarray:
        """Class codes of :meth:`data`'s cells, a share of them drawn anew."""
        own = self.panel.strata[self.train]
        return scores.mislabel(own, len(self.panel.classes), share, [*self._noise_seed, round(share * 1e6)])

    @cached_property
    def scaling(self) -> Scaling:
        """Mean and deviation of every gene in the training cells."""
        return fit_scaling(self.panel.log1p[self.train])

    @cached_property
    def scaled(self) -> tuple[np.ndarray, np.ndarray]:
        """All genes of training and test cells, float32, scaled by the training cells."""
        log1p = self.panel.log1p
        return self.scaling.apply(log1p[self.train]), self.scaling.apply(log1p[self.test])

    def confusions(self, genes: np.ndarray, train_codes: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """Confusion matrix on the test cells by classifier, trained with other class codes where given."""
        train, test = (self.scaling.apply(self.panel.log1p[cells], genes) for cells in (self.train, self.test))
        own = self.panel.strata
        codes = own[self.train] if train_codes is None else train_codes
        found = {}
        for classifier in scores.CLASSIFIERS:
            predicted = scores.predict(train, codes, test, classifier, self.seed)
            found[classifier] = scores.confusion(own[self.test], predicted, len(self.panel.classes))
        return found

    def linear_errors(self, genes: np.ndarray) -> dict[str, float]:
        """Mean squared and absolute error of an entry of the test cells, by least squares from the genes."""
        train, test = self.scaled
        wrong = linear_map(train[:, genes], train, test[:, genes]) - test
        return {"mse": float((wrong**2).mean()), "mae": float(np.abs(wrong).mean())}


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Mean, standard deviation (n - 1; None for one value) and the values themselves."""
    array = np.asarray(values, dtype=np.float64)
    sd = float(array.std(ddof=1)) if len(array) > 1 else None
    return {"mean": float(array.mean()), "sd": sd, "values": array.tolist()}
