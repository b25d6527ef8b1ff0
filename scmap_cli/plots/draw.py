"""Figures of the stages: loss curves and embeddings, as PNG or SVG by the name's ending, without a display."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scmap_cli.plots.canvas import COLOURS, new_figure, palette, save, short, short_names

#: most categories that a legend names, the largest ones
_MOST_NAMED = 60
#: tiles of a side of the plane on which the density of cells is measured
_TILES = 100


def loss_curves(
    history: Sequence[Mapping[str, float]], path: Path, best: int = 0, panels: Sequence[str] = ("loss", "parts")
) -> None:
    """Training and validation loss by epoch, and the parts of the loss in a second panel.

    Parameters
    ----------
    history
        Rows with ``epoch``, ``train_loss`` and, with validation, ``valid_loss`` and ``valid_<part>``.
    path
        Where to write.
    best
        Epoch whose weights the model has, marked by a line.
    panels
        Which of the two are drawn.
    """
    figure, places = new_figure(4.5 * len(panels), 3.4, len(panels))
    epochs = [row["epoch"] for row in history]
    held = "valid_loss" in history[0]
    skip = {"epoch", "train_loss", "valid_loss", "lr"}
    parts = [key for key in history[0] if key not in skip and not key.startswith("valid_")]
    for axes, panel in zip(places, panels, strict=True):
        if panel == "loss":
            axes.plot(epochs, [row["train_loss"] for row in history], color=COLOURS[0], label="training (annealed)")
            if held:
                valid = [row["valid_loss"] for row in history]
                axes.plot(epochs, valid, color=COLOURS[1], label="validation (final weights)")
            axes.set_title("loss per cell", fontsize=10)
        else:
            for colour, part in zip(palette(len(parts) + 2)[2:], parts, strict=True):
                key = f"valid_{part}" if held else part
                axes.plot(epochs, [row[key] for row in history], color=colour, label=part)
            axes.set_yscale("log")
            axes.set_title(f"parts per cell ({'validation' if held else 'training'})", fontsize=10)
        if best:
            axes.axvline(best, color="0.6", linewidth=0.8, linestyle=":")
        axes.set_xlabel("epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        # Below, as curves may be anywhere within.
        axes.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=3)
        axes.spines[["top", "right"]].set_visible(False)
    save(figure, path)


def elbow_curve(
    weights: Sequence[float], values: Sequence[float], chosen: float, of: str, measure: str, path: Path
) -> None:
    """What trials of a weight led to, the chosen one marked.

    Parameters
    ----------
    weights, values
        Weights tried in rising order, and what each led to.
    chosen
        The weight taken.
    of, measure
        Names of both axes.
    path
        Where to write.
    """
    figure, (axes,) = new_figure(4.5, 3.2)
    axes.plot(weights, values, color=COLOURS[0], marker="o", markersize=4)
    axes.axvline(chosen, color="0.6", linewidth=0.8, linestyle=":")
    # The first weight may be 0.
    axes.set_xscale("symlog", linthresh=min(w for w in weights if w > 0))
    axes.set_xlabel(of)
    axes.set_ylabel(measure)
    axes.set_title(f"chosen: {chosen:g}", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    save(figure, path)


def program_tests(
    log_bf: np.ndarray,
    names: Sequence[str],
    sides: Mapping[str, np.ndarray],
    threshold: float,
    title: str,
    path: Path,
    shown: int = 20,
) -> None:
    """Ranked |log Bayes factors| of programs, and how the first few are distributed in both groups.

    Parameters
    ----------
    log_bf, names
        Programs, strongest first; factors above 0 (more expression in the first group) are drawn in its colour.
    sides
        Two groups by name: (cells, programs) signed scores of the first programs, in the same order.
    threshold
        Drawn as a line.
    title
        What was compared.
    path
        Where to write.
    shown
        Bars at most.
    """
    figure, (left, right) = new_figure(13, 0.28 * min(shown, len(names)) + 1.6, 2)
    strength = np.abs(log_bf[:shown])[::-1]
    labels = short_names(names[:shown])
    colours = [COLOURS[5] if value > 0 else COLOURS[0] for value in log_bf[:shown][::-1]]
    left.barh(np.arange(len(strength)), strength, color=colours)
    left.set_yticks(np.arange(len(strength)), labels[::-1], fontsize=7)
    left.axvline(threshold, color="0.4", linewidth=0.8, linestyle="--")
    left.set_xlabel("|log Bayes factor|")
    left.set_title(title, fontsize=9, loc="left")
    for offset, (name, scores) in enumerate(sides.items()):
        places = np.arange(scores.shape[1])[::-1] + (0.2 if offset == 0 else -0.2)
        parts = right.violinplot(
            list(scores.T), positions=places, orientation="horizontal", widths=0.38, showmedians=True
        )
        colour = COLOURS[5] if offset == 0 else COLOURS[0]
        for body in parts["bodies"]:
            body.set(facecolor=colour, alpha=0.7)
        for key in ("cbars", "cmins", "cmaxes", "cmedians"):
            parts[key].set(color=colour, linewidth=0.8)
        right.plot([], [], color=colour, linewidth=4, label=name)
    count = next(iter(sides.values())).shape[1]
    right.set_yticks(np.arange(count)[::-1], labels[:count], fontsize=7)
    right.set_xlabel("score (posterior mean, up is more expression)")
    right.legend(fontsize=8, loc="best")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    save(figure, path)


def embedding(xy_n2: np.ndarray, columns: Mapping[str, np.ndarray], path: Path, width: float = 4.8) -> None:
    """A two-dimensional embedding, one panel a column: categories with a legend, numbers with a colour bar.

    Parameters
    ----------
    xy_n2
        Coordinates, (n, 2).
    columns
        Title and values of each panel, (n,) each; text is drawn as categories.
    path
        Where to write.
    width
        Of a panel in inches (with its legend, where there are several); less makes the text larger beside the cells.
    """
    _side_by_side([(title, xy_n2, values) for title, values in columns.items()], path, width)


def layouts(places: Mapping[str, np.ndarray], values: np.ndarray, path: Path, width: float = 4.8) -> None:
    """Several two-dimensional layouts of the same cells, (n, 2) by title, by one column; else as :func:`embedding`."""
    _side_by_side([(title, xy_n2, values) for title, xy_n2 in places.items()], path, width)


def _side_by_side(shown: Sequence[tuple[str, np.ndarray, np.ndarray]], path: Path, width: float) -> None:
    figure, panels = new_figure(width * len(shown), width / 1.2, len(shown))
    for axes, (title, xy_n2, values) in zip(panels, shown, strict=True):
        _scatter(figure, axes, xy_n2, title, np.asarray(values))
    # A legend beside a single panel adds to the figure; among several it must not reach into the next one.
    if len(shown) > 1:
        figure.tight_layout()
    save(figure, path)


def dot_sizes(xy_n2: np.ndarray) -> np.ndarray:
    """Area of each cell's dot, (n,): less for more cells, and less in a crowd than for cells that lie alone.

    So a crowd does not become one blot, in which the last cells drawn hide the others, and a cell that lies alone is
    seen among a hundred thousand.
    """
    n = len(xy_n2)
    low, span = xy_n2.min(axis=0), np.ptp(xy_n2, axis=0)
    tile_n2 = np.minimum((xy_n2 - low) / np.where(span > 0, span, 1) * _TILES, _TILES - 1).astype(np.int64)
    _, tile_n, cells_t = np.unique(tile_n2 @ (_TILES, 1), return_inverse=True, return_counts=True)
    crowd_n = cells_t[tile_n]
    even = float(np.clip(30_000 / n, 0.5, 20))
    return even * np.clip(np.sqrt(np.median(crowd_n) / crowd_n), 0.4, 4)


def _scatter(figure: Any, axes: Any, xy_n2: np.ndarray, title: str, values: np.ndarray) -> None:
    """One panel; many points are small, in random order and a picture inside the picture."""
    n = len(xy_n2)
    size_n = dot_sizes(xy_n2)
    options = {"linewidths": 0, "rasterized": n > 2000}
    if values.dtype.kind in "fc":
        # What is largest lies on top, as it is often rare.
        order = np.argsort(np.nan_to_num(values, nan=-np.inf), kind="stable")
        known = values[np.isfinite(values)]
        low, high = np.quantile(known, [0.01, 0.99]) if len(known) else (0.0, 1.0)
        limits = {"vmin": low, "vmax": high if high > low else known.max(initial=low)}
        dots = axes.scatter(
            *xy_n2[order].T, s=size_n[order], c=values[order], cmap="viridis", plotnonfinite=False, **limits, **options
        )
        figure.colorbar(dots, ax=axes, shrink=0.7)
    else:
        order = np.random.default_rng(0).permutation(n)
        names, codes = np.unique(values.astype(str), return_inverse=True)
        names, codes = _natural(names, codes)
        colours = np.array([_rgba(c) for c in palette(len(names))])
        axes.scatter(*xy_n2[order].T, s=size_n[order], c=colours[codes[order]], **options)
        shown = np.argsort(-np.bincount(codes), kind="stable")[:_MOST_NAMED]
        _legend(axes, names, colours, np.sort(shown))
        if len(names) > len(COLOURS):
            _write_marks(axes, xy_n2, codes, np.sort(shown), _marks(names, np.sort(shown)))
    axes.set_title(title, fontsize=10)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_xlabel("UMAP 1", fontsize=8)
    axes.set_ylabel("UMAP 2", fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def _natural(names: np.ndarray, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Names in the order of their numbers when all are numbers, so that cluster 10 follows cluster 9."""
    if not all(name.isdigit() for name in names):
        return names, codes
    order = np.argsort(names.astype(int), kind="stable")
    return names[order], np.argsort(order)[codes]


def _rgba(colour: Any) -> tuple[float, float, float, float]:
    from matplotlib.colors import to_rgba

    return to_rgba(colour)


def _legend(axes: Any, names: np.ndarray, colours: np.ndarray, shown: np.ndarray) -> None:
    """Names beside the panel; more of them than colours are told apart by marks, which also stand on the cells."""
    from matplotlib.lines import Line2D

    handles = []
    for mark, which in zip(_marks(names, shown), shown, strict=True):
        name = short(str(names[which]), 28)
        label = f"{mark} {name}" if len(names) > len(COLOURS) and mark != name else name
        handles.append(Line2D([], [], marker="o", linestyle="", markersize=5, color=tuple(colours[which]), label=label))
    if len(shown) < len(names):
        handles.append(Line2D([], [], linestyle="", label=f"and {len(names) - len(shown)} more"))
    columns = 1 + (len(handles) - 1) // 20
    axes.legend(handles=handles, frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5), ncols=columns)


def _marks(names: np.ndarray, shown: np.ndarray) -> list[str]:
    """What stands for a category on the cells: short names themselves, else numbers from 1."""
    if all(len(name) <= 3 for name in names):
        return [str(names[which]) for which in shown]
    return [str(number) for number in range(1, len(shown) + 1)]


def _write_marks(axes: Any, xy_n2: np.ndarray, codes: np.ndarray, shown: np.ndarray, marks: Sequence[str]) -> None:
    from matplotlib.patheffects import withStroke

    for mark, which in zip(marks, shown, strict=True):
        place = np.median(xy_n2[codes == which], axis=0)
        outline = [withStroke(linewidth=2, foreground="white")]
        axes.text(*place, mark, fontsize=7, ha="center", va="center", path_effects=outline)
