"""``scmap evaluate reconstruction``: how well all genes are got back from a few, or by a model.

Genes of a method or table are put through the linear map (ordinary least squares on the training cells) and scored on
the test cells of every split. A reconstruction in a file is scored against the same cells and genes of the input.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

from scmap_cli.data.features import align, apply
from scmap_cli.data.matrices import cell_totals
from scmap_cli.data.scaling import fit_scaling
from scmap_cli.errors import InputError, UsageError
from scmap_cli.io.atomic import check_outputs, text_file, write_text
from scmap_cli.markers.base import run_selector
from scmap_cli.metrics.reconstruction import by_type, gene_variances, linear_map, reconstruction_scores
from scmap_cli.plots.canvas import publish
from scmap_cli.plots.reconstruction import type_panels
from scmap_cli.plots.scores import reconstruction_panels
from scmap_cli.registry import Selector, get_selector
from scmap_cli.runtime import provenance
from scmap_cli.runtime.logs import log
from scmap_cli.stages.inputs import load_rna
from scmap_cli.stages.marker_tables import MarkerTable, check_table, read_markers
from scmap_cli.stages.panel import Fold, Panel, check_classes, check_selectors, check_splits, load_panel, spread
from scmap_cli.stages.scores import check_sources, render

SCALES = ("scaled", "global")
"""``scaled``: log1p CP10k, each gene scaled and clipped at 10 (Table 2). ``global``: log2(1 + counts), without depth
normalisation, one mean and standard deviation for the whole matrix (Table 4)."""

REBUILT = ("same", "log1p", "counts")
"""What a reconstruction's values are: on the scale of the scores already, or log1p CP10k (what ``impute`` makes by a
MarkerMap model) or counts, which are brought to it."""


def evaluate_reconstruction(
    input: Path,
    output: Path | str = "-",
    *,
    method: Sequence[str] = (),
    markers: Sequence[Path] = (),
    reconstruction: Sequence[Path] = (),
    reconstruction_values: str = "same",
    scale: str = "scaled",
    as_published: bool = False,
    k: int = 50,
    label_key: str | None = None,
    exclude_labels: Sequence[str] = (),
    splits: int = 5,
    layer: str | None = None,
    gene_column: str | None = None,
    plot: Path | None = None,
    plot_types: Path | None = None,
    seed: int = 0,
    device: str = "auto",
    force: bool = False,
    dry_run: bool = False,
) -> dict[str, Any]:
    """Score reconstructions of all genes.

    Parameters
    ----------
    input
        Raw counts.
    output
        JSON file; ``-`` writes none, and the caller prints
        :func:`~scmap_cli.stages.scores.render` of the result.
    method, markers
        Selectors, and tables of ``select-markers``, whose genes go through the linear map.
    reconstruction
        h5ad files with rebuilt values in ``X``; genes and cells are matched by name. All their cells are scored.
    reconstruction_values
        One of :data:`REBUILT`.
    scale
        One of :data:`SCALES`; mean and deviation are those of the training cells, or of a reconstruction's cells.
    as_published
        Run the methods as the MarkerMap paper did.
    k
        Number of genes.
    label_key, exclude_labels
        Also score each class of this ``obs`` column; splits are then stratified by it.
    splits
        Number of seeded 70/10/20 splits.
    plot
        Draw the errors, and the variance of every gene as it was and as rebuilt (in the first split).
    plot_types
        Draw the first source class by class, as in the paper's Fig. 3 C: variances of the genes as they were and as
        rebuilt, both on the first two eigenvectors of the test cells, and errors (in the first split).
    device
        Where methods of MarkerMap are trained; the others run on the CPU.
    layer, gene_column, seed, force, dry_run
        As elsewhere.

    Returns
    -------
    dict
        ``settings`` and an entry a source in ``results``.

    Raises
    ------
    UsageError
        Options that make no sense.
    InputError
        The input is unfit, or a reconstruction has none of its cells or genes, or values that are not finite.
    """
    if not method and not markers and not reconstruction:
        raise UsageError("nothing to evaluate", "give --method, --markers or --reconstruction")
    if scale not in SCALES:
        raise UsageError(f"--scale must be one of {', '.join(SCALES)}, not {scale!r}")
    if reconstruction_values not in REBUILT:
        raise UsageError(f"--reconstruction-values must be one of {', '.join(REBUILT)}, not {reconstruction_values!r}")
    if k < 1:
        raise UsageError(f"-k must be at least 1, not {k}")
    if plot_types is not None and label_key is None:
        raise UsageError("--plot-types draws class by class", "name the column of the classes with --label-key")
    check_splits(splits)
    check_sources([*set(method), *(path.name for path in [*markers, *reconstruction])])
    to_file = text_file(output)
    check_outputs(to_file, figures=[plot, plot_types], force=force)
    specs = [get_selector(name) for name in method]
    tables = [read_markers(path) for path in markers]
    for table in tables:
        check_table(table, seed, splits, (k,))
    panel = load_panel(input, label_key=label_key, exclude_labels=exclude_labels, layer=layer, gene_column=gene_column)
    if specs or tables:
        check_classes(panel)
    for table in tables:
        for genes in table.genes.values():
            panel.columns(genes, str(table.path))
    check_selectors(panel, specs, k, device)
    settings: dict[str, Any] = {
        "scale": scale,
        "reconstruction_values": reconstruction_values,
        "k": k,
        "label_key": label_key,
        "exclude_labels": list(exclude_labels),
        "splits": splits,
        "as_published": as_published,
        "mse": "mean squared error of an entry",
        "mae": "mean absolute error of an entry",
        "jaccard": "overlap of the fifth of genes of largest variance, before scaling by gene",
        "spearman": "rank correlation of the genes' variances, before scaling by gene",
        "l2": "mean over cells of the Euclidean norm of the error",
        "l1": "mean over cells of the sum of absolute errors",
        "seed": seed,
    }
    result: dict[str, Any] = {"what": "reconstruction", "settings": settings, "results": []}
    if dry_run:
        log.info("would score %d reconstructions", len(specs) + len(tables) + len(reconstruction))
        return result
    sources = {"method": list(method), "markers": [p.name for p in markers]}
    sources["reconstruction"] = [p.name for p in reconstruction]
    with provenance.run(
        "evaluate reconstruction",
        inputs=[input, *markers, *reconstruction],
        output=to_file,
        parameters={**settings, **sources, "layer": layer, "gene_column": gene_column},
        seed=seed,
    ) as run:
        variances: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        first: tuple[Any, ...] = ()
        found: dict[str, list[dict[str, Any]]] = {name: [] for name in [*method, *(t.path.name for t in tables)]}
        for number in range(splits if found else 0):
            fold = Fold(panel, number, seed)
            train, test = _fold_values(fold, scale)
            unit = fold.scaling.deviation if scale == "scaled" else None
            for name, columns in _fold_genes(fold, specs, tables, k, as_published, device).items():
                rebuilt = linear_map(train[:, columns], train, test[:, columns])
                found[name].append(_score(panel, fold.test, test, rebuilt, unit))
                if plot is not None and name not in variances:
                    variances[name] = gene_variances(test, rebuilt, unit)
                if plot_types is not None and not first:
                    first = (name, _labels(panel, fold.test), test, rebuilt, unit)
        for name, scored in found.items():
            result["results"].append({"name": name, "map": "linear", "k": k} | _over_splits(scored))
        for path in reconstruction:
            cells, original, given, unit = _given(panel, path, scale, reconstruction_values)
            scored_file = _score(panel, cells, original, given, unit)
            result["results"].append({"name": path.name, "map": "given", "k": None} | scored_file)
            if plot is not None:
                variances[path.name] = gene_variances(original, given, unit)
            if plot_types is not None and not first:
                first = (path.name, _labels(panel, cells), original, given, unit)
        for entry in result["results"]:
            log.info("%s", _line(entry))
        result["history"] = [run.record]
        if to_file is not None:
            write_text(to_file, render(result), force)
        if plot is not None:
            publish(plot, force, "the reconstructions", reconstruction_panels, result["results"], variances)
        if plot_types is not None:
            publish(plot_types, force, "the classes", type_panels, *first)
    return result


def _fold_genes(
    fold: Fold, specs: Sequence[Selector], tables: Sequence[MarkerTable], k: int, as_published: bool, device: str
) -> dict[str, np.ndarray]:
    chosen = {
        spec.name: run_selector(spec, fold.data(), k, seed=fold.seed, as_published=as_published, device=device).genes
        for spec in specs
    }
    for table in tables:
        chosen[table.path.name] = fold.panel.columns(table.of_split(fold.number)[:k], str(table.path))
    return chosen


def standardise(log_counts: np.ndarray, mean: float, deviation: float) -> np.ndarray:
    """Values in units of one deviation around one mean, those of a whole matrix."""
    return (log_counts - mean) / (deviation if deviation > 0 else 1.0)


def _log2(values: sparse.csr_matrix) -> np.ndarray:
    """log2(1 + value), dense float64; 0 stays 0, so the stored values alone are computed."""
    logged = np.log2(1.0 + values.data.astype(np.float64))
    return sparse.csr_matrix((logged, values.indices, values.indptr), shape=values.shape).toarray()


def _fold_values(fold: Fold, scale: str) -> tuple[np.ndarray, np.ndarray]:
    """Training and test cells on the scale of the scores."""
    if scale == "scaled":
        return fold.scaled
    train, test = (_log2(fold.panel.counts[cells]) for cells in (fold.train, fold.test))
    mean, deviation = float(train.mean()), float(train.std())
    return standardise(train, mean, deviation), standardise(test, mean, deviation)


def _score(
    panel: Panel, cells: np.ndarray, original: np.ndarray, rebuilt: np.ndarray, unit_g: np.ndarray | None
) -> dict[str, Any]:
    found: dict[str, Any] = {"overall": {"cells": len(original), **reconstruction_scores(original, rebuilt, unit_g)}}
    if panel.codes is not None:
        found["types"] = by_type(original, rebuilt, _labels(panel, cells), unit_g)
    return found


def _labels(panel: Panel, cells: np.ndarray) -> np.ndarray:
    return np.array(panel.classes)[panel.strata[cells]]


def _over_splits(scored: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Mean and spread of every score; one that is undefined in a split is left out of them."""

    def together(entries: Sequence[dict[str, Any]]) -> dict[str, Any]:
        keys = list(entries[0])
        known = {key: [entry[key] for entry in entries if entry[key] is not None] for key in keys}
        return {key: spread(values) if values else None for key, values in known.items()}

    overall = together([one["overall"] for one in scored])
    if "types" not in scored[0]:
        return {"overall": overall}
    types = {name: together([one["types"][name] for one in scored]) for name in scored[0]["types"]}
    return {"overall": overall, "types": types}


def _given(
    panel: Panel, path: Path, scale: str, values: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]:
    """Cells that a reconstruction in a file shares with the input, their values there and here, and a gene's unit.

    Genes are those that both have.
    """
    rebuilt_file = load_rna(path, None, None, as_is=True)
    place = {name: i for i, name in enumerate(rebuilt_file.cells.tolist())}
    names = panel.source.cells[panel.kept]
    cells = np.array([i for i, name in enumerate(names.tolist()) if name in place], dtype=np.int64)
    alignment = align(rebuilt_file.genes, panel.genes)
    genes = np.flatnonzero(alignment.index >= 0)
    if not len(cells) or not len(genes):
        raise InputError(
            f"{path} shares {len(cells)} cells and {len(genes)} genes with {panel.path}",
            "give the reconstruction of this input's cells, with the same names",
        )
    if len(cells) < len(names) or len(genes) < len(panel.genes):
        log.warning(
            "%s has %d of %d cells and %d of %d genes; these are scored",
            *(path, len(cells), len(names), len(genes), len(panel.genes)),
        )
    rows = np.array([place[names[i]] for i in cells])
    rebuilt = apply(rebuilt_file.counts, alignment)[rows][:, genes]
    if values == "counts" and rebuilt.nnz and rebuilt.data.min() < 0:
        raise InputError(f"{path}: negative values are no counts", "give --reconstruction-values same")
    counts = panel.counts[cells]
    original, totals_m = counts[:, genes], cell_totals(counts)
    unit = None
    if scale == "scaled":
        original_log = panel.log1p[cells][:, genes]
        scaling = fit_scaling(original_log)
        unit = scaling.deviation
        left = scaling.apply(original_log)
        if values == "counts":
            found_m = np.maximum(np.asarray(rebuilt.sum(axis=1)).ravel(), 1e-12)
            share_m = np.asarray(original.sum(axis=1)).ravel() / np.maximum(totals_m, 1e-12)
            rebuilt = _stored(rebuilt, np.log1p(rebuilt.data * _repeated(rebuilt, 1e4 * share_m / found_m)))
        right = rebuilt.toarray() if values == "same" else scaling.apply(rebuilt)
    else:
        logged = _log2(original)
        mean, deviation = float(logged.mean()), float(logged.std())
        left = standardise(logged, mean, deviation)
        if values == "log1p":
            rebuilt = _stored(rebuilt, np.expm1(rebuilt.data.clip(0)) * _repeated(rebuilt, totals_m / 1e4))
        right = rebuilt.toarray() if values == "same" else standardise(_log2(rebuilt), mean, deviation)
    return cells, left, right, unit


def _stored(matrix: sparse.csr_matrix, values: np.ndarray) -> sparse.csr_matrix:
    """The matrix with other stored values."""
    return sparse.csr_matrix((values.astype(np.float32), matrix.indices, matrix.indptr), shape=matrix.shape)


def _repeated(matrix: sparse.csr_matrix, by_row: np.ndarray) -> np.ndarray:
    """A number a row for every stored value."""
    return np.repeat(by_row, np.diff(matrix.indptr))


def _line(entry: dict[str, Any]) -> str:
    def text(key: str) -> str:
        value = entry["overall"][key]
        value = value["mean"] if isinstance(value, dict) else value
        return f"{key} {'-' if value is None else format(value, '.4g')}"

    return f"{entry['name']}: {', '.join(text(key) for key in ('mse', 'mae', 'jaccard', 'spearman', 'l2', 'l1'))}"
