"""``preprocess multiome``: RNA and ATAC paired by cell name, with further ATAC-only sets, as one h5ad for SAILERX.

The file is one of ATAC cells x peaks, so that all that reads ATAC reads it; what the RNA gives stands beside it:

* ``X``: counts of peaks, sorted by chromosome and start; chromosomes without an open peak are not there.
* ``obsm["X_rna"]``: the reference embedding, float32, NaN in all of the row of a cell without RNA; what tells it from
  one made anew is in ``uns["scmap_reference"]``.
* ``obs["has_rna"]``, ``obs["rna_depth"]`` (RNA counts, NaN without), ``obs["atac_depth"]`` (counts in all peaks read).

An output named ``.h5mu`` is a MuData file for other tools: this as the modality ``atac``, and beside it ``rna`` with
the counts of the cells that have RNA.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
from anndata.utils import make_index_unique
from scipy import sparse

from scmap_cli.data.decomposition import scaled_pca
from scmap_cli.data.hvg import highly_variable_genes
from scmap_cli.data.matrices import cell_totals, find_counts
from scmap_cli.data.merge import stack_by_column
from scmap_cli.data.peak_sets import chosen_chroms
from scmap_cli.errors import InputError, UsageError
from scmap_cli.io.atomic import check_outputs
from scmap_cli.io.columns import text_series
from scmap_cli.io.h5ad import check_names, write_h5ad
from scmap_cli.io.h5mu import write_h5mu
from scmap_cli.keys import ATAC_DEPTH, HAS_RNA, ORIGIN_SET, REFERENCE, REFERENCE_ID, RNA_DEPTH
from scmap_cli.plots.canvas import publish
from scmap_cli.plots.qc import cell_quality
from scmap_cli.runtime import provenance
from scmap_cli.runtime.logs import log
from scmap_cli.stages.inputs import sample_names
from scmap_cli.stages.multiome import embedding
from scmap_cli.stages.multiome_inputs import AtacSet, atac_set, common_peaks, read_pair, read_peaks

_ENDINGS = r"(\.(h5mu|h5ad|h5|hdf5|mtx|gz))+$"


def preprocess_multiome(
    output: Path | str,
    *,
    input: Path | str | None = None,
    rna: Path | str | None = None,
    atac: Path | str | None = None,
    atac_only: Sequence[Path | str] = (),
    sample: Sequence[str] | None = None,
    batch_key: str = "batch",
    reference_key: str | None = None,
    components: int = 50,
    hvg: int = 2000,
    keep_chrom: Sequence[str] | None = None,
    drop_chrom: Sequence[str] | None = None,
    min_cells: int = 1,
    paired_only: bool = False,
    plot: Path | None = None,
    seed: int = 0,
    force: bool = False,
    dry_run: bool = False,
) -> dict[str, Any]:
    """Pair RNA and ATAC and write one file; see the module for its layout.

    Parameters
    ----------
    output
        The h5ad to write, or an ``.h5mu`` of both modalities.
    input
        One file of both: 10x ``.h5`` or matrix folder, h5ad with ``feature_types``, or ``.h5mu``.
    rna, atac
        Instead of ``input``, counts of genes and counts of peaks; cells are paired by name.
    atac_only
        Further counts of the same peaks, of cells without RNA. Peaks are matched by position.
    sample
        A name for each set: the first for the paired one, then those of ``atac_only``; by default the file names.
    batch_key
        ``obs`` column of the batches. With several sets, one that lacks it gets its own name as the batch.
    reference_key
        ``obsm`` key of the RNA with the reference embedding; by default principal components are made here.
    components, hvg
        Principal components, and the most variable genes they are made from (all if there are no more).
    keep_chrom, drop_chrom
        Shell patterns of chromosomes to keep or to drop.
    min_cells
        Peaks kept: open in at least so many of the cells kept.
    paired_only
        Drop cells of the paired ATAC that have no RNA, instead of keeping them as ATAC-only.
    plot
        Draw the depths of the cells, by batch.
    seed
        Kept in the record; nothing here is random.
    force, dry_run
        Replace an existing output; check the inputs and options and write nothing.

    Returns
    -------
    dict
        JSON values: what was read, paired, dropped and written.

    Raises
    ------
    UsageError, OutputExistsError, InputError, WriteError
        With exit codes 2, 2, 3 and 6.
    """
    whole, genes, peaks = (None if path is None else Path(path) for path in (input, rna, atac))
    others = [Path(path) for path in atac_only]
    _check_options(whole, genes, peaks, components, hvg, min_cells, batch_key)
    paired = peaks if whole is None else whole
    assert paired is not None
    names = sample_names([paired, *others], sample, _ENDINGS)
    check_outputs(output, figures=[plot], force=force)
    parameters = {
        "sample": names if others or sample is not None else None,
        "batch_key": batch_key,
        "reference_key": reference_key,
        "components": components if reference_key is None else None,
        "hvg": hvg if reference_key is None else None,
        "keep_chrom": list(keep_chrom or []),
        "drop_chrom": list(drop_chrom or []),
        "min_cells": min_cells,
        "paired_only": paired_only,
    }
    read = [path for path in (whole, genes, peaks, *others) if path is not None]
    with provenance.run(
        "preprocess multiome", inputs=read, output=None if dry_run else output, parameters=parameters, seed=seed
    ) as run:
        rna_part, atac_part, rna_path, atac_path = read_pair(whole, genes, peaks)
        sets = [atac_set(atac_part, atac_path, names[0])]
        sets += [atac_set(read_peaks(path), path, name) for path, name in zip(others, names[1:], strict=True)]
        row_n, pairing = _pair(sets[0], rna_part, rna_path, paired_only)
        _take_batches(sets[0], row_n, rna_part, batch_key)
        if others or sample is not None:
            _name_batches(sets, batch_key)
        made = _stack(sets, keep_chrom, drop_chrom)
        row_n = np.concatenate([row_n, np.full(made.n_obs - len(row_n), -1)])
        made, row_n, dropped = _filter(made, row_n, min_cells)
        reference = _add_rna(made, row_n, rna_part, rna_path, reference_key, components, hvg)
        chroms = made.var["chrom"].drop_duplicates().tolist()
        if len(chroms) == 1:
            log.warning("all peaks lie on one chromosome, %s", chroms[0])
        has = made.obs[HAS_RNA].to_numpy()
        summary: dict[str, Any] = {
            "output": str(output),
            **pairing,
            **dropped,
            "cells": made.n_obs,
            "with_rna": int(has.sum()),
            "without_rna": int((~has).sum()),
            "peaks": made.n_vars,
            "chromosomes": chroms,
            "reference": reference,
        }
        if not dry_run:
            run.stamp(made.uns)
            if Path(output).suffix == ".h5mu":
                write_h5mu({"rna": _rna_part(made, row_n, rna_part), "atac": made}, output, force=force)
            else:
                write_h5ad(made, output, force=force)
            if plot is not None:
                publish(plot, force, "the depths", cell_quality, made.obs, batch_key)
            log.info(
                "%s: %d cells x %d peaks on %d chromosomes, %d cells with RNA (%s), %d without",
                output, made.n_obs, made.n_vars, len(chroms), summary["with_rna"], reference, summary["without_rna"],
            )  # fmt: skip
    return summary


def _check_options(
    input: Path | None, rna: Path | None, atac: Path | None, components: int, hvg: int, min_cells: int, batch_key: str
) -> None:
    if (input is None) == (rna is None and atac is None):
        raise UsageError("give one file of both, or two by --rna and --atac", "see `scmap preprocess multiome -h`")
    if input is None and (rna is None or atac is None):
        raise UsageError(f"--{'atac' if rna is None else 'rna'} needs --{'rna' if rna is None else 'atac'}")
    for name, value in (("components", components), ("hvg", hvg)):
        if value < 1:
            raise UsageError(f"--{name} must be at least 1, not {value}")
    if min_cells < 0:
        raise UsageError(f"--min-cells must not be negative, but is {min_cells}")
    if not batch_key:
        raise UsageError("--batch-key is empty")


def _pair(one: AtacSet, rna: anndata.AnnData, path: Path, paired_only: bool) -> tuple[np.ndarray, dict[str, Any]]:
    """The row of the RNA of each cell kept of the paired set, -1 without; the set itself loses cells if asked to."""
    names = pd.Index(rna.obs_names.astype(str))
    check_names(names, "cell", path)
    row_n = names.get_indexer(one.obs.index)
    paired = row_n >= 0
    if not paired.any():
        raise InputError(
            f"no cell of {path} is in {one.name}: names look like {names[0]!r} and {one.obs.index[0]!r}",
            "name the cells alike in both; a prefix of the sample or a suffix such as -1 may be missing on one side",
        )
    alone = int((~paired).sum())
    log.info(
        "%d cells have RNA and ATAC; %d have RNA alone and are dropped; %d have ATAC alone and are %s",
        paired.sum(), len(names) - paired.sum(), alone, "dropped" if paired_only else "kept",
    )  # fmt: skip
    if paired_only and alone:
        one.counts, one.obs, row_n = one.counts[paired], one.obs[paired], row_n[paired]
    told = {"paired": int(paired.sum()), "rna_alone": int(len(names) - paired.sum()), "atac_alone": alone}
    return row_n, told


def _take_batches(one: AtacSet, row_n: np.ndarray, rna: anndata.AnnData, batch_key: str) -> None:
    """Give the paired set the batches that only the RNA tells."""
    if batch_key in one.obs or batch_key not in rna.obs:
        return
    told = rna.obs[batch_key].iloc[row_n[row_n >= 0]].set_axis(one.obs.index[row_n >= 0])
    # Text, as numbers would become fractions beside gaps.
    one.obs[batch_key] = text_series(told).reindex(one.obs.index)
    log.info("%s: the column %r is that of the RNA, as the ATAC has none", one.name, batch_key)


def _name_batches(sets: Sequence[AtacSet], batch_key: str) -> None:
    """Call the batch of cells that have none by the name of their set."""
    for one in sets:
        if batch_key not in one.obs:
            one.obs[batch_key] = one.name
            continue
        unnamed = one.obs[batch_key].isna()
        if unnamed.any():
            log.info("%s: %d cells have no %s and get %r", one.name, unnamed.sum(), batch_key, one.name)
            one.obs[batch_key] = one.obs[batch_key].astype(object).mask(unnamed, one.name)


def _stack(
    sets: Sequence[AtacSet], keep_chrom: Sequence[str] | None, drop_chrom: Sequence[str] | None
) -> anndata.AnnData:
    """All cells x the peaks of all sets, sorted; ``obs`` has the columns of any set."""
    first = sets[0]
    order, chroms, _ = first.places.by_chromosome()
    if (np.diff(order) < 0).any():
        log.info("%s: peaks are sorted by chromosome and start", first.name)
    kept_p = chosen_chroms(pd.Series(first.places.chrom), keep_chrom, drop_chrom)
    if not kept_p.all():
        log.info("%d of %d peaks dropped by their chromosome", (~kept_p).sum(), len(kept_p))
    if not kept_p.any():
        raise InputError("--keep-chrom and --drop-chrom leave no peak", f"chromosomes: {', '.join(chroms[:8])}")
    columns = common_peaks(sets, order[kept_p[order]].tolist())
    depth_n = np.concatenate([cell_totals(one.counts) for one in sets])
    targets = []
    for one, column in zip(sets, columns, strict=True):
        target = np.full(len(one.var), -1)
        target[column] = np.arange(len(column))
        targets.append(target)
    counts = stack_by_column([one.counts for one in sets], targets, len(columns[0])).astype(np.int32)
    where = columns[0]
    var = first.var.iloc[where].drop(columns=["chrom", "start", "end", "n_cells"], errors="ignore")
    for name, values in (("chrom", first.places.chrom), ("start", first.places.start), ("end", first.places.end)):
        var[name] = values[where]
    obs = _stacked_obs(sets)
    obs[ATAC_DEPTH] = depth_n
    return anndata.AnnData(counts, obs=obs, var=var)


def _stacked_obs(sets: Sequence[AtacSet]) -> pd.DataFrame:
    if len(sets) == 1:
        return sets[0].obs.copy()
    tables = []
    for one in sets:
        text = {
            str(name): c.astype(object) for name, c in one.obs.items() if not pd.api.types.is_numeric_dtype(c.dtype)
        }
        tables.append(one.obs.assign(**text))
    obs = pd.concat(tables)
    label_n = np.repeat([one.name for one in sets], [len(one.obs) for one in sets])
    repeated = obs.index.duplicated(keep=False)
    if repeated.any():
        log.info("%d cell names occur in several sets: their set's name was added", int(repeated.sum()))
    obs.index = pd.Index(np.where(repeated, obs.index.astype(str) + "-" + label_n, obs.index), dtype=object)
    check_names(obs.index, "cell", "the stacked sets")
    obs[ORIGIN_SET] = pd.Categorical(label_n, categories=[one.name for one in sets])
    return obs


def _filter(
    made: anndata.AnnData, row_n: np.ndarray, min_cells: int
) -> tuple[anndata.AnnData, np.ndarray, dict[str, Any]]:
    """Drop peaks that too few cells have open, then cells without an open peak."""
    open_p = np.bincount(made.X.indices, minlength=made.n_vars)
    made.var["n_cells"] = open_p.astype(np.int32)
    kept_p = open_p >= max(min_cells, 1)
    if not kept_p.any():
        raise InputError(f"--min-cells {min_cells} leaves none of {made.n_vars} peaks", "choose another --min-cells")
    before = made.var["chrom"].nunique()
    kept_n = np.diff(made.X[:, kept_p].indptr) > 0
    dropped = {
        "peaks_dropped": int((~kept_p).sum()),
        "chromosomes_dropped": int(before - made.var["chrom"][kept_p].nunique()),
        "cells_without_open_peaks": int((~kept_n).sum()),
    }
    if not kept_p.all():
        log.info(
            "%d of %d peaks are open in fewer than %d cells and dropped, and with them %d chromosomes",
            dropped["peaks_dropped"], len(kept_p), max(min_cells, 1), dropped["chromosomes_dropped"],
        )  # fmt: skip
    if not kept_n.all():
        log.warning("%d cells have no open peak and are dropped", dropped["cells_without_open_peaks"])
    if not (kept_p.all() and kept_n.all()):
        made = made[kept_n][:, kept_p].copy()
    return made, row_n[kept_n], dropped


def _add_rna(
    made: anndata.AnnData,
    row_n: np.ndarray,
    rna: anndata.AnnData,
    path: Path,
    key: str | None,
    components: int,
    hvg: int,
) -> str:
    """Add what the RNA gives to the cells that have it, and tell what the reference is."""
    paired_n = np.flatnonzero(row_n >= 0)
    counts = find_counts(rna).matrix[row_n[paired_n]]
    totals = cell_totals(counts)
    if (totals == 0).any():
        log.warning("%d cells have no RNA count and are taken as ATAC-only", int((totals == 0).sum()))
        paired_n, counts, totals = paired_n[totals > 0], counts[totals > 0], totals[totals > 0]
    if not len(paired_n):
        raise InputError(f"no paired cell of {path} has an RNA count", "look at the RNA")
    if key is None:
        told, emb_nr = _principal_components(counts, components, hvg)
    else:
        told, emb_nr = f"obsm {key!r}", embedding(rna, key, path)[row_n[paired_n]]
        bad = ~np.isfinite(emb_nr).all(1)
        if bad.any():
            raise InputError(
                f"obsm {key!r} of {path} has {int(bad.sum())} rows with NaN or infinite values among the paired cells, "
                f"first {made.obs_names[paired_n[int(np.argmax(bad))]]!r}",
                "leave these cells out of the RNA file, and they are ATAC-only",
            )
    reference = np.full((made.n_obs, emb_nr.shape[1]), np.nan, dtype=np.float32)
    reference[paired_n] = emb_nr
    depth_n = np.full(made.n_obs, np.nan)
    depth_n[paired_n] = totals
    made.obsm[REFERENCE] = reference
    made.uns[REFERENCE_ID] = "sha256:" + hashlib.sha256(reference.tobytes()).hexdigest()
    made.obs[HAS_RNA] = np.isin(np.arange(made.n_obs), paired_n)
    made.obs[RNA_DEPTH] = depth_n
    for name in rna.obs.columns:
        if name not in made.obs:
            column = rna.obs[name].iloc[row_n[paired_n]].set_axis(made.obs_names[paired_n])
            made.obs[name] = column.reindex(made.obs_names)
    return told


def _rna_part(made: anndata.AnnData, row_n: np.ndarray, rna: anndata.AnnData) -> anndata.AnnData:
    """RNA of the cells that have it: counts, the cells' own columns, and the reference."""
    has_n = made.obs[HAS_RNA].to_numpy()
    found = find_counts(rna)
    obs = rna.obs.iloc[row_n[has_n]].set_axis(made.obs_names[has_n])
    var = found.var.set_axis(make_index_unique(pd.Index(found.var_names)))
    return anndata.AnnData(
        found.matrix[row_n[has_n]], obs=obs, var=var, obsm={REFERENCE: np.asarray(made.obsm[REFERENCE])[has_n]}
    )


def _principal_components(counts: sparse.csr_matrix, components: int, hvg: int) -> tuple[str, np.ndarray]:
    genes = counts.shape[1]
    if hvg < genes:
        counts = counts[:, highly_variable_genes(counts, hvg, flavor="seurat_v3")["highly_variable"].to_numpy()]
    return f"{components} principal components of {counts.shape[1]} genes", scaled_pca(counts, components)
