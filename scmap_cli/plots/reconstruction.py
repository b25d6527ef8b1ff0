"""A reconstruction class by class, after Fig. 3 C of the MarkerMap paper."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from scmap_cli.metrics.reconstruction import gene_variances
from scmap_cli.plots.canvas import COLOURS, save, short

# Classes drawn at most, the largest ones, and cells of one in a panel.
_MOST_TYPES, _MOST_CELLS = 9, 1000
_BINS = 30


def leading_plane(values_ng: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean of the cells, (g,), and the two directions that they vary most along, (g, 2)."""
    from scipy.linalg import eigh

    mean_g = values_ng.mean(axis=0)
    centred_ng = (values_ng - mean_g).astype(np.float64)
    tall = len(centred_ng) > centred_ng.shape[1]
    gram = centred_ng.T @ centred_ng if tall else centred_ng @ centred_ng.T
    last = len(gram) - 1
    axes_2 = eigh(gram, subset_by_index=[max(last - 1, 0), last])[1][:, ::-1]
    axes_g2 = axes_2 if tall else centred_ng.T @ axes_2
    axes_g2 = axes_g2 / np.maximum(np.linalg.norm(axes_g2, axis=0), 1e-12)
    return mean_g, axes_g2 if axes_g2.shape[1] == 2 else np.column_stack([axes_g2, np.zeros(len(mean_g))])


def type_panels(
    name: str,
    types_n: np.ndarray,
    original_ng: np.ndarray,
    rebuilt_ng: np.ndarray,
    unit_g: np.ndarray | None,
    path: Path,
) -> None:
    """Variances of genes, cells on the originals' first two eigenvectors, and errors, by class and in all.

    Parameters
    ----------
    name
        What is drawn.
    types_n
        (n,) class of every cell.
    original_ng, rebuilt_ng
        (n, g) values as they were and as rebuilt.
    unit_g
        As in :func:`~scmap_cli.metrics.reconstruction.gene_variances`.
    path
        Where to write.
    """
    from matplotlib.figure import Figure

    names, sizes = np.unique(types_n, return_counts=True)
    names = names[np.argsort(-sizes, kind="stable")]
    groups = [("all cells", np.ones(len(types_n), dtype=bool))]
    groups += [(str(one), types_n == one) for one in names[:_MOST_TYPES]]
    mean_g, axes_g2 = leading_plane(original_ng)
    figure = Figure(figsize=(3.0 + 2.0 * len(groups), 4.8))
    grid = figure.add_gridspec(2, 1 + len(groups), width_ratios=[1.3, *[1.0] * len(groups)])
    _errors(figure.add_subplot(grid[:, 0]), names, types_n, original_ng, rebuilt_ng)
    upper, lower = ([figure.add_subplot(grid[line, 1 + i]) for i in range(len(groups))] for line in (0, 1))
    for top, bottom, (title, cells) in zip(upper, lower, groups, strict=True):
        _histogram(top, *gene_variances(original_ng[cells], rebuilt_ng[cells], unit_g))
        top.set_title(f"{short(title, 20)} ({int(cells.sum())})", fontsize=8)
        shown = np.flatnonzero(cells)
        shown = shown[np.linspace(0, len(shown) - 1, min(len(shown), _MOST_CELLS)).astype(np.int64)]
        for values_ng, colour in ((original_ng, COLOURS[0]), (rebuilt_ng, COLOURS[1])):
            at_n2 = (values_ng[shown] - mean_g) @ axes_g2
            bottom.scatter(at_n2[:, 0], at_n2[:, 1], s=3, linewidths=0, color=colour, alpha=0.6, rasterized=True)
        for axes in (top, bottom):
            axes.tick_params(labelsize=6)
            axes.spines[["top", "right"]].set_visible(False)
        top.set_xlabel("variance of a gene", fontsize=7)
        bottom.set_xlabel("first eigenvector", fontsize=7)
    for axes in lower[1:]:
        axes.sharex(lower[0])
        axes.sharey(lower[0])
    upper[0].set_ylabel("genes", fontsize=7)
    lower[0].set_ylabel("second eigenvector", fontsize=7)
    for label, colour in (("original", COLOURS[0]), ("rebuilt", COLOURS[1])):
        upper[0].plot([], [], "s", color=colour, markersize=4, label=label)
    upper[0].legend(frameon=False, fontsize=6)
    figure.suptitle(short(name), fontsize=9)
    figure.tight_layout()
    save(figure, path)


def _histogram(axes: Any, before_g: np.ndarray, after_g: np.ndarray) -> None:
    """Numbers of genes by variance, on a logarithmic axis; those that do not vary stand at its lower end."""
    both = np.concatenate([before_g, after_g])
    known = both[both > 0]
    low, high = (float(known.min()), float(known.max())) if len(known) else (0.1, 1.0)
    low = max(low, 1e-6 * high)
    edges = np.geomspace(low, high if high > low else 10 * low, _BINS + 1)
    for values_g, colour in ((before_g, COLOURS[0]), (after_g, COLOURS[1])):
        axes.stairs(np.histogram(np.clip(values_g, edges[0], edges[-1]), edges)[0], edges, color=colour, linewidth=1)
    axes.set_xscale("log")


def _errors(axes: Any, names: np.ndarray, types_n: np.ndarray, original_ng: np.ndarray, rebuilt_ng: np.ndarray) -> None:
    wrong_n = ((original_ng - rebuilt_ng) ** 2).mean(axis=1)
    axes.barh(np.arange(len(names)), [wrong_n[types_n == one].mean() for one in names], color=COLOURS[1], height=0.7)
    axes.axvline(wrong_n.mean(), color="0.4", linewidth=0.8, linestyle=":")
    axes.set_yticks(np.arange(len(names)), [short(str(one), 24) for one in names], fontsize=min(7, 200 / len(names)))
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlabel("mean squared error; line: all cells", fontsize=7)
    axes.tick_params(axis="x", labelsize=6)
    axes.spines[["top", "right"]].set_visible(False)
