"""What the model stages share: counts of a file aligned with a model, and its conditions as codes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from scmap_cli.data.features import align, apply, fill_missing
from scmap_cli.data.matrices import cell_totals, find_counts, find_values
from scmap_cli.errors import InputError, UsageError
from scmap_cli.io.bundle import Bundle
from scmap_cli.io.columns import UNKNOWN, column_text
from scmap_cli.io.programs import Programs
from scmap_cli.io.rna import name_genes, read_rna
from scmap_cli.io.text import read_names
from scmap_cli.keys import BATCH
from scmap_cli.runtime.logs import log

# More groups than this, and than a tenth of the cells, are asked about.
_MANY = 20

SINGLE = "all"
"""The one condition of data without a batch column."""


def sample_names(inputs: Sequence[Path], sample: Sequence[str] | None, endings: str) -> list[str]:
    """A name for each input: as given, else the file's without what fits ``endings``.

    Raises
    ------
    UsageError
        There are more or fewer names than inputs, or one is empty or repeated.
    """
    if sample is None:
        names = [re.sub(endings, "", path.name or path.absolute().name) for path in inputs]
    else:
        names = [str(name) for name in sample]
    if len(names) != len(inputs):
        raise UsageError(f"{len(inputs)} inputs but {len(names)} sample names", "give --sample one name for each input")
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated or "" in names:
        what = f"the sample name {repeated[0]!r} is repeated" if repeated else "a sample name is empty"
        raise UsageError(what, "give each input a name of its own with --sample")
    return names


@dataclass(frozen=True)
class RnaInput:
    """Counts of one file: CSR (n, g), names of genes and cells, where the counts were, and the AnnData itself."""

    counts: sparse.csr_matrix
    genes: np.ndarray
    cells: np.ndarray
    source: str
    adata: AnnData


def load_rna(path: Path, layer: str | None = None, gene_column: str | None = None, as_is: bool = False) -> RnaInput:
    """Read raw counts, or with ``as_is`` the values of ``layer`` (``X`` by default) whatever their scale.

    Raises
    ------
    InputError
        As :func:`scmap_cli.io.rna.read_rna` and :func:`scmap_cli.data.matrices.find_counts`, or with ``as_is``
        :func:`scmap_cli.data.matrices.find_values`.
    """
    adata = read_rna(path, gene_column=gene_column)
    cells = adata.obs_names.to_numpy().astype(str)
    found = find_values(adata, layer) if as_is else find_counts(adata, layer)
    # The genes of raw have a table of their own, whose names were not looked at yet.
    genes = name_genes(found.var, path, column=gene_column).index if found.source == "raw" else found.var_names
    return RnaInput(found.matrix, np.asarray(genes, dtype=str), cells, found.source, adata)


MISSING = ("zero", "reference-mean")
"""What cells get for genes of the model that their file lacks."""


def aligned_counts(
    bundle: Bundle,
    path: Path,
    *,
    layer: str | None = None,
    gene_column: str | None = None,
    min_overlap: float = 0.5,
    missing: str | None = None,
) -> tuple[RnaInput, sparse.csr_matrix, dict[str, Any]]:
    """A file's counts in the gene order of a model, matched by name; and a report of the overlap.

    Parameters
    ----------
    bundle
        The model.
    path, layer, gene_column
        As :func:`load_rna`.
    min_overlap
        Smallest share of the model's genes that the file must have.
    missing
        ``zero``, or ``reference-mean``: what the reference has on average, scaled to the cell. By default what the
        mapping of the model took, else zero.

    Raises
    ------
    InputError
        As :func:`load_rna`; or too few genes in common, which the message explains.
    """
    missing = missing or bundle.config.get("missing", "zero")
    as_is = bundle.config["model_config"].get("input_scale") == "as-is"
    if as_is and missing != "zero":
        raise UsageError(f"--missing {missing} scales counts; this model was trained on normalised values")
    data = load_rna(path, layer, gene_column, as_is)
    alignment = align(data.genes, bundle.features)
    # A model that looks at some of its genes alone needs no others.
    needed_g = np.isin(bundle.features, bundle.config.get("markers", bundle.features))
    found_g = alignment.index[needed_g] >= 0
    means = bundle.feature_means
    counts_share = float(means[alignment.index >= 0].sum() / max(float(means.sum()), 1e-300))
    report = alignment.report() | {"share_of_reference_counts": round(counts_share, 6), "missing_policy": missing}
    what = "markers" if "markers" in bundle.config else "genes"
    if found_g.mean() < min_overlap:
        raise InputError(
            f"{path} has {int(found_g.sum())} of the model's {len(found_g)} {what} "
            f"({found_g.mean():.1%}, at least {min_overlap:.0%} are wanted)",
            _names_hint(data.genes, bundle.features[needed_g]),
        )
    if what == "markers":
        report |= {"markers": len(found_g), "markers_matched": int(found_g.sum())}
    if not found_g.all():
        filled = "zero" if missing == "zero" else "the reference's mean"
        log.warning(
            "%d of the model's %d %s are missing (%.1f %% of its counts are of missing genes) and count as %s",
            int((~found_g).sum()),
            len(found_g),
            what,
            100 * (1 - counts_share),
            filled,
        )
    counts = apply(data.counts, alignment)
    if missing == "reference-mean":
        counts = fill_missing(counts, alignment, means)
    return data, counts, report


def estimated_sizes(counts: sparse.csr_matrix, report: dict[str, Any]) -> np.ndarray:
    """(n,) library size over all genes of a model, for cells of which only some of them were counted.

    The counts of a cell are taken for the share of its total that these genes have on average in the training cells.
    """
    share = report["share_of_reference_counts"] if report["missing_policy"] == "zero" else 1.0
    return cell_totals(counts) / max(share, 1e-12)


def named_columns(names: np.ndarray, path: Path | None, word: str) -> np.ndarray:
    """Places of the features (``word`` they are called) that a file names, one a line, in its order; without it all.

    Raises
    ------
    InputError
        The model lacks one.
    """
    if path is None:
        return np.arange(len(names))
    wanted = read_names(path)
    index = align(names, wanted).index
    missing = [name for name, at in zip(wanted, index.tolist(), strict=True) if at < 0]
    if missing:
        raise InputError(
            f"{path} names {len(missing)} {word} that the model lacks, first {missing[0]!r}",
            f"the model's {word} are named like {str(names[0])!r}",
        )
    return index


def _names_hint(names: np.ndarray, wanted: np.ndarray) -> str:
    """Why names may not match."""
    loose = len({name.upper() for name in names.tolist()} & {name.upper() for name in wanted.tolist()})
    example = f"the model's genes look like {', '.join(wanted[:3])}, those of the file like {', '.join(names[:3])}"
    if loose > len(set(names.tolist()) & set(wanted.tolist())):
        return f"{loose} names would match if upper and lower case were the same; {example}"
    return f"{example}; name genes alike with --gene-column, or let fewer do with --min-overlap"


def text_column(obs: pd.DataFrame, key: str, path: Path | None, missing: str = "") -> np.ndarray:
    """A column as :func:`column_text` writes it, ``missing`` where it has no value.

    Raises
    ------
    InputError
        There is no such column; the message names the columns that could be meant.
    """
    if key not in obs:
        text = [str(c) for c in obs.columns if not pd.api.types.is_float_dtype(obs[c])]
        raise InputError(f"{path} has no obs column {key!r}", f"columns: {', '.join(text[:12]) or 'none'}")
    return column_text(obs[key], missing)


def programs_over(table: Programs, genes: np.ndarray) -> sparse.csc_matrix:
    """Membership of ``genes``, matched by name, in the programs of a table: genes x programs, uint8."""
    index_g = align(table.genes, genes).index
    found_g = np.flatnonzero(index_g >= 0)
    taken = table.mask.tocsr()[index_g[found_g]].tocoo()
    shape = (len(genes), len(table.programs))
    return sparse.coo_matrix((np.ones(taken.nnz, np.uint8), (found_g[taken.row], taken.col)), shape=shape).tocsc()


def condition_labels(obs: pd.DataFrame, key: str | None, path: Path) -> np.ndarray:
    """Each cell's condition as text; missing values become ``unknown``, no key gives one condition for all.

    Raises
    ------
    InputError
        There is no such column; the message names the columns that could be meant.
    """
    if key is None:
        return np.full(len(obs), SINGLE)
    labels = text_column(obs, key, path, UNKNOWN)
    missing = int(obs[key].isna().sum())
    if missing:
        log.warning("%d cells have no %s; they become the condition %r", missing, key, UNKNOWN)
    found = len(np.unique(labels))
    if found > max(_MANY, len(labels) // 10):
        log.warning("the column %r has %d values in %d cells: is it one of groups of cells?", key, found, len(labels))
    return labels


def condition_codes(labels: np.ndarray, known: list[str] | None, path: Path) -> tuple[np.ndarray, list[str]]:
    """Codes of the conditions: of the sorted labels themselves, or of the ``known`` ones of a model.

    Raises
    ------
    InputError
        A label is none of the known ones.
    """
    if known is None:
        names, codes = np.unique(labels, return_inverse=True)
        return codes.astype(np.int64), [str(name) for name in names]
    position = {name: i for i, name in enumerate(known)}
    strange = sorted(set(labels.tolist()) - set(position))
    if strange:
        raise InputError(
            f"{path} has {len(strange)} conditions that the model does not know: {', '.join(map(repr, strange[:5]))}",
            f"the model knows {', '.join(map(repr, known[:8]))}; a new batch is mapped into a model, not embedded",
        )
    return np.array([position[label] for label in labels], dtype=np.int64), known


def model_conditions(
    bundle: Bundle, data: RnaInput, batch_key: str | None, path: Path, reference: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Each cell's condition by name and by the model's code.

    The column is ``batch_key``, else the one that ``scmap map-query`` wrote, else that of the training; ``reference``
    means that a file without any is of the cells that the model was first trained on.
    """
    known = bundle.categories["condition"]
    written = BATCH if BATCH in data.adata.obs and known != [SINGLE] else bundle.config["batch_key"]
    key = batch_key or written
    # A mapped model, or one without batches that became one: the file may be the query as it was before its mapping.
    mapped = key is None or (len(bundle.config.get("history", ())) > 1 and key not in data.adata.obs)
    if batch_key is None and mapped and len(known) > 1 and not reference:
        columns = BATCH if key is None else f"{key} or {BATCH}"
        raise InputError(
            f"which of the model's batches {path} is of cannot be told: it has no column {columns}",
            f"give --batch-key COLUMN with {', '.join(map(repr, known[:4]))}, or the file that `scmap map-query` wrote",
        )
    labels = condition_labels(data.adata.obs, key, path)
    return labels, condition_codes(labels, known, path)[0]


def plain_records(record: dict[str, Any]) -> dict[str, Any]:
    """JSON values of a parameters dict: paths become their names."""
    return {key: value.name if isinstance(value, Path) else value for key, value in record.items()}
