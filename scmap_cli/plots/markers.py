"""Figures of marker genes: by class, and the scores of benchmarks and evaluations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scmap_cli.data.scaling import fit_scaling
from scmap_cli.markers.base import MarkerData
from scmap_cli.plots.canvas import new_figure, palette, save, short

_MOST_GENES, _CELLS_A_CLASS = 80, 60


def marker_panels(data: MarkerData, genes: np.ndarray, names: Sequence[str], path: Path) -> None:
    """A dot plot and a heat map of chosen genes by class.

    Parameters
    ----------
    data
        Labelled cells.
    genes, names
        Columns and names of the genes; the first 80 are drawn.
    path
        Where to write.
    """
    genes, names = genes[:_MOST_GENES], list(names)[:_MOST_GENES]
    codes, classes = data.labels, data.classes
    sizes = np.bincount(codes, minlength=len(classes))
    found_ck = np.asarray((data.members @ (data.counts[:, genes] > 0).astype(np.float64)).todense()) / sizes[:, None]
    means_ck = data.class_means[:, genes]
    # Genes of the class that has most of them stand together.
    order = np.lexsort((-means_ck.max(axis=0), means_ck.argmax(axis=0)))
    found_ck, means_ck, genes = found_ck[:, order], means_ck[:, order], genes[order]
    labels = [names[i] for i in order]
    shown = np.concatenate([_spread(np.flatnonzero(codes == code)) for code in range(len(classes))])
    values = fit_scaling(data.log1p[:, genes], clip=3.0).apply(data.log1p[shown][:, genes])

    import matplotlib.figure

    width = 2.5 + 0.17 * len(genes)
    figure = matplotlib.figure.Figure(figsize=(width, 1.6 + 0.24 * len(classes) + 3.4))
    dots, heat = figure.subplots(2, 1, height_ratios=[0.6 + 0.24 * len(classes), 3.4])
    top = np.maximum(means_ck.max(axis=0, keepdims=True), 1e-12)
    across, down = np.meshgrid(np.arange(len(genes)), np.arange(len(classes)))
    drawn = dots.scatter(across, down, s=70 * found_ck, c=means_ck / top, cmap="Reds", vmin=0, vmax=1, linewidths=0)
    dots.set_yticks(np.arange(len(classes)), [short(name, 28) for name in classes], fontsize=7)
    dots.set_xticks([])
    dots.set_xlim(-0.7, len(genes) - 0.3)
    dots.set_ylim(len(classes) - 0.4, -0.6)
    dots.set_title("mean log1p CP10k by class, share of the gene's largest; size: share of cells", fontsize=8)
    figure.colorbar(drawn, ax=dots, shrink=0.8, pad=0.01)
    image = heat.imshow(values, aspect="auto", cmap="RdBu_r", vmin=-3, vmax=3, interpolation="nearest")
    ends = np.cumsum([min(size, _CELLS_A_CLASS) for size in sizes])
    for end in ends[:-1]:
        heat.axhline(end - 0.5, color="0.3", linewidth=0.5)
    middles = ends - np.array([min(size, _CELLS_A_CLASS) for size in sizes]) / 2 - 0.5
    heat.set_yticks(middles, [short(name, 28) for name in classes], fontsize=7)
    heat.set_xticks(np.arange(len(genes)), labels, rotation=90, fontsize=6)
    heat.set_title(f"scaled values of at most {_CELLS_A_CLASS} cells a class", fontsize=8)
    figure.colorbar(image, ax=heat, shrink=0.8, pad=0.01)
    figure.tight_layout()
    save(figure, path)


def _spread(cells: np.ndarray) -> np.ndarray:
    """At most :data:`_CELLS_A_CLASS` cells, evenly over those given."""
    count = min(len(cells), _CELLS_A_CLASS)
    return cells[np.linspace(0, len(cells) - 1, count).astype(np.int64)]


def _lines(axes: Any, rows: Sequence[Mapping[str, Any]], names: Sequence[str], across: str, measure: str) -> None:
    """Mean and standard deviation of a measure by name: lines over ``across``, or bars where it has one value."""
    colours = palette(len(names))
    places = sorted({row[across] for row in rows})
    for number, (name, colour) in enumerate(zip(names, colours, strict=True)):
        grouped = [[row[measure] for row in rows if row["name"] == name and row[across] == place] for place in places]
        known = [(place, values) for place, values in zip(places, grouped, strict=True) if values]
        means = np.array([np.mean(values) for _, values in known])
        spread = np.array([np.std(values, ddof=1) if len(values) > 1 else 0.0 for _, values in known])
        if len(places) == 1:
            axes.errorbar(means, [number], xerr=spread, fmt="o", color=colour, markersize=4, capsize=2)
        else:
            at = [place for place, _ in known]
            axes.plot(at, means, marker="o", markersize=3, color=colour, label=name, linewidth=1)
            axes.fill_between(at, means - spread, means + spread, color=colour, alpha=0.12, linewidth=0)
    if len(places) == 1:
        axes.set_yticks(np.arange(len(names)), names, fontsize=7)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set_xlabel(measure.replace("_", " "))
        axes.grid(axis="x", linewidth=0.3)
    else:
        axes.set_xlabel(across.replace("_", " "))
        axes.set_ylabel(measure.replace("_", " "))
        if "accuracy" in measure:
            axes.set_ylim(top=min(axes.get_ylim()[1], 1.02))
    axes.spines[["top", "right"]].set_visible(False)


def benchmark_curves(rows: Sequence[Mapping[str, Any]], names: Sequence[str], path: Path) -> None:
    """Accuracy of neighbours and forest, and error of the linear map, by method and number of genes.

    Parameters
    ----------
    rows
        Rows of a benchmark.
    names
        Methods in the order of the legend.
    path
        Where to write.
    """
    named = [{**row, "name": f"{row['method']} as-published" if row["as_published"] else row["method"]} for row in rows]
    measures = [m for m in ("knn_accuracy", "rf_accuracy", "mse") if m in named[0]]
    score_curves(named, names, "k", measures, path)


def score_curves(
    rows: Sequence[Mapping[str, Any]], names: Sequence[str], across: str, measures: Sequence[str], path: Path
) -> None:
    """Means and one standard deviation by name, a panel a measure: lines over a column, or bars where it has one value.

    Parameters
    ----------
    rows
        With ``name``, the column and the measures; several of a name at one place are splits.
    names
        In the order of the legend.
    across
        The column.
    measures
        What is drawn.
    path
        Where to write.
    """
    one = len({row[across] for row in rows}) == 1
    figure, panels = new_figure((5.0 if one else 4.2) * len(measures), max(3.4, 0.22 * len(names) + 1.2), len(measures))
    for axes, measure in zip(panels, measures, strict=True):
        _lines(axes, rows, names, across, measure)
    if not one:
        panels[-1].legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.tight_layout()
    save(figure, path)


def evaluation_panels(
    confusion_cc: np.ndarray,
    classes: Sequence[str],
    title: str,
    curves: Sequence[tuple[str, Sequence[Mapping[str, Any]]]],
    path: Path,
) -> None:
    """A confusion matrix in shares of the true class, and accuracy over numbers of genes or label noise.

    Parameters
    ----------
    confusion_cc
        (classes, classes) numbers of cells, true by predicted.
    classes, title
        Names of the classes, and what the matrix is of.
    curves
        What each further panel is drawn over, and its rows with ``name``, ``accuracy`` and that column.
    path
        Where to write.
    """
    figure, panels = new_figure(
        4.2 + 0.16 * len(classes) + 4.6 * len(curves), 3.6 + 0.12 * len(classes), 1 + len(curves)
    )
    true = np.maximum(confusion_cc.sum(axis=1, keepdims=True), 1)
    image = panels[0].imshow(confusion_cc / true, cmap="Blues", vmin=0, vmax=1)
    places = np.arange(len(classes))
    labels = [short(name, 22) for name in classes]
    panels[0].set_xticks(places, labels, rotation=90, fontsize=6)
    panels[0].set_yticks(places, labels, fontsize=6)
    if len(classes) <= 15:
        for i, j in np.argwhere(confusion_cc > 0):
            share = confusion_cc[i, j] / true[i, 0]
            colour = "white" if share > 0.5 else "black"
            panels[0].text(j, i, f"{share:.2f}", ha="center", va="center", fontsize=5.5, color=colour)
    panels[0].set_xlabel("predicted", fontsize=8)
    panels[0].set_ylabel("true", fontsize=8)
    panels[0].set_title(title, fontsize=8)
    figure.colorbar(image, ax=panels[0], shrink=0.7)
    for axes, (across, rows) in zip(panels[1:], curves, strict=True):
        names = list(dict.fromkeys(row["name"] for row in rows))
        _lines(axes, rows, names, across, "accuracy")
        axes.legend(frameon=False, fontsize=7)
    figure.tight_layout()
    save(figure, path)
