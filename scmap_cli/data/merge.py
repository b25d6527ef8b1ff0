"""Several samples as one: genes matched by name, cells named apart, a column that tells the sample."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
import scipy.sparse as sp

from scmap_cli.data.features import without_version
from scmap_cli.data.matrices import row_chunks, rows_per_block
from scmap_cli.errors import InputError
from scmap_cli.io.columns import UNKNOWN, column_text, text_series
from scmap_cli.runtime.logs import log


@dataclass
class Sample:
    """Counts of one input: (n, g) CSR float32, the cells' table and the genes' table, both with unique names."""

    name: str
    matrix: sp.csr_matrix
    obs: pd.DataFrame
    var: pd.DataFrame


def joined_genes(names: list[pd.Index], join: Literal["inner", "outer"]) -> pd.Index:
    """Genes of all inputs (inner) or of any (outer), in the order of first appearance."""
    genes = names[0]
    for other in names[1:]:
        genes = genes[genes.isin(other)] if join == "inner" else genes.append(other[~other.isin(genes)])
    return genes


def stack_by_column(parts: list[sp.csr_matrix], targets: list[np.ndarray], n_columns: int) -> sp.csr_matrix:
    """Stack matrices whose columns are renumbered; only the result and one block are held beside the parts.

    Parameters
    ----------
    parts
        CSR matrices, (n_i, g_i); the list is emptied on the way so that memory is given back early.
    targets
        For each part (g_i,) the column in the result, -1 to leave it out.
    n_columns
        Columns of the result.

    Returns
    -------
    csr_matrix
        (sum of n_i, n_columns) float32 with sorted indices.
    """
    kept = [
        sum(int(np.count_nonzero(target[block.indices] >= 0)) for _, block in row_chunks(part, rows_per_block(part)))
        for part, target in zip(parts, targets, strict=True)
    ]
    total, rows = sum(kept), sum(part.shape[0] for part in parts)
    kind = np.dtype(np.int32 if max(total, n_columns) < np.iinfo(np.int32).max else np.int64)
    data: np.ndarray = np.empty(total, dtype=np.float32)
    indices: np.ndarray = np.empty(total, dtype=kind)
    indptr: np.ndarray = np.zeros(rows + 1, dtype=kind)
    filled = row = 0
    for target in targets:
        part = parts.pop(0)
        for _, block in row_chunks(part, rows_per_block(part)):
            columns = target[block.indices]
            inside = columns >= 0
            before = np.concatenate([[0], np.cumsum(inside)])
            count = int(before[-1])
            data[filled : filled + count] = block.data[inside]
            indices[filled : filled + count] = columns[inside]
            indptr[row + 1 : row + 1 + block.shape[0]] = filled + before[block.indptr[1:]]
            filled += count
            row += block.shape[0]
        del part
    result: sp.csr_matrix = sp.csr_matrix((data, indices, indptr), shape=(rows, n_columns), copy=False)
    result.sort_indices()
    return result


def batch_categories(column: pd.Series, name: str) -> pd.Categorical:
    """A batch column as sorted text categories; cells without a value become ``unknown`` and are counted in the log."""
    missing = int(column.isna().sum())
    text = column_text(column, UNKNOWN).astype(object)
    if missing:
        log.warning("%d cells have no value in obs[%r]: they form the batch %r", missing, name, UNKNOWN)
    return pd.Categorical(text, categories=sorted(set(text)))


def _merged_obs(samples: list[Sample], batch_key: str, report: dict[str, Any]) -> pd.DataFrame:
    common = [name for name in samples[0].obs if all(name in sample.obs for sample in samples)]
    others = sorted({str(name) for sample in samples for name in sample.obs} - set(map(str, common)))
    if others:
        log.info("cell columns not in every input, left out: %s", ", ".join(others))
    columns: dict[str, Any] = {}
    for name in common:
        parts = [sample.obs[name] for sample in samples]
        numeric = all(pd.api.types.is_numeric_dtype(part.dtype) for part in parts)
        values = pd.concat([part if numeric else text_series(part) for part in parts], ignore_index=True)
        text = None if numeric else pd.Categorical(values, categories=sorted(set(values.dropna())))
        columns[str(name)] = values.array if text is None else text
    names = pd.Index(np.concatenate([sample.obs.index.to_numpy(dtype=object) for sample in samples]))
    labels = np.repeat([sample.name for sample in samples], [len(sample.obs) for sample in samples])
    repeated = names.duplicated(keep=False)
    renamed = np.where(repeated, names.astype(str) + "-" + labels, names)
    index = pd.Index(renamed, dtype=object)
    if index.has_duplicates:
        raise InputError(f"the cell name {index[index.duplicated()][0]!r} occurs more than once after the merge")
    if repeated.any():
        log.info("%d cell names occur in several inputs: their sample's name was added", int(repeated.sum()))
    obs = pd.DataFrame(columns, index=index)
    obs[batch_key] = pd.Categorical(labels, categories=[sample.name for sample in samples])
    report |= {"cells_renamed": int(repeated.sum()), "cell_columns_left_out": others}
    return obs


def _merged_var(samples: list[Sample], genes: pd.Index) -> pd.DataFrame:
    """Text columns that every input has (ids, feature types); statistics of one input would mislead for all."""
    first = samples[0].var
    common = [
        name
        for name in first
        if all(name in sample.var and not pd.api.types.is_numeric_dtype(sample.var[name].dtype) for sample in samples)
    ]
    var = pd.DataFrame(index=genes)
    for name in common:
        values = text_series(first[name]).reindex(genes)
        differing = pd.Series(False, index=genes)
        for sample in samples[1:]:
            other = text_series(sample.var[name]).reindex(genes)
            differing |= values.notna() & other.notna() & (values != other)
            values = values.where(values.notna(), other)
        if differing.any():
            log.warning("%d genes differ in %r between inputs: the first input's is kept", int(differing.sum()), name)
        var[str(name)] = values
    return var


def merge_samples(
    samples: list[Sample], *, join: Literal["inner", "outer"], batch_key: str
) -> tuple[Sample, dict[str, Any]]:
    """Merge samples by gene name, never by position.

    Parameters
    ----------
    samples
        Two or more; their matrices are let go on the way.
    join
        ``inner`` keeps the genes of all inputs; ``outer`` keeps every gene, with zeros where an input lacks it.
    batch_key
        Column of the result that holds the sample names.

    Returns
    -------
    Sample, dict
        The merged sample, with the cell columns common to all, and a report of the numbers.

    Raises
    ------
    InputError
        No gene is common to all, or an input already has a column ``batch_key``.
    """
    for sample in samples:
        if batch_key in sample.obs:
            raise InputError(
                f"{sample.name} already has a cell column {batch_key!r}", "name the samples' column with --batch-key"
            )
    names = [sample.var.index for sample in samples]
    genes = joined_genes(names, join)
    shared = len(joined_genes(names, "inner"))
    if shared == 0:
        heads = "; ".join(f"{s.name}: {', '.join(map(str, s.var.index[:3]))}" for s in samples[:3])
        alike = joined_genes([without_version(one) for one in names], "inner")
        versions = "they agree without the versions of Ensembl ids; " if len(alike) else ""
        raise InputError(
            f"the inputs have no gene name in common ({heads})", f"{versions}name genes alike, see --gene-column"
        )
    by_input = {sample.name: len(sample.var) for sample in samples}
    report: dict[str, Any] = {"join": join, "genes": len(genes), "genes_common": shared, "genes_by_input": by_input}
    log.info(
        "merge: %d genes kept (%s join), %d common to all; %s",
        len(genes),
        join,
        shared,
        ", ".join(f"{name} has {count}" for name, count in by_input.items()),
    )
    obs, var = _merged_obs(samples, batch_key, report), _merged_var(samples, genes)
    targets = [genes.get_indexer(one) for one in names]
    parts = [sample.matrix for sample in samples]
    empty: sp.csr_matrix = sp.csr_matrix((np.empty(0, np.float32), (np.empty(0, int), np.empty(0, int))), shape=(1, 1))
    for sample in samples:
        sample.matrix = empty
    return Sample("merged", stack_by_column(parts, targets, len(genes)), obs, var), report
