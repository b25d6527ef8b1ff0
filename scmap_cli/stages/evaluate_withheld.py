"""``scmap evaluate imputation --withhold``: expression values that were hidden, beside plain baselines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from scmap_cli.data.decomposition import pca
from scmap_cli.data.features import align, apply
from scmap_cli.data.gene_scores import diffuse
from scmap_cli.data.matrices import log1p_cp10k
from scmap_cli.errors import InputError, UsageError
from scmap_cli.io.atomic import atomic_file, check_outputs, text_file, write_text
from scmap_cli.io.bundle import is_bundle, load_bundle, read_features
from scmap_cli.io.h5ad import write_h5ad
from scmap_cli.io.text import read_names
from scmap_cli.keys import WITHHELD_LAYER
from scmap_cli.metrics.graph import knn
from scmap_cli.metrics.withheld import (
    Withheld,
    additive_fit,
    by_gene,
    cell_effects,
    gene_means,
    scores,
    withhold,
)
from scmap_cli.registry import get_model
from scmap_cli.runtime import provenance
from scmap_cli.runtime.logs import log
from scmap_cli.stages.evaluate_imputation import open_imputed
from scmap_cli.stages.inputs import load_rna
from scmap_cli.stages.scores import render
from scmap_cli.training.asked import impute_entries
from scmap_cli.training.device import memory_errors, resolve_device
from scmap_cli.training.infer import restore_model

BASELINES = ("gene-mean", "additive", "magic")
USUAL = BASELINES[:2]
_NEIGHBOURS, _COMPONENTS = 15, 50


@dataclass(frozen=True)
class _Hidden:
    """The test data: counts (n, g) over the genes that are scored, their names, and what is hidden of them."""

    counts: sparse.csr_matrix
    cells: pd.Index
    genes: pd.Index
    split: Withheld

    @property
    def observed(self) -> sparse.csr_matrix:
        """The counts that are left."""
        keep_m = ~self.split.hidden_m
        edges = np.concatenate([[0], np.cumsum(keep_m)])[self.counts.indptr]
        return sparse.csr_matrix(
            (self.counts.data[keep_m], self.counts.indices[keep_m], edges), shape=self.counts.shape
        )

    def withheld(self, data: np.ndarray | None = None) -> sparse.csr_matrix:
        """A stored entry for each hidden one: its number among all, from 1, or ``data`` of them all."""
        hidden_m = self.split.hidden_m
        values = np.arange(1, self.counts.nnz + 1) if data is None else data
        edges = np.concatenate([[0], np.cumsum(hidden_m)])[self.counts.indptr]
        return sparse.csr_matrix((values[hidden_m], self.counts.indices[hidden_m], edges), shape=self.counts.shape)


def evaluate_withheld(
    inputs: Sequence[Path | str] = (),
    output: Path | str = "-",
    *,
    raw: Path | str,
    withhold_share: float,
    features: Path | None = None,
    fit_on: Path | None = None,
    baselines: Sequence[str] = (),
    observed_output: Path | None = None,
    genes_output: Path | None = None,
    layer: str | None = None,
    batch_size: int = 64,
    seed: int = 0,
    device: str = "auto",
    force: bool = False,
    dry_run: bool = False,
) -> dict[str, Any]:
    """Hide a share of the expressed entries and score how well they are predicted, see :mod:`..metrics.withheld`.

    Parameters
    ----------
    inputs
        Model directories, which are run here on what is left; or h5ad or npz files of values (log1p CP10k) that a
        method has made of ``observed_output`` of the same call.
    output
        JSON file; ``-`` writes none.
    raw
        Counts of the test cells.
    withhold_share
        Share of each cell's expressed entries that is hidden.
    features
        Genes that are scored: names, one a line, or a model directory. By default those that the raw data and all model
        directories have.
    fit_on
        Counts of other cells, by which the baselines learn their gene effects (zero-shot); by default they learn from
        what is left of the test cells themselves.
    baselines
        Of :data:`BASELINES`; by default the gene's mean and the additive model.
    observed_output
        Also write what is left, for other methods: h5ad of counts, with the hidden entries marked in a layer.
    genes_output
        Also write entries, MAE and Pearson of every gene as TSV.
    layer, batch_size, seed, device, force, dry_run
        As elsewhere.

    Returns
    -------
    dict
        ``settings`` and one entry a method in ``results``.

    Raises
    ------
    UsageError, InputError
        With exit codes 2 and 3.
    """
    raw = Path(raw)
    paths = [Path(path) for path in inputs]
    baselines = tuple(baselines) or USUAL
    strange = [name for name in baselines if name not in BASELINES]
    if strange:
        raise UsageError(f"unknown baseline {strange[0]!r}", f"choose of {', '.join(BASELINES)}")
    if not 0 < withhold_share < 1:
        raise UsageError(f"--withhold {withhold_share} is not in (0, 1)")
    if fit_on is not None and "magic" in baselines:
        raise UsageError("magic learns from the test cells alone", "leave it out with --fit-on")
    if batch_size < 1:
        raise UsageError(f"--batch-size {batch_size} must be at least 1")
    to_file = text_file(output)
    check_outputs(to_file, observed_output, genes_output, force=force)
    settings: dict[str, Any] = {
        "withheld": withhold_share,
        "unit": "log1p of counts per 10,000 observed counts",
        "within_gene_pearson": "mean over the 300 genes with most withheld entries",
        "baselines_fitted_on": "observed entries of the test cells" if fit_on is None else Path(fit_on).name,
        "seed": seed,
    }
    read = [raw, *paths, *(path for path in (features, fit_on) if path is not None)]
    with (
        provenance.run(
            "evaluate imputation",
            inputs=read,
            output=None if dry_run else to_file,
            parameters=settings | {"baselines": list(baselines), "layer": layer},
            seed=seed,
        ) as run,
        memory_errors("--batch-size"),
    ):
        test = _hide(raw, paths, features, fit_on, layer, withhold_share, seed)
        hidden_m = test.split.hidden_m
        settings |= {"cells": len(test.cells), "genes": len(test.genes), "entries": int(hidden_m.sum())}
        log.info("%d of %d entries withheld, %d cells x %d genes", hidden_m.sum(), len(hidden_m), *test.counts.shape)
        result: dict[str, Any] = {"what": "imputation", "settings": settings, "results": []}
        if dry_run:
            return result
        truth_q, gene_q = test.split.value_m[hidden_m], test.split.gene_m[hidden_m]
        tables: dict[str, np.ndarray] = {}
        methods: list[tuple[str, Callable[[], np.ndarray]]] = [
            *((name, lambda name=name: _baseline(name, test, fit_on, layer, seed)) for name in baselines),
            *((path.name, lambda path=path: _of_input(path, test, device, batch_size)) for path in paths),
        ]
        for name, predict in methods:
            predicted_q = predict()
            entry = {"method": name, **scores(predicted_q, truth_q, gene_q)}
            log.info(
                "%s: MAE %.4f, Pearson %.4f, within genes %.4f",
                name, entry["mae"], entry["pearson"], entry["within_gene_pearson"],
            )  # fmt: skip
            result["results"].append(entry)
            tables[name] = predicted_q
        result["history"] = [run.record]
        if observed_output is not None:
            _write_observed(test, observed_output, run, force)
        if genes_output is not None:
            _write_genes(test, tables, truth_q, gene_q, genes_output, force)
        if to_file is not None:
            write_text(to_file, render(result), force)
    return result


def _hide(
    raw: Path,
    paths: Sequence[Path],
    features: Path | None,
    fit_on: Path | None,
    layer: str | None,
    share: float,
    seed: int,
) -> _Hidden:
    data = load_rna(raw, layer)
    lists = [read_features(path)[0] for path in paths if is_bundle(path)]
    if features is not None:
        lists.append(read_features(features)[0] if features.is_dir() else np.array(read_names(features), dtype=str))
    if fit_on is not None:
        lists.append(load_rna(fit_on, layer).genes)
    common = np.ones(len(data.genes), dtype=bool)
    for names in lists:
        index = align(names, data.genes).index
        common &= index >= 0
    if common.sum() < 2:
        raise InputError(f"{raw} and the inputs have {int(common.sum())} genes in common", "name genes alike")
    counts = data.counts[:, np.flatnonzero(common)].tocsr()
    counts.sort_indices()
    split = withhold(counts, share, seed)
    if not split.hidden_m.any():
        raise InputError(f"no entry of {raw} could be withheld", "give more cells, or a larger --withhold")
    return _Hidden(counts, pd.Index(data.cells), pd.Index(data.genes[common]), split)


def _baseline(name: str, test: _Hidden, fit_on: Path | None, layer: str | None, seed: int) -> np.ndarray:
    split, hidden_m = test.split, test.split.hidden_m
    known_m = ~hidden_m
    value_m, cell_m, gene_m = split.value_m[known_m], split.cell_m[known_m], split.gene_m[known_m]
    cell_q, gene_q = split.cell_m[hidden_m], split.gene_m[hidden_m]
    n, g = split.shape
    if name == "magic":
        return _magic(test, cell_q, gene_q, seed)
    if fit_on is not None:
        other = load_rna(fit_on, layer)
        counts = apply(other.counts, align(other.genes, test.genes.to_numpy().astype(str)))
        fit_value_m = log1p_cp10k(counts).data.astype(np.float64)
        fit_cell_m = np.repeat(np.arange(counts.shape[0]), np.diff(counts.indptr))
        fitted = (fit_value_m, fit_cell_m, counts.indices.astype(np.int64), (counts.shape[0], g))
    else:
        fitted = (value_m, cell_m, gene_m, (n, g))
    if name == "gene-mean":
        return np.asarray(gene_means(fitted[0], fitted[2], g)[gene_q])
    _, gene_g = additive_fit(*fitted)
    cell_n = cell_effects(value_m, cell_m, gene_m, gene_g, n)
    return np.asarray(cell_n[cell_q] + gene_g[gene_q])


def _magic(test: _Hidden, cell_q: np.ndarray, gene_q: np.ndarray, seed: int) -> np.ndarray:
    """Smoothed log1p CP10k; zeros count as values, which is how the method is meant."""
    observed = test.observed
    components = min(_COMPONENTS, min(observed.shape) - 1)
    indices, distances = knn(pca(observed, components, seed=seed), _NEIGHBOURS, seed)
    found_q = np.zeros(len(cell_q))
    for columns, block in diffuse(log1p_cp10k(observed), indices, distances):
        inside = (gene_q >= columns.start) & (gene_q < columns.stop)
        found_q[inside] = block[cell_q[inside], gene_q[inside] - columns.start]
    return found_q


def _of_input(path: Path, test: _Hidden, device: str, batch_size: int) -> np.ndarray:
    """(q,) predictions for the withheld entries, in their order."""
    wanted = test.withheld()
    if is_bundle(path):
        bundle = load_bundle(path)
        kind = get_model(bundle.config["model"])
        if bundle.config["model"] != "expresser":
            raise UsageError(f"{path} holds a model of type {bundle.config['model']}, which gives no withheld values")
        where = resolve_device(device)
        model = restore_model(kind.load(), bundle.config, bundle.tensors, where)
        alignment = align(test.genes.to_numpy().astype(str), bundle.features)
        asked = apply(wanted, alignment)
        predicted = impute_entries(model, apply(test.observed, alignment), asked, where, batch_size)
        found_m = np.zeros(test.counts.nnz)
        found_m[asked.data - 1] = predicted.data
        return found_m[test.split.hidden_m]
    one = open_imputed(path, test.cells, test.genes, "genes")
    cell_n, gene_g = pd.Index(one.cells).get_indexer(test.cells), pd.Index(one.features).get_indexer(test.genes)
    if (cell_n < 0).any() or (gene_g < 0).any():
        missing = int((cell_n < 0).sum()), int((gene_g < 0).sum())
        raise InputError(f"{path} lacks {missing[0]} cells and {missing[1]} genes that are scored", "see --features")
    hidden_m = test.split.hidden_m
    row_q, column_q = cell_n[test.split.cell_m[hidden_m]], gene_g[test.split.gene_m[hidden_m]]
    found_q, start = np.zeros(len(row_q)), 0
    for block in one.blocks():
        inside = (row_q >= start) & (row_q < start + len(block))
        found_q[inside] = block[row_q[inside] - start, column_q[inside]]
        start += len(block)
    return found_q


def _write_observed(test: _Hidden, path: Path, run: provenance.Run, force: bool) -> None:
    marked = test.withheld(np.ones(test.counts.nnz, dtype=np.int8))
    frame = AnnData(
        test.observed,
        obs=pd.DataFrame(index=test.cells.astype(object)),
        var=pd.DataFrame(index=test.genes.astype(object)),
        layers={WITHHELD_LAYER: marked},
    )
    run.stamp(frame.uns)
    write_h5ad(frame, path, force=force)


def _write_genes(
    test: _Hidden, tables: dict[str, np.ndarray], truth_q: np.ndarray, gene_q: np.ndarray, path: Path, force: bool
) -> None:
    columns: dict[str, Any] = {"gene": test.genes.to_numpy().astype(str)}
    for name, predicted_q in tables.items():
        count_g, mae_g, pearson_g = by_gene(predicted_q, truth_q, gene_q, len(test.genes))
        columns |= {"entries": count_g, f"mae_{name}": mae_g, f"pearson_{name}": pearson_g}
    table = pd.DataFrame(columns)
    with atomic_file(path, force) as tmp:
        table[table["entries"] > 0].to_csv(tmp, sep="\t", index=False, float_format="%.5g")
