"""How imputed values leave ``scmap impute``, whatever the model: a block of cells at a time, some of them drawn."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from anndata import AnnData
from scipy import sparse

from scmap_cli.io.h5ad import is_sparse, write_h5ad_rows
from scmap_cli.io.npz import write_npz_rows
from scmap_cli.keys import HISTORY, WITHHELD_RECORD
from scmap_cli.plots.canvas import publish
from scmap_cli.plots.imputation import BeforeAfter, before_after
from scmap_cli.runtime import provenance
from scmap_cli.stages.inputs import RnaInput

_CELLS_SHOWN, _FEATURES_SHOWN = 200, 40


def write_imputed(
    output: Path,
    data: RnaInput,
    features: np.ndarray,
    blocks: Iterable[Any],
    run: provenance.Run,
    header: Mapping[str, Any],
    force: bool,
) -> None:
    """Write imputed values with the names, and in an h5ad the ``obs``, of the cells that they are of.

    Parameters
    ----------
    output
        ``.h5ad`` or ``.npz``.
    data
        The input; what its ``uns`` says of its history and of withheld entries goes on into an h5ad.
    features
        (f,) names of the columns.
    blocks
        Dense (rows, f) arrays or CSR matrices, all of one kind, that follow one another from the first cell on.
    run
        Recorded in the file.
    header
        More words for the header of an npz.
    force
        Replace an existing file.

    Raises
    ------
    OutputExistsError, WriteError
        As :func:`scmap_cli.io.atomic.atomic_file`.
    """
    shape = (len(data.cells), len(features))
    if output.suffix == ".npz":
        names = {"cells": data.cells, "features": features}
        write_npz_rows(output, blocks, shape, names, {"kind": "imputed", **header, "history": [run.record]}, force)
        return
    frame = AnnData(obs=data.adata.obs.copy(), var=data.adata.var.reindex(features))
    frame.uns = {key: value for key, value in data.adata.uns.items() if key in (HISTORY, WITHHELD_RECORD)}
    run.stamp(frame.uns)
    write_h5ad_rows(frame, blocks, shape, output, force=force)


class Sample:
    """Some cells, drawn by a seed, and their most variable features: what a figure shows of values written in passing.

    Parameters
    ----------
    n
        Cells of the input.
    seed
        Of the draw.
    """

    def __init__(self, n: int, seed: int) -> None:
        self.n, self.seed = n, seed
        self.rows = np.sort(np.random.default_rng(seed).permutation(n)[:_CELLS_SHOWN])

    def watch(self, blocks: Iterable[Any], before: sparse.csr_matrix, adds: bool = False) -> Iterator[Any]:
        """Hand on the blocks of :func:`write_imputed`, and keep what the sampled cells have in a few features.

        Parameters
        ----------
        blocks
            Imputed values of all cells.
        before
            (s, g) values of the sampled cells (``rows``) in the features of the blocks, as they were.
        adds
            The blocks hold the imputed entries alone, which come to the values that were there.
        """
        before = before.astype(np.float32)
        mean_g = np.asarray(before.mean(0)).ravel()
        square_g = np.asarray(before.multiply(before).mean(0)).ravel()
        self.columns = np.sort(np.argsort(mean_g**2 - square_g, kind="stable")[:_FEATURES_SHOWN])
        self.before_sf = before[:, self.columns].toarray()
        self.after_sf = self.before_sf.copy() if adds else np.zeros_like(self.before_sf)
        self.mean_before_g, self.mean_after_g = mean_g, mean_g.copy() if adds else np.zeros_like(mean_g)
        start = 0
        for block in blocks:
            stop = start + block.shape[0]
            first, last = np.searchsorted(self.rows, [start, stop])
            part = block[self.rows[first:last] - start]
            found = part[:, self.columns]
            self.after_sf[first:last] += found.toarray() if is_sparse(found) else found
            self.mean_after_g += np.asarray(part.sum(0)).ravel() / len(self.rows)
            start = stop
            yield block

    def draw(self, path: Path, force: bool, features: np.ndarray, word: str, before: str, after: str) -> None:
        """Draw what was kept; ``before`` and ``after`` tell what the values are, values of genes share a scale.

        Raises
        ------
        OutputExistsError, WriteError
            As :func:`scmap_cli.plots.canvas.publish`.
        """
        s, f = self.before_sf.shape
        which = f"all {s:,} cells" if s == self.n else f"{s:,} of {self.n:,} cells, drawn by seed {self.seed}"
        most = f"all {f:,} {word}" if f == len(features) else f"the {f:,} most variable of {len(features):,} {word}"
        shown = BeforeAfter(
            self.before_sf, self.after_sf, features[self.columns], self.mean_before_g, self.mean_after_g,
            f"before: {before}", f"after: {after}", word == "genes", f"{which}; {most}", word,
        )  # fmt: skip
        publish(path, force, "the imputed values", before_after, shown)
