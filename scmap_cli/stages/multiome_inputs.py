"""What ``preprocess multiome`` reads: RNA and ATAC of the same cells from two files or one, and further ATAC sets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
from scipy import sparse

from scmap_cli.data.matrices import find_counts
from scmap_cli.data.peaks import Peaks, peak_positions
from scmap_cli.errors import InputError
from scmap_cli.io.h5ad import check_names, read_h5ad
from scmap_cli.io.h5mu import read_h5mu
from scmap_cli.io.rna import read_rna, rna_form, unique_names
from scmap_cli.io.tenx import GENE_EXPRESSION, read_10x_h5, read_10x_mtx
from scmap_cli.runtime.logs import log

PEAKS = "Peaks"
"""Cell Ranger's ``feature_types`` of accessibility."""

_RNA_NAMES, _ATAC_NAMES = ("rna", "gex", "gene expression"), ("atac", "peaks", "chromatin accessibility")


@dataclass
class AtacSet:
    """Peak counts of one input.

    Attributes
    ----------
    name
        What to call it.
    counts
        CSR (n, P).
    obs
        The cells' table, names without repeats.
    var
        The peaks' table.
    places
        Where the peaks lie.
    """

    name: str
    counts: sparse.csr_matrix
    obs: pd.DataFrame
    var: pd.DataFrame
    places: Peaks

    @property
    def keys(self) -> pd.MultiIndex:
        """Positions, by which peaks of several sets are the same."""
        return pd.MultiIndex.from_arrays([self.places.chrom, self.places.start, self.places.end])


def read_pair(
    input: Path | None, rna: Path | None, atac: Path | None
) -> tuple[anndata.AnnData, anndata.AnnData, Path, Path]:
    """RNA and ATAC of the same cells, each in no particular order, and the files that they are from.

    Raises
    ------
    InputError
        A file is unfit, or a file of both lacks one of them.
    """
    if input is not None:
        return *_split(input), input, input
    assert rna is not None
    assert atac is not None
    # Names of genes only matter where there is an embedding, so repeated ones are no reason to stop.
    return read_rna(rna, check=False), read_peaks(atac), rna, atac


def read_peaks(path: Path) -> anndata.AnnData:
    """Cells x peaks; of a Cell Ranger file the peaks alone."""
    form = rna_form(path)
    if form == "10x h5":
        return read_10x_h5(path, feature_type=PEAKS)
    if form == "10x mtx":
        return read_10x_mtx(path, feature_type=PEAKS)
    return read_rna(path, check=False)


def _split(path: Path) -> tuple[anndata.AnnData, anndata.AnnData]:
    """The two parts of a file that holds both."""
    if path.suffix == ".h5mu":
        parts = read_h5mu(path)
        found = [next((parts[n] for n in parts if n.lower() in names), None) for names in (_RNA_NAMES, _ATAC_NAMES)]
        if found[0] is None or found[1] is None:
            raise InputError(f"{path} holds the modalities {', '.join(parts) or 'none'}", "name them rna and atac")
        return found[0], found[1]
    form = rna_form(path)
    if form == "10x h5":
        whole = read_10x_h5(path, feature_type=None)
    elif form == "10x mtx":
        whole = read_10x_mtx(path, feature_type=None)
    else:
        whole = read_h5ad(path, unique=False)
    if "feature_types" not in whole.var:
        raise InputError(
            f"{path} does not tell genes from peaks: var has no column feature_types",
            "give two files, --rna and --atac",
        )
    types = whole.var["feature_types"].astype(str).to_numpy()
    for wanted in (GENE_EXPRESSION, PEAKS):
        if not (types == wanted).any():
            raise InputError(
                f"{path} has no features of type {wanted!r} (types: {', '.join(sorted(set(types)))})",
                "give a file of both, or two files by --rna and --atac",
            )
    return whole[:, types == GENE_EXPRESSION].copy(), whole[:, types == PEAKS].copy()


def atac_set(adata: anndata.AnnData, path: Path, name: str) -> AtacSet:
    """Counts and positions of the peaks of a set.

    Raises
    ------
    InputError
        There are no counts, a cell's name or a peak's position is repeated, or peaks have no position.
    """
    found = find_counts(adata)
    obs = adata.obs.copy(deep=False)
    obs.index = unique_names(obs.index, "cell", path, unique=False)
    one = AtacSet(name, found.matrix, obs, found.var, peak_positions(found.var))
    repeated = one.keys.duplicated()
    if repeated.any():
        raise InputError(
            f"{path}: {int(repeated.sum())} peaks are repeated, first {found.var.index[int(np.argmax(repeated))]!r}",
            "give each peak once; `scmap preprocess peaks` unites peaks",
        )
    check_names(pd.Index(found.var_names), "peak", path)
    return one


def common_peaks(sets: Sequence[AtacSet], order: Sequence[int]) -> list[np.ndarray]:
    """Columns of each set, such that column i is the same peak in all, in the ``order`` of the first set's peaks.

    Raises
    ------
    InputError
        No peak is common to all sets.
    """
    first = sets[0]
    keys = first.keys
    columns = [one.keys.get_indexer(keys) for one in sets]
    shared = np.all([column >= 0 for column in columns], axis=0)
    if not shared.any():
        lacking = next(one for one, column in zip(sets, columns, strict=True) if (column < 0).all() or one is sets[-1])
        raise InputError(
            f"no peak of {lacking.name} is one of {first.name} ({lacking.var.index[0]} against {first.var.index[0]})",
            "count all sets in the same peaks: `scmap preprocess peaks`, then `scmap preprocess atac --peaks`",
        )
    for one, column in zip(sets[1:], columns[1:], strict=True):
        kept = int((column >= 0).sum())
        log.info("%s: %d of its %d peaks are among those of %s", one.name, kept, len(one.var), first.name)
    if not shared.all():
        log.warning("%d of %d peaks of %s are not in every set and dropped", (~shared).sum(), len(shared), first.name)
    chosen = np.array([i for i in order if shared[i]], dtype=np.int64)
    return [column[chosen] for column in columns]
