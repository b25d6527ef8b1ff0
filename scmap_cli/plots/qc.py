"""Figures of quality: columns of cells, fragment lengths, start sites, components and depth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from scmap_cli.io.columns import UNKNOWN, column_text
from scmap_cli.plots.canvas import COLOURS, new_figure, palette, save, short

QUALITY = (
    *("total_counts", "n_genes_by_counts", "pct_counts_mt", "n_fragments", "frip", "tss_enrichment"),
    *("promoter_ratio", "nucleosome_signal", "n_features", "rna_depth", "atac_depth"),
)
"""Columns of cells whose distributions are shown."""

_MOST_GROUPS, _MOST_CELLS = 16, 20_000
_LOGARITHMIC = ("counts", "fragments", "genes", "features", "depth")


def quality_columns(obs: pd.DataFrame) -> tuple[dict[str, np.ndarray], list[str]]:
    """The columns of :data:`QUALITY` that a table has as finite numbers, and which of its columns are 0 throughout.

    Returns
    -------
    dict
        (n,) float64 by name; without the columns of zeros, which have no distribution to show.
    list
        Names of these, such as ``pct_counts_mt`` where no gene is mitochondrial.
    """
    shown = [name for name in QUALITY if name in obs and pd.api.types.is_numeric_dtype(obs[name])]
    columns = {name: obs[name].to_numpy(dtype=np.float64) for name in shown}
    known = {name: values for name, values in columns.items() if np.isfinite(values).any()}
    zero = [name for name, values in known.items() if not np.nan_to_num(values).any()]
    return {name: values for name, values in known.items() if name not in zero}, zero


def cell_quality(obs: pd.DataFrame, batch_key: str, path: Path) -> None:
    """Distributions of the quality columns of a cells' table, by batch if it has this column."""
    columns, _ = quality_columns(obs)
    violins(columns, column_text(obs[batch_key], UNKNOWN) if batch_key in obs else None, path)


def violins(columns: Mapping[str, np.ndarray], groups: np.ndarray | None, path: Path) -> None:
    """Distributions of columns of the cells, a panel a column, a violin a group.

    Parameters
    ----------
    columns
        (n,) numbers by name; counts of things are drawn on a logarithmic scale.
    groups
        (n,) text, or None for all cells as one; beyond 16 groups the largest are drawn.
    path
        Where to write.
    """
    n = len(next(iter(columns.values())))
    codes_of = np.full(n, "all cells") if groups is None else groups.astype(str)
    names, sizes = np.unique(codes_of, return_counts=True)
    names = np.sort(names[np.argsort(-sizes, kind="stable")[:_MOST_GROUPS]])
    width = max(3.2, 1.6 + 0.45 * len(names))
    figure, panels = new_figure(width * len(columns), 3.4, len(columns))
    for axes, (title, values) in zip(panels, columns.items(), strict=True):
        logged = any(word in title for word in _LOGARITHMIC) and not title.startswith(("pct", "log1p"))
        shown, places = [], []
        for place, name in enumerate(names):
            found = values[(codes_of == name) & np.isfinite(values)].astype(np.float64)
            found = np.log10(found[found > 0]) if logged else found
            if len(found):
                shown.append(found[np.linspace(0, len(found) - 1, min(len(found), _MOST_CELLS)).astype(np.int64)])
                places.append(place)
        axes.set_title(title.replace("_", " "), fontsize=10)
        if not shown:
            axes.text(0.5, 0.5, "no values above 0" if logged else "no values", ha="center", color="0.4")
            axes.set_axis_off()
            continue
        parts = axes.violinplot(shown, positions=places, widths=0.85, showmedians=True, showextrema=False)
        for body, place in zip(parts["bodies"], places, strict=True):
            body.set(facecolor=palette(len(names))[place], alpha=0.8, linewidth=0)
        parts["cmedians"].set(color="black", linewidth=1)
        axes.set_xticks(
            range(len(names)), [short(str(name), 18) for name in names], rotation=40, ha="right", fontsize=8
        )
        if logged:
            ticks = _log_ticks(*axes.get_ylim())
            axes.set_yticks(np.log10(ticks), [f"{tick:,.0f}" if tick >= 1 else f"{tick:g}" for tick in ticks])
        axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    save(figure, path)


def _log_ticks(low: float, high: float) -> np.ndarray:
    """Round numbers between two powers of ten: as few to a decade as give three, so that values can be read."""
    powers = 10.0 ** np.arange(np.floor(low), np.ceil(high) + 1)
    for within in ((1,), (1, 2, 5), (1, 2, 3, 4, 5, 6, 8)):
        ticks = np.outer(powers, within).ravel()
        ticks = ticks[(ticks >= 10**low) & (ticks <= 10**high)]
        if len(ticks) >= 3:
            break
    return ticks


def fragment_lengths(lengths: Mapping[str, np.ndarray], path: Path) -> None:
    """Share of fragments by length, a line a sample; ``lengths`` holds numbers of fragments of 0, 1, 2, ... bases."""
    figure, (axes,) = new_figure(5, 3.4)
    for (name, counts), colour in zip(lengths.items(), palette(len(lengths)), strict=True):
        axes.plot(np.arange(len(counts)), counts / max(counts.sum(), 1), color=colour, linewidth=1, label=short(name))
    for edge, text in ((147, "nucleosome"), (294, "two")):
        axes.axvline(edge, color="0.6", linewidth=0.8, linestyle=":")
        axes.annotate(text, (edge, 1), xycoords=("data", "axes fraction"), fontsize=7, color="0.4", va="top")
    axes.set_xlim(0, max(len(counts) for counts in lengths.values()))
    axes.set_ylim(bottom=0)
    axes.set_xlabel("fragment length (bases)")
    axes.set_ylabel("share of fragments")
    if len(lengths) > 1:
        axes.legend(frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    save(figure, path)


def tss_profile(profiles: Mapping[str, np.ndarray], path: Path) -> None:
    """Cuts around start sites over those of the outer 100 bases, a line a sample.

    ``profiles`` holds numbers of cuts at each base from as many before the site as after it.
    """
    figure, (axes,) = new_figure(5, 3.4)
    for (name, counts), colour in zip(profiles.items(), palette(len(profiles)), strict=True):
        half = len(counts) // 2
        outer = np.concatenate([counts[:100], counts[-100:]]).mean()
        smooth = np.convolve(counts / max(outer, 1e-9), np.ones(11) / 11, mode="same")
        axes.plot(np.arange(-half, half + 1)[5:-5], smooth[5:-5], color=colour, linewidth=1, label=short(name))
    axes.xaxis.get_major_locator().set_params(nbins=5)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("bases from the start site")
    axes.set_ylabel("cuts over those of the outer 100 bases")
    if len(profiles) > 1:
        axes.legend(frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    save(figure, path)


def depth_dependence(emb_nz: np.ndarray, depth_n: np.ndarray, names: Sequence[str], path: Path) -> None:
    """How dimensions go with depth: correlation of each, and the strongest one against the depth of the cells.

    Parameters
    ----------
    emb_nz
        (n, z) embedding.
    depth_n
        (n,) depth above 0.
    names
        Of the dimensions.
    path
        Where to write.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
    from scipy.stats import rankdata

    ranks_n = rankdata(depth_n)
    rho_z = np.array(
        [np.corrcoef(rankdata(column), ranks_n)[0, 1] if np.ptp(column) > 0 else 0.0 for column in emb_nz.T]
    )
    strongest = int(np.argmax(np.abs(rho_z)))
    figure, (left, right) = new_figure(9, 3.4, 2)
    order = np.argsort(-np.abs(rho_z), kind="stable")[:50]
    left.bar(np.arange(1, len(order) + 1), np.abs(rho_z[order]), color=COLOURS[0])
    left.set_ylim(0, 1)
    left.xaxis.get_major_locator().set_params(integer=True)
    left.set_xlabel("dimensions, strongest first")
    left.set_ylabel("|rank correlation with depth|")
    shown = np.random.default_rng(0).permutation(len(depth_n))[:_MOST_CELLS]
    size = float(np.clip(20_000 / len(shown), 1, 12))
    right.scatter(
        depth_n[shown], emb_nz[shown, strongest], s=size, color=COLOURS[0], alpha=0.4, linewidths=0, rasterized=True
    )
    right.set_xscale("log")
    # Over several decades there is no room for more than their ends.
    decades = np.log10(depth_n.max() / depth_n.min())
    right.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 1.5 else (1,)))
    right.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    right.xaxis.set_minor_formatter(NullFormatter())
    right.set_xlabel("depth of the cell")
    right.set_ylabel(short(str(names[strongest]), 30))
    right.set_title(f"Spearman {rho_z[strongest]:.2f}", fontsize=9)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    save(figure, path)


def set_sizes(before_k: np.ndarray, after_k: np.ndarray, kept_k: np.ndarray, path: Path) -> None:
    """Genes of each set in its file, and how many of them the data has; ``kept_k`` tells which sets were kept."""
    figure, (axes,) = new_figure(4.6, 3.8)
    for kept, colour, label in ((True, COLOURS[0], "kept"), (False, "0.7", "dropped")):
        shown = kept_k == kept
        text = f"{label} ({int(shown.sum())})"
        axes.scatter(before_k[shown], after_k[shown], s=14, color=colour, alpha=0.6, linewidths=0, label=text)
    axes.axline((0, 0), slope=1, color="0.5", linewidth=0.8, linestyle=":")
    axes.set_xscale("symlog", linthresh=10)
    axes.set_yscale("symlog", linthresh=10)
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("genes of the set")
    axes.set_ylabel("of these in the data")
    axes.legend(frameon=False, fontsize=8, loc="upper left")
    axes.spines[["top", "right"]].set_visible(False)
    save(figure, path)


def variability(spread_k: np.ndarray, names: Sequence[str], path: Path, named: int = 15) -> None:
    """Standard deviation of each motif's z-scores over the cells, largest first, the first ones named; 1 is chance."""
    order = np.argsort(-spread_k, kind="stable")
    figure, (left, right) = new_figure(9, 4.2, 2)
    left.plot(np.arange(1, len(order) + 1), spread_k[order], ".", color=COLOURS[0], markersize=4)
    left.set_xlabel("motifs, most variable first")
    left.set_ylabel("standard deviation of the z-scores")
    shown = order[:named]
    right.barh(np.arange(len(shown)), spread_k[shown], color=COLOURS[0])
    right.set_yticks(np.arange(len(shown)), [short(str(names[k]), 30) for k in shown], fontsize=8)
    right.set_ylim(len(shown) - 0.4, -0.6)
    right.set_xlabel("standard deviation of the z-scores")
    left.axhline(1, color="0.6", linewidth=0.8, linestyle=":")
    right.axvline(1, color="0.6", linewidth=0.8, linestyle=":")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    save(figure, path)


def elbow(variance_z: np.ndarray, path: Path) -> None:
    """Standard deviation of each dimension of an embedding, largest first, and the cumulated share of the variance."""
    ordered = np.sort(variance_z)[::-1]
    figure, (axes,) = new_figure(4.5, 3.4)
    places = np.arange(1, len(ordered) + 1)
    axes.plot(places, np.sqrt(ordered), "o-", color=COLOURS[0], markersize=3, linewidth=1)
    axes.set_xlabel("dimensions, largest first")
    axes.set_ylabel("standard deviation", color=COLOURS[0])
    axes.set_ylim(bottom=0)
    other = axes.twinx()
    other.plot(places, np.cumsum(ordered) / max(ordered.sum(), 1e-300), color=COLOURS[5], linewidth=1)
    other.set_ylim(0, 1.02)
    other.set_ylabel("cumulated share of the variance", color=COLOURS[5])
    axes.spines["top"].set_visible(False)
    other.spines["top"].set_visible(False)
    save(figure, path)
