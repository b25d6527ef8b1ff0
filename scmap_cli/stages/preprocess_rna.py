"""``preprocess rna``: raw counts in any form to one h5ad with QC numbers, filters and highly variable genes.

The order is that of the expiMap paper (Lotfollahi et al. 2023, doi:10.1038/s41556-022-01072-x, Methods): merge, QC,
cell and gene filters, genes in no program dropped, then variable genes by batch. Counts stay in ``X``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import anndata
import numpy as np
import pandas as pd
import scipy.sparse as sp

from scmap_cli.data.hvg import FLAVORS, Flavor, highly_variable_genes
from scmap_cli.data.matrices import find_counts, log1p_cp10k
from scmap_cli.data.merge import Sample, batch_categories, merge_samples
from scmap_cli.data.qc import cell_metrics, gene_metrics
from scmap_cli.errors import InputError, UsageError
from scmap_cli.io.atomic import check_outputs
from scmap_cli.io.h5ad import write_h5ad
from scmap_cli.io.programs import Programs, load_programs
from scmap_cli.io.rna import name_genes, read_rna, rna_form, unique_names
from scmap_cli.io.text import read_names
from scmap_cli.keys import HISTORY, LOG1P_LAYER
from scmap_cli.plots.canvas import publish
from scmap_cli.plots.qc import cell_quality as draw_quality
from scmap_cli.runtime import provenance
from scmap_cli.runtime.logs import log
from scmap_cli.stages.gene_filter import LOG_BASES, check_gene_filter, filter_by_class, named_cells
from scmap_cli.stages.inputs import sample_names

Join = Literal["inner", "outer"]


def _check_options(
    join: str, hvg: int | None, hvg_flavor: str, hvg_batch_key: str | None, batch_key: str, limits: dict[str, Any]
) -> None:
    if join not in get_args(Join):
        raise UsageError(f"--gene-join must be inner or outer, not {join!r}")
    if hvg_flavor not in FLAVORS:
        raise UsageError(f"--hvg-flavor must be one of {', '.join(FLAVORS)}, not {hvg_flavor!r}")
    if hvg is not None and hvg < 1:
        raise UsageError(f"--hvg must be at least 1, not {hvg}")
    if hvg is None and hvg_batch_key is not None:
        raise UsageError("--hvg-batch-key says nothing without --hvg", "give the number of genes with --hvg")
    if not batch_key:
        raise UsageError("--batch-key is empty")
    for name, value in limits.items():
        if value is not None and not value >= 0:
            raise UsageError(f"--{name} must not be negative, but is {value}")
    if limits["max-mito"] is not None and limits["max-mito"] > 100:
        raise UsageError(f"--max-mito is a percentage, not {limits['max-mito']}")


def _load(
    path: Path, name: str, layer: str | None, gene_column: str | None, make_unique: bool, transpose: bool
) -> tuple[Sample, dict[str, Any], str | None]:
    """One input as counts with checked names, a report, and its history."""
    log.info("reading %s", path)
    adata = read_rna(path, transpose=transpose, check=False)
    counts = find_counts(adata, layer)
    var = name_genes(counts.var, path, column=gene_column, unique=make_unique)
    obs = adata.obs.copy(deep=False)
    obs.index = unique_names(obs.index, "cell", path, make_unique)
    history = adata.uns.get(HISTORY)
    n, g = counts.matrix.shape
    report = {"name": name, "counts_from": counts.source, "cells": n, "genes": g, "empty_cells": counts.empty_cells}
    return Sample(name, counts.matrix, obs, var), report, None if history is None else str(history)


def _with_columns(table: pd.DataFrame, columns: pd.DataFrame) -> pd.DataFrame:
    """The table with columns of the same row order; equal names are replaced."""
    kept = table.drop(columns=[name for name in columns if name in table])
    return pd.concat([kept, columns.set_axis(table.index)], axis=1)


def _subset(one: Sample, cells: np.ndarray | None = None, genes: np.ndarray | None = None) -> None:
    """Keep the cells and genes of the masks; nothing is copied when a mask keeps all."""
    if cells is not None and not cells.all():
        one.matrix, one.obs = one.matrix[cells], one.obs[cells]
    if genes is not None and not genes.all():
        one.matrix, one.var = one.matrix[:, genes], one.var[genes]


def _mitochondrial(var: pd.DataFrame, prefix: Sequence[str]) -> np.ndarray:
    """(g,) bool, which genes' names begin so."""
    return np.asarray(var.index.str.startswith(tuple(prefix))) if prefix else np.zeros(len(var), dtype=bool)


def _learning(one: Sample, names: set[str] | None) -> np.ndarray:
    """(n,) bool, which cells genes are chosen by: those named, or all."""
    return np.ones(len(one.obs), dtype=bool) if names is None else np.asarray(one.obs.index.isin(names))


def _filter(
    one: Sample, min_genes: int, min_counts: float, max_mito: float | None, min_cells: int, learn: set[str] | None
) -> list[dict[str, Any]]:
    """Filter cells, then genes by the cells to ``learn`` by that are left; every step is told with its numbers."""
    steps: list[dict[str, Any]] = []

    def step(option: str, value: float, kept: np.ndarray, axis: str) -> None:
        before, after = len(kept), int(kept.sum())
        steps.append({"filter": option, "value": value, "axis": axis, "before": before, "after": after})
        log.info("--%s %g: %d of %d %s kept", option, value, after, before, axis)
        if after == 0:
            raise InputError(f"--{option} {value:g} leaves none of {before} {axis}", f"choose another --{option}")
        if axis == "cells":
            _subset(one, cells=kept)
        else:
            _subset(one, genes=kept)

    if min_genes > 0:
        step("min-genes", min_genes, (one.obs["n_genes_by_counts"] >= min_genes).to_numpy(), "cells")
    if min_counts > 0:
        step("min-counts", min_counts, (one.obs["total_counts"] >= min_counts).to_numpy(), "cells")
    if max_mito is not None:
        step("max-mito", max_mito, (one.obs["pct_counts_mt"] <= max_mito).to_numpy(), "cells")
    if min_cells > 0:
        chosen = _learning(one, learn)
        matrix = one.matrix if chosen.all() else one.matrix[chosen]
        found = np.bincount(matrix.indices, minlength=matrix.shape[1])
        step("min-cells", min_cells, found >= min_cells, "genes")
    return steps


def _restrict(one: Sample, programs: Programs, name: str) -> dict[str, Any]:
    """Drop the genes that are in no program."""
    inside = np.asarray(programs.genes)[programs.covered]
    kept = one.var.index.isin(inside)
    before, after = len(kept), int(kept.sum())
    if after == 0:
        raise InputError(
            f"none of the {len(inside)} genes of {name} is among the {before} genes of the data "
            f"(such as {inside[0] if len(inside) else 'none'} and {one.var.index[0]})",
            "make the programs for this data, or name its genes with --gene-column",
        )
    _subset(one, genes=np.asarray(kept))
    log.info("--programs: %d of %d genes are in a program and kept", after, before)
    return {"before": before, "after": after, "programs": len(programs.programs)}


def _hvg_batch(one: Sample, batch_key: str, hvg_batch_key: str | None) -> tuple[str | None, pd.Categorical | None]:
    """The column by which variable genes are found: the one asked for, else the batch column if there is one."""
    key = hvg_batch_key or (batch_key if batch_key in one.obs else None)
    if key is None:
        return None, None
    column = one.obs[key]
    batch = column.array if isinstance(column.dtype, pd.CategoricalDtype) else batch_categories(column, key)
    batch = pd.Categorical(batch).remove_unused_categories()
    return (key, batch) if len(batch.categories) > 1 else (None, None)


def _select(
    one: Sample,
    hvg: int,
    flavor: Flavor,
    key: str | None,
    batch: pd.Categorical | None,
    totals: np.ndarray,
    learn: np.ndarray,
) -> dict[str, Any]:
    """Keep the highly variable genes; their statistics go to the genes' table."""
    before = one.matrix.shape[1]
    if hvg > before:
        log.warning("--hvg %d: only %d genes are left, all are kept", hvg, before)
    if hvg >= before:
        one.var = _with_columns(one.var, pd.DataFrame({"highly_variable": np.ones(before, dtype=bool)}))
        return {"flavor": flavor, "batch_key": key, "asked": hvg, "before": before, "after": before}
    matrix = one.matrix
    if not learn.all():
        matrix, totals = matrix[learn], totals[learn]
        batch = None if batch is None else batch[learn].remove_unused_categories()
    values = matrix if flavor == "seurat_v3" else log1p_cp10k(matrix, totals=totals)
    table = highly_variable_genes(values, hvg, flavor=flavor, batch=batch)
    one.var = _with_columns(one.var, table)
    _subset(one, genes=table["highly_variable"].to_numpy())
    after = one.matrix.shape[1]
    log.info("--hvg %d (%s, %s): %d of %d genes kept", hvg, flavor, f"by {key}" if key else "no batches", after, before)
    return {"flavor": flavor, "batch_key": key, "asked": hvg, "before": before, "after": after}


def preprocess_rna(
    inputs: Sequence[Path | str],
    output: Path | str,
    *,
    layer: str | None = None,
    gene_column: str | None = None,
    make_unique: bool = False,
    transpose: bool = False,
    sample: Sequence[str] | None = None,
    batch_key: str = "batch",
    min_genes: int = 0,
    min_counts: float = 0,
    max_mito: float | None = None,
    min_cells: int = 0,
    normalize: bool = False,
    hvg: int | None = None,
    hvg_flavor: Flavor = "seurat_v3",
    hvg_batch_key: str | None = None,
    programs: Path | str | None = None,
    gene_filter: str | None = None,
    label_key: str | None = None,
    housekeeping: Path | str | None = None,
    train_cells: Path | str | None = None,
    log_base: str = "e",
    mito_prefix: Sequence[str] = ("MT-", "mt-"),
    join: Join = "inner",
    plot: Path | None = None,
    seed: int = 0,
    force: bool = False,
    dry_run: bool = False,
) -> dict[str, Any]:
    """Make one h5ad of raw counts from one or several inputs.

    Parameters
    ----------
    inputs
        h5ad, 10x ``.h5``, 10x matrix folders or text tables; several are merged by gene name.
    output
        The h5ad to write: ``X`` CSR float32 counts; ``obs`` with the inputs' columns, the batch and scanpy's QC columns
        (of all genes and cells read); ``var`` with gene ids, QC and variability; ``uns["scmap_history"]``.
    layer
        Where the counts are, see :func:`scmap_cli.data.matrices.find_counts`.
    gene_column, make_unique, transpose
        How genes and cells are named and text is read, see :func:`scmap_cli.io.rna.read_rna`.
    sample
        One name for each input; by default the file names without endings.
    batch_key
        Column written with the samples' names when there are several inputs or ``sample`` is given; with one input, a
        column that may be there already. Cells without a value form the batch ``unknown``.
    min_genes, min_counts, max_mito
        Cells kept: at least so many genes and counts, at most so many percent of mitochondrial counts (inclusive).
    min_cells
        Genes kept: found in at least so many of the cells kept (of ``train_cells``, where they are named).
    normalize
        Write log1p CP10k to ``layers["log1p"]``; a cell's total is over all genes read, as in ``total_counts``.
    hvg, hvg_flavor, hvg_batch_key
        Keep this many highly variable genes, found within each batch of the column (by default ``batch_key`` if it is
        there).
    gene_filter, label_key, housekeeping, train_cells
        ``markermap``: drop genes by :func:`scmap_cli.stages.gene_filter.filter_by_class`. ``train_cells`` names the
        cells that it, ``min_cells`` and ``hvg`` go by, one a line; by default all.
    log_base
        Of ``normalize``, a key of :data:`scmap_cli.stages.gene_filter.LOG_BASES`; other bases than e are also written
        to ``uns["log1p"]["base"]``, as scanpy expects.
    programs
        A ``programs.npz``: genes in none of its programs are dropped before variable genes are sought.
    mito_prefix
        How names of mitochondrial genes begin.
    join
        Genes of all inputs (``inner``), or of any with zeros where one lacks them (``outer``).
    plot
        Draw the quality of the cells kept, by batch.
    seed
        Kept in the record; nothing here is random.
    force, dry_run
        Replace an existing output; check the inputs and options and write nothing.

    Returns
    -------
    dict
        JSON values: what was read, merged, filtered, selected and written.

    Raises
    ------
    UsageError, OutputExistsError
        Options contradict each other, or the output exists.
    InputError
        An input is unfit, or nothing is left of it.
    WriteError
        The output cannot be written.
    """
    paths = [Path(path) for path in inputs]
    limits = {"min-genes": min_genes, "min-counts": min_counts, "max-mito": max_mito, "min-cells": min_cells}
    if not paths:
        raise UsageError("no input given")
    _check_options(join, hvg, hvg_flavor, hvg_batch_key, batch_key, limits)
    chosen = hvg is not None or min_cells > 0
    check_gene_filter(gene_filter, label_key, housekeeping, train_cells, normalize, log_base, chosen)
    names = sample_names(paths, sample, r"(\.(h5ad|h5|hdf5|tsv|csv|txt|tab|mtx|gz))+$")
    check_outputs(output, figures=[plot], force=force)
    forms = [rna_form(path) for path in paths]
    loaded_programs = None if programs is None else load_programs(programs)
    housekeeping_names = [] if housekeeping is None else read_names(housekeeping)
    parameters = {
        "layer": layer,
        "gene_column": gene_column,
        "make_unique": make_unique,
        "transpose": transpose,
        "sample": names if len(paths) > 1 or sample is not None else None,
        "batch_key": batch_key,
        **{name.replace("-", "_"): value for name, value in limits.items()},
        "normalize": normalize,
        "hvg": hvg,
        "hvg_flavor": hvg_flavor,
        "hvg_batch_key": hvg_batch_key,
        "programs": None if programs is None else Path(programs).name,
        "gene_filter": gene_filter,
        "label_key": label_key,
        "housekeeping": None if housekeeping is None else Path(housekeeping).name,
        "train_cells": None if train_cells is None else Path(train_cells).name,
        "log_base": log_base,
        "mito_prefix": list(mito_prefix),
        "join": join,
    }
    found = [
        {"path": str(path), "form": form, "sample": name} for path, form, name in zip(paths, forms, names, strict=True)
    ]
    if dry_run:
        log.info("would read %s and write %s", ", ".join(f"{f['path']} ({f['form']})" for f in found), output)
        return {"dry_run": True, "output": str(output), "inputs": found, "parameters": parameters}

    read = [*paths, *(Path(path) for path in (programs, housekeeping, train_cells) if path is not None)]
    with provenance.run("preprocess rna", inputs=read, output=output, parameters=parameters, seed=seed) as run:
        summary: dict[str, Any] = {"output": str(output), "inputs": []}
        samples: list[Sample] = []
        history: str | None = None
        for path, name in zip(paths, names, strict=True):
            one, report, history = _load(path, name, layer, gene_column, make_unique, transpose)
            samples.append(one)
            summary["inputs"].append(report)
        for one in samples:
            # Before they are merged, which may leave genes out: depth is of all genes that were read.
            one.obs = _with_columns(one.obs, cell_metrics(one.matrix, _mitochondrial(one.var, mito_prefix)))
        one = _unite(samples, join, batch_key, sample is not None, summary)
        samples.clear()
        if hvg_batch_key is not None and hvg_batch_key not in one.obs:
            columns = ", ".join(map(str, one.obs.columns)) or "none"
            raise InputError(f"there is no cell column {hvg_batch_key!r} (columns: {columns})", "see --hvg-batch-key")

        mito = _mitochondrial(one.var, mito_prefix)
        if max_mito is not None and not (mito.any() or (one.obs["total_counts_mt"] > 0).any()):
            raise InputError(
                f"--max-mito: no gene name begins with {' or '.join(mito_prefix)}",
                "name genes by symbol with --gene-column, or give --mito-prefix",
            )
        one.var = _with_columns(one.var, gene_metrics(one.matrix, mito))
        learn = None if train_cells is None else set(named_cells(one.obs, train_cells))
        summary["filters"] = _filter(one, min_genes, min_counts, max_mito, min_cells, learn)
        totals = one.obs["total_counts"].to_numpy(dtype=np.float64)
        if gene_filter is not None:
            kept, summary["gene_filter"] = filter_by_class(one, str(label_key), housekeeping_names, train_cells)
            _subset(one, genes=kept)
        if loaded_programs is not None:
            summary["programs"] = _restrict(one, loaded_programs, Path(str(programs)).name)
        if hvg is not None:
            key, batch = _hvg_batch(one, batch_key, hvg_batch_key)
            summary["hvg"] = _select(one, hvg, hvg_flavor, key, batch, totals, _learning(one, learn))

        empty = int(np.count_nonzero(np.diff(one.matrix.indptr) == 0))
        if empty:
            log.warning("%d cells have no counts in the genes kept (--min-genes drops cells)", empty)
        adata = _assemble(one, log1p_cp10k(one.matrix, totals=totals) if normalize else None)
        base = LOG_BASES[log_base]
        if base is not None:
            adata.layers[LOG1P_LAYER].data /= np.float32(np.log(base))
            adata.uns["log1p"] = {"base": base}
        if len(paths) == 1 and history is not None:
            adata.uns[HISTORY] = history
        run.stamp(adata.uns)
        summary |= {"cells": adata.n_obs, "genes": adata.n_vars, "empty_cells": empty}
        if batch_key in adata.obs:
            counts = adata.obs[batch_key].value_counts(sort=False)
            summary["batches"] = {str(name): int(count) for name, count in counts.items()}
        write_h5ad(adata, output, force=force)
        if plot is not None:
            publish(plot, force, "the quality of the cells", draw_quality, adata.obs, batch_key)
        log.info("%s: %d cells x %d genes", output, adata.n_obs, adata.n_vars)
    return summary


def _unite(samples: list[Sample], join: Join, batch_key: str, named: bool, summary: dict[str, Any]) -> Sample:
    """One sample of all, with its batch column in order."""
    if len(samples) > 1:
        one, summary["merge"] = merge_samples(samples, join=join, batch_key=batch_key)
        return one
    one = samples[0]
    if named:
        if batch_key in one.obs:
            raise InputError(f"{one.name} already has a cell column {batch_key!r}", "choose another --batch-key")
        one.obs[batch_key] = pd.Categorical([one.name] * len(one.obs))
    elif batch_key in one.obs:
        one.obs[batch_key] = batch_categories(one.obs[batch_key], batch_key)
    elif batch_key != "batch":
        columns = ", ".join(map(str, one.obs.columns)) or "none"
        raise InputError(
            f"there is no cell column {batch_key!r} (columns: {columns})",
            "write it with --sample NAME, or leave --batch-key out",
        )
    return one


def _assemble(one: Sample, log1p: sp.csr_matrix | None) -> anndata.AnnData:
    obs = one.obs.copy(deep=False)
    for name in obs.columns:
        if isinstance(obs[name].dtype, pd.CategoricalDtype):
            obs[name] = obs[name].cat.remove_unused_categories()
    return anndata.AnnData(X=one.matrix, obs=obs, var=one.var, layers={} if log1p is None else {LOG1P_LAYER: log1p})
