"""``scmap evaluate invariance``: how much of depth and batch an embedding still tells, with settings in the output."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scmap_cli.data.matrices import cell_totals, find_counts
from scmap_cli.errors import InputError, UsageError
from scmap_cli.io.atomic import check_outputs, text_file, write_text
from scmap_cli.io.h5ad import read_h5ad
from scmap_cli.metrics.graph import EXACT_CELLS, knn
from scmap_cli.metrics.invariance import ESTIMATORS, NEIGHBOURS_MI, batch_shares, mutual_information, shuffled_within
from scmap_cli.metrics.mixing import NEIGHBOURS, batch_entropy
from scmap_cli.plots.canvas import publish
from scmap_cli.plots.scores import invariance_panels
from scmap_cli.runtime import provenance
from scmap_cli.runtime.logs import log
from scmap_cli.stages.embeddings import EmbeddingFile, read_embeddings
from scmap_cli.stages.scores import cells_with_batch, finite_cells, render

DEPTH_COLUMNS = ("n_fragments", "depth", "total_counts")
"""Columns taken for the depth, the first that is there, where none is named."""


def evaluate_invariance(
    inputs: Sequence[Path | str],
    output: Path | str = "-",
    *,
    embedding: str | Sequence[str] | None = None,
    depth_key: str | None = None,
    batch_key: str | None = None,
    label_key: str | None = None,
    batch_estimator: str = "classification",
    mi_cells: int | None = None,
    plot: Path | None = None,
    seed: int = 0,
    force: bool = False,
    dry_run: bool = False,
) -> dict[str, Any]:
    """Score what one or more embeddings tell of depth and batch.

    Parameters
    ----------
    inputs
        h5ad files (``obsm`` and ``obs``), or npz files (all keys are arrays in it).
    output
        JSON file; ``-`` writes none, and the caller prints :func:`scmap_cli.stages.scores.render` of the result.
    embedding
        ``obsm`` key or keys; by default the one that an scmap model wrote, else that of a baseline.
    depth_key
        Column of the raw depth; by default ``n_fragments``, ``depth`` or ``total_counts``, the first that is there,
        else the sums of the raw counts of an h5ad.
    batch_key
        Also score batches: mutual information, and their shares among the 50 nearest neighbours (all cells; see
        :func:`scmap_cli.metrics.invariance.batch_shares`).
    label_key
        Also tell what the embedding says of depth and batch through these labels alone, see
        :func:`scmap_cli.metrics.invariance.shuffled_within`.
    batch_estimator
        ``classification``: for categories. ``regression``: as the thesis's notebooks, on the batch's number in sorted
        order.
    mi_cells
        Estimate mutual information on a seeded sample of this many cells.
    plot
        Draw the scores.
    seed
        For samples and the noise that breaks ties.
    force, dry_run
        Replace an existing output; check inputs and options, compute and write nothing.

    Returns
    -------
    dict
        ``settings`` and one entry an embedding in ``results``.

    Raises
    ------
    InputError
        A key is missing, the depth is no number, or there is only one batch.
    UsageError
        Options that make no sense.
    """
    if not inputs:
        raise UsageError("no input was given")
    if batch_estimator not in ESTIMATORS:
        raise UsageError(f"unknown estimator {batch_estimator!r}", f"known ones: {', '.join(ESTIMATORS)}")
    if mi_cells is not None and mi_cells <= NEIGHBOURS_MI:
        raise UsageError(f"--mi-cells must be above {NEIGHBOURS_MI}, not {mi_cells}")
    to_file = text_file(output)
    check_outputs(to_file, figures=[plot], force=force)
    wanted = [embedding] if isinstance(embedding, str) else list(embedding or ())
    settings: dict[str, Any] = {
        "depth_key": depth_key,
        "depth_estimator": "mutual_info_regression (Kraskov et al.), raw depth",
        "batch_key": batch_key,
        "label_key": label_key,
        "batch_estimator": f"mutual_info_{'classif' if batch_estimator == 'classification' else 'regression'}",
        "n_neighbors": NEIGHBOURS_MI,
        "unit": "nats",
        "mi_cells": mi_cells,
        "shares": f"of {NEIGHBOURS} neighbours, divided by cells of the batch, scaled to sum to 1",
        "mixing": f"entropy of these shares over log(batches), {NEIGHBOURS} neighbours",
        "seed": seed,
    }
    files = [read_embeddings(Path(path), wanted) for path in inputs]
    loaded = [(file, *_depth(file, depth_key), _batch(file, batch_key), _label(file, label_key)) for file in files]
    result: dict[str, Any] = {"what": "invariance", "settings": settings, "results": []}
    if dry_run:
        for file in files:
            log.info("would score %s of %s: %d cells", ", ".join(file.embeddings), file.path, file.n)
        return result
    with provenance.run(
        "evaluate invariance",
        inputs=inputs,
        output=to_file,
        parameters={"embedding": wanted, **settings},
        seed=seed,
    ) as run:
        for file, depth_n, source, batch_n, label_n in loaded:
            for key, emb_nz in file.embeddings.items():
                entry: dict[str, Any] = {"file": file.path.name, "embedding": key, "depth": source}
                entry |= _score(file.path, key, emb_nz, depth_n, batch_n, label_n, batch_estimator, mi_cells, seed)
                log.info("%s", _line(entry))
                result["results"].append(entry)
        result["history"] = [run.record]
        if to_file is not None:
            write_text(to_file, render(result), force)
        if plot is not None:
            publish(plot, force, "the mutual information", invariance_panels, result["results"])
    return result


def _depth(file: EmbeddingFile, key: str | None) -> tuple[np.ndarray, str]:
    """(n,) float64 depths and where they are from."""
    key = key or next((name for name in DEPTH_COLUMNS if name in file.columns), None)
    if key is None:
        if file.path.suffix == ".npz":
            raise InputError(
                f"{file.path} has none of the arrays {', '.join(DEPTH_COLUMNS)}", "name one by --depth-key"
            )
        found = find_counts(read_h5ad(file.path, unique=False))
        return cell_totals(found.matrix), f"sums of {found.source}"
    values = file.column(key, "depth")
    try:
        depth_n = values.astype(np.float64)
    except (TypeError, ValueError):
        raise InputError(
            f"{file.path}: {key!r} holds no numbers", "name the column of the depth by --depth-key"
        ) from None
    if not np.isfinite(depth_n).all():
        raise InputError(f"{file.path}: {int((~np.isfinite(depth_n)).sum())} values of {key!r} are not finite")
    return depth_n, key


def _batch(file: EmbeddingFile, key: str | None) -> np.ndarray | None:
    if key is None:
        return None
    batch_n = file.text(key, "batch")
    if len(np.unique(batch_n[batch_n != ""])) < 2:
        raise InputError(f"{file.path}: all cells are of one batch", "leave --batch-key out")
    return batch_n


def _label(file: EmbeddingFile, key: str | None) -> np.ndarray | None:
    return None if key is None else file.text(key, "label")


def _score(
    path: Path,
    key: str,
    emb_nz: np.ndarray,
    depth_n: np.ndarray,
    batch_n: np.ndarray | None,
    label_n: np.ndarray | None,
    estimator: str,
    cells: int | None,
    seed: int,
) -> dict[str, Any]:
    keep = finite_cells(path, key, emb_nz)
    if batch_n is not None:
        keep &= cells_with_batch(path, batch_n)
    emb_nz, depth_n = emb_nz[keep].astype(np.float64), depth_n[keep]
    entry: dict[str, Any] = {
        "cells": len(emb_nz),
        "cells_left_out": int((~keep).sum()),
        "dimensions": int(emb_nz.shape[1]),
    }

    def tell(name: str, target_n: np.ndarray, discrete: bool) -> None:
        entry[name] = mutual_information(emb_nz, target_n, discrete=discrete, cells=cells, seed=seed)
        if label_n is not None:
            dealt_n = shuffled_within(target_n, label_n[keep], seed)
            entry[f"{name}_by_labels"] = mutual_information(emb_nz, dealt_n, discrete=discrete, cells=cells, seed=seed)

    tell("depth_mi", depth_n, discrete=False)
    if batch_n is not None:
        batch_n = batch_n[keep]
        discrete = estimator == "classification"
        code_n = np.unique(batch_n, return_inverse=True)[1].astype(np.float64)
        tell("batch_mi", batch_n if discrete else code_n, discrete)
        indices, _ = knn(emb_nz, NEIGHBOURS, seed)
        entry["neighbours"] = "exact" if len(emb_nz) <= EXACT_CELLS else "approximate (pynndescent)"
        entry["batch_shares"] = batch_shares(indices, batch_n)
        entry["mixing"] = batch_entropy(indices, batch_n)
    return entry


def _line(entry: dict[str, Any]) -> str:
    depth = entry["depth_mi"]
    line = f"{entry['file']} {entry['embedding']}: depth MI {depth['mean']:.3f} mean, {depth['max']:.3f} max"
    if "batch_mi" in entry:
        batch, shares = entry["batch_mi"], entry["batch_shares"]
        line += (
            f"; batch MI {batch['mean']:.3f} mean, {batch['max']:.3f} max; share of the own batch {shares['own']:.3f}, "
            f"mixing {entry['mixing']:.3f}"
        )
    if "depth_mi_by_labels" in entry:
        labels = entry["depth_mi_by_labels"]
        line += f"; through the labels alone depth MI {labels['mean']:.3f} mean, {labels['max']:.3f} max"
    return line
