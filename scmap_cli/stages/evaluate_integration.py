"""``scmap evaluate integration``: the nine scIB scores of embeddings and baselines, with every setting."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

from scmap_cli.data.decomposition import harmony, lsi, pca
from scmap_cli.data.matrices import find_counts, log1p_cp10k
from scmap_cli.errors import InputError, UsageError
from scmap_cli.io.atomic import check_outputs, text_file, write_text
from scmap_cli.io.h5ad import read_h5ad
from scmap_cli.metrics import integration
from scmap_cli.metrics.graph import EXACT_CELLS
from scmap_cli.metrics.lisi import LISI_NEIGHBOURS
from scmap_cli.metrics.mixing import NEIGHBOURS
from scmap_cli.plots.canvas import publish
from scmap_cli.plots.scores import integration_panels
from scmap_cli.runtime import provenance
from scmap_cli.runtime.logs import log
from scmap_cli.stages.embeddings import EmbeddingFile, read_embeddings
from scmap_cli.stages.scores import (
    SUBSAMPLE_SHARE,
    cells_with_batch,
    check_clusterings,
    check_subsamples,
    finite_cells,
    over_subsamples,
    render,
    sampled,
)

BESIDE = ("raw", "pca", "harmony", "lsi", "lsi-harmony")
"""Baselines computed beside the embeddings: log1p CP10k of all features, linear embeddings of the counts."""


@dataclass(frozen=True)
class _Cells:
    """The cells of a file that are scored, and what is known of them.

    ``counts`` are those of the kept cells, None where the file has none; ``before`` is the embedding that principal
    component regression starts from, and ``before_name`` what it is.
    """

    file: EmbeddingFile
    keep: np.ndarray
    batch: np.ndarray
    labels: np.ndarray
    counts: sp.csr_matrix | None
    before: np.ndarray | None
    before_name: str | None


def evaluate_integration(
    inputs: Sequence[Path | str],
    output: Path | str = "-",
    *,
    label_key: str,
    batch_key: str,
    embedding: str | Sequence[str] | None = None,
    baseline: Sequence[str] = (),
    before: str = "pca",
    components: int = 50,
    layer: str | None = None,
    exclude_labels: Sequence[str] | None = None,
    exclude_cells: Sequence[str] | None = None,
    max_cells: int | None = None,
    resolutions: Sequence[float] | None = None,
    cluster_method: str = "leiden",
    leiden_backend: str = "igraph",
    subsamples: int = 0,
    plot: Path | None = None,
    seed: int = 0,
    force: bool = False,
    dry_run: bool = False,
) -> dict[str, Any]:
    """Score how well embeddings mix batches and keep labels, see :mod:`scmap_cli.metrics.integration`.

    Parameters
    ----------
    inputs
        h5ad files (``obsm`` and ``obs``), or npz files (all keys are arrays in it).
    output
        JSON file; ``-`` writes none, and the caller prints :func:`scmap_cli.stages.scores.render` of the result.
    label_key, batch_key
        Columns of labels and batches; cells without a label are left out and counted.
    embedding
        ``obsm`` key or keys; by default all that models and baselines of scmap wrote.
    baseline
        Of :data:`BESIDE`: scored beside the embeddings of each file, from its raw counts.
    before
        What principal component regression compares with: ``pca`` or ``lsi`` of the raw counts, or a key of ``obsm``.
    components
        Dimensions of baselines and of ``before``.
    layer
        Where the raw counts are.
    exclude_labels, exclude_cells
        Labels, and ``COLUMN=VALUE`` of any column, whose cells are left out.
    max_cells
        Score a seeded sample of this many cells.
    resolutions
        Of the clusterings; 0.2 to 2 in steps of 0.2 by default.
    cluster_method, leiden_backend
        ``leiden`` or ``louvain``; Leiden by ``igraph`` or ``leidenalg``.
    subsamples
        Also score so many seeded subsamples of 90 % of the cells: mean and standard deviation of each score.
    plot
        Draw the scores, with bars of the subsamples' deviation, and the batch shares.
    seed
        For samples, subsamples, baselines and clusterings.
    force, dry_run
        Replace existing outputs; check inputs and options, compute and write nothing.

    Returns
    -------
    dict
        ``settings`` and one entry an embedding in ``results``: ``scores`` and ``details``, as
        :func:`scmap_cli.metrics.integration.score`.

    Raises
    ------
    InputError
        A key is missing, too few cells, labels or batches are left, or baselines are wanted and there are no counts.
    UsageError
        Options that make no sense.
    """
    grid = integration.RESOLUTIONS if resolutions is None else tuple(float(r) for r in resolutions)
    wanted = [embedding] if isinstance(embedding, str) else list(embedding or ())
    baseline, left_out = list(baseline), list(exclude_cells or ())
    _check_options(inputs, grid, cluster_method, leiden_backend, max_cells, baseline, components, subsamples, left_out)
    to_file = text_file(output)
    check_outputs(to_file, figures=[plot], force=force)
    settings: dict[str, Any] = {
        "label_key": label_key,
        "batch_key": batch_key,
        "exclude_labels": list(exclude_labels or ()),
        "exclude_cells": left_out,
        "baseline": baseline,
        "before": before,
        "components": components,
        "layer": layer,
        "neighbours": f"Euclidean, exact to {EXACT_CELLS} cells",
        "lisi": f"{LISI_NEIGHBOURS} neighbours with the cell, perplexity {LISI_NEIGHBOURS // 3}, median, scaled",
        "kbet": "within labels, diffusion maps of UMAP weights of 50 neighbours, level 0.05",
        "graph_connectivity": "strong components of 15 neighbours with the cell",
        "silhouettes": f"Euclidean, at most {integration.SILHOUETTE_CELLS} cells",
        "resolutions": list(grid),
        "cluster_method": cluster_method,
        "implementation": leiden_backend if cluster_method == "leiden" else "igraph",
        "nmi_ari": "of the partition with the best NMI",
        "overall": "mean of nine; overall_weighted: .4 batch removal + .6 label conservation",
        "batch_shares": f"of {NEIGHBOURS} neighbours, divided by cells of the batch, scaled to sum to 1",
        "subsamples": subsamples,
        "subsample_share": SUBSAMPLE_SHARE if subsamples else None,
        "max_cells": max_cells,
        "seed": seed,
    }
    files = [read_embeddings(Path(path), wanted, several=True) for path in inputs]
    for file in files:
        if not file.embeddings and not baseline:
            raise InputError(f"{file.path} holds no embedding that scmap wrote", "name one with --embedding")
    starts = [_given(file, before) for file in files]
    chosen = [
        _chosen(file, start, label_key, batch_key, exclude_labels, left_out, max_cells, seed)
        for file, start in zip(files, starts, strict=True)
    ]
    result: dict[str, Any] = {"what": "integration", "settings": settings, "results": []}
    if dry_run:
        for file, (keep, _, _) in zip(files, chosen, strict=True):
            log.info("would score %s of %s: %d cells", ", ".join([*file.embeddings, *baseline]), file.path, keep.sum())
        return result
    options = {"resolutions": grid, "method": cluster_method, "backend": leiden_backend, "seed": seed}
    with provenance.run(
        "evaluate integration",
        inputs=inputs,
        output=to_file,
        parameters={"embedding": wanted, **settings},
        seed=seed,
    ) as run:
        for file, given, (keep, labels, batch) in zip(files, starts, chosen, strict=True):
            counts = _counts(file, keep, layer, bool(baseline), before)
            if given:
                start = given[before][keep].astype(np.float64)
            else:
                start = None if counts is None else _linear(counts, before, components, seed)
            name = None if start is None else before
            cells = _Cells(file, keep, batch[keep], labels[keep], counts, start, name)
            for key, emb_nz in _embeddings(cells, baseline, components, seed):
                entry = _score(cells, key, emb_nz, options, subsamples)
                log.info("%s", _line(entry))
                result["results"].append(entry)
        result["history"] = [run.record]
        if to_file is not None:
            write_text(to_file, render(result), force)
        if plot is not None:
            publish(plot, force, "the scores", integration_panels, result["results"])
    return result


def _check_options(
    inputs: Sequence[Path | str],
    grid: Sequence[float],
    method: str,
    backend: str,
    max_cells: int | None,
    baseline: Sequence[str],
    components: int,
    subsamples: int,
    left_out: Sequence[str],
) -> None:
    check_clusterings(inputs, grid, method, backend)
    unknown = [name for name in baseline if name not in BESIDE]
    if unknown:
        raise UsageError(f"unknown baseline {unknown[0]!r}", f"choose among {', '.join(BESIDE)}")
    if components < 1:
        raise UsageError(f"--components must be at least 1, not {components}")
    check_subsamples(subsamples)
    if max_cells is not None and max_cells < LISI_NEIGHBOURS:
        raise UsageError(f"--max-cells must be at least {LISI_NEIGHBOURS}, not {max_cells}")
    for text in left_out:
        if "=" not in text.strip("="):
            raise UsageError(f"--exclude-cells {text!r} is not COLUMN=VALUE")


def _given(file: EmbeddingFile, before: str) -> dict[str, np.ndarray]:
    """The embedding of the file that ``before`` names, by its key; none where it is to be made of the counts."""
    if before in ("pca", "lsi"):
        return {}
    found = read_embeddings(file.path, [before])
    if found.n != file.n:
        raise InputError(f"{file.path}: {before!r} has {found.n} rows for {file.n} cells")
    return found.embeddings


def _chosen(
    file: EmbeddingFile,
    start: dict[str, np.ndarray],
    label_key: str,
    batch_key: str,
    exclude_labels: Sequence[str] | None,
    left_out: Sequence[str],
    max_cells: int | None,
    seed: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which cells are scored, (n,) bool, and the labels and batches of all cells."""
    labels, batch = file.text(label_key, "label"), file.text(batch_key, "batch")
    keep: np.ndarray = ~np.isin(labels, ["", *(exclude_labels or ())]) & cells_with_batch(file.path, batch)
    for text in left_out:
        column, _, value = text.partition("=")
        hit = file.text(column, "cell") == value
        if not hit.any():
            log.warning("%s: no cell has %s %r", file.path, column, value)
        keep &= ~hit
    for key, emb_nz in (file.embeddings | start).items():
        keep &= finite_cells(file.path, key, emb_nz)
    keep = sampled(keep, max_cells, seed)
    if keep.sum() <= LISI_NEIGHBOURS:
        raise InputError(
            f"{file.path}: {int(keep.sum())} cells are left to score, more than {LISI_NEIGHBOURS} are wanted",
            "the scores look at neighbourhoods of so many cells",
        )
    for values, kind in ((labels, "label"), (batch, "batch")):
        names = np.unique(values[keep])
        if len(names) < 2:
            raise InputError(
                f"{file.path}: all {int(keep.sum())} cells left to score are of one {kind}, {str(names[0])!r}",
                f"give a column of at least two with --{kind}-key",
            )
    return keep, labels, batch


def _counts(
    file: EmbeddingFile, keep: np.ndarray, layer: str | None, needed: bool, before: str
) -> sp.csr_matrix | None:
    """Raw counts of the kept cells where baselines or ``before`` ask for them; None where a file has none to give."""
    if not needed and before not in ("pca", "lsi"):
        return None
    try:
        if file.path.suffix == ".npz":
            raise InputError(f"{file.path} is an npz and holds no counts", "give the h5ad")
        return sp.csr_matrix(find_counts(read_h5ad(file.path, unique=False), layer).matrix[keep])
    except InputError as error:
        if needed or layer is not None:
            raise
        log.warning("no PC regression, and so no overall score: %s; name an embedding with --before", error)
        return None


def _linear(counts: sp.csr_matrix, name: str, components: int, seed: int) -> np.ndarray:
    """PCA or LSI of as many components as there can be."""
    most = min(components, min(counts.shape) - 1 - int(name == "lsi"))
    return pca(counts, most, seed=seed) if name == "pca" else lsi(counts, most, seed=seed)


def _embeddings(
    cells: _Cells, baseline: Sequence[str], components: int, seed: int
) -> Iterator[tuple[str, np.ndarray | sp.csr_matrix]]:
    """The embeddings of a file and the baselines beside them, one after the other."""
    for key, emb_nz in cells.file.embeddings.items():
        yield key, np.asarray(emb_nz[cells.keep], dtype=np.float64)
    if cells.counts is None:
        return
    counts = cells.counts
    made: dict[str, Callable[[], np.ndarray | sp.csr_matrix]] = {
        "raw": lambda: log1p_cp10k(counts),
        "pca": lambda: _linear(counts, "pca", components, seed),
        "harmony": lambda: harmony(_linear(counts, "pca", components, seed), cells.batch, seed=seed),
        "lsi": lambda: _linear(counts, "lsi", components, seed),
        "lsi-harmony": lambda: harmony(_linear(counts, "lsi", components, seed), cells.batch, seed=seed),
    }
    for name in baseline:
        yield name, made[name]()


def _score(
    cells: _Cells, key: str, emb_nz: np.ndarray | sp.csr_matrix, options: dict[str, Any], subsamples: int
) -> dict[str, Any]:
    n = emb_nz.shape[0]

    def scored(rows: np.ndarray | slice) -> dict[str, Any]:
        batch = cells.batch[rows]
        start = None if cells.before is None else integration.variance_between(cells.before[rows], batch)
        return integration.score(emb_nz[rows], batch, cells.labels[rows], between_before=start, **options)

    entry: dict[str, Any] = {
        "file": cells.file.path.name,
        "embedding": key,
        "cells": n,
        "cells_left_out": len(cells.keep) - n,
        "dimensions": int(emb_nz.shape[1]),
        "batches": len(np.unique(cells.batch)),
        "labels": len(np.unique(cells.labels)),
        "before": cells.before_name,
        **scored(slice(None)),
    }
    if subsamples:
        entry["subsamples"] = over_subsamples(n, subsamples, options["seed"], lambda rows: scored(rows)["scores"])
    return entry


def _line(entry: dict[str, Any]) -> str:
    def text(name: str) -> str:
        value = entry["scores"][name]
        return f"{name.replace('_', ' ')} {'-' if value is None else f'{value:.3f}'}"

    return f"{entry['file']} {entry['embedding']}: {', '.join(map(text, ('overall', *integration.SCORES)))}"
