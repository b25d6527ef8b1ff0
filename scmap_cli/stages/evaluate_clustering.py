"""``scmap evaluate clustering``: agreement of embeddings with known labels, with every setting in the output."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scmap_cli.errors import InputError, UsageError
from scmap_cli.io.atomic import check_outputs, text_file, write_text
from scmap_cli.metrics import clustering
from scmap_cli.metrics.graph import EXACT_CELLS, knn
from scmap_cli.metrics.mixing import NEIGHBOURS, batch_entropy
from scmap_cli.plots.canvas import publish
from scmap_cli.plots.scores import clustering_panels
from scmap_cli.runtime import provenance
from scmap_cli.runtime.logs import log
from scmap_cli.stages.embeddings import read_embeddings
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

_PARTITIONS = ("best_ari", "best_nmi", "matched")


@dataclass(frozen=True)
class _Table:
    """One embedding (n, z) with the labels and, where asked for, the batches of its cells."""

    path: Path
    key: str
    emb_nz: np.ndarray
    labels: np.ndarray
    batch: np.ndarray | None


def evaluate_clustering(
    inputs: Sequence[Path | str],
    output: Path | str = "-",
    *,
    label_key: str,
    embedding: str | Sequence[str] | None = None,
    batch_key: str | None = None,
    exclude_labels: Sequence[str] | None = None,
    k: Sequence[int] = clustering.GRAPH_K,
    resolutions: Sequence[float] | None = None,
    cluster_method: str = "leiden",
    leiden_backend: str = "igraph",
    max_cells: int | None = None,
    subsamples: int = 0,
    plot: Path | None = None,
    seed: int = 0,
    force: bool = False,
    dry_run: bool = False,
) -> dict[str, Any]:
    """Score one or more embeddings against labels.

    Parameters
    ----------
    inputs
        h5ad files (``obsm`` and ``obs``), or npz files (all keys are arrays in it).
    output
        JSON file; ``-`` writes none, and the caller prints
        :func:`~scmap_cli.stages.scores.render` of the result.
    label_key
        Labels; cells without one (missing, empty) are left out and counted.
    embedding
        ``obsm`` key or keys; by default the one that an scmap model wrote.
    batch_key
        Also report the mixing of these batches among the 50 nearest neighbours.
    exclude_labels
        Labels whose cells are left out.
    k, resolutions
        Grid of neighbourhood sizes and resolutions; resolutions default to 15 from 0.1 to 3, geometric.
    cluster_method, leiden_backend
        ``leiden`` or ``louvain``; Leiden by ``igraph`` or ``leidenalg``.
    max_cells
        Score a seeded sample of this many cells.
    subsamples
        Also score so many seeded subsamples of 90 % of the cells: mean and standard deviation of each score.
    plot
        Draw the scores, with bars of the subsamples' deviation.
    seed
        For samples, folds and clusterings.
    force
        Replace an existing output.
    dry_run
        Check inputs and options, compute and write nothing.

    Returns
    -------
    dict
        ``settings`` and one entry an embedding in ``results``.

    Raises
    ------
    InputError
        A key is missing, or too few cells or labels are left.
    UsageError
        Options that make no sense.
    """
    grid = clustering.RESOLUTIONS if resolutions is None else tuple(float(r) for r in resolutions)
    k = tuple(int(number) for number in k)
    exclude_labels = list(exclude_labels or ())
    _check_options(inputs, k, grid, cluster_method, leiden_backend, max_cells, subsamples)
    to_file = text_file(output)
    check_outputs(to_file, figures=[plot], force=force)
    wanted = [embedding] if isinstance(embedding, str) else list(embedding or ())
    settings: dict[str, Any] = {
        "label_key": label_key,
        "batch_key": batch_key,
        "exclude_labels": exclude_labels,
        "k": list(k),
        "resolutions": list(grid),
        "cluster_method": cluster_method,
        "implementation": leiden_backend if cluster_method == "leiden" else "igraph",
        "objective": "modularity",
        "graph": "union of nearest neighbours, weight 1 if mutual else 0.5",
        "ari": "Hubert-Arabie, adjusted for chance",
        "nmi": "arithmetic mean of entropies",
        "silhouette": f"of labels; Euclidean, raw, at most {clustering.SILHOUETTE_CELLS} cells",
        "silhouette_clusters": "of the clusters of the first partition matched in number; else as silhouette",
        "knn_accuracy": f"{clustering.ACCURACY_K} neighbours, {clustering.ACCURACY_FOLDS} stratified folds",
        "mixing": f"entropy of size-corrected batch shares among {NEIGHBOURS} neighbours" if batch_key else None,
        "subsamples": subsamples,
        "subsample_share": SUBSAMPLE_SHARE if subsamples else None,
        "max_cells": max_cells,
        "seed": seed,
    }
    tables = [table for path in inputs for table in _load(Path(path), wanted, label_key, batch_key)]
    kept = [_kept_cells(table, exclude_labels, max_cells, seed) for table in tables]
    result: dict[str, Any] = {"what": "clustering", "settings": settings, "results": []}
    if dry_run:
        for table, keep in zip(tables, kept, strict=True):
            log.info("would score %s of %s: %d cells", table.key, table.path, keep.sum())
        return result
    with provenance.run(
        "evaluate clustering",
        inputs=inputs,
        output=to_file,
        parameters={"embedding": wanted, **settings},
        seed=seed,
    ) as run:
        for table, keep in zip(tables, kept, strict=True):
            how = {"k": k, "resolutions": grid, "method": cluster_method, "backend": leiden_backend, "seed": seed}
            entry = _score(table, keep, how, subsamples)
            log.info("%s", _line(entry))
            result["results"].append(entry)
        result["history"] = [run.record]
        if to_file is not None:
            write_text(to_file, render(result), force)
        if plot is not None:
            publish(plot, force, "the partitions", clustering_panels, result["results"])
    return result


def _score(table: _Table, keep: np.ndarray, how: dict[str, Any], subsamples: int) -> dict[str, Any]:
    k, seed = how["k"], how["seed"]
    emb_nz = np.asarray(table.emb_nz[keep], dtype=np.float64)
    widest = max(k) if table.batch is None else max(*k, NEIGHBOURS)
    indices, _ = knn(emb_nz, widest, seed)
    entry: dict[str, Any] = {
        "file": table.path.name,
        "embedding": table.key,
        "cells": len(emb_nz),
        "cells_left_out": len(keep) - len(emb_nz),
        "dimensions": int(emb_nz.shape[1]),
        "neighbours": "exact" if len(emb_nz) <= EXACT_CELLS else "approximate (pynndescent)",
    }
    labels = table.labels[keep]
    entry |= clustering.score(emb_nz, labels, indices=indices, **how)
    if table.batch is not None:
        entry["mixing"] = batch_entropy(indices[:, :NEIGHBOURS], table.batch[keep])
    if subsamples:
        entry["subsamples"] = over_subsamples(
            len(emb_nz), subsamples, seed, lambda rows: _single(clustering.score(emb_nz[rows], labels[rows], **how))
        )
    return entry


def _single(found: dict[str, Any]) -> dict[str, float | None]:
    """The scores that are one number, those of a partition named as ``--compare`` names them."""
    scores = {f"{kind}.{name}": found[kind][name] for kind in _PARTITIONS for name in ("ari", "nmi", "clusters")}
    return scores | {name: found[name] for name in ("silhouette", "silhouette_clusters", "knn_accuracy")}


def _check_options(
    inputs: Sequence[Path | str],
    k: Sequence[int],
    grid: Sequence[float],
    method: str,
    backend: str,
    max_cells: int | None,
    subsamples: int,
) -> None:
    check_clusterings(inputs, grid, method, backend)
    check_subsamples(subsamples)
    if not k or min(k) < 2:
        raise UsageError(f"k must be numbers of at least 2, not {list(k)}")
    if max_cells is not None and max_cells < 2:
        raise UsageError(f"--max-cells must be at least 2, not {max_cells}")


def _load(path: Path, wanted: Sequence[str], label_key: str, batch_key: str | None) -> list[_Table]:
    """Every embedding wanted from a file."""
    found = read_embeddings(path, wanted)
    labels = found.text(label_key, "label")
    batch = None if batch_key is None else found.text(batch_key, "batch")
    return [_Table(path, key, emb_nz, labels, batch) for key, emb_nz in found.embeddings.items()]


def _kept_cells(table: _Table, exclude_labels: Sequence[str], max_cells: int | None, seed: int) -> np.ndarray:
    """(n,) bool: cells with a finite embedding, a wanted label and a batch if there are any, sampled where asked."""
    path, labels = table.path, table.labels
    keep = finite_cells(path, table.key, table.emb_nz) & ~np.isin(labels, ["", *exclude_labels])
    if table.batch is not None:
        keep &= cells_with_batch(path, table.batch)
    keep = sampled(keep, max_cells, seed)
    if len(np.unique(labels[keep])) < 2 or keep.sum() < 3:
        raise InputError(
            f"{path}: {int(keep.sum())} cells with {len(np.unique(labels[keep]))} labels are left to score",
            "give labels of at least two kinds with --label-key",
        )
    if table.batch is not None and len(np.unique(table.batch[keep])) < 2:
        raise InputError(f"{path}: all cells left to score are of one batch", "leave --batch-key out")
    return keep


def _line(entry: dict[str, Any]) -> str:
    def text(value: float | None) -> str:
        return "-" if value is None else f"{value:.3f}"

    line = (
        f"{entry['file']} {entry['embedding']}: {entry['cells']} cells, "
        f"ARI {text(entry['best_ari']['ari'])} best, {text(entry['matched']['ari'])} matched; "
        f"NMI {text(entry['best_nmi']['nmi'])} best, {text(entry['matched']['nmi'])} matched; "
        f"silhouette {text(entry['silhouette'])}; kNN accuracy {text(entry['knn_accuracy'])}"
    )
    return line + (f"; mixing {text(entry['mixing'])}" if "mixing" in entry else "")
