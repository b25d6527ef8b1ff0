"""Values before and after imputation: some cells and features as heat maps, and the mean of every feature."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scmap_cli.plots.canvas import COLOURS, save, short


@dataclass(frozen=True)
class BeforeAfter:
    """What a figure of imputation shows.

    Attributes
    ----------
    before_sf, after_sf
        (s, f) values of the cells and features drawn.
    names_f
        (f,) names of these features.
    mean_before_g, mean_after_g
        (g,) means of all imputed features over the drawn cells.
    before, after
        What the values are.
    same_scale
        Whether both are in one unit.
    title
        Which cells and features are drawn.
    word
        What a feature is called.
    """

    before_sf: np.ndarray
    after_sf: np.ndarray
    names_f: np.ndarray
    mean_before_g: np.ndarray
    mean_after_g: np.ndarray
    before: str
    after: str
    same_scale: bool
    title: str
    word: str


def before_after(shown: BeforeAfter, path: Path) -> None:
    """Heat maps before and after with cells and features in one order, and means of all features against each other.

    Parameters
    ----------
    shown
        What is drawn.
    path
        Where to write.
    """
    from matplotlib.figure import Figure

    cells, features = _order(shown.after_sf), _order(shown.after_sf.T)
    figure = Figure(figsize=(14, 5.2), layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=[1.25, 1.25, 1])
    both = max(shown.before_sf.max(initial=0), shown.after_sf.max(initial=0))
    for axes, values, what in ((left, shown.before_sf, shown.before), (middle, shown.after_sf, shown.after)):
        top = both if shown.same_scale else values.max(initial=0)
        image = axes.imshow(
            values[cells][:, features], cmap="viridis", vmin=0, vmax=top or 1, aspect="auto", interpolation="nearest"
        )
        axes.set_title(what, fontsize=9)
        axes.set_yticks([])
        axes.set_ylabel(f"{len(cells)} cells" if axes is left else "the same cells", fontsize=9)
        names = [short(str(shown.names_f[which]), 24) for which in features]
        axes.set_xticks(np.arange(len(features)), names, rotation=90, fontsize=6)
        figure.colorbar(image, ax=axes, shrink=0.8)
    _means(right, shown)
    figure.suptitle(shown.title, fontsize=10)
    save(figure, path)


def _means(axes: Any, shown: BeforeAfter) -> None:
    many = len(shown.mean_before_g) > 2000
    size = float(np.clip(20_000 / max(len(shown.mean_before_g), 1), 2, 14))
    axes.scatter(
        shown.mean_before_g, shown.mean_after_g, s=size, color=COLOURS[0], alpha=0.5, linewidths=0, rasterized=many
    )
    axes.axline((0, 0), slope=1, color="0.5", linewidth=0.8, linestyle=":")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("mean before", fontsize=9)
    axes.set_ylabel("mean after", fontsize=9)
    axes.set_title(f"a dot for each of {len(shown.mean_before_g):,} {shown.word}, in these cells", fontsize=9)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def _order(rows: np.ndarray) -> np.ndarray:
    """An order of the rows that puts alike ones beside each other."""
    from scipy.cluster.hierarchy import leaves_list, linkage

    if len(rows) < 3:
        return np.arange(len(rows))
    order: np.ndarray = leaves_list(linkage(rows, method="average"))
    return order
